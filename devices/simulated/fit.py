"""Costs per feature fitted to timings: nonnegative, drawn to prior costs, and judged on what the fit did not see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import Array

STRENGTH = 0.003
"""Of the pull to the prior costs, in squared relative errors. Chosen on half of the boards (docs/prediction.md)."""
FEW_STRENGTH = 0.1
"""The same for a board with a handful of anchors: the shape comes from like boards, the scale from the anchors."""
_ROBUST = 0.1
_ROUNDS = 8
_COVERAGE = 0.8


@dataclass(frozen=True)
class Anchors:
    """Measured networks of one device, runtime, thread count and precision.

    Attributes:
        names: of the networks.
        families: the architecture family of each; what is held out together.
        features: networks x features, nonnegative.
        times_ms: the measured latencies.
    """

    names: tuple[str, ...]
    families: tuple[str, ...]
    features: Array
    times_ms: Array

    def take(self, mask: Array) -> Anchors:
        """Those where the mask is true."""
        chosen = np.flatnonzero(mask)
        return Anchors(
            tuple(self.names[i] for i in chosen),
            tuple(self.families[i] for i in chosen),
            self.features[chosen],
            self.times_ms[chosen],
        )


def fit(anchors: Anchors, prior: Array, strength: float = STRENGTH) -> Array:
    """Milliseconds per unit of each feature.

    Minimises sum(h(prediction / measured - 1)) + strength x sum((cost / (s x prior) - 1)^2) over nonnegative costs,
    where h is Huber's loss (quadratic up to 10%, linear beyond) and s the scale at which the prior costs fit best
    in the median: what the prior gives is their proportions.
    Source of the loss: P. J. Huber, "Robust estimation of a location parameter", 1964; by reweighting.
    """
    from scipy.optimize import nnls

    relative = anchors.features / anchors.times_ms[:, None]
    scaled_prior = prior * np.median(1 / np.maximum(relative @ prior, 1e-30))
    design = relative * scaled_prior
    pull = np.sqrt(strength) * np.eye(len(prior))
    weights = np.ones(len(design))
    costs = np.ones(len(prior))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)
        costs, _residual = nnls(
            np.vstack([design * root[:, None], pull]), np.concatenate([root, np.diag(pull)]), maxiter=1000
        )
        weights = np.minimum(1.0, _ROBUST / np.maximum(np.abs(design @ costs - 1), 1e-9))
    return np.asarray(costs * scaled_prior)


def held_out(anchors: Anchors, prior: Array, strength: float = STRENGTH) -> Array:
    """Each network's predicted milliseconds, by a fit that saw nothing of its family."""
    families = np.array(anchors.families)
    predicted = np.zeros(len(families))
    for family in dict.fromkeys(anchors.families):
        test = families == family
        predicted[test] = anchors.features[test] @ fit(anchors.take(~test), prior, strength)
    return predicted


def spread(ratios: Array) -> float:
    """Half-width in log of the interval that covers 80% of new ratios measured / predicted around 1.

    The split-conformal quantile: the ceil(0.8 (n + 1))-th smallest |log ratio|, interpolated.
    Source: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005, chapter 2.
    """
    distances = np.abs(np.log(ratios))
    return float(np.quantile(distances, min(1.0, _COVERAGE * (len(distances) + 1) / len(distances))))


@dataclass(frozen=True)
class Validation:
    """What leave-one-family-out says of a fit.

    Attributes:
        predicted_ms: of each anchor, its family held out.
        measured_ms: the truth.
        reach: half-width in log of each anchor's 80% interval, made without the anchor's family too.
        spread: half-width in log of the 80% interval that new predictions get.
    """

    predicted_ms: Array
    measured_ms: Array
    reach: Array
    spread: float

    @property
    def covered(self) -> Array:
        """Whether the truth lay in each anchor's interval."""
        return self.holds(self.predicted_ms)

    def holds(self, predicted_ms: Array) -> Array:
        """The same of other predictions with intervals of these widths."""
        return np.asarray(np.abs(np.log(self.measured_ms / predicted_ms)) <= self.reach)

    @property
    def errors(self) -> Array:
        """|predicted / measured - 1| of each anchor."""
        return np.asarray(np.abs(self.predicted_ms / self.measured_ms - 1))

    @property
    def mdape(self) -> float:
        """Median of the errors."""
        return float(np.median(self.errors))

    def within(self, share: float) -> float:
        """Share of anchors with an error of at most `share`."""
        return float(np.mean(self.errors <= share))

    @property
    def rank(self) -> float:
        """Spearman's correlation of predicted and measured."""
        return rank_correlation(self.predicted_ms, self.measured_ms)


def validate(anchors: Anchors, prior: Array, strength: float = STRENGTH) -> Validation:
    """Leave-one-family-out, with nested intervals: a fold's interval comes of the other folds' own held-out errors."""
    families = np.array(anchors.families)
    predicted = held_out(anchors, prior, strength)
    reach = np.zeros(len(families))
    for family in dict.fromkeys(anchors.families):
        test = families == family
        rest = anchors.take(~test)
        reach[test] = spread(rest.times_ms / held_out(rest, prior, strength))
    return Validation(predicted, anchors.times_ms, reach, spread(anchors.times_ms / predicted))


def rank_correlation(first: Array, second: Array) -> float:
    """Spearman's correlation; without ties it is Pearson's of the ranks."""
    from scipy.stats import spearmanr

    found: Any = spearmanr(first, second)  # a class that type checkers do not see
    return float(found.statistic)


def shared_prior(costs: Sequence[Array], typical: Sequence[Array]) -> Array:
    """Mean proportions of several boards' costs, each scaled by what its typical network (features) takes."""
    shapes = [cost / np.linalg.norm(features * cost) for cost, features in zip(costs, typical, strict=True)]
    mean = np.mean(shapes, axis=0)
    return np.asarray(np.maximum(mean, 1e-6 * mean.max()))
