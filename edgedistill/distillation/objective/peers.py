"""Objectives without a teacher of its own: students that teach each other, and one that teaches itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgedistill.distillation.learners import peer
from edgedistill.distillation.losses.response import label_cross_entropy, soft_target_kl
from edgedistill.distillation.objective.objective import Losses
from edgedistill.distillation.objective.projectors import projector
from edgedistill.models.signals import LOGITS, Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.distillation.objective.terms import Step


class MutualObjective(nn.Module):
    """Every peer: cross-entropy on the labels + weight * mean over the other peers of T^2 KL(other || peer).

    The others' answers are constants for a peer.
    Source: Y. Zhang, T. Xiang, T. Hospedales, H. Lu, "Deep Mutual Learning", 2018.
    """

    def __init__(self, peers: int, temperature: float, weight: float) -> None:
        super().__init__()
        self.peers = peers
        self.temperature = temperature
        self.weight = weight

    def forward(self, step: Step, _epoch: float) -> Losses:
        """The sum over the peers."""
        logits = [step.student[peer(number)] for number in range(self.peers)]
        hard = torch.stack([label_cross_entropy(own, step.labels) for own in logits]).sum()
        soft = torch.stack([self._from_others(logits, number) for number in range(self.peers)]).sum()
        return Losses(hard + self.weight * soft, {"cross_entropy": hard, "mutual": soft})

    def _from_others(self, logits: list[Tensor], number: int) -> Tensor:
        others = [
            soft_target_kl(logits[number], other.detach(), self.temperature)
            for position, other in enumerate(logits)
            if position != number
        ]
        return torch.stack(others).mean()


class SelfObjective(nn.Module):
    """The last exit: cross-entropy. Every earlier exit: (1 - alpha) cross-entropy + alpha T^2 KL(last || exit).

    An exit is a pooled linear classifier on a layer; it lives in this objective and is dropped with it.
    Source: L. Zhang et al., "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via Self
    Distillation", 2019, without its hint term.
    """

    def __init__(
        self, layers: Mapping[Signal, tuple[int, ...]], classes: int, temperature: float, alpha: float, seed: int
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = tuple(layers)
        self.exits = nn.ModuleList(projector(shape, (classes,)) for shape in layers.values())
        self.temperature = temperature
        self.alpha = alpha

    def forward(self, step: Step, _epoch: float) -> Losses:
        """The sum over the exits."""
        last = step.student[LOGITS]
        values = {"cross_entropy": label_cross_entropy(last, step.labels)}
        for layer, head in zip(self.layers, self.exits, strict=True):
            early = head(step.student[layer])
            hard = label_cross_entropy(early, step.labels)
            soft = soft_target_kl(early, last.detach(), self.temperature)
            values[f"exit {layer.text}"] = (1 - self.alpha) * hard + self.alpha * soft
        return Losses(torch.stack(list(values.values())).sum(), values)
