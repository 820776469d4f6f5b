"""ncnn (.param and .bin) by pnnx: batch 1, blobs under the signature's names.

pnnx may write a file that computes something else without a word, so every way to a file is tried in turn and
the first whose file agrees with the model is kept; without one the model is refused.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import ModelError
from edgedistill.opening import supported
from edgedistill.types import Artifact, Check, MacCount, Precision, Signature, State, file_sha256

from .._shared.conversion import conversion
from .._shared.signature import changed
from . import runtime
from .convert import named, pnnx, reshaped, sizes
from .file import companions, write
from .from_onnx import of_onnx
from .operators import refusals
from .prove import agree, computed
from .routes import of_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.nn import Module

    from edgedistill.types import Array, TensorSpec

    from .routes import Origin

REQUIRES = ("ncnn", "pnnx", "onnx", "onnxscript")
TOOLS = ("torch", "ncnn", "pnnx", "onnx", "onnxscript")
OPENER = Path(runtime.__file__)
SUFFIX = ".param"
RUNNER = ("run_ncnn.py", Path(__file__).with_name("runner.py"))


def export(
    model: Module | Path,
    name: str,
    signature: Signature,
    out: Path,
    examples: Mapping[str, Array] | None = None,
    opset: int | None = None,
) -> Artifact:
    """Torch or an ONNX file -> ncnn (pnnx), proved against torch or onnxruntime.

    Raises:
        ModelError: no way leads to a file that agrees with the model; it names the operators in the way.
    """
    del opset  # ONNX's
    path = out / f"{name}-fp32.ncnn.param"
    one = changed(signature, _batch_of_one, _batch_of_one)
    given = (name, one, examples)
    origin = of_onnx(model, *given) if isinstance(model, Path) else of_torch(model, *given)
    failures = {}
    for route, prepare in origin.routes.items():
        try:
            with conversion(name, "pnnx"), tempfile.TemporaryDirectory() as folder:
                _convert(origin, prepare, Path(folder), path)
        except ModelError as error:
            failures[route] = error
        else:
            return _artifact(path, name, one, route)
    path.unlink(missing_ok=True)
    path.with_suffix(".bin").unlink(missing_ok=True)
    raise _refusal(name, failures)


def _convert(origin: Origin, prepare: Callable[[Path], Path], folder: Path, path: Path) -> None:
    """Write the file by one route, and compare it with the model."""
    source, sample = prepare(folder), {key: rows[:1] for key, rows in origin.inputs.items()}
    renamed = {f"in{i}": key for i, key in enumerate(origin.inputs)}
    renamed |= {f"out{i}": key for i, key in enumerate(origin.expected)}
    layers = named(pnnx(source, sample), renamed, sizes(source, sample))
    write(path, layers)
    got = computed(path, "ncnn", OPENER, origin.inputs, folder)
    for key, expected in origin.expected.items():
        if key not in got:
            raise ModelError(f"the converted file has no output {key}", where=key)
        shape = expected.shape[1:]
        if got[key].shape[1:] != shape and shape:
            layers = reshaped(layers, key, shape)
    write(path, layers)
    got = computed(path, "ncnn", OPENER, origin.inputs, folder)
    for key, expected in origin.expected.items():
        agree(expected, got[key], key, origin.runtime)


def _refusal(name: str, failures: dict[str, ModelError]) -> ModelError:
    told = "; ".join(f"{route}: {error.message}" for route, error in failures.items())
    first = next(iter(failures.values()))
    return ModelError(
        f"pnnx cannot convert {name}: {told[:600]}",
        where=first.where or name,
        expected="operators that ncnn has, on tensors of at most four axes with the batch left out",
        got=first.got or first.message,
        fix="write the operation with matrix products, slices and reshapes of four axes, give the torch model where "
        "this is an ONNX file, or leave ncnn out",
    )


def _batch_of_one(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(1, *spec.shape[1:]))


def _artifact(path: Path, name: str, signature: Signature, route: str) -> Artifact:
    """Described with the types that ncnn takes: 32-bit ids where they reach an embedding, else float."""
    taken = {spec["name"]: spec["dtype"] for spec in runtime.inputs_of(runtime.layers_of(str(path)))}
    return Artifact.of_files(
        path,
        model=name,
        fmt="ncnn",
        precision=Precision.FP32,
        signature=changed(
            signature,
            lambda spec: replace(spec, dtype=taken.get(spec.name, spec.dtype)),
            lambda spec: replace(spec, dtype="float32"),
        ),
        companions=companions(path),
        producer={"route": route},
    )


def check_support(artifact: Artifact) -> list[Check]:
    """Open the file in ncnn; its weights must be those it was written with."""
    for name, digest in artifact.companions.items():
        file = artifact.path.with_name(name)
        if not file.is_file() or file_sha256(file) != digest:
            reason = f"{name} is not the one that {artifact.path.name} was written with"
            return [Check(f"support:{artifact.id}:ncnn", State.FAIL, reason)]
    return supported(artifact, OPENER, refusals)


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions, dense layers and matrix products of the layers in the file. Recurrent layers are not counted."""
    from .macs import count

    return count(artifact)
