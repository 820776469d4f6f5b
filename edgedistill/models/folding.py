"""What surrounds a model, put into its graph: normalisation before it, softmax or argmax behind it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.errors import ModelError, UsageError, nearest
from edgedistill.models.signature import flat
from edgedistill.types import Array, Normalization, Signature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

NORMALIZATION, SOFTMAX, ARGMAX = FOLDS = ("normalization", "softmax", "argmax")
"""What can be folded; the last two exclude each other."""


class Folded(nn.Module):
    """A model of one input and one output that takes raw samples, or gives probabilities or class numbers.

    Args:
        module: the model; it stays what it is.
        normalization: of its input.
        folds: words of `FOLDS`.
    """

    def __init__(self, module: nn.Module, normalization: Normalization, folds: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.folds = frozenset(folds)
        mean, std = (torch.tensor(values) for values in (normalization.mean, normalization.std))
        self.register_buffer("shift", -mean, persistent=False)
        self.register_buffer("scale", 1 / std, persistent=False)  # no quantiser has an integer division

    def forward(self, samples: Float[Tensor, "batch ..."]) -> Tensor:
        """Logits, probabilities (batch, classes), or class numbers (batch,) as int32."""
        if NORMALIZATION in self.folds:
            shape = (1, -1) + (1,) * (samples.ndim - 2)
            samples = (samples + self.get_buffer("shift").reshape(shape)) * self.get_buffer("scale").reshape(shape)
        (logits,) = flat(self.module(samples)).values()
        if SOFTMAX in self.folds:
            return logits.softmax(1)
        return logits.argmax(1).to(torch.int32) if ARGMAX in self.folds else logits


def parsed(words: Sequence[str], where: str) -> tuple[str, ...]:
    """The words, if they go together.

    Raises:
        UsageError: an unknown word, one twice, or both ends.
    """
    for word in words:
        if word not in FOLDS:
            raise UsageError(
                f"{word!r} cannot be folded into a graph",
                where=where,
                expected=nearest(word, FOLDS),
                got=repr(word),
                fix="use a known word",
            )
    if len(set(words)) < len(words) or {SOFTMAX, ARGMAX} <= set(words):
        raise UsageError(
            "a graph has one end, and each word is said once",
            where=where,
            expected="normalization, and one of softmax and argmax",
            got=", ".join(words),
            fix="drop the word that is too much; argmax chooses the same class without softmax",
        )
    return tuple(words)


def folded_signature(signature: Signature, folds: Sequence[str], outputs: Array, where: str) -> Signature:
    """The signature of the model with its surroundings; they must fit.

    Args:
        signature: of the model alone.
        folds: words of `FOLDS`.
        outputs: the model's own, for some samples.
        where: the key or option that the words come from.

    Raises:
        ModelError: several or integer inputs, several outputs, no rows of scores, or probabilities already.
    """
    if len(signature.inputs) != 1 or len(signature.outputs) != 1 or not signature.inputs[0].dtype.startswith("float"):
        raise _refused("only models of one float input and one output can be folded", _ends(signature), where)
    own = signature.normalization
    if NORMALIZATION in folds:
        if set(own.mean) == {0.0} and set(own.std) == {1.0}:
            raise ModelError(
                "there is no normalisation to fold",
                where=where,
                expected="a mean or a standard deviation other than 0 and 1",
                got="samples that are model-ready as they are",
                fix="drop the word, or say the normalisation (--mean and --std, normalization=, data.normalize)",
            )
        check_channels(own, signature.inputs[0].shape)
        own = Normalization((0.0,), (1.0,), f"{own.raw}; the normalisation is folded into the graph")
    (given,) = signature.outputs
    if {SOFTMAX, ARGMAX} & set(folds):
        if outputs.ndim != 2 or outputs.shape[1] < 2:  # (samples, classes)
            raise _refused("softmax and argmax need rows of scores", f"outputs of shape {outputs.shape[1:]}", where)
        if SOFTMAX in folds and (outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-3):
            raise _refused("the model gives probabilities already", "outputs that are positive and add up to 1", where)
        given = (
            replace(given, name="probabilities")
            if SOFTMAX in folds
            else TensorSpec("class", (given.shape[0],), "int32", "")
        )
    return replace(signature, outputs=(given,), normalization=own)


def check_channels(normalization: Normalization, shape: Sequence[int | str]) -> None:
    """One value stands for all channels (axis 1), or there is one for each.

    Raises:
        UsageError: there are more or fewer.
    """
    counts = {len(normalization.mean), len(normalization.std)} - {1}
    if len(shape) < 2 or counts - {shape[1]}:  # batch, channels
        raise UsageError(
            "the normalisation does not fit the samples",
            where="mean and std",
            expected=f"1 value, or one for each channel of samples of shape {tuple(shape[1:])}",
            got=f"{len(normalization.mean)} means, {len(normalization.std)} standard deviations",
            fix="correct them",
        )


def _ends(signature: Signature) -> str:
    inputs = ", ".join(f"{spec.name} {spec.dtype}" for spec in signature.inputs)
    return f"inputs {inputs}; outputs {', '.join(spec.name for spec in signature.outputs)}"


def _refused(message: str, got: str, where: str) -> ModelError:
    return ModelError(
        message,
        where=where,
        expected="a classifier of one float input and one output of logits, and samples with a normalisation",
        got=got,
        fix="drop the word, or change what the model takes and gives",
    )


def given_by(folds: Sequence[str], logits: Array) -> Array:
    """What the folded model gives where the model gives these logits: computed here, without torch."""
    if SOFTMAX in folds:
        powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        probabilities: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities
    return logits.argmax(axis=1).astype(np.int32) if ARGMAX in folds else logits


def taken_by(folds: Sequence[str], normalization: Normalization, samples: Array) -> Array:
    """What the folded model takes in the place of these model-ready samples: raw ones, or the same."""
    if NORMALIZATION not in folds:
        return samples  # where they lie: on disk, perhaps
    ready = np.asarray(samples)
    shape = (1, -1) + (1,) * (ready.ndim - 2)
    raw = ready * np.reshape(normalization.std, shape) + np.reshape(normalization.mean, shape)
    return np.asarray(raw, dtype=np.float32)
