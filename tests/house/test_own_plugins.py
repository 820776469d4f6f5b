"""CONTRIBUTING's three packages, outside the repository: installed, listed, used to a gated bundle, held, refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, TINY, once

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGES = {"own_format": "exporters", "own_device": "devices", "own_figure": "benchmarks"}
CONTRACTS = {"own_format": "Exporter", "own_device": "Device", "own_figure": "Benchmark"}
NAMES = {
    "own_format": (
        "REQUIRES",
        "TOOLS",
        "OPENER",
        "RUNTIMES",
        "PRECISIONS",
        "SUFFIX",
        "RUNNER",
        "export",
        "quantize",
        "schemes",
        "layers",
        "check_support",
        "count_macs",
    ),
    "own_device": ("REQUIRES", "SCHEME", "TRAITS", "describe", "run"),
    "own_figure": ("REQUIRES", "measure"),
}


def written(folder: Path) -> list[Path]:
    """The packages as the text has them."""
    for name, content in re.findall(r"^`([\w./]+)`\n```\w+\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in PACKAGES]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are installed."""

    def make(folder: Path) -> None:
        packages = written(folder / "packages")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        done = subprocess.run(
            [*command, "--target", folder / "site", *packages], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "own-plugins", make) / "site"


def edgedistill(site: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgedistill.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def run(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A recipe that uses all three."""
    folder = tmp_path_factory.mktemp("own")
    text = TINY.replace("formats: [onnx]", "formats: [program], precisions: [fp32]")
    text = text.replace("benchmark: {", f"benchmark: {{device: 'python:{sys.executable}', ")
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    done = edgedistill(site, "compress", folder / "own.yaml", "--run", folder / "run", "--json")
    assert done.returncode == 0, done.stderr
    return folder / "run", json.loads(done.stdout)["report"]


def test_they_are_listed(site: Path) -> None:
    found = json.loads(edgedistill(site, "plugins", "--json").stdout)["plugins"]
    for shelf, name in (("exporters", "program"), ("devices", "interpreter"), ("benchmarks", "jitter")):
        assert {"name": name, "missing": [], "offers": []} in found[shelf]
    devices = json.loads(edgedistill(site, "devices", "list", "--json").stdout)["devices"]
    assert next(one for one in devices if one["id"] == "python")["status"] == "measured"


@pytest.mark.long
def test_a_recipe_takes_them_to_a_gated_bundle(site: Path, run: tuple[Path, dict[str, Any]]) -> None:
    folder, report = run
    artifacts = {one["id"]: one for one in report["artifacts"]}
    own = artifacts["student-program-fp32"]
    assert own["parity"]["state"] == "pass"
    assert own["parity"]["runtime"] == "torch-program"
    assert own["macs"] == next(one["macs"] for one in report["models"] if one["id"] == "student") > 0
    assert {m["device"] for m in report["measurements"]} == {f"python:{sys.executable}"}
    assert all(m["jitter"]["value"] > 0 and m["source"] == "measured" for m in report["measurements"])
    assert {m["runtime"] for m in report["measurements"]} == {"torch-program"}
    assert report["gate"]["verdict"] == "pass"
    assert edgedistill(site, "verify", folder / "bundle").returncode == 0
    script: list[str | Path] = [sys.executable, "-I", folder / "bundle" / "run_program.py"]
    assert subprocess.run(script, capture_output=True, text=True, check=True).stdout.count("sample ") == 8


@pytest.mark.long
def test_the_contract_suite_holds_them(site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract"]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [*command, "-k", "program or interpreter or jitter"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) >= 15


@pytest.mark.parametrize(("package", "name"), [(p, name) for p, names in NAMES.items() for name in names])
def test_left_incomplete_it_is_refused_by_name(package: str, name: str, site: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(site, tmp_path / "site"))
    file = own / package / "__init__.py" if package == "own_format" else own / f"{package}.py"
    file.write_text(f"{file.read_text(encoding='utf-8')}\ndel {name}\n", encoding="utf-8")
    shelf = PACKAGES[package]
    script = f"from edgedistill import plugins as p; [p.find_plugin({shelf!r}, n) for n in p.plugin_names({shelf!r})]"
    environment = {**os.environ, "PYTHONPATH": str(own)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert f"does not keep the contract {CONTRACTS[package]}: missing: {name}" in done.stderr


@pytest.mark.parametrize("name", ["RUNTIMES", "open"])
def test_a_runtime_file_left_incomplete_is_refused_by_name(name: str, site: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(site, tmp_path / "site"))
    file = own / "own_format" / "runtime.py"
    file.write_text(file.read_text(encoding="utf-8") + f"\ndel {name}\n", encoding="utf-8")
    done = edgedistill(own, "plugins", "--json")
    assert done.returncode == 2 or name == "RUNTIMES"
    assert name in done.stdout + done.stderr
