"""The built wheel: one import name, and it works outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.conftest import ROOT, SMALL

if TYPE_CHECKING:
    from pathlib import Path


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy, so that building leaves nothing in the checkout
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def test_site_packages_gets_one_import_name_with_all_that_runs_need(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} - {"edgedistill"} == {"edgedistill-0.1.0.dist-info"}
    scripts = ("exporters/tflite/runner.py", "exporters/tflite/runtime.py", "devices/micro/runtime.py", "agent.py")
    for needed in (*scripts, "exporters/_shared/onnx_runtime.py", "report/page.html", "devices/local.py", "py.typed"):
        assert f"edgedistill/{needed}" in names
    assert any(name.endswith("LICENSE") for name in names)


def test_the_installed_wheel_runs_a_recipe_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Installed without its dependencies; those of this environment are put on its path, the checkout is not."""
    run(sys.executable, "-m", "venv", "--without-pip", "env", cwd=tmp_path)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    python = tmp_path / "env" / "bin" / "python"
    where = run(python, "-c", "import edgedistill; print(edgedistill.__file__)", cwd=tmp_path).stdout
    assert str(site) in where
    command = ["compress", "small.yaml", "--set", "export.formats=[onnx]", "--json"]
    done = run(python, "-m", "edgedistill.cli.main", *command, cwd=tmp_path)
    assert json.loads(done.stdout)["report"]["gate"]["verdict"] == "pass"
    assert (tmp_path / "runs" / "small" / "bundle" / "run_onnxruntime.py").is_file()


@pytest.mark.slow
def test_a_clean_environment_with_the_pinned_set_runs_the_example(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    pip = tmp_path / "env" / "bin" / "pip"
    run(
        pip,
        "install",
        "-q",
        "--no-compile",
        "-c",
        ROOT / "constraints.txt",
        f"edgedistill[all] @ {wheel.as_uri()}",
        cwd=tmp_path,
    )
    example = (ROOT / "examples" / "digits.yaml").read_text(encoding="utf-8")
    (tmp_path / "digits.yaml").write_text(example, encoding="utf-8")
    done = run(tmp_path / "env" / "bin" / "edgedistill", "compress", "digits.yaml", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["report"]["gate"]["verdict"] == "pass"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "script", "artifact"),
    [
        ("onnxruntime", "run_onnxruntime.py", "student-int8.onnx"),
        ("tflite-runtime", "run_tflite.py", "student-int8.tflite"),
        ("ai-edge-litert", "run_tflite.py", "student-int8.tflite"),
        ("openvino", "run_openvino.py", "openvino/student-int8.xml"),
    ],
)
def test_the_bundle_runs_where_only_its_runtime_is_installed(
    package: str, script: str, artifact: str, finished: tuple[Path, object], tmp_path: Path
) -> None:
    run(sys.executable, "-m", "venv", "env", cwd=tmp_path)
    pip = tmp_path / "env" / "bin" / "pip"
    run(pip, "install", "-q", "-c", ROOT / "constraints.txt", package, "numpy", cwd=tmp_path)
    bundle = finished[0] / "bundle"
    done = run(tmp_path / "env" / "bin" / "python", bundle / script, bundle / "artifacts" / artifact, cwd=tmp_path)
    assert "sample 7: " in done.stdout
