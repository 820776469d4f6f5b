"""The course of a training: every step in a CSV file, every epoch in TensorBoard."""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING

from edgedistill.storage import atomically

if TYPE_CHECKING:
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from edgedistill.events import Epoch

COLUMNS = ("step", "epoch", "loss", "learning_rate")


class TrainingLog:
    """Files below a folder; with None, nothing. What a killed training wrote after its checkpoint is cut off."""

    def __init__(self, folder: Path | None, resume_step: int) -> None:
        self.rows: IO[str] | None = None
        self.board: SummaryWriter | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "steps.csv"
        kept = [row for row in _rows(path) if int(row["step"]) <= resume_step]
        _rewrite(path, kept)
        self.rows = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.writer(self.rows)
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(folder), purge_step=resume_step + 1)

    def step(self, step: int, epoch: float, loss: float, rate: float) -> None:
        """A line for an optimiser step; the loss is that of its batches, before the step."""
        if self.rows is not None:
            self.writer.writerow((step, f"{epoch:.6f}", f"{loss:.9g}", f"{rate:.9g}"))

    def epoch(self, told: Epoch, step: int) -> None:
        """An epoch's means."""
        if self.board is None:
            return
        values = {"loss": told.loss, "accuracy": told.accuracy, **{f"terms/{n}": v for n, v in told.terms.items()}}
        if told.validation is not None:
            values["validation_accuracy"] = told.validation
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        """To disk, before a checkpoint that counts on it."""
        if self.rows is not None and self.board is not None:
            self.rows.flush()
            self.board.flush()

    def close(self) -> None:
        """Finish the files."""
        if self.rows is not None and self.board is not None:
            self.rows.close()
            self.board.close()


def _rewrite(path: Path, kept: list[dict[str, str]]) -> None:
    """The earlier lines, whole or as they were: a kill must not cost them."""
    with atomically(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in kept)


def _rows(path: Path) -> list[dict[str, str]]:
    """The whole lines of an earlier log."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if all(row.get(column) for column in COLUMNS)]
