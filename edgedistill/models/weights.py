"""Weights in files: read without unpickling, written as safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path


def load_checkpoint(module: nn.Module, path: Path) -> None:
    """Load weights strictly; nothing is ever unpickled beyond tensors.

    Raises:
        ModelError: unreadable, or of another architecture.
    """
    state = _read_state(path)
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [
        *(
            f"{name}: the model has {own[name]}, the file {given[name]}"
            for name in own
            if name in given and own[name] != given[name]
        ),
        *(f"{name}: missing in the file" for name in own if name not in given),
        *(f"{name}: unknown to the model" for name in given if name not in own),
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise ModelError(
            "the checkpoint is of another architecture",
            where=str(path),
            expected=f"the {len(own)} tensors of the model that the recipe describes",
            got=shown,
            fix="describe the architecture that the checkpoint was saved from, or give its own checkpoint",
        )
    module.load_state_dict(state)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the readers raise anything
        raise ModelError(
            f"{path.name} cannot be read as a checkpoint",
            where=str(path),
            expected="a .safetensors file, or a state dict of plain tensors written by torch.save",
            got=(str(error).splitlines() or [type(error).__name__])[0],
            fix="save it with safetensors.torch.save_file(model.state_dict(), path)",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # the wrapping that training frameworks write
    if not isinstance(state, dict) or not all(
        isinstance(v, torch.Tensor) and v.layout == torch.strided for v in state.values()
    ):
        raise ModelError(
            f"{path.name} does not hold a state dict",
            where=str(path),
            expected="tensor names and dense tensors",
            got=type(state).__name__,
            fix="save model.state_dict(), not the model",
        )
    return state


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous().clone() for name, tensor in module.state_dict().items()}, path)
