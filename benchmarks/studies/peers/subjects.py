"""Who is compared. A subject prepares all that is done once, and returns the training that is timed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from benchmarks.studies.peers.task import Task


@dataclass(frozen=True)
class Subject:
    """One way to train: its key, its name in table and chart, its function, and whose student it must equal.

    The function is named, not imported: a process loads the code of its own subject alone.
    """

    key: str
    name: str
    function: str
    same_student_as: str

    def prepare(self, task: Task) -> Callable[[], nn.Module]:
        """Make everything that is made once; the result trains through the task and returns the student."""
        module, name = self.function.split(".")
        train: Callable[[], nn.Module] = getattr(import_module(f"benchmarks.studies.peers.{module}"), name)(task)
        return train


SUBJECTS = (
    Subject("labels", "pure torch, labels only", "by_hand.labels_only", "labels"),
    Subject("ours-labels", "EdgeDistill, labels only", "ours.labels_only", "labels"),
    Subject("cached", "pure torch, cached teacher", "by_hand.cached", "online"),
    Subject("ours-cached", "EdgeDistill, cached teacher", "ours.cached", "online"),
    Subject("online", "pure torch, teacher on every batch", "by_hand.online", "online"),
    Subject("ours-online", "EdgeDistill, teacher on every batch", "ours.online", "online"),
    Subject("torchdistill", "torchdistill, teacher on every batch", "torchdistill.online", "online"),
)
LIMIT = "labels"
"""The subject that all others are divided by."""


def subject(key: str) -> Subject:
    """The subject of that key."""
    return {s.key: s for s in SUBJECTS}[key]
