"""Events for tests: functions of a test's own in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.events import Quiet

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.events import Epoch


class Listening(Quiet):
    """Hands steps' titles, epochs and passes to those functions that are given."""

    def __init__(
        self,
        step: Callable[[str], None] = lambda _: None,
        epoch: Callable[[Epoch], None] = lambda _: None,
        training: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._step, self._epoch, self._training = step, epoch, training

    def step(self, title: str, done: int, total: int) -> None:
        del done, total
        self._step(title)

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        del title, epochs
        self._epoch(epoch)

    def training(self, title: str, done: float, epochs: int) -> None:
        del title, epochs
        self._training(done)
