"""Where a training stands, in which order it takes its samples, and what makes it repeatable."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgedistill.distillation.training.distributed import world
from edgedistill.events import Epoch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedistill.types import Json


@dataclass
class Place:
    """Where a training stands. Sums are over the samples of the running epoch."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    right: int = 0
    labelled: int = 0
    samples: int = 0
    terms: dict[str, float] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = 0

    @classmethod
    def told(cls, document: Json) -> Place:
        """The place that `asdict` made a document of."""
        return cls(**{**document, "history": [Epoch(**one) for one in document["history"]]})


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and forbid nondeterministic kernels inside; thread count and mode are put back after."""
    before = torch.get_num_threads()
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=mode, warn_only=warn_only)
        torch.set_num_threads(before)


def epoch_batches(rows: Tensor, size: int, seed: int, epoch: int) -> list[Tensor]:
    """An epoch's batches, in an order that seed and epoch decide; a last batch of one joins its neighbour.

    Batch norm needs two samples, and every process one.
    """
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(mixed(seed, epoch)))
    batches = list(torch.split(rows[order], size))
    if len(batches) > 1 and len(batches[-1]) < max(2, world().size):
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def mixed(*parts: int) -> int:
    """One seed of several numbers; neighbours give unrelated ones."""
    state = 0
    for part in parts:
        state = (state ^ part) * 0x9E3779B97F4A7C15 % 2**64
        state ^= state >> 29
    return state % 2**63
