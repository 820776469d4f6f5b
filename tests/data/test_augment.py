"""What a sample looks like is a function of seed, sample and view, computed here once more, sample by sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from edgedistill.data.augment import augment, distinct_views, view_of_epoch
from edgedistill.errors import DataError
from edgedistill.recipe.document import Augment

if TYPE_CHECKING:
    from torch import Tensor

    from edgedistill.types import Array

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
EVERYTHING = Augment(crop_padding=2, flip=True, cutout=3, noise=0.1)
LIKELY = 1e-3
"""Least p-value that chance may give; the seeds are fixed, so a test that passes always passes."""


def images(count: int, shape: tuple[int, ...] = (2, 5, 7)) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))


def mixed(value: int) -> int:
    """SplitMix64's finaliser, in Python's integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def drawn(seed: int, row: int, view: int, stream: int, element: int = 0) -> float:
    """The number in [0, 1) that belongs to one decision about one view of one sample."""
    state = mixed(seed + GOLDEN & MASK)
    for part in (row, view, stream, element):
        state = mixed(state ^ (part + GOLDEN & MASK))
    return (state >> 11) / 2**53


def by_hand(image: Array, row: int, view: int, settings: Augment, seed: int) -> Array:
    """One sample, pixel by pixel."""
    channels, height, width = image.shape
    padding, side = settings.crop_padding, settings.cutout
    down = int(drawn(seed, row, view, 0) * (2 * padding + 1)) - padding
    right = int(drawn(seed, row, view, 1) * (2 * padding + 1)) - padding
    mirrored = settings.flip and drawn(seed, row, view, 2) >= 0.5
    top = int(drawn(seed, row, view, 3) * height) - side // 2
    left = int(drawn(seed, row, view, 4) * width) - side // 2
    out = np.zeros_like(image)
    for c, y, x in np.ndindex(channels, height, width):
        source_y, source_x = y + down, (width - 1 - x if mirrored else x) + right
        if 0 <= source_y < height and 0 <= source_x < width:
            out[c, y, x] = image[c, source_y, source_x]
        if side and top <= y < top + side and left <= x < left + side:
            out[c, y, x] = 0.0
        if settings.noise:
            element = (c * height + y) * width + x
            first, second = (drawn(seed, row, view, 5, 2 * element + n) for n in (0, 1))
            out[c, y, x] += settings.noise * math.sqrt(-2 * math.log1p(-first)) * math.cos(2 * math.pi * second)
    return out


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
@pytest.mark.parametrize(
    "told",
    [
        Augment(crop_padding=2),
        Augment(crop_padding=9),
        Augment(flip=True),
        Augment(cutout=1),
        Augment(cutout=4),
        Augment(cutout=50),
        Augment(noise=0.5),
        EVERYTHING,
    ],
    ids=lambda told: told.model_dump_json(exclude_defaults=True),
)
def test_a_batch_is_what_the_definition_gives_sample_by_sample(told: Augment, seed: int) -> None:
    batch, rows = images(6), np.array([0, 4, 3, 1_281_166, 2**40, 5])
    for view in (0, 1, 299):
        found = augment(batch, rows, view, told, seed).numpy()
        wanted = [by_hand(batch[n].numpy(), int(row), view, told, seed) for n, row in enumerate(rows)]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.stack(wanted), rtol=0, atol=1e-6 if told.noise else 0)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(7)), st.integers(1, 6), st.integers(0, 99), st.integers(0, 2**32 - 1))
def test_neither_the_order_nor_the_company_of_a_batch_matters(order: list[int], cut: int, view: int, seed: int) -> None:
    batch, rows = images(7), np.arange(100, 107)
    whole = augment(batch, rows, view, EVERYTHING, seed)
    for part in (order[:cut], order[cut:]):
        assert torch.equal(augment(batch[part], rows[part], view, EVERYTHING, seed), whole[part])


@pytest.mark.parametrize("told", [Augment(crop_padding=2), Augment(flip=True), Augment(cutout=3), Augment(noise=0.1)])
def test_views_samples_and_seeds_differ(told: Augment) -> None:
    same_image = images(1).expand(64, -1, -1, -1)
    rows = np.arange(64)
    first = augment(same_image, rows, 0, told, 0)
    assert not torch.equal(first, first[:1].expand_as(first))
    assert not torch.equal(first, augment(same_image, rows, 1, told, 0))
    assert not torch.equal(first, augment(same_image, rows, 0, told, 1))
    assert torch.equal(first, augment(same_image, rows, 0, told, 0))


def test_nothing_asked_for_is_nothing_done_and_the_given_samples_stay() -> None:
    batch = images(4)
    before = batch.clone()
    assert augment(batch, np.arange(4), 3, None, 0) is batch
    assert torch.equal(augment(batch, np.arange(4), 3, Augment(), 0), batch)
    augment(batch, np.arange(4), 3, EVERYTHING, 0)
    assert torch.equal(batch, before)


def test_which_views_a_training_shows() -> None:
    endless, two = Augment(flip=True), Augment(flip=True, views=2)
    assert [view_of_epoch(None, e) for e in range(4)] == [0, 0, 0, 0]
    assert [view_of_epoch(endless, e) for e in range(4)] == [0, 1, 2, 3]
    assert [view_of_epoch(two, e) for e in range(4)] == [0, 1, 0, 1]
    for told in (None, endless, two):
        for epochs in (1, 2, 5):
            assert distinct_views(told, epochs) == len({view_of_epoch(told, e) for e in range(epochs)})


def numbered(count: int, side: int) -> Tensor:
    """Equal images whose every pixel tells its place, from 1."""
    return torch.arange(1.0, side * side + 1).reshape(1, 1, side, side).expand(count, -1, -1, -1)


def offsets(view: int, seed: int, count: int, padding: int) -> Array:
    """Every sample's crop as one number, 0 to (2 padding + 1)^2 - 1, read off the pixel at (padding, padding)."""
    side = 2 * padding + 1
    cropped = augment(numbered(count, side), np.arange(count), view, Augment(crop_padding=padding), seed)
    return cropped[:, 0, padding, padding].numpy().astype(np.int64) - 1


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_crop_is_as_likely_as_every_other_whatever_the_view_before(seed: int) -> None:
    first, second = (offsets(view, seed, 20_000, 1) for view in (0, 1))
    assert stats.chisquare(np.bincount(first, minlength=9)).pvalue > LIKELY
    assert stats.chisquare(np.bincount(9 * first + second, minlength=81)).pvalue > LIKELY
    assert stats.chisquare(np.bincount(9 * first[:-1] + first[1:], minlength=81)).pvalue > LIKELY  # neighbours
    assert set(offsets(0, seed, 20_000, 4)) == set(range(81))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_half_of_the_images_are_mirrored_independently_of_the_crop(seed: int) -> None:
    count, told = 20_000, Augment(crop_padding=1, flip=True)
    found = augment(numbered(count, 5), np.arange(count), 0, told, seed)
    mirrored = (found[:, 0, 2, 2] > found[:, 0, 2, 3]).numpy()
    assert stats.binomtest(int(mirrored.sum()), count).pvalue > LIKELY
    shift = found[:, 0, 2, 2].numpy().astype(np.int64)  # the middle pixel stays in the middle
    table = np.array([np.bincount(shift[mirrored == side], minlength=26) for side in (False, True)])
    independent: Any = stats.chi2_contingency(table[:, table.any(axis=0)])  # scipy leaves the result's fields untyped
    assert independent.pvalue > LIKELY


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_every_pixel_is_as_likely_the_centre_of_the_cut(seed: int) -> None:
    count = 20_000
    found = augment(torch.ones(count, 2, 4, 5), np.arange(count), 0, Augment(cutout=1), seed)
    holes = (found == 0).numpy()
    assert (holes.sum(axis=(2, 3)) == 1).all()
    assert (holes[:, 0] == holes[:, 1]).all(), "the channels are cut alike"
    assert stats.chisquare(holes[:, 0].sum(axis=0).ravel()).pvalue > LIKELY


@pytest.mark.parametrize("deviation", [0.01, 1.0])
def test_noise_is_normal_of_the_asked_deviation_and_of_its_own_in_every_number(deviation: float) -> None:
    clean = torch.zeros(2000, 3, 4, 5)
    found = augment(clean, np.arange(2000), 7, Augment(noise=deviation), 3).numpy().astype(np.float64) / deviation
    assert stats.kstest(found.ravel(), "norm")[1] > LIKELY
    assert found.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * found.size))
    correlations = np.corrcoef(found.reshape(2000, -1).T) - np.eye(60)
    assert np.abs(correlations).max() < 5 / math.sqrt(2000)
    again = augment(clean, np.arange(2000), 8, Augment(noise=deviation), 3).numpy().ravel() / deviation
    assert abs(np.corrcoef(found.ravel(), again)[0, 1]) < 4 / math.sqrt(found.size)


@pytest.mark.parametrize("shape", [(12,), (4, 6), (2, 3, 4, 5)])
@pytest.mark.parametrize("told", [{"crop_padding": 1}, {"flip": True}, {"cutout": 2}])
def test_only_images_are_cropped_flipped_or_cut_and_noise_is_for_all(
    shape: tuple[int, ...], told: dict[str, int]
) -> None:
    batch = images(3, shape)
    with pytest.raises(DataError) as caught:
        augment(batch, np.arange(3), 0, Augment.model_validate({**told, "noise": 0.1}), 0)
    error = caught.value
    assert error.exit_code == 2
    assert str(shape) in error.got
    assert all((error.message, error.where, error.expected, error.fix))
    assert augment(batch, np.arange(3), 0, Augment(noise=0.1), 0).shape == batch.shape
