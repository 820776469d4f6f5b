"""A torch module as a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor, nn

    from edgedistill.types import Array


@dataclass(frozen=True)
class Signals:
    """What a student learns from, one row a sample."""

    logits: Float[Tensor, "n classes"]


def signals(module: nn.Module, inputs: Array, batch_size: int = 256) -> Signals:
    """The module's logits for every input, in eval mode and without gradients."""
    module.eval()
    with torch.no_grad():
        rows = [module(torch.tensor(inputs[start : start + batch_size])) for start in range(0, len(inputs), batch_size)]
    return Signals(torch.cat(rows))
