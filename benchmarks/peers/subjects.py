"""Who is compared. A subject prepares all that is done once, and returns the training that is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.peers import by_hand, ours, torchdistill
from benchmarks.peers.task import Task

if TYPE_CHECKING:
    from torch import nn

Prepare = Callable[[Task], Callable[[], "nn.Module"]]


@dataclass(frozen=True)
class Subject:
    """One way to train: its key, its name in table and chart, and which other subject's student it must equal."""

    key: str
    name: str
    prepare: Prepare
    same_student_as: str


SUBJECTS = (
    Subject("labels", "pure torch, labels only", by_hand.labels_only, "labels"),
    Subject("ours-labels", "EdgeDistill, labels only", ours.labels_only, "labels"),
    Subject("cached", "pure torch, cached teacher", by_hand.cached, "online"),
    Subject("ours-cached", "EdgeDistill, cached teacher", ours.cached, "online"),
    Subject("online", "pure torch, teacher on every batch", by_hand.online, "online"),
    Subject("ours-online", "EdgeDistill, teacher on every batch", ours.online, "online"),
    Subject("torchdistill", "torchdistill, teacher on every batch", torchdistill.online, "online"),
)
LIMIT = "labels"
"""The subject that all others are divided by."""


def subject(key: str) -> Subject:
    """The subject of that key."""
    return next(s for s in SUBJECTS if s.key == key)
