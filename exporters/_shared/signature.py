"""A model's signature as a file has it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.types import Signature, TensorSpec

    Change = Callable[[TensorSpec], TensorSpec]


def changed(signature: Signature, inputs: Change, outputs: Change) -> Signature:
    """The signature with each input and each output changed; what surrounds them stays."""
    return replace(
        signature,
        inputs=tuple(map(inputs, signature.inputs)),
        outputs=tuple(map(outputs, signature.outputs)),
    )
