"""Features of a model's layers, taken by hooks: the model itself stays as it is.

A layer is named by its path (`features.2`), as `edgedistill layers` prints it. A layer that runs several times in a
forward pass, as a shared ReLU does, needs the number of the call: `relu#0` is its first, `relu#-1` its last.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from edgedistill.errors import ModelError
from edgedistill.models.layers import Call, Shape, first_tensor, probe

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from torch.utils.hooks import RemovableHandle

Tap = Literal["output", "input", "pre_activation"]
"""Where a layer is tapped.

"input" and "output" are the first tensor that goes in or comes out (tuples, lists and dicts are searched in order).
"pre_activation" is what goes into the activation layer whose result the layer returns: itself if it is one, otherwise
the one that runs last inside it. A functional activation (`F.relu`) cannot be seen.
"""

_SHOWN = 8  # nearest names in an error


@dataclass(frozen=True)
class Point:
    """One place in the forward pass.

    Attributes:
        layer: path of the layer whose input or output it is.
        end: which of the two.
        call: the number of the call, from 0.
        calls: how many calls a forward pass makes.
        shape: of the feature, without its first axis (the batch).
    """

    layer: str
    end: Literal["input", "output"]
    call: int
    calls: int
    shape: Shape


class Captured(nn.Module):
    """A module that also returns features: `output, features = captured(x)`.

    The module is wrapped, not copied: its parameters are this module's, so an optimizer, DistributedDataParallel or
    `torch.compile` take this one in its place. A feature is a copy made at the moment of its tap, so a later layer
    that works in place (`nn.ReLU(inplace=True)`, `x += y`) changes neither it nor its gradient. Nothing is kept after
    a call. `close()`, or the end of a `with` block, takes the hooks away.

    Args:
        module: the model.
        requests: layer and tap of each feature, by the name that the feature shall have.
        example: a batch for the forward pass that looks up the layers, which leaves no trace.

    Attributes:
        points: where each feature is taken, and its shape.

    Raises:
        ModelError: a layer is unknown, never runs, runs several times, or has no such tensor; or the module is
            compiled already, so that its layers run no hooks.
    """

    def __init__(self, module: nn.Module, requests: Mapping[str, tuple[str, Tap]], example: Tensor) -> None:
        super().__init__()
        _check_hookable(module)
        calls = probe(module, example)
        self.module = module
        self.points = {key: _locate(request, tap, calls) for key, (request, tap) in requests.items()}
        self._taken: dict[str, list[Tensor | None]] | None = None  # exists only during forward
        self._handles = [self._attach(key, point) for key, point in self.points.items()]

    def forward(self, x: Tensor) -> tuple[object, dict[str, Tensor]]:
        """The module's output, and the features by name in the order of the requests.

        Raises:
            ModelError: a layer runs more or less often than in the probe.
        """
        taken: dict[str, list[Tensor | None]] = {key: [] for key in self.points}
        self._taken = taken
        try:
            output = self.module(x)
        finally:
            self._taken = None
        return output, {key: _only(taken[key], point) for key, point in self.points.items()}

    def close(self) -> None:
        """Take the hooks off the module; it is then as it was before."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _attach(self, key: str, point: Point) -> RemovableHandle:
        """Hook one end of a layer; the hook does nothing while the module runs outside this wrapper."""

        def take(value: object) -> None:
            if self._taken is None:
                return
            calls = self._taken[key]
            tensor = first_tensor(value) if len(calls) == point.call else None
            calls.append(None if tensor is None else tensor.clone())

        layer = self.module.get_submodule(point.layer)
        if point.end == "input":
            return layer.register_forward_pre_hook(lambda _, args, kwargs: take((args, kwargs)), with_kwargs=True)
        return layer.register_forward_hook(lambda _, __, output: take(output))


def _only(calls: list[Tensor | None], point: Point) -> Tensor:
    """The feature among what the calls of a layer gave."""
    feature = calls[point.call] if len(calls) == point.calls else None
    if feature is None:
        raise ModelError(
            f"layer {point.layer!r} gave no feature: {len(calls)} calls in this pass, {point.calls} in the probe",
            where=f"layer {point.layer!r}",
            expected="the same calls in training and in eval mode, on a module that was not compiled before nor closed",
            got=f"{len(calls)} calls",
            fix="name a layer that every forward pass runs alike",
        )
    return feature


def _check_hookable(module: nn.Module) -> None:
    """Refuse what runs its layers without their hooks."""
    for name, layer in module.named_modules():
        wrapped = isinstance(layer, torch.jit.ScriptModule) or hasattr(layer, "_orig_mod")  # of torch.compile
        if wrapped or layer._compiled_call_impl is not None:  # noqa: SLF001 - all that nn.Module.compile leaves
            raise ModelError(
                "the layers of a compiled module cannot be captured",
                where=f"layer {name!r}" if name else "the model",
                expected="the module as it was before torch.compile or torch.jit",
                got=type(layer).__name__,
                fix="capture first and compile after: torch.compile(Captured(module, ...))",
            )


def _locate(request: str, tap: Tap, calls: dict[str, list[Call]]) -> Point:
    """The point that a request means."""
    name = request.partition("#")[0]
    if name not in calls:
        raise ModelError(
            f"the model has no layer {name!r}",
            where=f"layer {request!r}",
            expected=_nearest(name, calls),
            got=repr(name),
            fix="name a layer that the model has; `edgedistill layers` prints them all with their shapes",
        )
    call = _call_number(request, name, len(calls[name]))
    end: Literal["input", "output"] = "output" if tap == "output" else "input"
    if tap == "pre_activation":
        name, call = _activation(request, name, call, calls)
    made = calls[name][call]
    shape = made.input_shape if end == "input" else made.output_shape
    if not shape:
        raise ModelError(
            f"the {end} of layer {name!r} is no tensor with a batch axis",
            where=f"layer {request!r}",
            expected="a tensor, or a tuple, list or dict with one",
            got="no tensor" if shape is None else "a single number",
            fix="name another layer; `edgedistill layers` prints their shapes",
        )
    return Point(name, end, call, len(calls[name]), shape[1:])


def _call_number(request: str, name: str, calls: int) -> int:
    """Which call of a layer a request means, counted from 0."""
    if calls == 0:
        raise ModelError(
            f"layer {name!r} is never called in forward",
            where=f"layer {request!r}",
            expected="a layer that a forward pass in eval mode calls",
            got="no call",
            fix="name another layer; `edgedistill layers` prints how often each is called",
        )
    if request == name and calls == 1:
        return 0
    number = request.removeprefix(name).removeprefix("#")
    if number not in map(str, range(-calls, calls)):
        raise ModelError(
            f"layer {name!r} is called {calls} times in forward" if calls > 1 else f"layer {name!r} is called once",
            where=f"layer {request!r}",
            expected=f"the number of a call, 0 to {calls - 1} or -{calls} to -1",
            got=f"call {number!r}" if number else "no number",
            fix=f"write `{name}#0` for the first call or `{name}#-1` for the last",
        )
    return int(number) % calls


def _activation(request: str, name: str, call: int, calls: dict[str, list[Call]]) -> tuple[str, int]:
    """Path and call of the activation layer whose result a layer returns."""
    found = calls[name][call].activation
    if found is None:
        known = sorted({made.activation[0] for each in calls.values() for made in each if made.activation})
        inside = [other for other in known if other.startswith(f"{name}.")]
        raise ModelError(
            f"layer {name!r} does not return the result of an activation layer, so no pre-activation can be seen",
            where=f"layer {request!r}",
            expected=_nearest(name, inside or known),
            got="a layer that ends otherwise, or in a functional activation, which no hook sees",
            fix='name an activation layer or a block that ends in one, or tap the "input" or "output" of a layer',
        )
    return found


def _nearest(name: str, known: Collection[str]) -> str:
    """The few known names that are most like one; a big model has thousands."""
    close = difflib.get_close_matches(name, known, n=_SHOWN, cutoff=0.0)
    more = f" or {len(known) - len(close)} more" if len(known) > len(close) else ""
    return f"{', '.join(map(repr, close))}{more}" if close else "the model has none"
