"""What one forward pass does with each layer of a model, seen without leaving a trace."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Shape = tuple[int, ...]

ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
)
"""The layers that are known to be activations."""


@dataclass(frozen=True)
class Layer:
    """A named layer, and what one forward pass did with it.

    Attributes:
        name: its path in the model.
        kind: its class.
        input_shape: first tensor that goes into its first call, batch axis included; None if there is none.
        output_shape: first tensor that comes out of it, likewise.
        parameters: parameters in it and in the layers inside.
        calls: how often a forward pass runs it.
    """

    name: str
    kind: str
    input_shape: Shape | None
    output_shape: Shape | None
    parameters: int
    calls: int


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes:
        input_shape: first tensor that goes in; None if there is none.
        output_shape: first tensor that comes out, likewise.
        activation: path and call of the activation layer whose result it returns, itself if it is one.
    """

    input_shape: Shape | None
    output_shape: Shape | None
    activation: tuple[str, int] | None


def layers(module: nn.Module, example: Tensor) -> list[Layer]:
    """Every named layer, in the order of definition, as one forward pass of a batch in eval mode finds it.

    A layer that is registered under several names is listed under its first. See `probe`.
    """
    calls = probe(module, example)
    return [_layer(name, layer, calls[name]) for name, layer in _named(module)]


def probe(module: nn.Module, example: Tensor) -> dict[str, list[Call]]:
    """The calls of every named layer in one forward pass of a batch, in eval mode and without gradients.

    Parameters, buffers, training flags, torch's random state and the batch stay bit for bit as they are.
    """
    watch = _Watch({name: [] for name, _ in _named(module)})
    handles = [layer.register_forward_hook(watch.hook(name), with_kwargs=True) for name, layer in _named(module)]
    try:
        with _undisturbed(module, example) as (state, inputs):
            functional_call(module, state, (inputs,))
    finally:
        for handle in handles:
            handle.remove()
    return watch.calls


def first_tensor(value: object) -> Tensor | None:
    """The first tensor in a value: itself, or in a tuple, list or dict, depth first."""
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    for item in items:
        found = first_tensor(item)
        if found is not None:
            return found
    return None


class _Watch:
    """Notes calls as layers return, and follows the last activation's result on its way out of the blocks."""

    def __init__(self, calls: dict[str, list[Call]]) -> None:
        self.calls = calls
        self._last: tuple[Tensor | None, int, tuple[str, int] | None] = (None, 0, None)

    def hook(self, name: str) -> Callable[..., None]:
        return lambda layer, args, kwargs, output: self._note(name, layer, first_tensor((args, kwargs)), output)

    def _note(self, name: str, layer: nn.Module, tensor_in: Tensor | None, output: object) -> None:
        """A block returns an activation's result if it hands on that very tensor, unwritten since."""
        tensor = first_tensor(output)
        version = 0 if tensor is None else tensor._version  # noqa: SLF001 - torch has no public name for it
        unwritten = tensor is self._last[0] and version == self._last[1]
        activation = self._last[2] if unwritten else None
        if isinstance(layer, ACTIVATIONS):
            activation = (name, len(self.calls[name]))
        self.calls[name].append(Call(_shape(tensor_in), _shape(tensor), activation))
        self._last = (tensor, version, activation)


@contextmanager
def _undisturbed(module: nn.Module, example: Tensor) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Eval mode without gradients, and copies of the module's tensors and of the batch to run on.

    Even in eval mode a forward pass may write: `nn.Embedding(max_norm=...)` into its weights, an in-place first
    layer into the batch, a custom layer into its buffers.
    """
    flags = [(layer, layer.training) for layer in module.modules()]
    devices = [example.device] if example.device.type != "cpu" else []
    kind = example.device.type if devices else "cuda"  # with no devices only the CPU's state is kept
    with torch.random.fork_rng(devices, device_type=kind), torch.inference_mode(mode=False), torch.no_grad():
        state = {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}
        try:
            for layer, _ in flags:
                layer.training = False  # not eval(): models override it
            yield state, example.clone()
        finally:
            for layer, flag in flags:
                layer.training = flag


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in module.named_modules() if name]


def _layer(name: str, layer: nn.Module, calls: list[Call]) -> Layer:
    first = calls[0] if calls else Call(None, None, None)
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    return Layer(name, type(layer).__name__, first.input_shape, first.output_shape, parameters, len(calls))


def _shape(tensor: Tensor | None) -> Shape | None:
    return None if tensor is None else tuple(tensor.shape)
