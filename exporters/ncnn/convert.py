"""pnnx, in a folder and a process of its own, and its layers made those of the model's signature."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

from edgedistill.errors import ModelError

from .file import Layer, read
from .runtime import library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgedistill.types import Array

TIMEOUT_S = 1800
_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "i64", "float16": "f16", "float64": "f64"}
_IDENTITY = ("Tensor.to", "Tensor.clone", "Tensor.detach", "Tensor.contiguous", "Tensor.type_as", "Cast")


def pnnx(source: Path, inputs: Mapping[str, Array]) -> list[Layer]:
    """The layers of a TorchScript or ONNX file for inputs of these shapes, weights in float32.

    Raises:
        ModelError: pnnx wrote nothing, or layers that ncnn does not have.
    """
    import pnnx as package

    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{_TYPES[x.dtype.name]}" for x in inputs.values())
    command = [package.EXEC_PATH, source.name, f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    param = source.with_name("m.ncnn.param")
    if not param.is_file() or not param.with_suffix(".bin").is_file():
        told = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ModelError(f"pnnx wrote no file (exit code {done.returncode}): {told[-1][:200]}", where=source.name)
    return known(read(param))


def sizes(source: Path, inputs: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Input name -> its shape in ncnn: pnnx leaves out the batch where it can, and tells so in a script."""
    script = source.with_name("m_ncnn.py").read_text(encoding="utf-8")
    found = {}
    for number, (name, x) in enumerate(inputs.items()):
        marks = (f"in{number}.numpy(), batch_index=0", f"in{number}.squeeze(0)")  # as new and as old versions say it
        found[name] = tuple(x.shape[1:] if any(mark in script for mark in marks) else x.shape)
    return found


def known(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, conversions of types made identities: ncnn computes in float alone.

    Raises:
        ModelError: a layer that ncnn does not have.
    """
    ncnn = library()
    kept = [
        replace(layer, kind="Noop", below=layer.below[:1], settings={}) if layer.kind in _IDENTITY else layer
        for layer in layers
    ]
    foreign = dict.fromkeys(layer.kind for layer in kept if ncnn.layer_to_index(layer.kind) < 0)
    if foreign:
        names = ", ".join(foreign)
        raise ModelError(f"ncnn has no layer for {names}", where=names, got=names)
    return kept


def named(layers: Sequence[Layer], renamed: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> list[Layer]:
    """Blobs under the signature's names; Input layers told their shape (width first, no batch).

    Raises:
        ModelError: a name that a .param file cannot hold.
    """
    for name in renamed.values():
        if not name.isascii() or not name.isprintable() or len(name.split()) != 1 or "=" in name:
            raise ModelError(
                f"{name!r} cannot be the name of a blob in ncnn",
                where=name,
                expected="printable ASCII without blanks and equal signs",
                got=repr(name),
                fix="rename the inputs and outputs of the model",
            )
    taken = set(renamed.values())

    def new(blob: str) -> str:
        return renamed.get(blob, f"inner_{blob}" if blob in taken else blob)

    out = []
    for layer in layers:
        below, above = tuple(map(new, layer.below)), tuple(map(new, layer.above))
        known_shape = layer.kind == "Input" and above[0] in shapes
        settings = _sizes(shapes[above[0]]) if known_shape else layer.settings
        out.append(replace(layer, below=below, above=above, settings=settings))
    return out


def reshaped(layers: Sequence[Layer], blob: str, shape: tuple[int, ...]) -> list[Layer]:
    """A last layer that gives an output the shape it has in the model."""
    before = f"{blob}_raw"
    body = [
        replace(
            layer,
            below=tuple(before if word == blob else word for word in layer.below),
            above=tuple(before if word == blob else word for word in layer.above),
        )
        for layer in layers
    ]
    return [*body, Layer("Reshape", f"reshape_{blob}", (before,), (blob,), _sizes(shape))]


def _sizes(shape: tuple[int, ...]) -> dict[str, str]:
    """Ncnn's keys: 0 width, 1 height, 11 depth, 2 channels."""
    keys = {1: ("0",), 2: ("1", "0"), 3: ("2", "1", "0"), 4: ("2", "11", "1", "0")}.get(len(shape))
    if keys is None:
        raise ModelError(f"ncnn has no tensor of {len(shape)} axes without the batch", got=str(shape))
    return {key: str(size) for key, size in reversed(list(zip(keys, shape, strict=True)))}
