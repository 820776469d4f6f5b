"""How large a model is: parameters and MACs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from pathlib import Path


class BlackBox(nn.Module):
    """A module whose work is done elsewhere; it tells how many parameters its file holds."""

    file_parameters: int


@dataclass(frozen=True)
class ModelFacts:
    """Size and work of a model: parameters, and MACs of one inference at batch 1; None where a black box hides them."""

    parameters: int
    macs: int | None


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
