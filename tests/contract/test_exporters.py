"""The contract suite: every exporter, ours or a third party's, must do all of this."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from edgedistill.agent import load_opener
from edgedistill.artifacts.identify import companions_of
from edgedistill.artifacts.running import Subject, call_for, subjects
from edgedistill.parity.compare import compare
from edgedistill.plugins import find_plugin, load_device, load_exporter, plugin_names
from edgedistill.recipe.document import ParitySettings
from edgedistill.release.bundle import path_in_bundle
from edgedistill.students.convnet import ConvNet
from edgedistill.types import Artifact, Normalization, Precision, Signature, TensorSpec, file_sha256
from tests.helpers.answers import compute

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 2, 8, 8), "float32", "NCHW"),),
    (TensorSpec("logits", ("batch", 5), "float32"),),
    Normalization((0.5, 0.25), (2.0, 4.0)),
    ("a", "b", "c", "d", "e"),
)
EXPORTERS = plugin_names("exporters")


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return ConvNet(2, 5, width=8, depth=2).eval()


def samples(n: int = 64) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((n, 2, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module", params=EXPORTERS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return load_exporter(request.param).export(model(), "net", SIGNATURE, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def quantized(exported: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp(f"{exported.format}-int8")
    if Precision.INT8_STATIC not in load_exporter(exported.format).PRECISIONS:
        pytest.skip(f"{exported.format} has no int8")
    return load_exporter(exported.format).quantize(exported, Precision.INT8_STATIC, {"image": samples()}, out)


def departures(artifact: Artifact, tmp_path: Path) -> list[Any]:
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, image=samples())
    with torch.no_grad():
        expected = model()(torch.tensor(samples())).numpy()
    return [
        compare(
            expected,
            compute(subject, inputs, tmp_path / "out.npz"),
            artifact.precision,
            ParitySettings(),
            name="net",
            runtime=subject.runtime,
        )
        for subject in subjects([artifact])
    ]


@pytest.mark.parametrize("name", EXPORTERS)
def test_names_its_runtimes(name: str) -> None:
    exporter = find_plugin("exporters", name)
    assert exporter.RUNTIMES
    assert exporter.SUFFIX.startswith(".")
    assert Precision.FP32 in exporter.PRECISIONS
    assert exporter.RUNNER[1].is_file()


def test_fp32_computes_what_torch_computes_in_every_runtime(exported: Artifact, tmp_path: Path) -> None:
    found = departures(exported, tmp_path)
    assert len(found) == len(load_exporter(exported.format).RUNTIMES)
    assert all(parity.state == "pass" for parity in found), found
    assert all(parity.max_relative < 1e-5 for parity in found)


def test_every_runtime_opens_the_file_and_tells_its_operators_or_that_it_cannot(exported: Artifact) -> None:
    opener = load_opener(str(load_exporter(exported.format).OPENER))
    for runtime in opener.RUNTIMES:
        call = replace(call_for(Subject(exported, runtime)), profile=2)
        told = load_device("cpu").run("cpu", call).document["profile"]
        assert told["operators"] if "profile" in vars(opener) else "no profiler" in told["reason"]


def test_int8_stays_inside_the_tolerance_in_every_runtime(quantized: Artifact, tmp_path: Path) -> None:
    found = departures(quantized, tmp_path)
    assert all(parity.state == "pass" for parity in found), found
    assert all(parity.max_abs > 0 for parity in found)  # it was quantised at all


def test_artifact_describes_the_files_on_disk(exported: Artifact, quantized: Artifact) -> None:
    for artifact in (exported, quantized):
        assert artifact.sha256 == file_sha256(artifact.path)
        assert artifact.size_bytes == sum(file.stat().st_size for file in artifact.files)
        assert artifact.path.suffix == load_exporter(artifact.format).SUFFIX
        assert companions_of(artifact.path) == artifact.files[1:]
        assert [s.shape[1:] for s in artifact.signature.inputs] == [(2, 8, 8)]
        folder = artifact.path.parent
        assert {p.name for p in folder.iterdir()} == {file.name for file in artifact.files}
        assert Artifact.from_json(artifact.to_json(folder), folder) == artifact
    assert quantized.producer["parent"] == exported.sha256


MACS = 8 * 8 * 8 * (2 * 9) + 4 * 4 * 16 * (8 * 9) + 16 * 5


def test_macs_agree_with_the_closed_form(exported: Artifact) -> None:
    found = load_exporter(exported.format).count_macs(exported)
    assert (found.total, found.integer) == (MACS, 0)


def test_int8_is_integer_inside(quantized: Artifact) -> None:
    exporter = load_exporter(quantized.format)
    assert exporter.count_macs(quantized).total == MACS
    assert exporter.count_macs(quantized).integer_share > 0.95


def test_same_weights_give_the_same_bytes(exported: Artifact, tmp_path: Path) -> None:
    again = load_exporter(exported.format).export(model(), "net", SIGNATURE, tmp_path)
    assert (again.sha256, again.companions) == (exported.sha256, exported.companions)


def test_same_samples_give_the_same_int8_bytes(exported: Artifact, quantized: Artifact, tmp_path: Path) -> None:
    exporter = load_exporter(exported.format)
    again = exporter.export(model(), "net", SIGNATURE, tmp_path)
    int8 = exporter.quantize(again, Precision.INT8_STATIC, {"image": samples()}, tmp_path)
    assert (int8.sha256, int8.companions) == (quantized.sha256, quantized.companions)


def test_support_is_checked_in_every_runtime_and_damage_is_seen(exported: Artifact, tmp_path: Path) -> None:
    exporter = load_exporter(exported.format)
    checks = exporter.check_support(exported)
    assert {c.id.rsplit(":", 1)[1] for c in checks} == set(exporter.RUNTIMES)
    assert all(c.state == "pass" for c in checks)
    for file in exported.files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = Artifact.from_json(exported.to_json(exported.path.parent), tmp_path)
    largest = max(broken.files, key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    assert any(c.state == "fail" for c in exporter.check_support(broken))


def test_a_model_it_cannot_convert_is_told_by_name(exported: Artifact, tmp_path: Path) -> None:
    from edgedistill.errors import ModelError

    class Strange(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if float(image.sum()) > 0:  # control flow on data cannot be exported
                return image.mean(dim=(1, 2, 3), keepdim=False)[:, None].expand(-1, 5)
            values: torch.Tensor = torch.linalg.eigvals(image[:, 0]).real
            return values

    with pytest.raises(ModelError, match="cannot convert strange") as caught:
        load_exporter(exported.format).export(Strange().eval(), "strange", SIGNATURE, tmp_path)
    assert caught.value.fix


def test_the_bundle_script_runs_the_file_without_edgedistill_or_torch(
    exported: Artifact, quantized: Artifact, tmp_path: Path
) -> None:
    name, script = load_exporter(exported.format).RUNNER
    constants = "MEAN, STD, LABELS = [0.5, 0.25], [2.0, 4.0], list('abcde')"
    text = script.read_text(encoding="utf-8").replace("MEAN, STD, LABELS = [0.0], [1.0], []", constants)
    guard = "import sys\nsys.modules['torch'] = sys.modules['edgedistill'] = None\n"
    (tmp_path / name).write_text(guard + text, encoding="utf-8")
    ready = samples(6)
    raw = ready * np.reshape([2.0, 4.0], (1, 2, 1, 1)) + np.reshape([0.5, 0.25], (1, 2, 1, 1))
    np.save(tmp_path / "raw.npy", raw.astype(np.float32))
    with torch.no_grad():
        expected = model()(torch.tensor(ready)).numpy()
    for artifact, tolerance in ((exported, 1e-4), (quantized, 0.1)):
        target = tmp_path / path_in_bundle(artifact)
        target.parent.mkdir(parents=True, exist_ok=True)
        for file in artifact.files:
            target.with_name(file.name).write_bytes(file.read_bytes())
        command: list[str | Path] = [
            sys.executable,
            "-I",
            tmp_path / name,
            target,
            tmp_path / "raw.npy",
            "--output",
            tmp_path / "o.npy",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("sample ") == 6
        assert np.abs(np.load(tmp_path / "o.npy") - expected).max() < tolerance
