"""Two runtimes of one format agree, or the file is not for one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.artifacts.agreement import against_reference, disagreement
from edgedistill.types import Precision

if TYPE_CHECKING:
    from edgedistill.types import Array

STEP = 0.25
RIGHT = {"logits": np.arange(-8, 8, dtype=np.float32).reshape(4, 4) * STEP}


def shifted(by: float) -> dict[str, Array]:
    moved = RIGHT["logits"].copy()
    moved[2, 1] += by
    return {"another name": moved}


@pytest.mark.parametrize(("steps", "agrees"), [(0, True), (1, True), (-1, True), (2, False), (-35, False)])
def test_integers_may_differ_by_one_step(steps: int, agrees: bool) -> None:
    told = disagreement(RIGHT, shifted(steps * STEP), [STEP], Precision.INT8_STATIC)
    assert (told == "") is agrees
    assert agrees or f"{abs(steps)} steps" in told


def test_floats_of_an_integer_file_have_the_step_of_their_range() -> None:
    step = float(np.ptp(RIGHT["logits"])) / 255
    assert not disagreement(RIGHT, shifted(step), [0.0], Precision.INT8_STATIC)
    assert disagreement(RIGHT, shifted(1.5 * step), [0.0], Precision.INT8_STATIC)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8_WEIGHTS])
def test_floats_must_be_close(precision: Precision) -> None:
    assert not disagreement(RIGHT, shifted(1e-5), [0.0], precision)
    assert "1e-5 allowed" in disagreement(RIGHT, shifted(1e-4), [0.0], precision)


def test_what_is_no_number_never_agrees() -> None:
    assert disagreement(RIGHT, shifted(float("nan")), [STEP], Precision.INT8_STATIC)
    assert disagreement(RIGHT, {"logits": RIGHT["logits"][:2]}, [STEP], Precision.INT8_STATIC)


def test_the_reference_runtime_is_never_the_one_at_fault() -> None:
    outputs = {"old": shifted(3 * STEP), "new": RIGHT}
    assert list(against_reference(outputs, "new", [STEP], Precision.INT8_STATIC)) == ["old"]
    assert against_reference({"old": RIGHT}, "new", [STEP], Precision.INT8_STATIC) == {}
