"""Quantisation chosen by measurement, and the return of layers to float."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgedistill.conversion.candidates import CandidateSamples, choose, fewest
from edgedistill.errors import UsageError
from edgedistill.models.reference import of_module
from edgedistill.plugins import load_exporter
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.export import Quantize
from edgedistill.types import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array, Artifact

FORMATS = ("onnx", "openvino", "tflite")


@given(st.integers(1, 40), st.integers(1, 60))
def test_the_fewest_are_found_in_few_tries(most: int, least: int) -> None:
    asked: list[int] = []

    def fits(count: int) -> bool:
        asked.append(count)
        return count >= least

    found = fewest(fits, most)
    assert found == min(most, least)
    assert len(asked) <= 2 * most.bit_length() + 1


def lopsided() -> nn.Module:
    """One channel between two of its layers is a thousand times the others: 8 bits for all leave those nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    first, second, last = net[2], net[4], net[7]
    assert isinstance(last, nn.Linear)
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    with torch.no_grad():
        last.bias.sub_(net(torch.randn(256, 1, 8, 8)).mean(0))  # else the largest bias wins always
        first.weight[0] *= 1000
        assert first.bias is not None
        first.bias[0] *= 1000
        second.weight[:, 0] /= 1000
    return net.eval()


def exported(fmt: str, out: Path) -> tuple[Artifact, Array]:
    samples = np.random.default_rng(0).standard_normal((600, 1, 8, 8)).astype(np.float32)
    source = of_module(lopsided(), {"x": samples[:4]}, "net")
    return load_exporter(fmt).export(source.model, "net", source.signature, out, source.inputs), samples


def agreement(expected: Array) -> Any:
    return lambda outputs, _: float(np.mean(next(iter(outputs.values())).argmax(1) == expected.argmax(1)))


def judged(samples: Array, out: Path) -> CandidateSamples:
    with torch.no_grad():
        expected = lopsided()(torch.from_numpy(samples[100:])).numpy()
    np.savez(out / "validation.npz", x=samples[100:])
    return CandidateSamples({"x": samples[:100]}, out / "validation.npz", 500, agreement(expected))


@pytest.mark.parametrize("fmt", ["onnx", *(pytest.param(f, marks=pytest.mark.slow) for f in FORMATS if f != "onnx")])
def test_layers_return_to_float_until_the_loss_is_within_the_margin(fmt: str, tmp_path: Path) -> None:
    artifact, samples = exported(fmt, tmp_path)
    (tmp_path / "out").mkdir()
    settings = Quantize(candidates="default", max_drop=0.02)
    choice = choose(artifact, Precision.INT8_STATIC, judged(samples, tmp_path), settings, Benchmark(), tmp_path / "out")
    plain, returned = choice.rows
    assert (plain["drop"] or 0.0) > 0.02
    assert plain["state"] == "loses too much"
    assert choice.met
    assert returned["state"] == "shipped"
    assert returned["drop"] is not None
    assert returned["drop"] <= 0.02
    assert 0 < len(choice.keep_float) < len(load_exporter(fmt).layers(artifact))
    assert choice.artifact.path.is_file()
    assert choice.artifact.producer["keep_float"] == list(choice.keep_float)
    assert 0 < (load_exporter(fmt).count_macs(choice.artifact).integer_share or 0) < 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(f.name for f in choice.artifact.files)


def test_without_fallback_the_loss_is_told(tmp_path: Path) -> None:
    artifact, samples = exported("onnx", tmp_path)
    settings = Quantize(candidates=["min-max"], max_drop=0.02, fallback=False)
    choice = choose(artifact, Precision.INT8_STATIC, judged(samples, tmp_path), settings, Benchmark(), tmp_path)
    assert not choice.met
    assert choice.keep_float == ()
    assert len(choice.rows) == 1


@pytest.mark.long
def test_every_scheme_is_measured_beside_fp32(tmp_path: Path) -> None:
    artifact, samples = exported("onnx", tmp_path)
    choice = choose(
        artifact, Precision.INT8_STATIC, judged(samples, tmp_path), Quantize(max_drop=1.0), Benchmark(), tmp_path
    )
    assert [row["scheme"] for row in choice.rows] == [
        scheme.name for scheme in load_exporter("onnx").schemes(Precision.INT8_STATIC)
    ]
    assert [row["state"] for row in choice.rows].count("shipped") == 1
    raced = [row for row in choice.rows if row["latency_ratio_rounds"]]
    assert sorted(row["placement"] for row in raced) == sorted({row["placement"] for row in choice.rows})
    assert all(len(row["latency_ratio_rounds"]) == 3 and row["device"] == "cpu" for row in raced)
    assert len({row["size_bytes"] for row in choice.rows}) > 1  # symmetric ones store other types
    json.dumps(choice.rows, allow_nan=False)


def test_an_unknown_scheme_names_the_known(tmp_path: Path) -> None:
    artifact, samples = exported("onnx", tmp_path)
    with pytest.raises(UsageError) as caught:
        choose(
            artifact,
            Precision.INT8_STATIC,
            judged(samples, tmp_path),
            Quantize(candidates=["min-maxx"]),
            Benchmark(),
            tmp_path,
        )
    assert "min-max" in caught.value.expected


PEAK = """
import resource, sys
from pathlib import Path
import numpy as np
from edgedistill.plugins import load_exporter
from edgedistill.types import Artifact, Precision, QuantizationScheme
import json
fmt, scheme, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
artifact = Artifact.from_json(json.loads((folder / "artifact.json").read_text()), folder)
exporter = load_exporter(fmt)
rows = np.load(folder / "samples.npy", mmap_mode="r")[:count]
name = artifact.signature.inputs[0].name
scheme = exporter.schemes(Precision.INT8_STATIC)[scheme]
exporter.quantize(artifact, Precision.INT8_STATIC, {name: rows}, folder, scheme)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("fmt", "scheme"), [("onnx", 0), ("onnx", 2), ("openvino", 0), ("tflite", 0)])
def test_memory_is_flat_in_the_number_of_samples(fmt: str, scheme: int, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(14400, 10)
    )
    samples = np.random.default_rng(0).standard_normal((6000, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "samples.npy", samples)
    source = of_module(net.eval(), {"x": samples[:4]}, "net")
    artifact = load_exporter(fmt).export(source.model, "net", source.signature, tmp_path, source.inputs)
    (tmp_path / "artifact.json").write_text(json.dumps(artifact.to_json(tmp_path)))
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, fmt, str(scheme), count, str(tmp_path)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.split()[-1]
        )
        for count in ("300", "6000")
    )
    assert many < 1.1 * few + samples.nbytes / 1024  # pages of the mapped samples are counted, and can be taken back
