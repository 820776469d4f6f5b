"""ncnn (.param and .bin) by pnnx: batch 1, float32, blobs under the signature's names.

pnnx may write a file that computes something else without a word, so every way to a file is tried in turn and
the first whose file agrees with torch is kept; without one the model is refused.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill import agent
from edgedistill.errors import ModelError
from edgedistill.types import Artifact, Check, MacCount, Precision, Signature, State, TensorSpec, file_sha256

from ._common import conversion, example, opens
from ._ncnn_convert import flat, known, named, pnnx, reshaped, routes
from ._ncnn_precisions import PRECISIONS as PRECISIONS  # noqa: PLC0414 - this exporter's, in a file of its own
from ._ncnn_precisions import layers as layers  # noqa: PLC0414 - likewise
from ._ncnn_precisions import quantize as quantize  # noqa: PLC0414 - likewise
from ._ncnn_precisions import schemes as schemes  # noqa: PLC0414 - likewise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from edgedistill.types import Array

REQUIRES = ("ncnn", "pnnx", "onnx", "onnxscript")
TOOLS = ("torch", "ncnn", "pnnx", "onnx", "onnxscript")
RUNTIMES = {"ncnn": "ncnn"}
SUFFIX = ".param"
RUNNER = ("run_ncnn.py", Path(__file__).with_name("_run_ncnn.py"))
AGREEMENT = 1e-4
"""Largest difference over the largest magnitude, per output: beyond it a file is not kept."""
_SAMPLES = 3


def export(
    model: Any,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,  # noqa: ARG001 - ONNX's
) -> Artifact:
    """Torch -> ncnn (pnnx).

    Raises:
        ModelError: no way leads to a file that agrees with torch; it names the operators in the way.
    """
    if isinstance(model, Path):
        raise ModelError(
            "ncnn is written from torch models, not from ONNX files",
            where=str(model),
            expected="a .pt2 program or an import path",
            got=model.name,
            fix="give the torch model (torch.export.save writes a .pt2), or leave ncnn out",
        )
    path = out / f"{name}-fp32.ncnn.param"
    samples = [example(_one(signature), 1, _row(examples, i)) for i in range(_SAMPLES if examples is None else 1)]
    if examples is None:
        samples = [tuple(_shifted(x, i) for x in sample) for i, sample in enumerate(samples)]
    import torch

    with conversion(name, "torch.export"), torch.no_grad():
        torch.export.export(model, samples[0])  # a trace would silently keep one branch of control flow on data
    failures = {}
    for route, prepare in routes(model).items():
        try:
            with conversion(name, "pnnx"), tempfile.TemporaryDirectory() as folder:
                _convert(prepare, model, samples, signature, Path(folder), path)
        except ModelError as error:
            failures[route] = error
        else:
            return _artifact(path, name, signature, route)
    path.unlink(missing_ok=True)
    path.with_suffix(".bin").unlink(missing_ok=True)
    raise _refusal(name, failures)


def _row(examples: Mapping[str, Array] | None, row: int) -> dict[str, Array] | None:
    return None if examples is None else {key: values[row : row + 1] for key, values in examples.items()}


def _shifted(tensor: Any, number: int) -> Any:
    """Further samples from the first: turned along the last axis, so that integers stay in range."""
    return tensor.roll(number, -1)


def _convert(
    prepare: Callable[[tuple[Any, ...], Path], Path],
    model: Any,
    samples: list[tuple[Any, ...]],
    signature: Signature,
    folder: Path,
    path: Path,
) -> None:
    """Write the file by one route, and compare it with torch in ncnn, in a process of its own."""
    import torch

    with torch.no_grad():
        expected = [[t.numpy() for t in flat(model(*sample))] for sample in samples]
    lines, weights = pnnx(prepare(samples[0], folder), samples[0])
    squeezed = (folder / "m_ncnn.py").read_text(encoding="utf-8")
    shapes = {}
    for number, (spec, tensor) in enumerate(zip(signature.inputs, samples[0], strict=True)):
        marks = (f"in{number}.numpy(), batch_index=0", f"in{number}.squeeze(0)")  # as new and as old versions say it
        shapes[spec.name] = tuple(tensor.shape[1:] if any(mark in squeezed for mark in marks) else tensor.shape)
    renamed = {f"in{i}": s.name for i, s in enumerate(signature.inputs)}
    renamed |= {f"out{i}": s.name for i, s in enumerate(signature.outputs)}
    lines = named(known(lines), renamed, shapes)
    path.with_suffix(".bin").write_bytes(weights)
    inputs = {s.name: np.concatenate([x[i].numpy() for x in samples]) for i, s in enumerate(signature.inputs)}
    got = _computed(path, lines, inputs, folder)
    for number, spec in enumerate(signature.outputs):
        if spec.name not in got:
            raise ModelError(f"the converted file has no output {spec.name}", where=spec.name)
        shape = expected[0][number].shape[1:]
        if got[spec.name].shape[1:] != shape and shape:
            lines = reshaped(lines, spec.name, shape)
    got = _computed(path, lines, inputs, folder)
    for number, spec in enumerate(signature.outputs):
        _agree(np.concatenate([e[number] for e in expected]), got[spec.name], spec.name)


def _computed(path: Path, lines: list[str], inputs: dict[str, Array], folder: Path) -> dict[str, Array]:
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    np.savez(folder / "in.npz", **inputs)
    command = [sys.executable, agent.__file__, str(path), "--runtime", "ncnn"]
    command += ["--inputs", str(folder / "in.npz"), "--outputs", str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        raise ModelError(f"ncnn does not run the converted file: {(done.stdout or done.stderr).strip()[-300:]}")
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _agree(expected: Array, got: Array, name: str) -> None:
    if expected.shape != got.shape:
        raise ModelError(f"{name} has shape {got.shape}, torch gives {expected.shape}", where=name)
    scale = float(np.abs(expected).max()) or 1.0
    relative = float(np.abs(expected - got).max()) / scale
    if not relative <= AGREEMENT:  # NaN is no agreement
        raise ModelError(f"{name} departs from torch by {relative:.1e} of its magnitude", where=name)


def _refusal(name: str, failures: dict[str, ModelError]) -> ModelError:
    told = "; ".join(f"{route}: {error.message}" for route, error in failures.items())
    first = next(iter(failures.values()))
    return ModelError(
        f"pnnx cannot convert {name}: {told[:600]}",
        where=first.where or name,
        expected="operators that ncnn has, on tensors of at most four axes with the batch left out",
        got=first.got or first.message,
        fix="write the operation with matrix products, slices and reshapes of four axes, or leave ncnn out",
    )


def _one(signature: Signature) -> Signature:
    """Batch 1."""
    return Signature(
        _batch_of_one(signature.inputs), _batch_of_one(signature.outputs), signature.normalization, signature.labels
    )


def _batch_of_one(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(s.name, (1, *s.shape[1:]), s.dtype, s.layout) for s in specs)


def _artifact(path: Path, name: str, signature: Signature, route: str) -> Artifact:
    """Described with the types that ncnn takes: 32-bit ids where they reach an embedding, else float."""
    taken = {spec["name"]: spec["dtype"] for spec in agent._ncnn_inputs(agent._ncnn_layers(str(path)))}  # noqa: SLF001 - the reader of the format
    inputs = tuple(
        TensorSpec(s.name, (1, *s.shape[1:]), taken.get(s.name, s.dtype), s.layout) for s in signature.inputs
    )
    outputs = tuple(TensorSpec(s.name, (1, *s.shape[1:]), "float32", s.layout) for s in signature.outputs)
    return Artifact.of_files(
        path,
        model=name,
        fmt="ncnn",
        precision=Precision.FP32,
        signature=Signature(inputs, outputs, signature.normalization, signature.labels),
        companions=(path.with_suffix(".bin"),),
        producer={"route": route},
    )


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in ncnn; its weights must be those it was written with."""
    for name, digest in artifact.companions.items():
        file = artifact.path.with_name(name)
        if not file.is_file() or file_sha256(file) != digest:
            reason = f"{name} is not the one that {artifact.path.name} was written with"
            return [Check(f"support:{artifact.id}:ncnn", State.FAIL, reason)]
    return [opens(artifact, runtime) for runtime in RUNTIMES]


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions, dense layers and matrix products of the layers in the file. Recurrent layers are not counted."""
    from ._ncnn_macs import count

    return count(artifact)
