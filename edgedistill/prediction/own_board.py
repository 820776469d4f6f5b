"""Profiles of boards of one's own: a suite of generated networks is measured, or timings are given."""

from __future__ import annotations

import csv
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.artifacts.identify import described
from edgedistill.artifacts.running import Subject, call_for
from edgedistill.contracts import Calibrates
from edgedistill.errors import UsageError, nearest
from edgedistill.models.reference import of_module
from edgedistill.plugins import find_exporters, first_that, load_device, load_exporter
from edgedistill.prediction.networks import FEW, SUITE, made
from edgedistill.prediction.predict import simulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from edgedistill.events import Events
    from edgedistill.types import Json

ROUNDS = 5
"""Fresh processes per network, interleaved; the least of their lower quartiles counts."""
_QUERIES = 30
_SECONDS = 0.4
_DISAGREE = 1.25


@dataclass(frozen=True)
class Board:
    """What the new profile is about.

    Attributes:
        name: its id.
        runtime: the agent's name of the runtime.
        threads: of the runtime.
        few_shot: three networks alone.
        app_budget_mb: what an application may take there; None: not known.
        replace: write over an own profile of this name.
    """

    name: str
    runtime: str
    threads: int = 1
    few_shot: bool = False
    app_budget_mb: float | None = None
    replace: bool = False


@dataclass(frozen=True)
class Timing:
    """A network's file, its family (held out together), the lower quartile of each round's latencies."""

    path: Path
    family: str
    rounds_ms: tuple[float, ...]

    @property
    def ms(self) -> float:
        """The least of the rounds: what the board does when nothing is in the way."""
        return min(self.rounds_ms)


def from_device(board: Board, device: str, events: Events) -> Json:
    """Measure the suite on a device and write the profile.

    Returns:
        `path`, `status`, `anchors`, `mdape`, `coverage`, `flags`, `networks` (name, ms, held-out prediction).

    Raises:
        EdgeDistillError: the runtime or device is unknown, or a network cannot be exported or measured.
    """
    _format_of(board.runtime)  # before minutes are spent
    first_that("devices", Calibrates).require_free(board.name, replace=board.replace)
    info = load_device(device).describe(device)
    names = FEW if board.few_shot else tuple(SUITE)
    with tempfile.TemporaryDirectory(prefix="edgedistill-suite-") as folder:
        files = {name: exported(name, board.runtime, Path(folder)) for name in names}
        timings = measured(files, board, device, events)
        disagree = [t.path.stem for t in timings if np.median(t.rounds_ms) > _DISAGREE * t.ms]
        flags = [f"rounds disagree, the machine was busy: {', '.join(disagree)}"] if disagree else []
        facts = {
            "name": info.name,
            "machine": info.machine,
            "cores": info.cores,
            "ram_mb": info.memory_bytes / 2**20,
            "source": f"measured by edgedistill devices calibrate on {device}",
            "given": False,
        }
        return {**_written(board, facts, timings), "flags": flags}


def from_anchors(board: Board, path: Path) -> Json:
    """Make a profile of the timings in a CSV: `model` (a file, relative to the CSV), `ms`, and perhaps `family`.

    Raises:
        UsageError: an unknown runtime, a column or a file is missing, a row twice, a number none, or in another unit.
    """
    simulator().require_runtime(board.runtime)
    first_that("devices", Calibrates).require_free(board.name, replace=board.replace)
    timings = _read(path)
    facts = {
        "name": board.name,
        "machine": "unknown",
        "cores": 1,
        "ram_mb": None,
        "source": f"timings given in {path.name}",
        "given": True,
    }
    return {**_written(board, facts, timings), "flags": []}


def exported(name: str, runtime: str, folder: Path) -> Path:
    """A network of the suite as a file that the runtime opens."""
    return written(*made(name), name, runtime, folder)


def written(network: nn.Module, shape: tuple[int, ...], name: str, runtime: str, folder: Path) -> Path:
    """A network of images of that shape as a file that the runtime opens."""
    exporter = load_exporter(_format_of(runtime))
    source = of_module(network, {"image": np.zeros((2, *shape), np.float32)}, name)
    path: Path = exporter.export(source.model, name, source.signature, folder, source.inputs).path
    return path


def measured(files: dict[str, Path], board: Board, device: str, events: Events) -> list[Timing]:
    """Every file in ROUNDS fresh processes, interleaved so that drift meets all alike."""
    calls = {name: call_for(Subject(described(file), board.runtime), device) for name, file in files.items()}
    found: dict[str, list[float]] = {name: [] for name in files}
    order = [*files] * ROUNDS
    for number, name in enumerate(order):
        events.step(f"measure {name}", number, len(order))
        job = replace(calls[name], threads=board.threads, min_queries=_QUERIES, min_duration_s=_SECONDS)
        latencies = load_device(device).run(device, job).document["latency_ns"]
        found[name].append(float(np.quantile(latencies, 0.25)) / 1e6)
    return [Timing(files[name], name, tuple(rounds)) for name, rounds in found.items()]


def _format_of(runtime: str) -> str:
    formats = {known: fmt for fmt, exporter in find_exporters().items() for known in exporter.RUNTIMES}
    if runtime not in formats:
        raise UsageError(
            f"unknown runtime {runtime!r}",
            where="--runtime",
            expected=nearest(runtime, formats),
            got=repr(runtime),
            fix="name a runtime that a file can be exported for",
        )
    return formats[runtime]


def _written(board: Board, facts: Json, timings: Sequence[Timing]) -> Json:
    rows = [{"path": t.path, "family": t.family, "ms": t.ms} for t in timings]
    return first_that("devices", Calibrates).calibrate(
        board.name, rows, facts, runtime=board.runtime, threads=board.threads, app_budget_mb=board.app_budget_mb
    )


def _read(path: Path) -> list[Timing]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark before the first column
        rows = list(csv.DictReader(line for line in text.splitlines() if line[:1] != "#"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read",
            where=str(path),
            expected="a CSV with the columns model, ms",
            got=str(error),
            fix="correct the path",
        ) from error
    lacking = {"model", "ms"} - set(rows[0] if rows else ())
    if lacking:
        raise UsageError(
            f"{path.name} lacks {' and '.join(sorted(lacking))}",
            where=f"{path}, first line",
            expected="the columns model, ms and perhaps family",
            got=", ".join(rows[0]) if rows else "no rows",
            fix="name the columns in the first line",
        )
    timings = [_timing(row, number, path) for number, row in enumerate(rows, 2)]
    names = [timing.path for timing in timings]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"{twice.name} stands there twice",
            where=f"{path}, column model",
            expected="one row per file",
            got=str(twice),
            fix="keep one of the rows",
        )
    return timings


def _timing(row: dict[str, str], number: int, path: Path) -> Timing:
    file = path.parent / row["model"]
    try:
        ms = float(row["ms"])
    except (TypeError, ValueError):
        ms = float("nan")
    if not file.is_file() or not 0 < ms < float("inf"):
        wrong, got = ("ms", row["ms"]) if file.is_file() else ("model", row["model"])
        raise UsageError(
            f"row {number} of {path.name} is no timing",
            where=f"{path}, row {number}, column {wrong}",
            expected="a positive number of milliseconds" if wrong == "ms" else "a file, relative to the CSV",
            got=repr(got),
            fix="correct the row",
        )
    return Timing(file, row.get("family") or file.stem, (ms,))
