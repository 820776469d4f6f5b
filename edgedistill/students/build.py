"""Build the torch module that a recipe names, load its checkpoint, and say what it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgedistill.errors import ModelError
from edgedistill.imports import call
from edgedistill.recipe import ConvnetModel, ImportedModel
from edgedistill.students.key import Model, checkpoint_path
from edgedistill.types import Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.data.splits import Data


class BlackBox(nn.Module):
    """A module whose work is done elsewhere; it tells how many parameters its file holds."""

    file_parameters: int


@dataclass(frozen=True)
class ModelFacts:
    """Size and work of a model: parameters, and MACs of one inference at batch 1; None where a black box hides them."""

    parameters: int
    macs: int | None


def build(spec: Model, sample_shape: tuple[int, ...], classes: int, beside: Path, seed: int) -> nn.Module:
    """The module with seeded initial weights, its checkpoint loaded, checked to give logits.

    Raises:
        ModelError: it cannot be built, its checkpoint does not fit, or its output is no (batch, classes) tensor.
    """
    module = construct(spec, sample_shape, classes, beside, seed)
    check_output(module, spec.model if isinstance(spec, ImportedModel) else "convnet", sample_shape, classes)
    return module


def construct(spec: Model, sample_shape: tuple[int, ...], classes: int, beside: Path, seed: int) -> nn.Module:
    """The module with seeded initial weights, its checkpoint loaded, in eval mode.

    Raises:
        ModelError: it cannot be built, or its checkpoint does not fit.
    """
    torch.manual_seed(seed)
    match spec:
        case ConvnetModel():
            module: Any = _convnet(spec, sample_shape, classes)
            name = "convnet"
        case ImportedModel():
            module = call(spec.model, spec.arguments, beside)
            name = spec.model
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{name} did not return a torch module",
            where=name,
            expected="a torch.nn.Module",
            got=type(module).__name__,
            fix="return the module itself",
        )
    if spec.checkpoint is not None:
        load_checkpoint(module, checkpoint_path(spec, beside))
    return module.eval()


def check_output(module: nn.Module, name: str, sample_shape: tuple[int, ...], classes: int) -> None:
    """Run two zero samples through a module in eval mode.

    Raises:
        ModelError: it fails on such samples, or does not give logits of shape (2, classes).
    """
    try:
        with torch.no_grad():
            output: Any = module(torch.zeros(2, *sample_shape))
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name} does not take this data: {error}",
            where=name,
            expected=f"a forward pass of a float32 batch of shape (batch, {', '.join(map(str, sample_shape))})",
            got=f"{type(error).__name__}: {error}",
            fix="give data of the shape that the model takes, or another model",
        ) from error
    if not isinstance(output, torch.Tensor):
        raise ModelError(
            f"{name} returns a {type(output).__name__}, not one tensor of logits",
            where=name,
            expected=f"a tensor of shape (batch, {classes})",
            got=type(output).__name__,
            fix="wrap the model so that forward returns its logits",
        )
    if tuple(output.shape) != (2, classes):
        raise ModelError(
            f"{name} does not give one logit per class of the data",
            where=name,
            expected=f"(batch, {classes}): the data have {classes} classes",
            got=f"(batch, {', '.join(str(d) for d in output.shape[1:])})",
            fix="match the model's outputs and the data's classes (data.labels)",
        )


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
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")  # noqa: PLR2004
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


def facts(module: nn.Module, sample_shape: tuple[int, ...]) -> ModelFacts:
    """Count parameters, and MACs with torch's flop counter (2 operations a MAC)."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(torch.zeros(1, *sample_shape))
    boxes = [child.file_parameters for child in module.modules() if isinstance(child, BlackBox)]
    macs = counter.get_total_flops() // 2 if not boxes else None
    return ModelFacts(sum(p.numel() for p in module.parameters()) + sum(boxes), macs)


def save_facts(found: ModelFacts, path: Path) -> None:
    """Write facts as JSON."""
    path.write_text(json.dumps({"parameters": found.parameters, "macs": found.macs}), encoding="utf-8")


def signature(data: Data) -> Signature:
    """The signature that every artifact of these data has: one float input, one row of logits."""
    shape = data.sample_shape
    image = len(shape) == 3  # noqa: PLR2004 - channels, height, width
    return Signature(
        (TensorSpec("image" if image else "input", ("batch", *shape), "float32", "NCHW" if image else ""),),
        (TensorSpec("logits", ("batch", data.classes), "float32"),),
        Normalization(data.normalization.mean, data.normalization.std, data.normalization.raw),
        data.class_names,
    )


def _convnet(spec: ConvnetModel, sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    from edgedistill.students.convnet import ConvNet

    if len(sample_shape) != 3:  # noqa: PLR2004 - channels, height, width
        raise ModelError(
            "the convnet family takes images",
            where="family: convnet",
            expected="samples of shape (channels, height, width)",
            got=f"samples of shape {sample_shape}",
            fix="name a model of your own: `model: my_models:student`",
        )
    return ConvNet(sample_shape[0], classes, width=spec.width, depth=spec.depth)
