"""A model of one's own to every runtime, without a recipe: export, prove, list."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.artifacts.metadata import Origin, embedded
from edgedistill.artifacts.running import compute_all, disagreements, subjects
from edgedistill.conversion.measuring import measure_proven
from edgedistill.conversion.operators import require_convertible
from edgedistill.conversion.proof import keep_worst, prove, unsupported
from edgedistill.conversion.recommendation import recommend, with_choice
from edgedistill.conversion.samples import LABELS, check_samples, judged
from edgedistill.conversion.writing import write_fp32, write_quantized
from edgedistill.documents.report import EXPORT_SCHEMA
from edgedistill.errors import EdgeDistillError, UsageError
from edgedistill.events import QUIET, Part
from edgedistill.models.reference import Reference, arrays_of, folded, made_ready, of_module
from edgedistill.plugins import load_exporter
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.export import ParitySettings, Quantize
from edgedistill.storage import storage_errors, write_atomically
from edgedistill.types import Array, Artifact, Normalization, Precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.contracts import Exporter
    from edgedistill.documents.artifacts import ChoiceDocument, ProvenFile
    from edgedistill.documents.report import ExportDocument
    from edgedistill.events import Events

_MARGIN_BYTES = 2**20


@dataclass(frozen=True)
class Settings:
    """What to write of a model, and how.

    Attributes:
        to: exporters by name (`edgedistill plugins`).
        precisions: as users write them; fp32 is always among them.
        calibration: input name -> samples; needed by int8.
        validation: other samples that choose between candidates, with their class numbers under `labels` if there are
            any; None: the last quarter of those for calibration.
        quantize: margin, candidates, fallback, integer ends; its samples and files are a recipe's.
        benchmark: where and how latency is measured, once there is more than fp32.
        opset: of ONNX files.
        licence: under which the files are given away, an SPDX name.
    """

    to: Sequence[str] = ("onnx", "tflite", "openvino")
    precisions: Sequence[str] = ("fp32",)
    calibration: Mapping[str, Array] | None = None
    validation: Mapping[str, Array] | None = None
    quantize: Quantize = field(default_factory=Quantize)
    benchmark: Benchmark = field(default_factory=lambda: Benchmark.model_validate({"preset": "quick", "rounds": 5}))
    opset: int | None = None
    licence: str = ""

    @property
    def wanted(self) -> list[Precision]:
        """The precisions, fp32 first.

        Raises:
            UsageError: a word is none.
        """
        return list(dict.fromkeys(Precision.parse(word) for word in ("fp32", *self.precisions)))


def export(
    model: Any,
    example: Any,
    out: Path | str,
    *,
    to: Sequence[str] = ("onnx", "tflite", "openvino"),
    precisions: Sequence[str] = ("fp32",),
    name: str = "model",
    calibration: Mapping[str, Array] | None = None,
    validation: Mapping[str, Array] | None = None,
    quantize: Quantize | None = None,
    benchmark: Benchmark | None = None,
    normalization: Normalization | None = None,
    labels: Sequence[str] = (),
    opset: int | None = None,
    licence: str = "",
    fold: Sequence[str] = (),
    events: Events = QUIET,
) -> ExportDocument:
    """Export a torch module to several runtimes, and prove every file.

    Args:
        model: a torch module; it is put into eval mode.
        example: a batch: one array or tensor, several in a tuple, or by input name in a dict; first axis: the batch.
        out: folder for the files and `export.json`; it must be free or an earlier export.
        to: exporters by name (`edgedistill plugins`).
        precisions: `fp32` (always written), `fp16`, `int8`, `int8-dynamic`, `int8-weights`, `int4-weights`.
        name: of the files.
        calibration: input name -> samples; needed by int8.
        validation: input name -> other samples that choose between candidates, with class numbers under `labels` if
            there are any; default: the last quarter of those for calibration.
        quantize: the margin `max_drop`, `candidates`, `fallback`, `integer_ends`.
        benchmark: how latency is measured, where more than fp32 is written.
        normalization: what an application does before the model.
        labels: class names.
        opset: of ONNX files.
        licence: under which the files are given away, an SPDX name; it stands inside them.
        fold: put into the graph: `normalization`, and `softmax` or `argmax`; with the first, `example`, `calibration`
            and `validation` are raw samples.
        events: told what is done, how much is done, and of how much.

    Returns:
        The document that export.json holds: `artifacts`, each with its signature, parity and candidates; where more
        than fp32 is written, `measurements` and for each runtime `recommendations`. The sample on which a file is
        farthest stands in `worst/ID.npz`.

    Raises:
        EdgeDistillError: the model cannot be run or exported, or an option does not fit.
    """
    examples = made_ready(arrays_of(model, example), normalization, fold)
    source = folded(of_module(model, examples, name, normalization, tuple(labels)), fold, "fold")
    default = Settings()
    settings = Settings(
        to,
        precisions,
        calibration,
        validation,
        quantize or default.quantize,
        benchmark or default.benchmark,
        opset,
        licence,
    )
    return write(source, Path(out), settings, events)


def write(source: Reference, out: Path, settings: Settings, events: Events = QUIET) -> ExportDocument:
    """Write every format and precision, run each file in every runtime of its format, and say which to ship.

    Raises:
        UsageError: the folder holds something else, or int8 is wanted without calibration samples.
        EdgeDistillError: a converter refuses the model.
    """
    exporters = {fmt: load_exporter(fmt) for fmt in settings.to}
    _check(source, exporters, settings, out)
    jobs = [(fmt, precision) for fmt in exporters for precision in settings.wanted]
    events.step("look at the operators", 0, 2 * len(jobs))
    require_convertible(source.model, source.name, source.signature, tuple(exporters), source.inputs, settings.opset)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with storage_errors(out.parent):
        written = _Written(source, settings, part, events)
        for number, (fmt, precision) in enumerate(jobs):
            written.add(fmt, precision, Part(events, f"write {fmt} {precision.short}", number, 2 * len(jobs)))
        documents = []
        for number, artifact in enumerate(written.artifacts):
            events.step(f"prove {artifact.id}", len(jobs) + number, 2 * len(jobs))
            documents.append(written.proven(artifact))
        document: ExportDocument = {"schema": EXPORT_SCHEMA, "name": source.name, "artifacts": documents}
        if written.choices:
            written.measure(document)
        write_atomically(part / "export.json", json.dumps(document, indent=1, allow_nan=False))
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    return document


@dataclass
class _Written:
    """What there is so far: files, how quantised ones were chosen, runtimes that depart from the reference's."""

    source: Reference
    settings: Settings
    folder: Path
    events: Events
    artifacts: list[Artifact] = field(default_factory=list)
    choices: list[ChoiceDocument] = field(default_factory=list)
    apart: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, fmt: str, precision: Precision, events: Part) -> None:
        """Write one file, a quantised one of the last fp32 file."""
        self.events.step(events.title, events.done, events.total)
        folder = self.folder / fmt
        made = (
            write_fp32(self.source, fmt, folder, self.settings.opset)
            if precision is Precision.FP32
            else self._quantized(precision, folder, events)
        )
        self.artifacts.append(embedded(made, Origin(self.settings.licence)))

    def _quantized(self, precision: Precision, folder: Path, events: Events) -> Artifact:
        base = next(a for a in reversed(self.artifacts) if a.precision is Precision.FP32)
        samples, settings = folder / ".validation.npz", self.settings
        given = judged(self.source.inputs, settings.calibration, settings.validation, samples)
        try:
            choice = write_quantized(base, precision, given, settings.quantize, settings.benchmark, folder, events)
            self.apart[choice.artifact.id] = _apart(choice.artifact, samples, folder)
        finally:
            samples.unlink()
        self.choices.append(choice.to_json())
        return choice.artifact

    def proven(self, artifact: Artifact) -> ProvenFile:
        """The artifact's document with its parity in every runtime, and what keeps others from it."""
        known = unsupported(artifact) | self.apart.get(artifact.id, {})
        proof = prove(self.source, artifact, ParitySettings(), self.folder, known)
        file = f"worst/{artifact.id}.npz"
        speaks = keep_worst(self.source, proof.speaks, self.folder / file, file)
        answers = [speaks if one.runtime == speaks.runtime else one for one in proof.answers]
        document: ProvenFile = {
            **artifact.to_json(self.folder),
            "parity": speaks.parity.to_json(),
            "parity_by_runtime": [one.parity.to_json() for one in answers],
            "not_for": dict(proof.refused),
            "notes": proof.notes,
        }
        return with_choice(document, self.choices)

    def measure(self, document: ExportDocument) -> None:
        """Put in latency and memory of every file beside fp32, and which file to ship for each runtime."""
        refused = {one["id"]: one["not_for"] for one in document["artifacts"]}
        document["measurements"] = measure_proven(
            self.artifacts, refused, self.source.inputs, self.settings.benchmark, self.folder, self.events
        )
        document["recommendations"] = recommend(document["artifacts"], document["measurements"], self.source.name)


def _apart(artifact: Artifact, samples: Path, folder: Path) -> dict[str, str]:
    """Runtimes that refuse the samples, or give something else than the format's reference runtime, and how."""
    found: dict[str, Mapping[str, Array]] = {}
    refused: dict[str, str] = {}
    several = subjects([artifact])
    for subject in several if len(several) > 1 else ():
        try:
            found[subject.runtime] = compute_all(subject, samples, folder / ".outputs.npz")
        except EdgeDistillError as error:
            refused[subject.runtime] = error.message
    (folder / ".outputs.npz").unlink(missing_ok=True)
    return refused | disagreements(artifact, found)


def _check(source: Reference, exporters: Mapping[str, Exporter], settings: Settings, out: Path) -> None:
    for fmt, exporter in exporters.items():
        for precision in settings.wanted:
            if precision not in exporter.PRECISIONS:
                known = ", ".join(p.short for p in exporter.PRECISIONS)
                raise UsageError(
                    f"the exporter {fmt!r} cannot write {precision.short}",
                    where="--precision",
                    expected=known,
                    got=precision.short,
                    fix="drop the precision or the format",
                )
    if Precision.INT8_STATIC in settings.wanted and settings.calibration is None:
        raise UsageError(
            "int8 needs calibration samples",
            where="--calibration",
            expected=f"an .npz with the arrays {', '.join(spec.name for spec in source.signature.inputs)}",
            got="none",
            fix="give some hundred model-ready samples with --calibration",
        )
    for samples, where in ((settings.calibration, "--calibration"), (settings.validation, "--validation")):
        if samples is not None:
            check_samples(source.signature, samples, where, (LABELS,) if where == "--validation" else ())
    if out.exists() and not (out / "export.json").is_file():
        raise UsageError(
            f"{out} holds something else",
            where=str(out),
            expected="a free path, or the folder of an earlier export",
            got="a file, or a folder without export.json",
            fix="give another folder with -o",
        )
