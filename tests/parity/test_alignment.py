"""Laying graphs side by side, on graphs made by hand: what was fused away is told from what was computed wrong."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from edgedistill.parity.compare import keep_sample
from edgedistill.parity.departure import Departure, Limits, departure, laid_out
from edgedistill.parity.layers import Layers, align
from edgedistill.types import Array, TracedTensor

if TYPE_CHECKING:
    from pathlib import Path


def values(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape or (1, 4, 3, 3)).astype(np.float32)


def tensor(name: str, value: Array, *sources: int, **more: Any) -> TracedTensor:
    return TracedTensor(name, more.pop("operator", name), "", value, sources, **more)


def chain(*arrays: Array) -> list[TracedTensor]:
    """x -> a -> b -> ..., the last one the output."""
    made = [tensor("x", arrays[0])]
    for number, array in enumerate(arrays[1:]):
        last = number == len(arrays) - 2
        made.append(tensor("abcdefg"[number], array, number, weighted=True, output="y" if last else ""))
    return made


def found(reference: list[TracedTensor], candidate: list[TracedTensor], *, same: bool = False, **more: Any) -> Layers:
    return align(reference, candidate, {"y": "y"}, Limits(**more), same_format=same)


def states(layers: Layers) -> dict[str, str]:
    return {row["tensor"]: row["state"] for row in layers.rows}


def test_what_was_fused_away_is_left_out() -> None:
    x, a, b, c = (values(seed) for seed in range(4))
    layers = found(chain(x, a, b, c), chain(x, b, c))
    assert layers.first_departure is None
    assert states(layers) == {"x": "agrees", "a": "absent", "b": "agrees", "c": "agrees"}
    assert layers.to_json()["layers_absent"] == 1


def test_what_is_wrong_and_all_behind_it_departs() -> None:
    x, a, b, c = (values(seed) for seed in range(4))
    layers = found(chain(x, a, b, c), chain(x, a, b + 1, c + 1))
    assert states(layers) == {"x": "agrees", "a": "agrees", "b": "departs", "c": "departs"}
    assert layers.first_departure is not None
    assert layers.first_departure["tensor"] == layers.first_departure["layer"]["tensor"] == "b"
    assert [row["tensor"] for row in layers.first_departure["preceded_by"]] == ["a"]


def test_a_wrong_layer_whose_tensor_was_fused_away_is_named_by_what_it_made() -> None:
    x, a, b, c, d = (values(seed) for seed in range(5))
    candidate = chain(x, a, c + 1, d + 1)
    layers = found(chain(x, a, b, c, d), candidate)
    first = layers.first_departure
    assert first is not None
    assert [step["tensor"] for step in first["path"]] in (["b"], ["b", "c"])
    assert first["layer"]["tensor"] == "b"


def test_padding_that_only_the_reference_shows_is_not_blamed() -> None:
    x, a = values(0), values(1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    reference = [tensor("x", x), tensor("pad", padded, 0), tensor("conv", a, 1, weighted=True, output="y")]
    first = found(reference, chain(x, a + 1)).first_departure
    assert first is not None
    assert first["layer"]["tensor"] == "conv"
    assert [step["tensor"] for step in first["path"]] == ["pad", "conv"]


def test_the_branch_that_is_wrong_is_named_and_not_the_other() -> None:
    x, a, b = values(0), values(1), values(2)

    def graph(a: Array, b: Array) -> list[TracedTensor]:
        return [
            tensor("x", x),
            tensor("a", a, 0, weighted=True),
            tensor("b", b, 0, weighted=True),
            tensor("sum", a + b, 1, 2, output="y"),
        ]

    for wrong, candidate in (("a", graph(a * 2, b)), ("b", graph(a, b * 2))):
        first = found(graph(a, b), candidate).first_departure
        assert first is not None
        assert first["tensor"] == wrong
        assert first["also"] == []
    both = found(graph(a, b), graph(a * 2, b * 2)).first_departure
    assert both is not None
    assert (both["tensor"], [one["tensor"] for one in both["also"]]) == ("a", ["b"])


def test_what_no_output_depends_on_is_not_looked_at() -> None:
    x, a = values(0), values(1)
    reference = [*chain(x, a), tensor("statistics", values(9), 0)]
    assert set(states(found(reference, chain(x, a)))) == {"x", "a"}


def test_an_output_is_compared_even_where_it_is_constant() -> None:
    x, flat = values(0), np.full((1, 3), 2.0, np.float32)
    assert found(chain(x, flat), chain(x, flat)).first_departure is None
    first = found(chain(x, flat), chain(x, flat + 1)).first_departure
    assert first is not None
    assert first["tensor"] == "a"


def test_constants_are_no_witnesses() -> None:
    x, a, b, c = values(0), values(1), values(2), values(3)
    zeros = np.zeros_like(x)
    first = found(chain(x, a, zeros, c), chain(x, b, zeros, c + 1)).first_departure
    assert first is not None
    assert first["layer"]["tensor"] == "a", "the zeros behind it tell nothing"


def test_swapped_channels_are_no_change_of_layout() -> None:
    x, a, b = values(0), values(1), values(2)
    order = [1, 0, 2, 3]
    first = found(chain(x, a, b), chain(x, a[:, order], b + 1)).first_departure
    assert first is not None
    assert first["tensor"] == "a"
    assert found(chain(x, a, b), chain(x, a.transpose(0, 2, 3, 1), b)).first_departure is None


def test_infinities_must_stand_where_they_stood() -> None:
    x, a, b = values(0), values(1), values(2)
    masked = np.where(a > 1, -np.inf, a).astype(np.float32)
    assert found(chain(x, masked, b), chain(x, masked, b)).first_departure is None
    for bad in (np.nan, np.inf):
        broken = np.where(a > 1, bad, a).astype(np.float32)
        layers = found(chain(x, a, b), chain(x, broken, b * np.float32(bad)), same=True)
        assert layers.first_departure is not None
        assert layers.first_departure["tensor"] == "a"
        assert layers.first_departure["snr_db"] is None


def named(tensors: list[TracedTensor]) -> list[TracedTensor]:
    return [TracedTensor(**{**t.__dict__, "origin": t.name}) for t in tensors]


def test_names_find_what_a_residual_hides() -> None:
    """The sum is right within 15 dB although a term is not: only a name can tell."""
    x, a = values(0), values(1) * np.float32(0.02)

    def graph(term: Array) -> list[TracedTensor]:
        return named([tensor("x", x), tensor("a", term, 0, weighted=True), tensor("sum", x + term, 0, 1, output="y")])

    for same in (True, False):
        first = found(graph(a), graph(-a), same=same, min_snr_db=15).first_departure
        assert (first is not None) == same
    assert found(graph(a), graph(a * np.float32(1.01)), same=True, min_snr_db=15).first_departure is None


def test_a_name_that_moved_to_another_tensor_is_not_believed() -> None:
    """A folded norm: the convolution's name now stands for what the norm gave."""
    x, conv, norm, b = (values(seed) for seed in range(4))
    reference = named(chain(x, conv, norm, b))
    folded = [tensor("x", x, origin="x"), tensor("a", norm, 0, origin="a"), tensor("c", b, 1, origin="c", output="y")]
    layers = found(reference, folded, same=True)
    assert layers.first_departure is None
    assert states(layers) == {"x": "agrees", "a": "absent", "b": "agrees", "c": "agrees"}


def test_a_steep_fall_is_a_departure_above_the_floor() -> None:
    x, a, b = values(0), values(1), values(2)

    def at(array: Array, snr_db: float) -> Array:
        noise = values(7)
        noise *= array.std() / np.sqrt(np.mean(noise**2)) * 10 ** (-snr_db / 20)
        return array + noise

    gently = found(chain(x, a, b), chain(at(x, 40), at(a, 30), at(b, 18)), min_snr_db=15)
    assert gently.first_departure is None
    steeply = found(chain(x, a, b), chain(at(x, 40), at(a, 18), at(b, 18)), min_snr_db=15)
    assert steeply.first_departure is not None
    assert steeply.first_departure["tensor"] == "a"


def test_limits() -> None:
    assert Limits(1e-4).met(Departure(0, 1e-4, 1e-4))
    assert not Limits(1e-4).met(Departure(200, 1.1e-4, 1e-5))
    assert Limits(min_snr_db=15).met(Departure(15, 1, 1))
    assert not Limits(min_snr_db=15).met(Departure(14.9, 1, 0.03))
    assert Limits(min_snr_db=15).met(Departure(0, 0.05, 0.01)), "rounding of a nearly constant tensor"
    assert not Limits(min_snr_db=15).sure(Departure(0, 0.05, 0.01)), "which proves nothing, though"


def test_a_fall_counts_near_the_floor_alone() -> None:
    limits = Limits(min_snr_db=10)
    assert limits.fell(Departure(12, 1, 0.1), 30)
    assert not limits.fell(Departure(12, 1, 0.1), 26), "not steep"
    assert not limits.fell(Departure(16, 1, 0.1), 40), "not near the floor"
    assert not limits.fell(Departure(12, 1, 0.01), 30), "rounding"
    assert not Limits().fell(Departure(0, 1, 1), 200), "fp32 is not held against an SNR"


def test_departure_by_its_definition() -> None:
    exact, noise = values(1) + 5, values(2) * np.float32(0.01)
    told = departure(exact, exact + noise)
    difference = np.abs(exact.astype(float) - (exact + noise))
    assert told.max_relative == pytest.approx(difference.max() / np.abs(exact).max())
    assert told.snr_db == pytest.approx(20 * np.log10(exact.std() / np.sqrt(np.mean(difference**2))), abs=1e-3)
    assert departure(exact, exact).to_json() == {"snr_db": None, "max_relative": 0.0}


@given(shape=some.lists(some.integers(1, 3), min_size=1, max_size=4), seed=some.integers(0, 99), data=some.data())
def test_every_order_of_axes_is_recognised(shape: list[int], seed: int, data: some.DataObject) -> None:
    order = data.draw(some.sampled_from(list(permutations(range(len(shape))))))
    array = values(seed, *shape)
    assert laid_out(array, array.transpose(order)).max_relative == 0
    assert laid_out(array.transpose(order), array).max_relative == 0


def test_an_output_on_its_side_is_no_change_of_layout() -> None:
    x, square = values(0), values(1, 1, 3, 3)
    first = found(chain(x, square), chain(x, square.transpose(0, 2, 1))).first_departure
    assert first is not None
    assert first["tensor"] == "a"


def test_the_same_sample_is_kept_in_the_same_bytes(tmp_path: Path) -> None:
    inputs, outputs = {"image": values(0, 3, 2)}, {"y": values(1, 3, 5)}
    for name in ("a.npz", "b.npz"):
        keep_sample(tmp_path / "kept" / name, 1, inputs, outputs, {"y": outputs["y"] + 1})
    assert (tmp_path / "kept" / "a.npz").read_bytes() == (tmp_path / "kept" / "b.npz").read_bytes()
    with np.load(tmp_path / "kept" / "a.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["image"], inputs["image"][1:2])
        np.testing.assert_array_equal(kept["artifact/y"], outputs["y"][1:2] + 1)
