"""A model of one's own to every runtime, without a recipe: export, prove, list."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.comparing import compute_all, matched, subjects
from edgedistill.errors import EdgeDistillError, ModelError, UsageError
from edgedistill.parity import Parity, compare_outputs, worst
from edgedistill.plugins import load_exporter
from edgedistill.recipe import ParitySettings
from edgedistill.runs import require_space, storage_errors, write_atomically
from edgedistill.supporting import require_convertible
from edgedistill.types import Array, Artifact, Json, Normalization, Precision, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA = "edgedistill.export/1"
_SAMPLES = 32
_MARGIN_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """A model that is to be exported.

    Attributes:
        model: a torch module, or the path of an ONNX file.
        name: of the files.
        signature: what it takes and gives.
        inputs: samples to prove with, model-ready, by input name.
        expected: its own outputs for these, by output name.
    """

    model: Any
    name: str
    signature: Signature
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


def export(
    model: Any,
    example: Any,
    out: Path | str,
    *,
    to: Sequence[str] = ("onnx", "tflite", "openvino"),
    precisions: Sequence[str] = ("fp32",),
    name: str = "model",
    calibration: Mapping[str, Array] | None = None,
    normalization: Normalization | None = None,
    labels: Sequence[str] = (),
    opset: int | None = None,
    on_step: Callable[[str, int, int], None] = lambda *_: None,
) -> Json:
    """Export a torch module to several runtimes, and prove every file.

    Args:
        model: a torch module; it is put into eval mode.
        example: a batch: one array or tensor, several in a tuple, or by input name in a dict; first axis: the batch.
        out: folder for the files and `export.json`; it must be free or an earlier export.
        to: exporters by name (`edgedistill plugins`).
        precisions: `fp32` (always written), `int8`.
        name: of the files.
        calibration: input name -> samples; needed by int8.
        normalization: what an application does before the model.
        labels: class names.
        opset: of ONNX files.
        on_step: told what is done, how much is done, and of how much.

    Returns:
        The document that export.json holds: `artifacts`, each with its signature and parity.

    Raises:
        EdgeDistillError: the model cannot be run or exported, or an option does not fit.
    """
    source = of_module(model, _arrays(model, example), name, normalization, tuple(labels))
    return write(source, Path(out), to, precisions, calibration, opset, on_step)


def of_module(
    module: Any,
    examples: Mapping[str, Array],
    name: str,
    normalization: Normalization | None = None,
    labels: tuple[str, ...] = (),
    *,
    dynamic_batch: bool = True,
) -> Source:
    """A torch module with examples of its inputs."""
    from edgedistill.students.signature import Named, signature_of

    signature, outputs = signature_of(
        module, examples, dynamic_batch=dynamic_batch, normalization=normalization, labels=labels
    )
    named = Named(module, tuple(examples), tuple(outputs))
    expected = {key: tensor.numpy() for key, tensor in outputs.items()}
    return Source(named, name, signature, examples, expected)


def _arrays(module: Any, example: Any) -> dict[str, Array]:
    """An example by input names."""
    from edgedistill.students.signature import parameters_of

    if not isinstance(example, dict):
        several = example if isinstance(example, tuple | list) else (example,)
        example = dict(zip(parameters_of(module, len(several)), several, strict=True))
    return {name: np.asarray(value.detach() if hasattr(value, "detach") else value) for name, value in example.items()}


def write(
    source: Source,
    out: Path,
    to: Sequence[str],
    precisions: Sequence[str],
    calibration: Mapping[str, Array] | None,
    opset: int | None,
    on_step: Callable[[str, int, int], None],
) -> Json:
    """Write every format and precision, then run each file in every runtime of its format.

    Raises:
        UsageError: the folder holds something else, or int8 is wanted without calibration samples.
        EdgeDistillError: a converter refuses the model.
    """
    wanted = list(dict.fromkeys(Precision.parse(word) for word in ("fp32", *precisions)))
    exporters = {fmt: load_exporter(fmt) for fmt in to}
    _check(source, exporters, wanted, calibration, out)
    on_step("look at the operators", 0, 2 * len(exporters) * len(wanted))
    require_convertible(source.model, source.name, source.signature, tuple(exporters), source.inputs, opset)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    jobs = [(fmt, precision) for fmt in exporters for precision in wanted]
    artifacts: list[Artifact] = []
    with storage_errors(out.parent):
        for number, (fmt, precision) in enumerate(jobs):
            on_step(f"write {fmt} {precision.short}", number, 2 * len(jobs))
            folder = part / fmt
            folder.mkdir(parents=True, exist_ok=True)
            require_space(folder, 2 * _bytes(source) + _MARGIN_BYTES)
            artifacts.append(_written(source, exporters[fmt], precision, artifacts, calibration, folder, opset))
        documents = []
        for number, artifact in enumerate(artifacts):
            on_step(f"prove {artifact.id}", len(jobs) + number, 2 * len(jobs))
            documents.append(_proved(source, artifact, part))
        document = {"schema": SCHEMA, "name": source.name, "artifacts": documents}
        write_atomically(part / "export.json", json.dumps(document, indent=1, allow_nan=False))
        shutil.rmtree(out, ignore_errors=True)
        part.rename(out)
    return document


def _written(
    source: Source,
    exporter: Any,
    precision: Precision,
    artifacts: Sequence[Artifact],
    calibration: Mapping[str, Array] | None,
    folder: Path,
    opset: int | None,
) -> Artifact:
    if precision is Precision.FP32:
        written: Artifact = exporter.export(source.model, source.name, source.signature, folder, source.inputs, opset)
        return written
    base = next(a for a in reversed(artifacts) if a.precision is Precision.FP32)
    quantized: Artifact = exporter.quantize(base, precision, calibration, folder)
    return quantized


def _proved(source: Source, artifact: Artifact, root: Path) -> Json:
    """The artifact's document with its parity in every runtime that opens it, and what keeps the others from it."""
    exporter = load_exporter(artifact.format)
    parities = []
    refused = {
        check.id.rsplit(":", 1)[1]: check.reason for check in exporter.check_support(artifact) if check.state != "pass"
    }
    notes = [f"not for {runtime}: {why.removeprefix(f'not for {runtime}: ')}" for runtime, why in refused.items()]
    for subject in subjects([artifact]):
        if subject.runtime in refused:
            continue
        try:
            parities.append(_parity(source, subject, root))
        except EdgeDistillError as error:
            notes.append(f"not for {subject.runtime}: {error.message}")
    if not parities:
        raise ModelError(
            f"no runtime runs {artifact.path.name}: {'; '.join(notes)}",
            where=artifact.path.name,
            expected=f"a file that one of {', '.join(exporter.RUNTIMES)} runs",
            got="; ".join(notes),
            fix=f"leave {artifact.format} out of --to",
        )
    return {
        **artifact.to_json(root),
        "parity": worst(parities).to_json(),
        "parity_by_runtime": [parity.to_json() for parity in parities],
        "notes": notes,
    }


def _parity(source: Source, subject: Any, root: Path) -> Parity:
    inputs, outputs = root / ".inputs.npz", root / ".outputs.npz"
    np.savez(inputs, **{name: np.asarray(array) for name, array in source.inputs.items()})
    try:
        found = matched(compute_all(subject, inputs, outputs), tuple(source.expected))
    finally:
        inputs.unlink(missing_ok=True)
        outputs.unlink(missing_ok=True)
    return compare_outputs(
        source.expected, found, subject.artifact.precision, ParitySettings(), name=source.name, runtime=subject.runtime
    )


def _bytes(source: Source) -> int:
    if isinstance(source.model, Path):
        return source.model.stat().st_size
    return sum(tensor.nbytes for tensor in source.model.state_dict().values())


def _check(
    source: Source,
    exporters: Mapping[str, Any],
    wanted: Sequence[Precision],
    calibration: Mapping[str, Array] | None,
    out: Path,
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
    if any(p is not Precision.FP32 for p in wanted):
        _check_calibration(source, calibration)
    if out.exists() and not (out / "export.json").is_file():
        raise UsageError(
            f"{out} holds something else",
            where=str(out),
            expected="a free path, or the folder of an earlier export",
            got="a file, or a folder without export.json",
            fix="give another folder with -o",
        )


def _check_calibration(source: Source, calibration: Mapping[str, Array] | None) -> None:
    if calibration is None:
        raise UsageError(
            "int8 needs calibration samples",
            where="--calibration",
            expected=f"an .npz with the arrays {', '.join(spec.name for spec in source.signature.inputs)}",
            got="none",
            fix="give some hundred model-ready samples with --calibration",
        )
    check_samples(source.signature, calibration, "--calibration")


def check_samples(signature: Signature, arrays: Mapping[str, Array], where: str) -> None:
    """Samples must have the signature's names and shapes.

    Raises:
        UsageError: they do not.
    """
    names = [spec.name for spec in signature.inputs]
    if set(arrays) != set(names):
        raise UsageError(
            "the samples are not those of the model's inputs",
            where=where,
            expected=f"arrays named {', '.join(names)}",
            got=", ".join(arrays) or "none",
            fix="name the arrays after the inputs",
        )
    for spec in signature.inputs:
        if arrays[spec.name].dtype.kind not in "biuf":
            raise UsageError(
                f"the samples of {spec.name} are no numbers",
                where=f"{where}, array {spec.name}",
                expected=spec.dtype,
                got=str(arrays[spec.name].dtype),
                fix="give numbers of the model's type",
            )
        shape = tuple(arrays[spec.name].shape[1:])
        if shape != tuple(spec.shape[1:]) or len(arrays[spec.name]) == 0:
            raise UsageError(
                f"the samples of {spec.name} have another shape than the model takes",
                where=f"{where}, array {spec.name}",
                expected=f"(samples, {', '.join(str(d) for d in spec.shape[1:])}), at least one sample",
                got=str(tuple(arrays[spec.name].shape)),
                fix="give samples of the model's shape",
            )
