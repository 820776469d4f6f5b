"""Response-based losses: the student learns the teacher's outputs.

Every loss computes at least in float32 and in log space, returns its result in that precision, and sends no
gradient to the teacher. Logits have the shape (batch, classes); a label of -1 means "unlabelled".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses.numerics import (
    demand,
    demand_positive,
    demand_weight,
    exact,
    exact_pair,
    log_probabilities,
    mean_over,
    relative_entropy,
)

Reduction = Literal["batchmean", "mean", "sum", "none"]

STANDARDIZATION_EPSILON = 1e-7  # Sun et al. add it to the standard deviation


def soft_target_kl(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperature: float,
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch.

    T^2 keeps the gradient's size independent of the temperature. Reductions: "batchmean" sums over the classes
    and averages over the batch, "mean" averages over both, "sum" sums over both, "none" keeps one value per sample.
    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Raises:
        ValueError: the temperature is not positive and finite, the reduction is unknown, or the shapes are unequal or
            empty.
    """
    own, wanted = (log_probabilities(logits, temperature) for logits in exact_pair(student, teacher))
    return _reduced(relative_entropy(wanted, own) * temperature**2, student.shape[1], reduction)


def soft_target_cross_entropy(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperature: float,
    *,
    reduction: Reduction = "batchmean",
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """T^2 * cross-entropy of softmax(student / T) under softmax(teacher / T).

    It is `soft_target_kl` plus T^2 times the teacher's entropy: the gradient is the same. Same reductions and source.

    Raises:
        ValueError: the temperature is not positive and finite, the reduction is unknown, or the shapes are unequal or
            empty.
    """
    own, wanted = (log_probabilities(logits, temperature) for logits in exact_pair(student, teacher))
    return _reduced(-(wanted.exp() * own).sum(-1) * temperature**2, student.shape[1], reduction)


def _reduced(costs: Float[Tensor, " batch"], classes: int, reduction: str) -> Tensor:
    """The costs per sample, which are sums over the classes, as the reduction says."""
    if reduction == "none":
        return costs
    if reduction == "sum":
        return costs.sum()
    if reduction == "batchmean":
        return costs.mean()
    demand(reduction == "mean", "reduction", 'one of "batchmean", "mean", "sum", "none"', repr(reduction))
    return costs.mean() / classes


def decoupled_kd(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    """T^2 * (alpha * TCKD + beta * NCKD), averaged over the labelled samples.

    TCKD = KL between (p_y, 1 - p_y) of teacher and student, y being the label; NCKD = KL between their
    distributions over the other classes, which is 0 for two classes. KD = TCKD + (1 - p_y of the teacher) * NCKD.
    Without a labelled sample the loss and its gradient are 0.
    Source: B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang, "Decoupled Knowledge Distillation", 2022.

    Raises:
        ValueError: a weight is negative, the temperature is not positive and finite, there is only one class, or
            the shapes are unequal or empty.
    """
    demand_weight("alpha", alpha)
    demand_weight("beta", beta)
    demand_positive("temperature", temperature)
    demand(student.shape[1] > 1, "number of classes", "at least 2", student.shape[1])
    labelled, index = _labelled(labels)
    own, wanted = (_split_at_target(logits / temperature, index) for logits in exact_pair(student, teacher))
    costs = alpha * relative_entropy(wanted[0], own[0]) + beta * relative_entropy(wanted[1], own[1])
    return mean_over(labelled, costs) * temperature**2


def _split_at_target(
    logits: Float[Tensor, "batch classes"], index: Int[Tensor, "batch 1"]
) -> tuple[Float[Tensor, "batch 2"], Float[Tensor, "batch classes"]]:
    """Log probabilities of "target or not" and, among the classes that are not the target, of each.

    log(1 - p_y) comes from the other classes' logits: 1 - p_y would round to 0 for a confident model.
    """
    others = logits.scatter(1, index, -torch.inf)
    sides = torch.stack([logits.gather(1, index)[:, 0], others.logsumexp(1)], dim=1)
    return log_probabilities(sides), log_probabilities(others)


def _labelled(labels: Int[Tensor, " batch"]) -> tuple[Bool[Tensor, " batch"], Int[Tensor, "batch 1"]]:
    """Which samples have a label, and each sample's class as an index that is valid for the others too."""
    labelled = labels != -1
    return labelled, labels.long().masked_fill(~labelled, 0)[:, None]


def dist(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, ""]:
    """T^2 * (beta * inter + gamma * intra): 1 - Pearson's correlation of softened probabilities.

    Inter is averaged over the samples (correlation over the classes), intra over the classes (correlation over
    the batch). Where the teacher does not vary there is nothing to learn: it costs 0; where only the student does
    not vary, it costs 1; the correlation's gradient, undefined in both cases, is 0.
    Source: T. Huang, S. You, F. Wang, C. Qian, C. Xu, "Knowledge Distillation from A Stronger Teacher", 2022; T^2
    as in the authors' code.

    Raises:
        ValueError: a weight is negative, the temperature is not positive and finite, or the shapes are unequal or
            empty.
    """
    demand_weight("beta", beta)
    demand_weight("gamma", gamma)
    own, wanted = (log_probabilities(logits, temperature).exp() for logits in exact_pair(student, teacher))
    return (beta * _decorrelation(own, wanted) + gamma * _decorrelation(own.T, wanted.T)) * temperature**2


def _decorrelation(own: Float[Tensor, "rows width"], wanted: Float[Tensor, "rows width"]) -> Float[Tensor, ""]:
    """1 - Pearson's correlation of each pair of rows, averaged.

    For unit vectors it is half their squared distance, which is exactly 0 for equal ones.
    """
    (own_centred, own_norm, own_flat), (centred, norm, flat) = _centred(own), _centred(wanted)
    halves = (own_centred / own_norm - centred / norm).square().sum(1) / 2
    return halves.masked_fill(own_flat[:, 0], 1).masked_fill(flat[:, 0], 0).mean()


def _centred(
    rows: Float[Tensor, "rows width"],
) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows 1"], Bool[Tensor, "rows 1"]]:
    """Rows less their mean, the norms of the results, and which rows are flat.

    A row is flat when it varies by no more than rounding; it becomes 0 with a norm of 1 and no gradient.
    """
    limits = torch.finfo(rows.dtype)
    centred = rows - rows.mean(1, keepdim=True)
    size = centred.detach().abs().amax(1, keepdim=True)
    noise = (8 * limits.eps * rows.detach().abs().amax(1, keepdim=True)).clamp(min=limits.tiny / limits.eps)
    flat = size <= noise
    centred, size = centred.masked_fill(flat, 0), size.masked_fill(flat, 1)
    # Squares of scaled values neither vanish nor overflow.
    squares = (centred / size).square().sum(1, keepdim=True)
    return centred, size * squares.masked_fill(flat, 1).sqrt(), flat


def logit_standardized_kd(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], *, temperature: float = 2.0
) -> Float[Tensor, ""]:
    """`soft_target_kl` of standardised logits z = (x - mean) / (deviation + 1e-7), each sample by itself.

    The deviation divides by classes - 1. A sample with equal logits becomes 0 and has no gradient.
    Source: S. Sun, W. Ren, J. Li, R. Wang, X. Cao, "Logit Standardization in Knowledge Distillation", 2024; the
    divisor and T^2 as in the authors' code.

    Raises:
        ValueError: the temperature is not positive and finite, or the shapes are unequal or empty.
    """
    own, wanted = (_standardized(logits) for logits in exact_pair(student, teacher))
    return soft_target_kl(own, wanted, temperature)


def _standardized(rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    centred, norm, _ = _centred(rows)
    return centred / (norm / math.sqrt(max(rows.shape[1] - 1, 1)) + STANDARDIZATION_EPSILON)


def multi_level_kd(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
) -> Float[Tensor, ""]:
    """Alignment of instances, of the batch and of the classes, averaged over the temperatures.

    With P = softmax(logits / T) of shape (batch, classes), for each T the sum of `soft_target_kl`,
    ||P P' - Q Q'||^2 / batch and ||P' P - Q' Q||^2 / classes, Q being the teacher's P (squared Frobenius norms).
    The published code also multiplies some terms by the mean of a confidence mask, a constant factor of
    about 1/2 that selects no sample; it is left out, and so are its weights.
    Source: Y. Jin, J. Wang, D. Lin, "Multi-Level Logit Distillation", 2023; T^2 as in the authors' code.

    Raises:
        ValueError: there is no temperature, one is not positive and finite, or the shapes are unequal or empty.
    """
    demand(len(temperatures) > 0, "temperatures", "at least one", temperatures)
    own, wanted = exact_pair(student, teacher)
    levels = [soft_target_kl(own, wanted, t) + _relations(own / t, wanted / t) for t in temperatures]
    return torch.stack(levels).mean()


def _relations(student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """How far the two models' predictions relate samples, and classes, differently."""
    with torch.autocast(student.device.type, enabled=False):
        p, q = student.softmax(1), teacher.softmax(1)
        batch, classes = (p @ p.T - q @ q.T).square().sum(), (p.T @ p - q.T @ q).square().sum()
        return batch / student.shape[0] + classes / student.shape[1]


def hard_label_kd(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Cross-entropy on the class that the teacher finds most probable, averaged over the batch.

    Source: H. Touvron and others, "Training data-efficient image transformers & distillation through attention", 2021.

    Raises:
        ValueError: the shapes are unequal or empty.
    """
    own, wanted = exact_pair(student, teacher)
    return functional.cross_entropy(own, wanted.argmax(1))


def logit_mse(student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]) -> Float[Tensor, ""]:
    """Mean over all elements of (student - teacher)^2.

    Source: J. Ba, R. Caruana, "Do Deep Nets Really Need to be Deep?", 2014 (there half the sum over the classes).

    Raises:
        ValueError: the shapes are unequal or empty.
    """
    return functional.mse_loss(*exact_pair(student, teacher))


def label_cross_entropy(
    student: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy on the labels, averaged over the labelled samples.

    With the target t = (1 - smoothing) * one-hot + smoothing / classes and the probabilities p, a sample costs
    -sum_c t_c (1 - p_c)^gamma log p_c. Every class has its own focal factor, so that smoothing still holds back
    an overconfident model. Without a labelled sample the loss and its gradient are 0.
    Sources: C. Szegedy and others, "Rethinking the Inception Architecture for Computer Vision", 2016 (smoothing);
    T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, "Focal Loss for Dense Object Detection", 2017 (gamma).

    Raises:
        ValueError: the smoothing is not in [0, 1), or gamma is negative.
    """
    demand(0 <= label_smoothing < 1, "label smoothing", "in [0, 1)", label_smoothing)
    demand_weight("focal gamma", focal_gamma)
    labelled, index = _labelled(labels)
    log_p = functional.log_softmax(exact(student), dim=1)
    costs = (1 - label_smoothing) * _focal(log_p.gather(1, index)[:, 0], focal_gamma)
    if label_smoothing:
        costs = costs + label_smoothing * _focal(log_p, focal_gamma).mean(1)
    return mean_over(labelled, costs)


def _focal(log_p: Float[Tensor, "*shape"], gamma: float) -> Float[Tensor, "*shape"]:
    """-(1 - p)^gamma log p."""
    if gamma == 0:
        return -log_p
    rest = -torch.expm1(log_p)
    certain = rest <= 0  # a power below 1 has no slope there
    return -(rest.masked_fill(certain, 1) ** gamma).masked_fill(certain, 0) * log_p


def distillation_loss(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """Alpha * `soft_target_kl` + (1 - alpha) * `label_cross_entropy` (source: Hinton and others, 2015).

    Raises:
        ValueError: the temperature is not positive and finite, or the shapes are unequal or empty.
    """
    return alpha * soft_target_kl(student, teacher, temperature) + (1 - alpha) * label_cross_entropy(student, labels)


def binary_kd(
    student: Float[Tensor, "batch labels"], teacher: Float[Tensor, "batch labels"], *, temperature: float = 1.0
) -> Float[Tensor, ""]:
    """T^2 * KL(sigmoid(teacher / T) || sigmoid(student / T)), summed over the labels, averaged over the batch.

    For several labels per sample, each a yes-or-no question of its own: the two-class case of `soft_target_kl`.
    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Raises:
        ValueError: the temperature is not positive and finite, or the shapes are unequal or empty.
    """
    # sigmoid(x) is the first of softmax(x, 0)
    pairs = (torch.stack([logits, torch.zeros_like(logits)], dim=-1) for logits in exact_pair(student, teacher))
    own, wanted = (log_probabilities(pair, temperature) for pair in pairs)
    return relative_entropy(wanted, own).sum(1).mean() * temperature**2


def regression_kd(student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over all elements of (student - teacher)^2, in the squared unit of the outputs.

    Source: as `logit_mse`, for outputs that are numbers.

    Raises:
        ValueError: the shapes are unequal or empty.
    """
    return functional.mse_loss(*exact_pair(student, teacher))


def teacher_bounded_regression(
    student: Float[Tensor, "*samples outputs"],
    teacher: Float[Tensor, "*samples outputs"],
    targets: Float[Tensor, "*samples outputs"],
    *,
    margin: float = 0.0,
) -> Float[Tensor, ""]:
    """The student's squared error where it is not yet better than the teacher's by the margin, averaged.

    A sample costs e_S = ||student - target||^2 if e_S + margin > e_T = ||teacher - target||^2, otherwise 0; the norms
    are over the last axis (one box's coordinates). Errors and margin are in the squared unit of the outputs.
    Source: G. Chen, W. Choi, X. Yu, T. Han, M. Chandraker, "Learning Efficient Object Detection Models with Knowledge
    Distillation", 2017.

    Raises:
        ValueError: the margin is negative, or the shapes are unequal or empty.
    """
    demand_weight("margin", margin)
    own, wanted = exact_pair(student, targets)
    _, bound = exact_pair(student, teacher)
    error, teacher_error = ((values - wanted).square().sum(-1) for values in (own, bound))
    return error.masked_fill(error + margin <= teacher_error, 0).mean()  # NaN is not excused
