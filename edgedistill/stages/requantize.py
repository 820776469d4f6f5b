"""Quantisation-aware training on the main path: whether it is needed, the training, and the files made of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.contracts import TrainsRanges
from edgedistill.errors import ModelError
from edgedistill.events import QUIET
from edgedistill.measurement.measure import measure, ratio_of
from edgedistill.plugins import load_exporter, offers
from edgedistill.stages.context import Stages
from edgedistill.stages.files import keep, load_data, read_artifacts, read_json, write_artifacts, write_json
from edgedistill.storage import require_space
from edgedistill.types import Array, Json, Precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.conversion.candidates import CandidateSamples, Outputs
    from edgedistill.data.splits import Data
    from edgedistill.distillation.rounding.training import QuantizedStudent
    from edgedistill.recipe.document import Recipe
    from edgedistill.runs import Stage
    from edgedistill.types import Artifact, TrainedRange

TRAINED = "student-qat"
"""The model whose outputs trained files are compared with: the student with its rounding."""
_SCHEME = "qat"
_FASTER = 0.95
"""As between calibrated candidates: every round must be faster by this."""
_LARGEST_SHARE = 3
"""At most one in so many training samples is kept out of the training to judge its files."""


@dataclass(frozen=True)
class Need:
    """What quantisation-aware training is wanted for.

    Attributes:
        rivals: calibrated artifacts (ids) that a trained file may replace, each with the reason.
        own: whether trained files are wanted beside the calibrated ones.
    """

    rivals: dict[str, str]
    own: bool

    def __bool__(self) -> bool:
        """Whether there is anything to train for."""
        return self.own or bool(self.rivals)


def needed(recipe: Recipe, quantized: Stage) -> Need:
    """What the calibrated files came to, and what the recipe says to that.

    Where `int8-qat` is asked for, calibrated files stay what they are: both are shown.
    """
    if "int8-qat" in recipe.export.precisions:
        return Need({}, own=True)
    settings = recipe.quantize.qat
    choices = {choice["artifact"]: choice for choice in read_json(quantized.path / "candidates.json")}
    reasons: dict[str, str] = {}
    for listed in read_json(quantized.path / "artifacts.json") if settings.when != "never" else []:
        choice, floats = choices.get(listed["id"]), 1 - float(listed["integer_mac_share"])
        if choice is None or listed["precision"] != Precision.INT8_STATIC or not _trains(listed["format"]):
            continue
        kept = next(row["keep_float"] for row in choice["candidates"] if row["state"] == "shipped")
        if not choice["met"]:
            reasons[listed["id"]] = "no calibrated file is within quantize.max_drop"
        elif kept and floats > settings.max_float_macs:
            reasons[listed["id"]] = f"{100 * floats:.0f} % of its MACs are in float, beyond quantize.qat.max_float_macs"
        elif settings.when == "always":
            reasons[listed["id"]] = "quantize.qat.when is always"
    return Need(reasons, own=False)


def writable(fmt: str) -> tuple[Precision, ...]:
    """What a recipe may ask of a format: what its exporter writes, and int8-qat where it takes trained ranges."""
    own = load_exporter(fmt).PRECISIONS
    return (*own, Precision.INT8_QAT) if _trains(fmt) else own


def _trains(fmt: str) -> bool:
    return offers(load_exporter(fmt), TrainsRanges) is not None


class Retraining(Stages):
    """The stages of a run, with those of quantisation-aware training."""

    def retrain(self, data_stage: Stage, teacher: Stage, distilled: Stage, cache: Stage, need: Need, out: Path) -> None:
        """The student, trained on with its rounding, if that is needed; its outputs over the evaluation split.

        Where nobody asked for it, a student that it cannot take is no error: the calibrated files ship.
        """
        data = load_data(data_stage)
        refused = self._refusal(data, distilled, need) if need else ""
        use = bool(need) and not refused
        write_json({"use": use, "refused": refused}, out / "plan.json")
        if not use:
            return
        from edgedistill.distillation.rounding.training import QatJob, qat_settings, train_quantized

        for artifact, reason in need.rivals.items():
            self.events.note(f"{artifact}: {reason}; the student is trained on with its rounding")
        kept = cache.path if read_json(cache.path / "plan.json")["use"] else None
        work = QatJob(
            replace(self._job(data_stage, teacher.path, out), cache=kept),
            distilled.path / "student.safetensors",
            qat_settings(self.recipe),
            np.asarray(self._calibration(data)),
            tuple(int(row) for row in self._judging(data)),
        )
        self._train(train_quantized, work, lambda module: keep(module, TRAINED, data, out))

    def requantize(
        self, data_stage: Stage, distilled: Stage, files: tuple[Stage, Stage], retrained: Stage, need: Need, out: Path
    ) -> None:
        """Files with the trained ranges: beside the calibrated ones, or in the place of those that they beat."""
        found: list[_Outcome] = []
        choices = {c["artifact"]: c for c in read_json(files[1].path / "candidates.json")}
        plan = read_json(retrained.path / "plan.json")
        if plan["refused"]:
            found = [_Outcome(None, {**choices[rival], "untrained": plan["refused"]}) for rival in need.rivals]
        if plan["use"]:
            exported, quantized = ({a.id: a for a in read_artifacts(stage)} for stage in files)
            bases = [a for a in exported.values() if a.model == "student"]
            wanted = [a for a in bases if _trains(a.format) and (need.own or _static(a) in need.rivals)]
            for artifact in (a for a in bases if not _trains(a.format)):
                self.events.note(f"{artifact.format} has no trained ranges: no file from quantisation-aware training")
            data = load_data(data_stage)
            samples = self._samples(data, bases[0].signature.inputs[0].name, out, self._judging(data))
            student = self._rounded(data, distilled, retrained)
            for artifact in self._steps(wanted, "write {0.id} with trained ranges", unpack=False):
                trained = self._written(artifact, data, student, samples, out, own=need.own)
                rival = None if need.own else (quantized[_static(artifact)], choices[_static(artifact)])
                found.append(self._judged(artifact, trained, rival, samples, out))
            samples.validation.unlink()
        write_json([one.choice for one in found], out / "candidates.json")
        write_artifacts([one.artifact for one in found if one.artifact is not None], out, self.origin(quantized=True))

    def _refusal(self, data: Data, distilled: Stage, need: Need) -> str:
        """Why the student cannot be trained so, where nobody asked for it."""
        import torch

        from edgedistill.distillation.rounding.graph import graph_of

        if need.own or self.recipe.quantize.qat.when == "always":
            return ""
        student = self._restored(self.recipe.student, data, distilled.path / "student.safetensors")
        try:
            graph_of(student, torch.from_numpy(np.array(self._calibration(data)[:2])))
        except ModelError as error:
            self.events.note(f"quantisation-aware training is needed and not possible: {error.message}")
            return error.message
        return ""

    def _judging(self, data: Data) -> Array:
        """Rows that judge trained files: some of those that judge calibrated ones, and not learned in the training."""
        most = max(1, len(data.train_labels) // _LARGEST_SHARE)
        return self._validation_rows(data, min(self.recipe.quantize.validation_samples, most))

    def _rounded(self, data: Data, distilled: Stage, retrained: Stage) -> tuple[QuantizedStudent, list[TrainedRange]]:
        import torch

        from edgedistill.distillation.rounding.training import restored
        from edgedistill.distillation.training.place import deterministic

        samples = torch.from_numpy(np.array(self._calibration(data)))
        student = self._restored(self.recipe.student, data, distilled.path / "student.safetensors")
        with deterministic(self.recipe.seed, self.recipe.threads):
            trained = restored(student, samples, retrained.path / f"{TRAINED}.safetensors")
            return trained, trained.trained_ranges(samples)

    def _written(
        self,
        base: Artifact,
        data: Data,
        student: tuple[QuantizedStudent, list[TrainedRange]],
        samples: CandidateSamples,
        out: Path,
        *,
        own: bool,
    ) -> Artifact:
        """A file of one format, by way of an fp32 file of the same weights."""
        from edgedistill.models.folding import Folded

        exporter: Any = load_exporter(base.format)
        folder, scratch = out / base.format, out / f".{base.format}"
        for place in (folder, scratch):
            place.mkdir()
        require_space(out, 4 * base.size_bytes)
        module, ranges = student
        folds = self.recipe.export.fold
        graph = Folded(module.graph, data.normalization, folds).eval() if folds else module.graph
        plain = exporter.export(graph, base.model, base.signature, scratch)
        precision = Precision.INT8_QAT if own else Precision.INT8_STATIC
        whole = {name: np.asarray(rows) for name, rows in samples.calibration.items()}
        made: Artifact = exporter.quantize_trained(
            plain, ranges, whole, folder, precision, float_ends=not self.recipe.quantize.integer_ends
        )
        shutil.rmtree(scratch)
        return replace(made, producer={**made.producer, "parent": base.sha256, "reference": TRAINED})

    def _judged(
        self,
        base: Artifact,
        trained: Artifact,
        rival: tuple[Artifact, Json] | None,
        samples: CandidateSamples,
        out: Path,
    ) -> _Outcome:
        """The trained file beside fp32, and beside the calibrated file whose place it may take."""
        others = [base] if rival is None else [base, rival[0]]

        def outputs(artifact: Artifact) -> Outputs:
            self.events.step(f"judge {artifact.id}", 0, 1)
            return compute_all(subjects([artifact])[0], samples.validation, out / ".outputs.npz")

        reference, *rivals = [outputs(artifact) for artifact in others]
        fp32, *calibrated = [samples.score(found, reference) for found in (reference, *rivals)]
        own = samples.score(outputs(trained), reference)
        (out / ".outputs.npz").unlink()
        margin = self.recipe.quantize.max_drop
        row: Json = {
            "scheme": _SCHEME,
            "placement": _SCHEME,
            "keep_float": [],
            "metric": samples.metric,
            "quality": own,
            "quality_fp32": fp32,
            "quality_calibrated": calibrated[0] if calibrated else None,
            "drop": fp32 - own,
            "n": samples.count,
            "size_bytes": trained.size_bytes,
            "device": None,
            "latency_ratio_to_fp32": None,
            "latency_ratio_rounds": [],
            "state": "shipped",
        }
        met = fp32 - own <= margin
        if rival is None:
            return _Outcome(trained, {"artifact": trained.id, "met": met, "candidates": [row]})
        fits = fp32 - calibrated[0] <= margin
        rounds = self._rounds(base, rival[0], trained) if met and fits else []
        if rounds:
            row |= {
                "device": self.recipe.benchmark.device,
                "latency_ratio_rounds": rounds[1],
                "latency_ratio_to_fp32": float(np.median(rounds[1])),
            }
        better, why = _better((own, calibrated[0]), (met, fits), rounds)
        if not better:
            for file in trained.files:
                file.unlink()
        return _replaced(rival[1], trained, row, why, ships=better, met=met)

    def _rounds(self, base: Artifact, calibrated: Artifact, trained: Artifact) -> list[list[float]]:
        """Latency over fp32's in interleaved rounds: of the calibrated file, and of the trained one."""
        quick = self.recipe.benchmark.model_copy(
            update={"rounds": 3, "min_queries": 64, "min_duration_s": 0.05, "sustained_min": 0.0, "profile": 0}
        )
        files = (base, replace(calibrated, model="calibrated"), replace(trained, model="trained"))
        reference, *own = measure([subjects([one])[0] for one in files], quick, None, QUIET)
        return [ratio_of(measured, reference)["rounds"] for measured in own]


@dataclass(frozen=True)
class _Outcome:
    """The file that ships, where that is the trained one, and the row of the report about it."""

    artifact: Artifact | None
    choice: Json


def _better(qualities: tuple[float, float], fits: tuple[bool, bool], rounds: list[list[float]]) -> tuple[bool, str]:
    """Whether the first of two files is better than the second, and what the worse one lacks.

    Within the margin first; of two within it the faster one in every round; else the quality.
    """
    if fits[0] != fits[1]:
        return fits[0], "loses too much"
    if rounds:
        second, first = rounds
        for better, one, other in ((True, first, second), (False, second, first)):
            if all(a < _FASTER * b for a, b in zip(one, other, strict=True)):
                return better, "not faster"
    return qualities[0] > qualities[1], "lower quality" if all(fits) else "loses too much"


def _replaced(choice: Json, trained: Artifact, row: Json, why: str, *, ships: bool, met: bool) -> _Outcome:
    """The calibrated file's candidates with the trained one among them."""
    if not ships:
        return _Outcome(None, {**choice, "candidates": [*choice["candidates"], {**row, "state": why}]})
    rows = [{**r, "state": why} if r["state"] == "shipped" else r for r in choice["candidates"]]
    return _Outcome(trained, {**choice, "met": met, "candidates": [*rows, row]})


def _static(base: Artifact) -> str:
    """Id of the calibrated copy of an fp32 artifact."""
    return replace(base, precision=Precision.INT8_STATIC).id
