"""Relation losses: the student learns how the teacher's samples, or layers, lie to one another.

Features are flattened to one row per sample. The losses over pairs and triples of samples never compare a student's
feature with a teacher's, so the two widths may differ.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses.geometry import (
    angle_loss,
    cosines,
    gram,
    inner_products,
    squared_distances,
    unit_rows,
)
from edgedistill.distillation.losses.numerics import demand, demand_positive

_PKT_EPSILON = 1e-7


def fsp(
    student_first: Float[Tensor, "batch first student_height student_width"],
    student_second: Float[Tensor, "batch second student_height_2 student_width_2"],
    teacher_first: Float[Tensor, "batch first teacher_height teacher_width"],
    teacher_second: Float[Tensor, "batch second teacher_height_2 teacher_width_2"],
) -> Float[Tensor, ""]:
    """Mean over the batch of ||FSP(student) - FSP(teacher)||^2, the flow of the solution procedure.

    FSP[a, b] = sum over positions of first[a] * second[b] / positions. Of two maps of different sizes the larger is
    max-pooled to the smaller. Maps are (batch, channels, height, width); heights and widths are free.
    Source: J. Yim, D. Joo, J. Bae, J. Kim, "A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning", 2017.

    Raises:
        ValueError: student and teacher differ in batch or channels, or the batch is empty.
    """
    for layer, own, wanted in (("first", student_first, teacher_first), ("second", student_second, teacher_second)):
        _same_batch(own, wanted)
        channels = f"{own.shape[1]} and {wanted.shape[1]}"
        demand(own.shape[1] == wanted.shape[1], f"{layer} maps of student and teacher", "as many channels", channels)
    exact = torch.promote_types(student_first.dtype, torch.float32)
    student = _flow(student_first.to(exact), student_second.to(exact))
    teacher = _flow(teacher_first.detach().to(exact), teacher_second.detach().to(exact))
    return (student - teacher).square().sum(dim=(1, 2)).mean()


def rkd_distance(
    student: Float[Tensor, " batch *student_features"], teacher: Float[Tensor, " batch *teacher_features"]
) -> Float[Tensor, ""]:
    """Mean over all B^2 pairs of huber(d_ij / mu - d'_ij / mu'), with d the student's distances and d' the teacher's.

    mu is the mean distance over ordered pairs i != j; huber(x) = x^2 / 2 up to |x| = 1, |x| - 1/2 beyond. Free of
    units: it ignores scale, rotation and translation. One sample, or samples that are all equal, have distances 0.
    Two samples at one place pull nothing: the gradient is 0 there, where the distance has none.
    Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", 2019.

    Raises:
        ValueError: student and teacher differ in batch, or the batch is empty.
    """
    own, wanted = _rows(student, teacher, torch.float64)
    loss = functional.smooth_l1_loss(_relative_distances(own), _relative_distances(wanted))
    return loss.to(torch.promote_types(student.dtype, torch.float32))


def rkd_angle(
    student: Float[Tensor, " batch *student_features"], teacher: Float[Tensor, " batch *teacher_features"]
) -> Float[Tensor, ""]:
    """Mean over all B^3 triples of huber(cos_ijk - cos'_ijk), with cos_ijk the cosine of the angle at sample j.

    cos_ijk = <e_ij, e_kj>, e_ij = (x_i - x_j) / ||x_i - x_j||, 0 where x_i = x_j; huber as in `rkd_distance`.
    Computed from the B^2 distances by the law of cosines, block by block, with its gradient: B^2 * width + B^3
    operations and B^2 memory, where the B^2 difference vectors take B^3 * width operations and B^2 * width memory.
    Source: W. Park, D. Kim, Y. Lu, M. Cho, "Relational Knowledge Distillation", 2019.

    Raises:
        ValueError: student and teacher differ in batch, or the batch is empty.
    """
    own, wanted = _rows(student, teacher, torch.float64)
    loss = angle_loss(squared_distances(own), squared_distances(wanted))
    return loss.to(torch.promote_types(student.dtype, torch.float32))


def similarity_preserving(
    student: Float[Tensor, " batch *student_features"], teacher: Float[Tensor, " batch *teacher_features"]
) -> Float[Tensor, ""]:
    """||G - G'||^2 / B^2 (Frobenius), with G = F F^T of the student's rows F, each row of G scaled to L2 norm 1.

    Scaled, a row of zeros in G stays zero and has gradient 0.
    Source: F. Tung, G. Mori, "Similarity-Preserving Knowledge Distillation", 2019.

    Raises:
        ValueError: student and teacher differ in batch, or the batch is empty.
    """
    own, wanted = (unit_rows(gram(rows)) for rows in _rows(student, teacher))
    return functional.mse_loss(own, wanted)


def pkt(
    student: Float[Tensor, " batch *student_features"], teacher: Float[Tensor, " batch *teacher_features"]
) -> Float[Tensor, ""]:
    """Mean over all B^2 pairs of p'_ij * log((p'_ij + eps) / (p_ij + eps)), eps = 1e-7.

    p_ij = K_ij / sum over j of K_ij, the chance to see sample j near sample i, K_ij = (cosine(x_i, x_j) + 1) / 2, the
    diagonal included; the teacher's is p'. A row of zeros has cosine 0 to everything and gradient 0.
    Source: N. Passalis, A. Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", 2018.

    Raises:
        ValueError: student and teacher differ in batch, or the batch is empty.
    """
    own, wanted = (_conditional_probabilities(rows) for rows in _rows(student, teacher))
    return (wanted * ((wanted + _PKT_EPSILON).log() - (own + _PKT_EPSILON).log())).mean()


def correlation_congruence(
    student: Float[Tensor, " batch *student_features"],
    teacher: Float[Tensor, " batch *teacher_features"],
    *,
    gamma: float = 0.4,
    order: int = 2,
) -> Float[Tensor, ""]:
    """||K - K'||^2 / B^2 (Frobenius), with K the Gaussian kernel of the student's samples scaled to norm 1.

    K_ij = exp(-gamma ||x_i - x_j||^2) = exp(-2 gamma) * exp(2 gamma <x_i, x_j>), the latter by its Taylor polynomial
    of the given order. A row of zeros has inner product 0 with everything and gradient 0.
    Source: B. Peng et al., "Correlation Congruence for Knowledge Distillation", 2019.

    Raises:
        ValueError: gamma is not positive, the order is below 1, student and teacher differ in batch, or the batch is
            empty.
    """
    demand_positive("gamma", gamma)
    demand(order >= 1, "order", "at least 1", order)
    own, wanted = (_gaussian_kernel(rows, gamma, order) for rows in _rows(student, teacher))
    return functional.mse_loss(own, wanted)


def _rows(student: Tensor, teacher: Tensor, least: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Both, one flat row per sample, in the student's precision but at least the given one; no gradient to the teacher.

    Raises:
        ValueError: student and teacher differ in batch, or the batch is empty.
    """
    _same_batch(student, teacher)
    exact = torch.promote_types(student.dtype, least)
    batch = student.shape[0]
    return student.reshape(batch, -1).to(exact), teacher.detach().reshape(batch, -1).to(exact)


def _same_batch(student: Tensor, teacher: Tensor) -> None:
    own, wanted = student.shape[0], teacher.shape[0]
    demand(own == wanted > 0, "samples of student and teacher", "as many, at least 1", f"{own} and {wanted}")


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """(batch, C1, C2): inner products of two layers' channel maps over positions, per position."""
    height, width = (min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True))
    left, right = (
        maps if maps.shape[2:] == (height, width) else functional.adaptive_max_pool2d(maps, (height, width))
        for maps in (first, second)
    )
    return inner_products(left.flatten(2), right.flatten(2)) / (height * width)


def _conditional_probabilities(rows: Tensor) -> Tensor:
    kernel = (cosines(rows) + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


def _gaussian_kernel(rows: Tensor, gamma: float, order: int) -> Tensor:
    near = cosines(rows)
    series = torch.ones_like(near)
    for power in range(order, 0, -1):  # Horner: 1 + z (1 + z/2 (1 + z/3 ...))
        series = 1 + series * near * (2 * gamma / power)
    return math.exp(-2 * gamma) * series


def _relative_distances(rows: Tensor) -> Tensor:
    """Distances over their mean, which is taken over ordered pairs i != j; all 0 where that mean is 0."""
    squares = squared_distances(rows)
    apart = squares > 0
    distances = torch.where(apart, squares, 1).sqrt() * apart  # sqrt never sees 0, where its slope is infinite
    mean = distances.sum() / max(rows.shape[0] * (rows.shape[0] - 1), 1)
    return distances / torch.where(mean > 0, mean, 1)
