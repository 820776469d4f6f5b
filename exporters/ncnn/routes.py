"""Where an ncnn file comes from: a model, its own answers to a few samples, and ways to a file that pnnx reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.errors import ModelError

from .._shared.conversion import conversion
from .._shared.torch_to_onnx import example
from .rewrite import rewritten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor
    from torch.nn import Module

    from edgedistill.types import Array, Signature

    Nested = Tensor | dict[str, "Nested"] | tuple["Nested", ...] | list["Nested"]

_SAMPLES = 3


@dataclass(frozen=True)
class Origin:
    """A model on its way.

    Attributes:
        inputs: samples by input name, first axis: the samples.
        expected: the model's outputs for these, by output name.
        routes: name -> writes, into a folder, a file that pnnx reads; the plainest first.
        runtime: what computed `expected`.
    """

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    routes: Mapping[str, Callable[[Path], Path]]
    runtime: str


def of_torch(model: Module, name: str, signature: Signature, examples: Mapping[str, Array] | None) -> Origin:
    """A torch module: traced, traced after its attention is rewritten, or by way of ONNX."""
    import torch

    inputs = samples(signature, examples)
    rows = [
        tuple(torch.from_numpy(array[i : i + 1]) for array in inputs.values())
        for i in range(len(next(iter(inputs.values()))))
    ]
    with conversion(name, "torch.export"), torch.no_grad():
        torch.export.export(model, rows[0])  # a trace would silently keep one branch of control flow on data
        answers = [[tensor.numpy() for tensor in flat(model(*row))] for row in rows]
    routes: dict[str, Callable[[Path], Path]] = {
        "trace": lambda folder: _traced(model, rows[0], folder),
        "rewritten trace": lambda folder: _traced(rewritten(model, rows[0]), rows[0], folder),
        "onnx": lambda folder: _exported(model, rows[0], folder),
    }
    outputs = [np.concatenate(arrays) for arrays in zip(*answers, strict=True)]
    return Origin(inputs, dict(zip((s.name for s in signature.outputs), outputs, strict=True)), routes, "torch")


def flat(outputs: Nested) -> list[Tensor]:
    """All tensors of nested outputs, in their order."""
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in flat(value)]
    if isinstance(outputs, tuple | list):
        return [tensor for value in outputs for tensor in flat(value)]
    return [outputs]


def samples(signature: Signature, examples: Mapping[str, Array] | None) -> dict[str, Array]:
    """A few: the first of the examples, or one made up and turned along its last axis, which keeps ids in range."""
    if examples is not None:
        return {spec.name: np.asarray(examples[spec.name][:_SAMPLES], spec.dtype) for spec in signature.inputs}
    made = {spec.name: tensor.numpy()[:1] for spec, tensor in zip(signature.inputs, example(signature, 1), strict=True)}
    return {key: np.concatenate([np.roll(x, i, -1) for i in range(_SAMPLES)]) for key, x in made.items()}


def _traced(model: Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    import torch

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arguments: Tensor) -> Tensor | tuple[Tensor, ...]:
            found = flat(self.model(*arguments))
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


def _exported(model: Module, inputs: tuple[Tensor, ...], folder: Path) -> Path:
    import torch

    path = folder / "m.onnx"
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
    if program is None:  # only without dynamo
        raise ModelError("torch.onnx.export returned nothing", where=str(path))
    program.save(str(path))
    return path
