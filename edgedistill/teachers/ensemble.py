"""Several teachers that answer as one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float

    from edgedistill.teachers.module import Adapted

Combination = Literal["mean_logits", "mean_probabilities", "confidence"]


class Ensemble(nn.Module):
    """Members, their names, and how their logits become one answer."""

    def __init__(
        self,
        members: Mapping[str, Adapted],
        combine: Combination,
        weights: Sequence[float] | None,
        features_from: str | None,
    ) -> None:
        super().__init__()
        self.names = tuple(members)
        self.members = nn.ModuleList(members.values())  # a ModuleDict refuses names such as "v1.2" or "items"
        self.combine = combine
        self.features_from = features_from
        given = torch.tensor(weights if weights is not None else [1.0] * len(members))
        self.register_buffer("weights", given / given.sum())

    def forward(self, inputs: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """The combined logits."""
        return self.combined([member(inputs) for member in self.members])

    def combined(self, logits: Sequence[Float[Tensor, "batch classes"]]) -> Float[Tensor, "batch classes"]:
        """One answer from the members' logits, given in their order.

        `mean_logits`: the weighted mean of logits, that is the normalised geometric mean of probabilities.
        `mean_probabilities`: log of the weighted mean of probabilities. `confidence`: the same with each
        member's weight multiplied, sample by sample, by exp(-H), H being the entropy of its own answer.
        """
        stacked = torch.stack(list(logits))
        weights = self.get_buffer("weights").to(stacked.dtype)
        if self.combine == "mean_logits":
            return (weights[:, None, None] * stacked).sum(0)
        log_probabilities = stacked.log_softmax(-1)
        log_weights = weights.log()[:, None].expand(stacked.shape[:2])
        if self.combine == "confidence":
            log_weights = log_weights + (log_probabilities.exp() * log_probabilities).sum(-1)
        log_weights = log_weights.log_softmax(0)
        return (log_weights[..., None] + log_probabilities).logsumexp(0)
