"""How often `--against` calls a difference at its default settings: of a file with itself, and of a tenth more work."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgedistill.events import QUIET
from edgedistill.measurement.measure import measure_files
from edgedistill.recipe.document import Benchmark

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.studies.harness.kept import Kept
    from edgedistill.types import Artifact, Json

ROUNDS = 12
"""What `edgedistill benchmark --against` does."""


def alarms(kept: Kept, files: Mapping[str, Artifact], wanted: Mapping[str, int], rounds: int = ROUNDS) -> None:
    """A row for each comparison that `kept` lacks.

    Args:
        kept: where rows go.
        files: `reference`, and a candidate for each kind of comparison.
        wanted: kind -> comparisons.
        rounds: of each comparison.
    """
    for kind, count in wanted.items():
        done = sum(row["kind"] == kind for row in kept.rows)
        for number in range(done, count):
            row = {"kind": kind, "number": number, **compared(files[kind], files["reference"], rounds)}
            kept.add(row)
            sys.stderr.write(f"{kind} {number + 1} of {count}: {row['answer']} {row['p50']:.3f}\n")


def compared(candidate: Artifact, reference: Artifact, rounds: int) -> Json:
    """The answer and its figures."""
    started = time.perf_counter()
    first, *_ = measure_files([candidate], reference, Benchmark(rounds=rounds), QUIET)
    told = dict(first.get("ratio_to_reference", {}))
    keys = ("answer", "p50", "p50_interval99", "noise_floor", "p_value", "needed_rounds")
    return {**{key: told[key] for key in keys}, "seconds": time.perf_counter() - started}


@contextmanager
def busy() -> Iterator[None]:
    """A loop that takes a core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()
