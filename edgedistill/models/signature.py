"""What a model takes and gives, found by running it once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedistill.errors import ModelError
from edgedistill.types import Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from edgedistill.types import Array


class Named(nn.Module):
    """A module whose inputs have the given names, and whose outputs are a flat dict of tensors.

    Exported programs take their inputs by position alone; converters ask for names.
    """

    def __init__(self, module: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)

        def forward(*arguments: Tensor, **named: Tensor) -> dict[str, Tensor]:
            given = dict(zip(self.inputs, arguments, strict=False)) | named
            found = flat(self.module(*[given[name] for name in self.inputs]))
            return dict(zip(self.outputs, found.values(), strict=True))

        kinds = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in self.inputs]
        forward.__signature__ = inspect.Signature(kinds)  # type: ignore[attr-defined]  # how converters learn the names
        self.forward = forward


def parameters_of(module: nn.Module, count: int) -> list[str]:
    """Names of the first parameters of forward; made up where forward takes them by position alone."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]
    return (own + ["input" if count == 1 else f"input_{number}" for number in range(len(own), count)])[:count]


def flat(outputs: object, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of a nested output by name: keys and fields where there are any, else numbers.

    Raises:
        ModelError: something in it is no tensor.
    """
    if isinstance(outputs, Tensor):
        return {prefix or "output": outputs}
    if isinstance(outputs, Mapping):
        pairs = [(str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, Sequence) and not isinstance(outputs, str):
        fields = getattr(outputs, "_fields", None) or [
            f"output_{n}" if not prefix else str(n) for n in range(len(outputs))
        ]
        pairs = list(zip(fields, outputs, strict=True))
    else:
        raise ModelError(
            f"the model returns a {type(outputs).__name__} among its outputs",
            where=prefix or "output",
            expected="tensors, or tuples, lists and dicts of them",
            got=type(outputs).__name__,
            fix="wrap the model so that forward returns tensors alone",
        )
    found: dict[str, Tensor] = {}
    for name, value in pairs:
        found |= flat(value, f"{prefix}_{name}" if prefix else name)
    return found


def signature_of(
    module: nn.Module,
    examples: Mapping[str, Array],
    *,
    dynamic_batch: bool = True,
    normalization: Normalization | None = None,
    labels: tuple[str, ...] = (),
) -> tuple[Signature, dict[str, Tensor]]:
    """The signature, and the outputs for the examples.

    Args:
        module: takes the examples in their order.
        examples: input name -> array, first axis: the batch.
        dynamic_batch: whether the first axis may have any length.
        normalization: what an application does before the model; none: the samples are model-ready.
        labels: class names.

    Raises:
        ModelError: the model fails on the examples, or returns anything but tensors.
    """
    tensors = [torch.from_numpy(array) for array in examples.values()]
    try:
        with torch.no_grad():
            outputs = flat(
                module.eval()(*tensors) if not isinstance(module, torch.fx.GraphModule) else module(*tensors)
            )
    except ModelError:
        raise
    except Exception as error:
        shapes = ", ".join(f"{name} {array.dtype.name}{list(array.shape)}" for name, array in examples.items())
        raise ModelError(
            f"the model does not take these inputs: {(str(error).splitlines() or [''])[0]}",
            where="inputs",
            expected="a forward pass",
            got=shapes,
            fix="give inputs of the shapes and types that the model takes",
        ) from error
    batch: int | str = "batch" if dynamic_batch else len(tensors[0])

    def spec(name: str, tensor: Tensor) -> TensorSpec:
        image = tensor.ndim == 4 and tensor.is_floating_point()  # batch, channels, height, width
        shape = (batch, *tensor.shape[1:]) if tensor.ndim else ()
        return TensorSpec(name, shape, str(tensor.dtype).removeprefix("torch."), "NCHW" if image else "")

    inputs = tuple(spec(name, tensor) for name, tensor in zip(examples, tensors, strict=True))
    given = tuple(spec(name, tensor) for name, tensor in outputs.items())
    return Signature(inputs, given, normalization or Normalization((0.0,), (1.0,), "model-ready"), labels), outputs
