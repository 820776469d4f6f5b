"""Quantised copies of the student's fp32 artifacts: candidates calibrated on training samples, the best shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.conversion.writing import writable, write_quantized
from edgedistill.errors import PluginError
from edgedistill.plugins import load_exporter
from edgedistill.stages.samples import CALIBRATION, LAYOUT
from edgedistill.types import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Artifact, Json

NAME = "quantize"
READS = (
    *CALIBRATION,
    "quantize.candidates",
    "quantize.max_drop",
    "quantize.validation_samples",
    "quantize.integer_ends",
    "quantize.fallback",
    "export.precisions",
    "export.fold",
    "benchmark.device",
    "benchmark.threads",
    "benchmark.affinity",
)
SEES = (LAYOUT,)
USES: tuple[Shelf, ...] = ("exporters", "devices", "benchmarks")
_ELSEWHERE = ("fp32", "int8-qat")
"""Precisions of the stages `export` and `requantize`."""


def check(work: Work) -> None:
    """Every precision is one of a format's, so that no training ends in nothing."""
    known_to = {name: writable(name) for name in work.recipe.export.formats}
    for word in work.recipe.export.precisions:
        if all(Precision.parse(word) not in precisions for precisions in known_to.values()):
            raise PluginError(
                f"none of the formats can be written in {word}",
                where="export.precisions",
                expected="; ".join(f"{name}: {', '.join(p.short for p in known)}" for name, known in known_to.items()),
                got=word,
                fix="drop the precision, or add a format that has it",
            )


def key(work: Work) -> Json:
    """The calibration file, what writes, and what the files say of where they come from."""
    from edgedistill.stages.keys import exporters_tools, origin_key
    from edgedistill.stages.samples import calibration_digest

    return {
        "calibration": calibration_digest(work),
        "tools": exporters_tools(work),
        "origin": origin_key(work, quantized=True),
    }


def make(work: Work, data: Stage, exported: Stage, *, out: Path) -> None:
    """Choose for every format and precision."""
    from edgedistill.events import Part
    from edgedistill.stages.files import load_data, read_artifacts, write_artifacts
    from edgedistill.stages.keys import origin_of
    from edgedistill.stages.samples import candidate_samples, validation_rows
    from edgedistill.storage import write_json

    recipe, splits = work.recipe, load_data(data)
    students = [artifact for artifact in read_artifacts(exported) if artifact.model == "student"]
    jobs = _jobs(work, students)
    rows = validation_rows(work, splits, recipe.quantize.validation_samples)
    samples = candidate_samples(work, splits, students[0].signature.inputs[0].name, rows, out)
    choices = []
    for number, (base, precision) in enumerate(jobs):
        events = Part(work.events, f"quantize {base.id} to {precision}", number, len(jobs))
        folder = out / base.format
        choices.append(write_quantized(base, precision, samples, recipe.quantize, recipe.benchmark, folder, events))
    samples.validation.unlink()
    write_json([choice.to_json() for choice in choices], out / "candidates.json")
    write_artifacts([choice.artifact for choice in choices], out, origin_of(work))


def _jobs(work: Work, students: list[Artifact]) -> list[tuple[Artifact, Precision]]:
    """Every file that is to be quantised, and to what; a format without a precision stays as it is."""
    wanted = [Precision.parse(word) for word in work.recipe.export.precisions if word not in _ELSEWHERE]
    jobs = []
    for artifact in students:
        known = load_exporter(artifact.format).PRECISIONS
        jobs += [(artifact, precision) for precision in wanted if precision in known]
        for precision in (one for one in wanted if one not in known):
            work.events.note(f"{artifact.format} has no {precision.short}: left in fp32")
    return jobs
