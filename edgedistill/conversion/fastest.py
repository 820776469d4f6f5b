"""Which of several files is the fastest, beyond what noise can make believe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.artifacts.running import subjects_on
from edgedistill.errors import EdgeDistillError
from edgedistill.events import QUIET
from edgedistill.measurement.measure import comparable, measure, measure_beside, ratio_of
from edgedistill.plugins import traits_of
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.types import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.events import Events
    from edgedistill.types import Artifact

HOST = "cpu"
_ROUNDS = 3
_DECIDING_ROUNDS = 9
"""The fewest whose sign-flip test can reach p <= 0.005: 2 of 2^9 patterns."""
_NEAR = 1.01
_WORTH = 0.98


@dataclass(frozen=True)
class Race:
    """How the files did.

    Attributes:
        winner: position of the file to take.
        rounds: for each file its latency over that of the base in each interleaved round; empty where none was run.
        device: where.
        notes: what a reader should know.
    """

    winner: int
    rounds: tuple[tuple[float, ...], ...]
    device: str
    notes: tuple[str, ...] = ()


def race(base: Artifact, files: Sequence[Artifact], benchmark: Benchmark, events: Events = QUIET) -> Race:
    """Measure files beside their base, in the first runtime of the format, on the benchmark's device.

    The first file wins, unless another is faster than it by 2% and the interleaved comparison of the two (speed.py)
    says so: noise must not choose files. A device that cannot be reached, or that gives no times, is replaced by this
    host, and the notes say so.
    """
    if len(files) < 2:  # there is nothing to choose
        return Race(0, ((),) * len(files), benchmark.device)
    settings, notes = _target(benchmark)
    try:
        return _raced(base, files, settings, notes, events)
    except EdgeDistillError as error:
        if settings.device == HOST:
            raise
        notes = (f"{settings.device} did not measure the candidates ({error.message}): this host did",)
        return _raced(base, files, settings.model_copy(update={"device": HOST}), notes, events)


def _target(benchmark: Benchmark) -> tuple[Benchmark, tuple[str, ...]]:
    """How to measure, and why not on the device that the recipe names."""
    quick = quickly(benchmark)
    source = traits_of(benchmark.device).source
    if source is Source.MEASURED:
        return quick, ()
    why = f"{benchmark.device} is {source.value} and gives no times: candidates were measured on this host"
    return quick.model_copy(update={"device": HOST}), (why,)


def quickly(benchmark: Benchmark) -> Benchmark:
    """As little as tells candidates apart, on the same device, threads and cores."""
    where = {"device": benchmark.device, "threads": benchmark.threads, "affinity": benchmark.affinity}
    return Benchmark.model_validate({**where, "preset": "quick", "rounds": _ROUNDS})


def _raced(
    base: Artifact,
    files: Sequence[Artifact],
    settings: Benchmark,
    notes: tuple[str, ...],
    events: Events,
) -> Race:
    named = [replace(file, model=f"candidate-{n}") for n, file in enumerate(files)]
    found = [subjects_on(settings.device, [one])[0] for one in (base, *named)]
    events.step(f"measure {len(files)} candidates beside fp32 on {settings.device}", 0, 1)
    reference, *measured = map(comparable, measure(found, settings, None, QUIET))
    rounds = tuple(tuple(ratio_of(m, reference)["rounds"]) for m in measured)
    middles = [float(np.median(ratios)) for ratios in rounds]
    rival = next(n for n, middle in enumerate(middles) if middle <= _NEAR * min(middles))
    if rival == 0 or middles[rival] > _WORTH * middles[0]:
        return Race(0, rounds, settings.device, notes)
    events.step(f"compare two candidates on {settings.device}", 0, 1)
    deciding = settings.model_copy(update={"rounds": _DECIDING_ROUNDS})
    compared, _ = measure_beside([found[rival + 1]], found[1], deciding, QUIET)
    ratio = compared.get("ratio_to_reference")
    if ratio is None or ratio["answer"] != "faster":
        return Race(0, rounds, settings.device, notes)
    why = (
        f"chosen for its latency on {settings.device}: {ratio['p50']:.2f} x that of the default scheme over "
        f"{_DECIDING_ROUNDS} rounds (p = {ratio.get('p_value', 1.0):.3f}); another host may choose otherwise, "
        "`quantize.candidates` with one name does not"
    )
    return Race(rival, rounds, settings.device, (*notes, why))
