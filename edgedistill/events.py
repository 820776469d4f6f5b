"""Where progress goes: the protocol of those who look on, and one who looks away."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path


class Events(Protocol):
    """Where progress goes."""

    def stage(self, name: str, state: str) -> None:
        """A stage is `running`, `ran`, `reused`."""
        ...

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        """An epoch of a training ended."""
        ...

    def training(self, title: str, done: float, epochs: int) -> None:
        """A training has passed so often over its data."""
        ...

    def step(self, title: str, done: int, total: int) -> None:
        """A step of a longer stage begins."""
        ...

    def note(self, text: str) -> None:
        """A decision and its reason, in one line."""
        ...

    def captured(self, log: Path) -> AbstractContextManager[None]:
        """What third-party libraries print goes into the log."""
        ...


class Quiet:
    """Nobody looks on."""

    def stage(self, name: str, state: str) -> None:
        """Say nothing."""

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        """Say nothing."""

    def training(self, title: str, done: float, epochs: int) -> None:
        """Say nothing."""

    def step(self, title: str, done: int, total: int) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def captured(self, log: Path) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's name
        """Let libraries print."""
        return nullcontext()


@dataclass(frozen=True)
class Epoch:
    """Means over an epoch's training samples, taken while the weights moved.

    `accuracy` is over the labelled ones; `validation` that over the validation split after the epoch, if there is one.
    """

    number: int
    loss: float
    accuracy: float
    terms: dict[str, float] = field(default_factory=dict)
    validation: float | None = None


QUIET = Quiet()


@dataclass(frozen=True)
class Part(Quiet):
    """Events of one of several works: its steps are told at the work's own place among them.

    Attributes:
        whole: who looks on.
        title: of this work.
        done: works before it.
        total: of all works.
    """

    whole: Events
    title: str
    done: int
    total: int

    def step(self, title: str, done: int, total: int) -> None:  # noqa: ARG002 - the place is that of the work
        """Tell what is done, within this work."""
        self.whole.step(f"{self.title}: {title}", self.done, self.total)

    def note(self, text: str) -> None:
        """Hand it on."""
        self.whole.note(text)
