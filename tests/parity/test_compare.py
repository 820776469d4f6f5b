"""Whether an artifact computes what its torch model does."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from edgedistill.parity.compare import Parity, compare, worst
from edgedistill.recipe.document import ParitySettings
from edgedistill.types import Array, Precision, State

FP32, INT8 = Precision.FP32, Precision.INT8_STATIC


def _compare(
    reference: Array, candidate: Array, precision: Precision = FP32, tolerance: dict[str, Any] | None = None
) -> Parity:
    settings = ParitySettings.model_validate(tolerance or {})
    return compare(reference, candidate, precision, settings, name="student", runtime="onnxruntime")


def _logits(n: int = 20, classes: int = 5) -> Array:
    return np.random.default_rng(0).normal(size=(n, classes)).astype(np.float32)


def _strict_json(parity: Parity) -> str:
    return json.dumps(parity.to_json(), allow_nan=False)


@pytest.mark.parametrize("precision", list(Precision))
def test_identical_outputs_pass_without_any_departure(precision: Precision) -> None:
    found = _compare(_logits(), _logits(), precision)
    assert found.state is State.PASS
    assert (found.max_abs, found.max_relative, found.psnr_db, found.top1_agreement) == (0, 0, math.inf, 1)
    assert found.cosine == pytest.approx(1)
    assert (found.reference, found.runtime, found.n) == ("student", "onnxruntime", 20)


@pytest.mark.parametrize(
    ("departure", "state"), [(2**-11, State.PASS), (2**-10, State.PASS), (2**-9, State.FAIL), (-(2**-9), State.FAIL)]
)
def test_fp32_passes_up_to_and_at_its_tolerance(departure: float, state: State) -> None:
    reference = np.array([[4.0, 1.0], [0.0, 2.0]])
    candidate = reference + np.array([[0, 0], [4 * departure, 0]])
    found = _compare(reference, candidate, tolerance={"fp32": {"max_relative": 2**-10}})
    assert found.state is state
    assert found.max_relative == abs(departure)
    assert found.max_abs == 4 * abs(departure)
    assert found.worst_sample == 1
    assert f"{abs(departure):.2e}" in found.reason


def test_psnr_is_the_hand_formula() -> None:
    reference = np.array([[0.0, 10.0], [5.0, -10.0]])
    candidate = reference + np.array([[1, -1], [1, -1]])
    found = _compare(reference, candidate, INT8)
    assert found.psnr_db == pytest.approx(20 * math.log10(20 / 1))
    rms = math.sqrt((0.1**2 + 0.3**2) / 4)
    other = _compare(reference, reference + np.array([[0.1, 0], [0, 0.3]]), INT8)
    assert other.psnr_db == pytest.approx(20 * math.log10(20 / rms))


@pytest.mark.parametrize(("limit", "state"), [(19.9, State.PASS), (20.1, State.FAIL)])
def test_int8_is_held_against_the_psnr_alone_when_all_classes_agree(limit: float, state: State) -> None:
    reference = np.array([[0.0, 10.0], [10.0, 0.0]])
    candidate = reference + np.array([[1, -1], [-1, 1]])  # 20 dB
    found = _compare(reference, candidate, INT8, {"int8": {"min_psnr_db": limit}})
    assert found.top1_agreement == 1
    assert found.state is state
    assert "PSNR 20.0 dB" in found.reason


@pytest.mark.parametrize(("limit", "state"), [(0.9, State.PASS), (0.91, State.FAIL)])
def test_int8_is_held_against_the_agreement_alone_when_the_psnr_is_high(limit: float, state: State) -> None:
    reference = np.tile([100.0, 0.0], (10, 1))
    reference[0] = [50.0, 49.9]
    candidate = reference.copy()
    candidate[0] = [49.9, 50.0]
    found = _compare(reference, candidate, INT8, {"int8": {"min_top1_agreement": limit}})
    assert found.psnr_db > 40
    assert found.top1_agreement == 0.9
    assert found.state is state
    assert "0.9000" in found.reason


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_output_that_is_no_number_fails_even_under_the_loosest_tolerance(precision: Precision, bad: float) -> None:
    candidate = _logits()
    candidate[3, 2] = bad
    loose = {"fp32": {"max_relative": 1e30}, "int8": {"min_psnr_db": -1e9, "min_top1_agreement": 0}}
    found = _compare(_logits(), candidate, precision, loose)
    assert found.state is State.FAIL
    assert "NaN or infinity" in found.reason


@pytest.mark.parametrize("precision", list(Precision))
def test_a_reference_that_is_no_number_fails(precision: Precision) -> None:
    reference = _logits()
    reference[0, 0] = math.nan
    found = _compare(reference, _logits(), precision)
    assert found.state is State.FAIL
    assert json.loads(_strict_json(found))["state"] == "fail"


@pytest.mark.parametrize("shape", [(20, 4), (19, 5), (20, 5, 1), (100,)])
def test_outputs_of_another_shape_fail_and_both_shapes_are_told(shape: tuple[int, ...]) -> None:
    found = _compare(_logits(), np.zeros(shape, np.float32))
    assert found.state is State.FAIL
    assert str(shape) in found.reason
    assert "(20, 5)" in found.reason


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("departure", [0.0, 1.0])
def test_a_constant_reference_is_compared_without_dividing_by_zero(
    precision: Precision, value: float, departure: float
) -> None:
    reference = np.full((4, 3), value, np.float32)
    found = _compare(reference, reference + np.float32(departure), precision)
    assert found.state is (State.FAIL if departure else State.PASS)
    assert found.max_abs == departure


@pytest.mark.parametrize("kind", ["identical", "departing", "nan", "shape", "zero reference", "constant reference"])
def test_json_holds_only_numbers_that_json_has(kind: str) -> None:
    reference = np.zeros((20, 5)) if kind == "zero reference" else _logits()
    reference = np.ones((20, 5)) if kind == "constant reference" else reference
    candidate = {
        "identical": reference,
        "departing": reference + 0.1,
        "nan": np.full((20, 5), math.nan),
        "shape": np.zeros((1, 5)),
    }.get(kind, _logits())
    document = json.loads(_strict_json(_compare(reference, candidate, INT8)))
    assert document["state"] == ("pass" if kind in ("identical", "departing") else "fail")
    assert (document["psnr_db"] is None) == (kind != "departing")


def test_float32_outputs_are_compared_in_float64() -> None:
    reference = np.full((2, 2), 3e38, np.float32)
    found = _compare(reference, -reference)
    assert found.max_abs == pytest.approx(6e38)
    assert found.cosine == pytest.approx(-1)


def test_the_worst_is_a_failed_one_before_the_farthest() -> None:
    near, far = (_compare(_logits(), _logits() + d, INT8) for d in (0.001, 0.01))
    failed = _compare(_logits(), _logits() + np.float32(0.005), FP32)
    assert near.max_abs < failed.max_abs < far.max_abs
    assert (near.state, far.state, failed.state) == (State.PASS, State.PASS, State.FAIL)
    assert worst([near, failed, far]) is failed
    assert worst([far, near]) is far
    assert worst([near]) is near
