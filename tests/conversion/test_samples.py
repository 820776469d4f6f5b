"""Samples of one's own: what is kept back from calibration, and how quality is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.conversion.samples import check_samples, judged
from edgedistill.errors import UsageError
from edgedistill.types import Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array

RNG = np.random.default_rng(0)
SIGNATURE = Signature(
    (TensorSpec("ids", ("batch", 4), "int64"), TensorSpec("x", ("batch", 3), "float32")),
    (TensorSpec("logits", ("batch", 5), "float32"),),
    Normalization((0.0,), (1.0,)),
    (),
)


def samples(count: int) -> dict[str, Array]:
    """Named in another order than the model's inputs."""
    return {"x": RNG.standard_normal((count, 3)).astype(np.float32), "ids": RNG.integers(0, 9, (count, 4))}


INPUTS = {name: samples(8)[name] for name in ("ids", "x")}


def test_the_last_quarter_of_the_calibration_samples_judges(tmp_path: Path) -> None:
    given = samples(100)
    found = judged(INPUTS, given, None, tmp_path / "v.npz")
    with np.load(tmp_path / "v.npz") as held:
        assert held.files == ["ids", "x"], "in the order of the model's inputs"
        np.testing.assert_array_equal(held["x"], given["x"][75:])
    assert list(found.calibration) == ["ids", "x"]
    np.testing.assert_array_equal(found.calibration["ids"], given["ids"][:75])
    assert (found.count, found.metric) == (25, "kept power")


def test_at_most_500_are_kept_back(tmp_path: Path) -> None:
    found = judged(INPUTS, samples(6000), None, tmp_path / "v.npz")
    assert (found.count, len(found.calibration["x"])) == (500, 5500)


def test_validation_samples_leave_all_others_to_calibration(tmp_path: Path) -> None:
    labels = np.arange(20) % 5
    found = judged(INPUTS, samples(30), {**samples(20), "labels": labels}, tmp_path / "v.npz")
    assert (found.count, len(found.calibration["x"]), found.metric) == (20, 30, "top1")
    right = np.eye(5)[labels]
    wrong = right.copy()
    wrong[:5] = np.roll(wrong[:5], 1, axis=1)
    assert found.score({"logits": right}, {"logits": wrong}) == 1.0
    assert found.score({"logits": wrong}, {"logits": right}) == 0.75


def test_without_labels_quality_is_the_power_that_is_kept(tmp_path: Path) -> None:
    found = judged(INPUTS, None, None, tmp_path / "v.npz")
    exact = {"a": RNG.standard_normal((8, 100)), "b": RNG.standard_normal((8, 10))}
    rms = float(np.sqrt(np.mean(exact["a"] ** 2)))
    noisy = exact["a"] + 0.1 * rms * np.sign(RNG.standard_normal(exact["a"].shape))
    assert found.count == 8
    assert found.score(exact, exact) == 1.0
    assert found.score({**exact, "a": noisy}, exact) == pytest.approx(0.99)  # 20 dB, of the worst output


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": np.zeros((5, 2), np.float32)}, "another shape"),
        ({"x": np.array([["a", "b", "c"]] * 5)}, "no numbers"),
        ({"x": np.zeros((4, 3), np.float32)}, "different numbers of samples"),
        ({"y": np.zeros((5, 3))}, "not those of the model's inputs"),
    ],
)
def test_samples_that_do_not_fit_are_told(change: dict[str, Array], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        check_samples(SIGNATURE, {**samples(5), **change}, "--calibration")
    assert caught.value.where.startswith("--calibration")
    check_samples(SIGNATURE, {**samples(5), "labels": np.zeros(5)}, "--validation", ("labels",))
