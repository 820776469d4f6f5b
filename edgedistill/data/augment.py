"""Seeded augmentation: what a sample looks like is a function of seed, sample and view, and of nothing else.

No generator has a state that a batch would advance, so a teacher's answer to a view can be kept and met again
in any order, in any process and after any crash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from edgedistill.errors import DataError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from edgedistill.recipe.document import Augment
    from edgedistill.types import Array

_CROP_Y, _CROP_X, _FLIP, _CUT_Y, _CUT_X, _NOISE = range(6)
"""Streams of random numbers, one for each decision."""


def view_of_epoch(settings: Augment | None, epoch: int) -> int:
    """Which view of every sample an epoch (from 0) shows."""
    if settings is None:
        return 0
    return epoch if settings.views is None else epoch % settings.views


def distinct_views(settings: Augment | None, epochs: int) -> int:
    """How many different views a training shows."""
    if settings is None:
        return 1
    return epochs if settings.views is None else min(settings.views, epochs)


def augment(inputs: Float[Tensor, "batch ..."], rows: Array, view: int, settings: Augment | None, seed: int) -> Tensor:
    """The given view of a batch of normalised samples.

    Args:
        inputs: (batch, channels, height, width); any shape where only noise is asked for.
        rows: (batch,) the samples' numbers in the training set.
        view: number of the view.
        settings: what to do; None for nothing.
        seed: the run's seed.

    Raises:
        DataError: samples that are no images are to be cropped, flipped or cut.
    """
    if settings is None:
        return inputs
    if inputs.ndim != 4 and (settings.crop_padding or settings.flip or settings.cutout):  # N, C, H, W
        raise DataError(
            "only images can be cropped, flipped or cut",
            where="augment",
            expected="samples of shape (channels, height, width)",
            got=f"samples of shape {tuple(inputs.shape[1:])}",
            fix="leave noise alone in augment, or drop augment",
        )
    if settings.crop_padding or settings.flip:
        inputs = _crop_and_flip(inputs, rows, view, settings, seed)
    if settings.cutout:
        inputs = _cut(inputs, rows, view, settings.cutout, seed)
    if settings.noise:
        inputs = inputs + settings.noise * _normal(rows, view, inputs[0].numel(), seed).reshape(inputs.shape)
    return inputs


def _crop_and_flip(images: Tensor, rows: Array, view: int, settings: Augment, seed: int) -> Tensor:
    """One gather for both; the padding is 0, the mean of normalised data."""
    padding, (height, width) = settings.crop_padding, images.shape[2:]
    ys = _below(2 * padding + 1, rows, view, _CROP_Y, seed)[:, None] + torch.arange(height)
    xs = _below(2 * padding + 1, rows, view, _CROP_X, seed)[:, None] + torch.arange(width)
    if settings.flip:
        mirrored = _below(2, rows, view, _FLIP, seed)[:, None].bool()
        xs = torch.where(mirrored, xs.flip(1), xs)
    padded = functional.pad(images, (padding,) * 4)
    batch, channels = torch.arange(len(images)), torch.arange(images.shape[1])
    return padded[batch[:, None, None, None], channels[:, None, None], ys[:, None, :, None], xs[:, None, None, :]]


def _cut(images: Tensor, rows: Array, view: int, side: int, seed: int) -> Tensor:
    """A square of zeros whose centre lies in the image (DeVries 2017)."""
    height, width = images.shape[2:]
    top = _below(height, rows, view, _CUT_Y, seed)[:, None] - side // 2
    left = _below(width, rows, view, _CUT_X, seed)[:, None] - side // 2
    y, x = torch.arange(height), torch.arange(width)
    inside_y = (y >= top) & (y < top + side)
    inside_x = (x >= left) & (x < left + side)
    return images.masked_fill((inside_y[:, :, None] & inside_x[:, None, :])[:, None], 0.0)


def _below(bound: int, rows: Array, view: int, stream: int, seed: int) -> Tensor:
    """An integer from 0 to bound - 1 for every row."""
    return torch.from_numpy((_uniform(rows, view, stream, seed) * bound).astype(np.int64))


def _normal(rows: Array, view: int, size: int, seed: int) -> Float[Tensor, "batch size"]:
    """Standard normal numbers by Box and Muller."""
    elements = np.arange(size, dtype=np.uint64)
    first = _uniform(rows[:, None], view, _NOISE, seed, 2 * elements)
    second = _uniform(rows[:, None], view, _NOISE, seed, 2 * elements + np.uint64(1))
    return torch.from_numpy((np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)).astype(np.float32))


def _uniform(rows: Array, view: int, stream: int, seed: int, element: Array | int = 0) -> Array:
    """Numbers in [0, 1) by hashing where they belong (SplitMix64's mixing function, Steele 2014)."""
    with np.errstate(over="ignore"):  # wrapping around is the arithmetic that is meant
        state = _mix(np.asarray(seed, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        for part in (
            np.asarray(rows).astype(np.uint64),
            np.uint64(view),
            np.uint64(stream),
            np.asarray(element, np.uint64),
        ):
            state = _mix(state ^ (part + np.uint64(0x9E3779B97F4A7C15)))
    fraction: Array = (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fraction


def _mix(value: Array) -> Array:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = value ^ (value >> np.uint64(31))
    return mixed
