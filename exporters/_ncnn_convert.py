"""Torch -> ncnn by pnnx, in a folder and a process of its own."""

from __future__ import annotations

import subprocess
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TIMEOUT_S = 1800
_TYPES = {
    "torch.float32": "f32", "torch.int64": "i64", "torch.int32": "i32", "torch.bool": "i64",
    "torch.float16": "f16", "torch.float64": "f64",
}  # fmt: skip
_IDENTITY = ("Tensor.to", "Tensor.clone", "Tensor.detach", "Tensor.contiguous", "Tensor.type_as")


def routes(model: Any) -> dict[str, Callable[[tuple[Any, ...], Path], Path]]:
    """Ways from a model to a file that pnnx reads, the plainest first."""
    from ._ncnn_rewrite import rewritten

    return {
        "trace": lambda inputs, folder: _traced(model, inputs, folder),
        "rewritten trace": lambda inputs, folder: _traced(rewritten(model, inputs), inputs, folder),
        "onnx": lambda inputs, folder: _onnx(model, inputs, folder),
    }


def flat(outputs: Any) -> list[Any]:
    """All tensors of nested outputs, in their order."""
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in flat(value)]
    if isinstance(outputs, tuple | list):
        return [tensor for value in outputs for tensor in flat(value)]
    return [outputs]


def _traced(model: Any, inputs: tuple[Any, ...], folder: Path) -> Path:
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arguments: Any) -> Any:
            found: list[Any] = flat(self.model(*arguments))
            return tuple(found) if len(found) > 1 else found[0]

    path = folder / "m.pt"
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's one operator for a whole encoder layer is its own
    try:
        with torch.no_grad():
            torch.jit.trace(Flat(), inputs, check_trace=False).save(str(path))  # type: ignore[no-untyped-call]  # torch's
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return path


def _onnx(model: Any, inputs: tuple[Any, ...], folder: Path) -> Path:
    import torch

    path = folder / "m.onnx"
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    if program is None:  # only without dynamo
        raise ModelError("torch.onnx.export returned nothing", where=str(path))
    program.save(str(path))
    return path


def pnnx(source: Path, inputs: Sequence[Any]) -> tuple[list[str], bytes]:
    """Lines of the .param file and the weights, float32.

    Raises:
        ModelError: pnnx wrote nothing, or layers that ncnn does not have.
    """
    import pnnx as package

    shapes = ",".join(f"[{','.join(map(str, x.shape))}]{_TYPES[str(x.dtype)]}" for x in inputs)
    command = [package.EXEC_PATH, source.name, f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    param, weights = source.with_name("m.ncnn.param"), source.with_name("m.ncnn.bin")
    if not param.is_file() or not weights.is_file():
        told = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ModelError(f"pnnx wrote no file (exit code {done.returncode}): {told[-1][:200]}", where=source.name)
    return param.read_text(encoding="ascii").splitlines(), weights.read_bytes()


def known(lines: Sequence[str]) -> list[str]:
    """The lines, conversions of types made identities: ncnn computes in float alone.

    Raises:
        ModelError: a layer that ncnn does not have.
    """
    ncnn: Any = import_module("ncnn")  # a compiled module that type checkers cannot read

    kept = list(lines[:2])
    foreign = []
    for line in lines[2:]:
        words = line.split()
        if words[0] in _IDENTITY:
            words = ["Noop", *words[1:4], *words[4:6]]
        elif ncnn.layer_to_index(words[0]) < 0:
            foreign.append(words[0])
        kept.append(" ".join(words))
    if foreign:
        names = ", ".join(dict.fromkeys(foreign))
        raise ModelError(f"ncnn has no layer for {names}", where=names, got=names)
    return kept


def named(lines: Sequence[str], renamed: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """Blobs under the signature's names; Input layers told their shape (width first, no batch)."""
    out = list(lines[:2])
    for line in lines[2:]:
        words = line.split()
        count = 4 + int(words[2]) + int(words[3])
        blobs = [renamed.get(blob, blob) for blob in words[4:count]]
        settings = words[count:]
        if words[0] == "Input" and blobs[0] in shapes:
            settings = _sizes(shapes[blobs[0]])
        out.append(" ".join([*words[:4], *blobs, *settings]))
    return out


def reshaped(lines: Sequence[str], blob: str, shape: tuple[int, ...]) -> list[str]:
    """A last layer that gives an output the shape it has in torch."""
    layers, blobs = (int(word) for word in lines[1].split())
    before = f"{blob}_raw"
    body = [
        " ".join([*(w := line.split())[:4], *(before if word == blob else word for word in w[4:])])
        for line in lines[2:]
    ]
    last = " ".join(["Reshape", f"reshape_{blob}", "1", "1", before, blob, *_sizes(shape)])
    return [lines[0], f"{layers + 1} {blobs + 1}", *body, last]


def _sizes(shape: tuple[int, ...]) -> list[str]:
    """Ncnn's keys: 0 width, 1 height, 11 depth, 2 channels."""
    keys = {1: "0", 2: "10", 3: "210", 4: "2.10"}[len(shape)]
    pairs = [("11" if key == "." else key, size) for key, size in zip(keys, shape, strict=True)]
    return [f"{key}={size}" for key, size in reversed(pairs)]
