"""Progress on stderr: stages, a bar with loss, accuracy and time left, and libraries kept quiet."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgedistill.events import Epoch


class TerminalEvents:
    """Draws on stderr; where that is no terminal, a line per stage and per training.

    It writes to a copy of the descriptor, so that it stays visible while libraries are captured.
    """

    def __init__(self) -> None:
        self.console = Console(file=os.fdopen(os.dup(2), "w", buffering=1))
        self.bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.title = ""
        self.facts = ""
        self.moved = 0.0
        self.started: dict[str, float] = {}

    def stage(self, name: str, state: str) -> None:
        """A line when a stage starts, and one when it is done or reused."""
        self._clear()
        if state == "running":
            self.started[name] = time.monotonic()
            self.bar.start()
            self._line(f"{name:<10} ...")
        else:
            self.bar.stop()
            took = f"{time.monotonic() - self.started[name]:.1f} s" if name in self.started else ""
            self._line(f"{name:<10} {state} {took}")

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        """Move the bar of a training."""
        facts = f"loss {epoch.loss:.4f}  accuracy {100 * epoch.accuracy:.1f} %"
        if epoch.validation is not None:
            facts += f"  validation {100 * epoch.validation:.1f} %"
        self.facts = facts
        self._show(f"train {title}", epoch.number, epochs, facts)
        if epoch.number == epochs:
            self._line(f"  {title}: {epochs} epochs, training {facts}")

    def training(self, title: str, done: float, epochs: int) -> None:
        """Move the bar within an epoch."""
        if time.monotonic() - self.moved > 0.2:  # seconds; drawing costs more than a small step
            self._show(f"train {title}", done, epochs, self.facts)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._line(f"  {text}")

    def step(self, title: str, done: int, total: int) -> None:
        """Move the bar of a longer stage."""
        self._show(title, done, total, "")

    @contextmanager
    def captured(self, log: Path) -> Iterator[None]:
        """Send descriptors 1 and 2 to a log file; C++ libraries write there too."""
        log.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        kept = os.dup(1), os.dup(2)
        with log.open("wb") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            try:
                with open(1, "w", closefd=False) as text, redirect_stdout(text):
                    yield
            finally:
                for python_stream in (sys.stdout, sys.stderr):
                    with suppress(OSError):  # the log's disk may be full; the error that says so must get out
                        python_stream.flush()
                for number, descriptor in zip((1, 2), kept, strict=True):
                    os.dup2(descriptor, number)
                    os.close(descriptor)

    def _show(self, title: str, done: float, total: int, facts: str) -> None:
        self.moved = time.monotonic()
        group = title.split(" ", maxsplit=1)[0]
        if self.task is None or self.title != group:
            self._clear()
            self.task, self.title = self.bar.add_task(title, total=total, facts=facts), group
        self.bar.update(self.task, description=title, completed=done, total=total, facts=facts)

    def _clear(self) -> None:
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
