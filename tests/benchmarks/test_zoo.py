"""The zoo's command on a few students; all of it is slow."""

from __future__ import annotations

import pytest
import torch

from benchmarks.studies.zoo.__main__ import FORMATS, outcome
from benchmarks.studies.zoo.models import ZOO, built
from benchmarks.studies.zoo.table import page


@pytest.mark.parametrize("name", sorted(ZOO))
def test_outputs_depend_on_the_inputs(name: str) -> None:
    module, samples = built(ZOO[name])
    with torch.no_grad():
        found = module(*samples)
    for output in found.values() if isinstance(found, dict) else [found]:
        assert (output.std(0).max() / output.abs().max()) > 0.02  # far above the 1e-4 that parity allows


@pytest.mark.parametrize("name", ["vit", "text-encoder", "two-inputs", "multi-output"])
def test_ncnn_agrees_with_torch_in_its_own_runtime(name: str) -> None:
    (row,) = outcome(name, "ncnn")
    assert (row["runtime"], row["state"]) == ("ncnn", "pass"), row["told"]
    assert row["relative"] < 1e-4
    assert f"| {name} | ncnn | ncnn | pass |" in page([row], "0")


@pytest.mark.slow
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_student_is_right_in_every_format_or_refused_with_a_way_out(name: str, fmt: str) -> None:
    for row in outcome(name, fmt):
        assert row["state"] in ("pass", "refused"), row
        if row["state"] == "refused":
            assert "way out" in row["told"]
