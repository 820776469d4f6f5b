"""Torch modules as teachers: adapted to the student's inputs, frozen, and asked for what a term needs."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float

    from edgedistill.types import Array


@dataclass(frozen=True)
class Affine:
    """Per-channel (axis 1) conversion from the student's normalisation to the teacher's: x * scale + shift."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]


class Adapted(nn.Module):
    """A module that takes the student's inputs and gives one tensor of logits, whatever it takes and returns itself."""

    def __init__(self, module: nn.Module, affine: Affine | None, output: str | int | None, name: str) -> None:
        super().__init__()
        self.module = module
        self.output = output
        self.name = name
        self.converts = affine is not None
        affine = affine or Affine((1.0,), (0.0,))
        self.register_buffer("scale", torch.tensor(affine.scale))
        self.register_buffer("shift", torch.tensor(affine.shift))

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.pick(self.module(self.convert(inputs)))

    def convert(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
        """The same samples, normalised as the module wants them."""
        if not self.converts:
            return inputs
        shape = (1, -1) + (1,) * (inputs.ndim - 2)
        scale, shift = self.get_buffer("scale"), self.get_buffer("shift")
        return inputs * scale.reshape(shape) + shift.reshape(shape)

    def pick(self, returned: object) -> Tensor:
        """The logits among what the module returned.

        Raises:
            ModelError: they are not where the recipe says, or it does not say where.
        """
        found = returned if self.output is None else _part(returned, self.output)
        if not isinstance(found, Tensor):
            raise ModelError(
                f"the teacher {self.name} returns {_description(returned)}, not one tensor of logits",
                where=f"{self.name}: output" + (f": {self.output}" if self.output is not None else ""),
                expected="`output` to name the part that holds the logits",
                got=_description(returned),
                fix=f"set `output` of the teacher, for example `output: {_suggestion(returned)}`",
            )
        return found


def _part(returned: object, output: str | int) -> object:
    if isinstance(output, int) and isinstance(returned, (tuple, list)):
        return returned[output] if -len(returned) <= output < len(returned) else None
    if isinstance(returned, dict):
        return returned.get(output)
    return getattr(returned, str(output), None)


def _description(returned: object) -> str:
    if isinstance(returned, dict):
        return f"a dict with the keys {', '.join(map(str, returned))}"
    if isinstance(returned, (tuple, list)):
        return f"a {type(returned).__name__} of {len(returned)}"
    return f"a {type(returned).__name__}"


def _suggestion(returned: object) -> str:
    if isinstance(returned, dict):
        names = [str(key) for key, value in returned.items() if isinstance(value, Tensor)]
        return next((name for name in names if "logit" in name.lower()), names[0] if names else "logits")
    return "0" if isinstance(returned, (tuple, list)) else "logits"


def logits_of(module: nn.Module, inputs: Array, batch_size: int = 256) -> Float[Tensor, "n classes"]:
    """The module's logits for every input, in eval mode and without gradients."""
    module.eval()
    with torch.no_grad():
        rows = [module(torch.tensor(inputs[start : start + batch_size])) for start in range(0, len(inputs), batch_size)]
    return torch.cat(rows)


@contextmanager
def frozen(module: nn.Module) -> Iterator[str]:
    """Eval mode inside; afterwards every parameter, buffer and train/eval flag is what it was, or it is an error.

    Yields:
        The digest of parameters and buffers.
    """
    flags = {name: child.training for name, child in module.named_modules()}
    before = fingerprint(module)
    module.eval()
    try:
        yield before
        if fingerprint(module) != before:  # a defect of ours or of the module: its figures would be wrong
            raise ModelError(
                "the teacher changed while the student was trained",
                where="teacher",
                expected=f"parameters and buffers with digest {before[:16]}",
                got=fingerprint(module)[:16],
                fix="make its forward pass free of side effects in eval mode",
            )
    finally:
        for name, child in module.named_modules():
            child.training = flags[name]


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(name.encode() + b"\0" + str(tensor.dtype).encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
