"""Every precision of every format: what is stored, and how far it departs, in each runtime that opens the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.artifacts.metadata import Origin, embedded
from edgedistill.artifacts.running import compute_all, matched, subjects
from edgedistill.models.reference import of_module
from edgedistill.plugins import load_exporter, plugin_names
from edgedistill.types import Artifact, Precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.models.reference import Reference

LEAST_DB = {
    Precision.FP16: 55.0,
    Precision.INT8_STATIC: 25.0,
    Precision.INT8_DYNAMIC: 25.0,
    Precision.INT8_WEIGHTS: 35.0,
    Precision.INT4_WEIGHTS: 12.0,
}
"""An error of half a step in each weight gives about 6 dB a bit."""
SIZE = {Precision.FP16: 0.56, Precision.INT8_STATIC: 0.33, Precision.INT8_DYNAMIC: 0.33, Precision.INT8_WEIGHTS: 0.33}
"""Largest size over that of fp32, where nearly all of the file is weights."""


def _source() -> Reference:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 96, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(96, 160, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    ).eval()
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    return of_module(module, {"image": images}, "net")


CASES = [
    (fmt, precision)
    for fmt in plugin_names("exporters")
    for precision in load_exporter(fmt).PRECISIONS
    if precision is not Precision.FP32
]


@pytest.fixture(scope="module")
def source() -> Reference:
    return _source()


@pytest.fixture(scope="module")
def bases(source: Reference, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    out = tmp_path_factory.mktemp("fp32")
    return {
        fmt: load_exporter(fmt).export(source.model, "net", source.signature, out, source.inputs)
        for fmt in sorted({fmt for fmt, _ in CASES})
    }


def _signal_db(expected: Any, found: Any) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(expected**2)) / np.sqrt(np.mean((expected - found) ** 2))))


@pytest.mark.parametrize(("fmt", "precision"), CASES, ids=str)
def test_a_precision_departs_no_farther_than_its_bits_and_repeats(
    fmt: str, precision: Precision, source: Reference, bases: dict[str, Artifact], tmp_path: Path
) -> None:
    base = bases[fmt]
    made = load_exporter(fmt).quantize(base, precision, source.inputs, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    assert load_exporter(fmt).quantize(base, precision, source.inputs, again).sha256 == made.sha256
    assert made.precision is precision
    assert made.size_bytes / base.size_bytes < SIZE.get(precision, 1.0)
    assert load_exporter(fmt).count_macs(made).total > 0
    np.savez(tmp_path / "in.npz", **dict(source.inputs))
    expected = source.expected["output"]
    for subject in subjects([made]):
        found = matched(compute_all(subject, tmp_path / "in.npz", tmp_path / "out.npz"), ["output"])["output"]
        assert _signal_db(expected, found) > LEAST_DB[precision], subject.runtime


def test_whole_integer_tflite_can_have_float_ends(
    source: Reference, bases: dict[str, Artifact], tmp_path: Path
) -> None:
    from dataclasses import replace

    exporter = load_exporter("tflite")
    default = exporter.schemes(Precision.INT8_STATIC)[0]
    scheme = replace(default, options={**default.options, "float_ends": True})
    made = exporter.quantize(bases["tflite"], Precision.INT8_STATIC, source.inputs, tmp_path, scheme)
    assert [spec.dtype for spec in (*made.signature.inputs, *made.signature.outputs)] == ["float32", "float32"]
    assert exporter.count_macs(made).integer_share == 1.0
    np.savez(tmp_path / "in.npz", **dict(source.inputs))
    found = matched(compute_all(subjects([made])[0], tmp_path / "in.npz", tmp_path / "out.npz"), ["output"])["output"]
    assert _signal_db(source.expected["output"], found) > LEAST_DB[Precision.INT8_STATIC]


def test_weights_behind_the_flatbuffer_come_inside(tmp_path: Path) -> None:
    """ai-edge-quantizer puts a large file's weights behind its flatbuffer; metadata is still written."""
    torch.manual_seed(0)
    table = nn.Sequential(nn.Embedding(9000, 128), nn.Flatten(), nn.Linear(512, 5)).eval()
    ids = {"ids": np.random.default_rng(0).integers(0, 9000, (16, 4))}
    source = of_module(table, ids, "net")
    exporter = load_exporter("tflite")
    base = embedded(exporter.export(source.model, "net", source.signature, tmp_path, source.inputs), Origin("MIT"))
    made = embedded(exporter.quantize(base, Precision.INT8_STATIC, ids, tmp_path), Origin("MIT"))
    assert made.size_bytes < 0.3 * base.size_bytes
    np.savez(tmp_path / "in.npz", **ids)
    for subject in subjects([made]):
        (found,) = compute_all(subject, tmp_path / "in.npz", tmp_path / "out.npz").values()
        error = found - source.expected["output"]
        assert 10 * np.log10(np.mean(source.expected["output"] ** 2) / np.mean(error**2)) > 25
