"""The model that files are held against, with what it takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from edgedistill.types import Array, Normalization, Signature


@dataclass(frozen=True)
class Reference:
    """A model that is to be exported.

    Attributes:
        model: a torch module, or the path of an ONNX file.
        name: of the files.
        signature: what it takes and gives.
        inputs: samples to prove with, model-ready, by input name.
        expected: its own outputs for these, by output name.
    """

    model: Any
    name: str
    signature: Signature
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]


def of_module(
    module: nn.Module,
    examples: Mapping[str, Array],
    name: str,
    normalization: Normalization | None = None,
    labels: tuple[str, ...] = (),
    *,
    dynamic_batch: bool = True,
) -> Reference:
    """A torch module with examples of its inputs."""
    from edgedistill.models.signature import Named, signature_of

    signature, outputs = signature_of(
        module, examples, dynamic_batch=dynamic_batch, normalization=normalization, labels=labels
    )
    named = Named(module, tuple(examples), tuple(outputs))
    expected = {key: tensor.numpy() for key, tensor in outputs.items()}
    return Reference(named, name, signature, examples, expected)


def made_ready(raw: Mapping[str, Array], normalization: Normalization | None, folds: Sequence[str]) -> dict[str, Array]:
    """Samples as the model itself takes them, where those given are raw because normalisation is folded.

    Raises:
        UsageError: the normalisation has another number of channels than the samples.
    """
    from edgedistill.data.preparation import apply
    from edgedistill.models.folding import NORMALIZATION, check_channels

    if NORMALIZATION not in folds or normalization is None:
        return dict(raw)
    for rows in raw.values():
        check_channels(normalization, rows.shape)
    return {name: apply(normalization, rows) if rows.dtype.kind == "f" else rows for name, rows in raw.items()}


def folded(source: Reference, words: Sequence[str], where: str) -> Reference:
    """The model with its surroundings in its graph; what it takes and gives changes with it.

    Raises:
        UsageError: unknown words, or some that do not go together.
        ModelError: the model has no place for them, or is an ONNX file.
    """
    from edgedistill.models.folding import Folded, folded_signature, given_by, parsed, taken_by
    from edgedistill.models.signature import Named

    folds = parsed(words, where)
    if not folds:
        return source
    if isinstance(source.model, Path):
        raise ModelError(
            "nothing is folded into ONNX files",
            where=where,
            expected="a .pt2 program or an import path",
            got=source.model.name,
            fix="give the torch model (torch.export.save writes a .pt2), or drop the option",
        )
    (logits,) = source.expected.values() if len(source.expected) == 1 else (np.zeros(0),)
    signature = folded_signature(source.signature, folds, logits, where)
    normalization = source.signature.normalization
    (name,) = (spec.name for spec in signature.outputs)
    model = Named(Folded(source.model, normalization, folds), tuple(source.inputs), (name,)).eval()
    inputs = {key: taken_by(folds, normalization, rows) for key, rows in source.inputs.items()}
    return replace(source, model=model, signature=signature, inputs=inputs, expected={name: given_by(folds, logits)})


def arrays_of(module: nn.Module, example: object) -> dict[str, Array]:
    """An example by input names."""
    from torch import Tensor

    from edgedistill.models.signature import parameters_of

    if not isinstance(example, dict):
        several = example if isinstance(example, tuple | list) else (example,)
        example = dict(zip(parameters_of(module, len(several)), several, strict=True))
    return {name: np.asarray(value.detach() if isinstance(value, Tensor) else value) for name, value in example.items()}


def model_bytes(source: Reference) -> int:
    """Size of the weights, or of the file."""
    if isinstance(source.model, Path):
        return source.model.stat().st_size
    return sum(tensor.nbytes for tensor in source.model.state_dict().values())
