"""Files with trained ranges: beside the calibrated ones, or in the place of those that they beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgedistill.conversion.rival import Outcome, Rival, judge_trained, write_trained
from edgedistill.conversion.writing import takes_ranges
from edgedistill.errors import ModelError
from edgedistill.stages.samples import CALIBRATION, LAYOUT
from edgedistill.types import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from edgedistill.contracts import Shelf
    from edgedistill.conversion.candidates import CandidateSamples
    from edgedistill.data.splits import Data
    from edgedistill.documents.artifacts import ChoiceDocument
    from edgedistill.runs import Stage
    from edgedistill.stages.need import Need
    from edgedistill.stages.work import Work
    from edgedistill.types import Artifact, Json, TrainedRange

NAME = "requantize"
READS = (
    "threads",
    *CALIBRATION,
    "quantize.max_drop",
    "quantize.validation_samples",
    "quantize.integer_ends",
    "export.fold",
    "benchmark.device",
    "benchmark.threads",
    "benchmark.affinity",
)
SEES = ("student", LAYOUT)  # the key of the model
USES: tuple[Shelf, ...] = ("exporters", "devices", "benchmarks")


def check(work: Work) -> None:
    """Nothing can be known before there are calibrated files."""
    del work


def key(work: Work) -> Json:
    """The student, the calibration file, what writes, and what the files say of where they come from."""
    from edgedistill.stages.keys import exporters_tools, model_keys, origin_key
    from edgedistill.stages.samples import calibration_digest

    return {
        "models": model_keys(work, "student"),
        "calibration": calibration_digest(work),
        "tools": exporters_tools(work),
        "origin": origin_key(work, quantized=True),
    }


def make(
    work: Work,
    data: Stage,
    distilled: Stage,
    exported: Stage,
    quantized: Stage,
    retrained: Stage,
    *,
    need: Need,
    out: Path,
) -> None:
    """Write and judge, where there is a trained student."""
    from edgedistill.stages.files import all_choices, write_artifacts
    from edgedistill.stages.keys import origin_of
    from edgedistill.storage import read_json, write_json

    choices = {choice["artifact"]: choice for choice in all_choices(quantized)}
    plan = read_json(retrained.path / "plan.json")
    found: list[Outcome] = []
    if plan["refused"]:
        found = _without(work, plan["refused"], need, choices)
    if plan["use"]:
        found = _made(work, data, distilled, (exported, quantized), retrained, need, choices, out)
    write_json([one.choice for one in found], out / "candidates.json")
    write_artifacts([one.artifact for one in found if one.artifact is not None], out, origin_of(work))


def _without(work: Work, refused: dict[str, str], need: Need, choices: dict[str, ChoiceDocument]) -> list[Outcome]:
    """The calibrated files ship, unless the recipe asks for trained ones.

    Raises:
        ModelError: it asks, and the student cannot be trained so.
    """
    if need.asked:
        raise ModelError(**refused)
    why = refused["message"]
    work.events.note(f"quantisation-aware training is needed and not possible: {why}")
    return [Outcome(None, {**choices[rival], "untrained": why}) for rival in need.rivals]


@dataclass(frozen=True)
class _Rounded:
    """The trained student as exporters take it, and the trained ranges of its tensors."""

    graph: nn.Module
    ranges: list[TrainedRange]


def _made(
    work: Work,
    data: Stage,
    distilled: Stage,
    files: tuple[Stage, Stage],
    retrained: Stage,
    need: Need,
    choices: dict[str, ChoiceDocument],
    out: Path,
) -> list[Outcome]:
    from edgedistill.stages.files import load_data, read_artifacts
    from edgedistill.stages.samples import candidate_samples, judging_rows

    splits = load_data(data)
    bases = [artifact for artifact in read_artifacts(files[0]) if artifact.model == "student"]
    calibrated = {artifact.id: artifact for artifact in read_artifacts(files[1])}
    samples = candidate_samples(work, splits, bases[0].signature.inputs[0].name, judging_rows(work, splits), out)
    student = _rounded(work, splits, distilled, retrained)
    for artifact, reason in need.rivals.items():
        work.events.note(f"{artifact}: {reason}")
    wanted, found = _wanted(work, bases, need), []
    for number, base in enumerate(wanted):
        work.events.step(f"write {base.id} with trained ranges", number, len(wanted))
        trained = _written(work, base, student, samples, out, own=need.own)
        place = _static(base)
        rival = None if need.own else Rival(calibrated[place], choices[place])
        margin, benchmark = work.recipe.quantize.max_drop, work.recipe.benchmark
        found.append(judge_trained(base, trained, rival, samples, margin, benchmark, out))
    samples.validation.unlink()
    return found


def _wanted(work: Work, bases: list[Artifact], need: Need) -> list[Artifact]:
    """The fp32 files whose format takes trained ranges and that are asked for."""
    for artifact in bases:
        if not takes_ranges(artifact.format):
            work.events.note(f"{artifact.format} has no trained ranges: no file from quantisation-aware training")
    return [base for base in bases if takes_ranges(base.format) and (need.own or _static(base) in need.rivals)]


def _rounded(work: Work, splits: Data, distilled: Stage, retrained: Stage) -> _Rounded:
    import numpy as np
    import torch

    from edgedistill.distillation.rounding.training import restored
    from edgedistill.distillation.training.place import deterministic
    from edgedistill.stages.models import ROUNDED, trained_student, with_surroundings
    from edgedistill.stages.samples import calibration

    samples = torch.from_numpy(np.array(calibration(work, splits)))
    student = trained_student(work, splits, distilled)
    with deterministic(work.recipe.seed, work.recipe.threads):
        module = restored(student, samples, retrained.path / f"{ROUNDED}.safetensors")
        graph = with_surroundings(work, module.graph, splits.normalization)
        return _Rounded(graph, module.trained_ranges(samples))


def _written(
    work: Work, base: Artifact, student: _Rounded, samples: CandidateSamples, out: Path, *, own: bool
) -> Artifact:
    from edgedistill.stages.models import ROUNDED

    precision = Precision.INT8_QAT if own else Precision.INT8_STATIC
    ends = not work.recipe.quantize.integer_ends
    made = write_trained(base, student.graph, student.ranges, samples, out, precision, float_ends=ends)
    return replace(made, producer={**made.producer, "parent": base.sha256, "reference": ROUNDED})


def _static(base: Artifact) -> str:
    """Id of the calibrated copy of an fp32 artifact."""
    return replace(base, precision=Precision.INT8_STATIC).id
