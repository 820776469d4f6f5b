"""A model of one's own to every runtime, without a recipe: export, prove, list."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.artifacts.metadata import Origin, embedded
from edgedistill.artifacts.running import compute_all, disagreements, matched, subjects
from edgedistill.conversion.candidates import Choice, choose
from edgedistill.conversion.operators import require_convertible
from edgedistill.conversion.recommendation import recommend, with_choice
from edgedistill.conversion.samples import LABELS, check_samples, judged
from edgedistill.errors import EdgeDistillError, ModelError, UsageError
from edgedistill.events import QUIET, Part
from edgedistill.measurement.measure import measure
from edgedistill.models.reference import Source, arrays_of, folded, made_ready, model_bytes, of_module
from edgedistill.parity.compare import Parity, compare_outputs, keep_sample, worst
from edgedistill.plugins import load_exporter
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.export import ParitySettings, Quantize
from edgedistill.storage import require_space, storage_errors, write_atomically
from edgedistill.types import Array, Artifact, Json, Normalization, Precision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.events import Events

SCHEMA = "edgedistill.export/1"
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
) -> Json:
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


def write(source: Source, out: Path, settings: Settings, events: Events = QUIET) -> Json:
    """Write every format and precision, run each file in every runtime of its format, and say which to ship.

    Raises:
        UsageError: the folder holds something else, or int8 is wanted without calibration samples.
        EdgeDistillError: a converter refuses the model.
    """
    wanted = settings.wanted
    exporters = {fmt: load_exporter(fmt) for fmt in settings.to}
    _check(source, exporters, wanted, settings, out)
    events.step("look at the operators", 0, 2 * len(exporters) * len(wanted))
    require_convertible(source.model, source.name, source.signature, tuple(exporters), source.inputs, settings.opset)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    jobs = [(fmt, precision) for fmt in exporters for precision in wanted]
    artifacts: list[Artifact] = []
    choices: list[Json] = []
    apart: dict[str, dict[str, str]] = {}
    with storage_errors(out.parent):
        for number, (fmt, precision) in enumerate(jobs):
            part_of = Part(events, f"write {fmt} {precision.short}", number, 2 * len(jobs))
            events.step(part_of.title, number, 2 * len(jobs))
            folder = part / fmt
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, 4 * model_bytes(source) + _MARGIN_BYTES)
            if precision is Precision.FP32:
                made = exporters[fmt].export(
                    source.model, source.name, source.signature, folder, source.inputs, settings.opset
                )
            else:
                choice, departures = _chosen(source, artifacts, precision, settings, folder, part_of)
                made = choice.artifact
                apart[made.id] = departures
                choices.append(_choice_json(choice))
            artifacts.append(embedded(made, Origin(settings.licence)))
        documents = []
        for number, artifact in enumerate(artifacts):
            events.step(f"prove {artifact.id}", len(jobs) + number, 2 * len(jobs))
            documents.append(with_choice(_proved(source, artifact, part, apart.get(artifact.id, {})), choices))
        document = {"schema": SCHEMA, "name": source.name, "artifacts": documents}
        if choices:
            document |= _measured(source, artifacts, documents, settings, part, events)
        write_atomically(part / "export.json", json.dumps(document, indent=1, allow_nan=False))
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    return document


def _chosen(
    source: Source,
    artifacts: Sequence[Artifact],
    precision: Precision,
    settings: Settings,
    folder: Path,
    events: Events,
) -> tuple[Choice, dict[str, str]]:
    """The best candidate of a precision, made from the last fp32 file; runtimes that depart from the reference's."""
    base = next(a for a in reversed(artifacts) if a.precision is Precision.FP32)
    samples = folder / ".validation.npz"
    given = judged(source.inputs, settings.calibration, settings.validation, samples)
    try:
        choice = choose(base, precision, given, settings.quantize, settings.benchmark, folder, events)
        return choice, _apart(choice.artifact, samples, folder)
    finally:
        samples.unlink()


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


def _choice_json(choice: Choice) -> Json:
    """As reports hold it."""
    return {"artifact": choice.artifact.id, "met": choice.met, "candidates": choice.rows, "notes": list(choice.notes)}


def _measured(
    source: Source,
    artifacts: Sequence[Artifact],
    documents: Sequence[Json],
    settings: Settings,
    root: Path,
    events: Events,
) -> Json:
    """Latency and memory of every file beside fp32, and which file to ship for each runtime."""
    refused = {(d["id"], runtime) for d in documents for runtime in d["not_for"]}
    found = [s for s in subjects(artifacts) if (s.artifact.id, s.runtime) not in refused]
    inputs = root / ".inputs.npz"
    np.savez(inputs, **{name: np.asarray(array) for name, array in source.inputs.items()})
    try:
        measurements = measure(found, settings.benchmark, inputs, events)
    finally:
        inputs.unlink()
    return {
        "measurements": measurements,
        "recommendations": recommend(list(documents), measurements, source.name),
    }


def _proved(source: Source, artifact: Artifact, root: Path, apart: Mapping[str, str]) -> Json:
    """The artifact's document with its parity in every runtime that opens it, and what keeps the others from it.

    `apart`: runtimes that are known to depart from the format's reference runtime, and how.
    """
    exporter = load_exporter(artifact.format)
    outputs: dict[str, Mapping[str, Array]] = {}
    refused = {
        check.id.rsplit(":", 1)[1]: check.reason for check in exporter.check_support(artifact) if check.state != "pass"
    }
    for subject in subjects([artifact]):
        if subject.runtime in refused:
            continue
        try:
            outputs[subject.runtime] = _computed(source, subject, root)
        except EdgeDistillError as error:
            refused[subject.runtime] = error.message
    refused |= disagreements(artifact, outputs) | dict(apart)
    refused = {runtime: why.removeprefix(f"not for {runtime}: ") for runtime, why in refused.items()}
    notes = [f"not for {runtime}: {why}" for runtime, why in refused.items()]
    answers = {r: matched(found, tuple(source.expected)) for r, found in outputs.items() if r not in refused}
    parities = [_parity(source, artifact, runtime, found) for runtime, found in answers.items()]
    if not parities:
        raise ModelError(
            f"no runtime runs {artifact.path.name}: {'; '.join(notes)}",
            where=artifact.path.name,
            expected=f"a file that one of {', '.join(exporter.RUNTIMES)} runs",
            got="; ".join(notes),
            fix=f"leave {artifact.format} out of --to",
        )
    farthest = parities.index(worst(parities))
    file = Path("worst") / f"{artifact.id}.npz"
    keep_sample(
        root / file,
        parities[farthest].worst_sample,
        source.inputs,
        source.expected,
        answers[parities[farthest].runtime],
    )
    parities[farthest] = replace(parities[farthest], worst_sample_file=file.as_posix())
    return {
        **artifact.to_json(root),
        "parity": parities[farthest].to_json(),
        "parity_by_runtime": [parity.to_json() for parity in parities],
        "not_for": refused,
        "notes": notes,
    }


def _computed(source: Source, subject: Any, root: Path) -> Mapping[str, Array]:
    """The file's outputs for the samples, by the file's names."""
    inputs, outputs = root / ".inputs.npz", root / ".outputs.npz"
    np.savez(inputs, **{name: np.asarray(array) for name, array in source.inputs.items()})
    try:
        return compute_all(subject, inputs, outputs)
    finally:
        inputs.unlink(missing_ok=True)
        outputs.unlink(missing_ok=True)


def _parity(source: Source, artifact: Artifact, runtime: str, found: Mapping[str, Array]) -> Parity:
    return compare_outputs(
        source.expected, found, artifact.precision, ParitySettings(), name=source.name, runtime=runtime
    )


def _check(
    source: Source, exporters: Mapping[str, Any], wanted: Sequence[Precision], settings: Settings, out: Path
) -> None:
    for fmt, exporter in exporters.items():
        for precision in wanted:
            if precision not in exporter.PRECISIONS:
                known = ", ".join(p.short for p in exporter.PRECISIONS)
                raise UsageError(
                    f"the exporter {fmt!r} cannot write {precision.short}",
                    where="--precision",
                    expected=known,
                    got=precision.short,
                    fix="drop the precision or the format",
                )
    if Precision.INT8_STATIC in wanted and settings.calibration is None:
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
