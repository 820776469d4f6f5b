"""Build the torch module that a recipe names, load its checkpoint, and say what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from edgedistill.errors import ModelError
from edgedistill.models.key import Model, checkpoint_path
from edgedistill.models.weights import load_checkpoint
from edgedistill.recipe.document import ConvnetModel, ImportedModel
from edgedistill.user_code import call

if TYPE_CHECKING:
    from pathlib import Path


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
            module: object = _convnet(spec, sample_shape, classes)
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
            output: object = module(torch.zeros(2, *sample_shape))
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


def _convnet(spec: ConvnetModel, sample_shape: tuple[int, ...], classes: int) -> nn.Module:
    from edgedistill.students.convnet import ConvNet

    if len(sample_shape) != 3:  # channels, height, width
        raise ModelError(
            "the convnet family takes images",
            where="family: convnet",
            expected="samples of shape (channels, height, width)",
            got=f"samples of shape {sample_shape}",
            fix="name a model of your own: `model: my_models:student`",
        )
    return ConvNet(sample_shape[0], classes, width=spec.width, depth=spec.depth)
