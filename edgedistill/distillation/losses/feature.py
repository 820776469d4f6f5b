"""Feature losses: the student learns the teacher's maps inside the network.

All return a scalar in the student's precision, at least float32; no gradient reaches the teacher. Shapes must
match where a docstring doesn't say they may differ (projectors join the others).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def full_precision(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the student's precision but at least float32, the teacher cut off from the graph."""
    exact = torch.promote_types(student.dtype, torch.float32)
    return student.to(exact), teacher.detach().to(exact)


def require_equal(what: str, student: Sequence[int], teacher: Sequence[int]) -> None:
    """Refuse sizes that differ, which arithmetic would silently broadcast, and an empty batch.

    Raises:
        ValueError: the sizes differ, or one of them is zero.
    """
    if tuple(student) != tuple(teacher):
        raise ValueError(f"student and teacher must have equal {what}, got {tuple(student)} and {tuple(teacher)}")
    if 0 in student:
        raise ValueError(f"student and teacher must not be empty, got {what} {tuple(student)}")


def unit(vectors: Float[Tensor, "*vectors size"]) -> Float[Tensor, "*vectors size"]:
    """Each vector over its L2 norm; a zero vector stays zero and gets no gradient."""
    # The direction doesn't depend on the scale: the largest element becomes 1, so no square over- or underflows.
    peak = vectors.detach().abs().amax(dim=-1, keepdim=True)
    alive = peak > 0
    scaled = vectors / torch.where(alive, peak, 1.0)
    norm = torch.where(alive, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True), 1.0)
    return torch.where(alive, scaled / norm, 0.0)


def hint(student: Float[Tensor, " batch *features"], teacher: Float[Tensor, " batch *features"]) -> Float[Tensor, ""]:
    """Mean of (student - teacher)^2 over all elements, for features of any shape.

    Source: A. Romero et al., "FitNets: Hints for Thin Deep Nets", 2015 (which writes half the squared norm).

    Raises:
        ValueError: the shapes differ, or a tensor is empty.
    """
    require_equal("shapes", student.shape, teacher.shape)
    student, teacher = full_precision(student, teacher)
    return (student - teacher).square().mean()


def attention_transfer(
    student: Float[Tensor, "batch student_channels height width"],
    teacher: Float[Tensor, "batch teacher_channels height width"],
    *,
    p: float = 2.0,
) -> Float[Tensor, ""]:
    """Mean over samples and positions of (a_student - a_teacher)^2; channels may differ.

    A sample's attention map a is the mean of |F|^p over its channels, flattened and divided by its L2 norm.
    Source: S. Zagoruyko, N. Komodakis, "Paying More Attention to Attention", 2017 (the authors' squared form).

    Raises:
        ValueError: p is not a finite number from 1 up, the batches or sizes differ, or a tensor is empty.
    """
    if not 1 <= p < math.inf:  # below 1 the gradient at a zero feature is infinite
        raise ValueError(f"p must be finite and at least 1, got {p}")
    require_equal("batch, height and width", _without_channels(student), _without_channels(teacher))
    student, teacher = full_precision(student, teacher)
    return (_attention(student, p) - _attention(teacher, p)).square().mean()


def _attention(maps: Tensor, p: float) -> Tensor:
    peak = maps.detach().abs().amax(dim=(1, 2, 3), keepdim=True)  # a sample's scale cancels; a power could overflow
    return unit((maps / torch.where(peak > 0, peak, 1.0)).abs().pow(p).mean(dim=1).flatten(1))


def _without_channels(maps: Tensor) -> tuple[int, ...]:
    return (maps.shape[0], *maps.shape[2:])


def neuron_selectivity(
    student: Float[Tensor, "batch student_channels height width"],
    teacher: Float[Tensor, "batch teacher_channels height width"],
) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy of the channels' selectivity, mean over the batch; channels may differ.

    With channels f_i (student) and g_j (teacher) flattened over the positions to unit L2 norm, and the kernel
    k(a, b) = (a . b)^2: mean_ij k(f_i, f_j) - 2 mean_ij k(f_i, g_j) + mean_ij k(g_i, g_j).
    Source: Z. Huang, N. Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", 2017
    (the polynomial kernel with d = 2 and c = 0).

    Raises:
        ValueError: the batches or sizes differ, or a tensor is empty.
    """
    require_equal("batch, height and width", _without_channels(student), _without_channels(teacher))
    student, teacher = full_precision(student, teacher)
    own, wanted = unit(student.flatten(2)), unit(teacher.flatten(2))
    _, positions = own.shape[1:]
    with torch.autocast(device_type=own.device.type, enabled=False):
        if positions <= own.shape[1] + wanted.shape[1]:
            return _selectivity_gap(own, wanted).square().sum() / len(own)
        alike = _mean_kernel(own, own) - 2 * _mean_kernel(own, wanted)
        return alike + _mean_kernel(wanted, wanted)


def _selectivity_gap(own: Tensor, wanted: Tensor) -> Tensor:
    """mean_i f_i f_i^T - mean_j g_j g_j^T; the discrepancy is its squared Frobenius norm.

    For mean_ij (f_i . g_j)^2 is the inner product of mean_i f_i f_i^T and mean_j g_j g_j^T: positions x positions
    numbers in place of channels x channels x positions, and nothing to cancel near the minimum.
    """
    gram = wanted.mT @ wanted
    return torch.baddbmm(gram, own.mT, own, beta=-1 / wanted.shape[1], alpha=1 / own.shape[1])


def _mean_kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.mT).square().mean()


def activation_boundary(
    student: Float[Tensor, " batch *features"], teacher: Float[Tensor, " batch *features"], *, margin: float = 1.0
) -> Float[Tensor, ""]:
    """Hinge on the side of zero: sum per sample, mean over the batch; both are pre-activations.

    An element costs (margin - s)^2 where the teacher is active (t > 0) and s < margin,
    (margin + s)^2 where it is not and s > -margin, else nothing.
    Source: B. Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons",
    2019.

    Raises:
        ValueError: the margin is not positive and finite, the shapes differ, or a tensor is empty.
    """
    if not 0 < margin < math.inf:
        raise ValueError(f"the margin must be positive and finite, got {margin}")
    require_equal("shapes", student.shape, teacher.shape)
    student, teacher = full_precision(student, teacher)
    right_side = torch.where(teacher > 0, student, -student)
    return (margin - right_side).relu().square().sum() / len(student)


def factor_transfer(
    student_factor: Float[Tensor, " batch *factor"], teacher_factor: Float[Tensor, " batch *factor"]
) -> Float[Tensor, ""]:
    """Mean over all elements of |f_student - f_teacher|, each sample's whole factor divided by its L2 norm.

    Source: J. Kim, S. Park, N. Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer", 2018.

    Raises:
        ValueError: the shapes differ, or a tensor is empty.
    """
    require_equal("shapes", student_factor.shape, teacher_factor.shape)
    student, teacher = full_precision(student_factor, teacher_factor)
    return (unit(student.flatten(1)) - unit(teacher.flatten(1))).abs().mean()


def variational_information(
    mean: Float[Tensor, "batch channels *positions"],
    variance: Float[Tensor, " channels"],
    teacher: Float[Tensor, "batch channels *positions"],
) -> Float[Tensor, ""]:
    """Mean over all elements of ((t - mean)^2 / variance + ln variance) / 2: it may be negative.

    The Gaussian negative log-likelihood of the teacher's features without its constant ln(2 pi) / 2. `mean` is
    regressed from the student's features and `variance` (positive) is learned, one number per channel:
    auxiliaries.VariationalRegressor gives both.
    Source: S. Ahn et al., "Variational Information Distillation for Knowledge Transfer", 2019.

    Raises:
        ValueError: the shapes differ, the variances are not one per channel, or a tensor is empty.
    """
    require_equal("shapes", mean.shape, teacher.shape)
    require_equal("channels", variance.shape, mean.shape[1:2])
    mean, teacher = full_precision(mean, teacher)
    variance = variance.to(mean.dtype).reshape(-1, *[1] * (mean.ndim - 2))  # channels stand before the positions
    return ((teacher - mean).square() / variance + variance.log()).mean() / 2


def overhaul(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels height width"],
    margin: Float[Tensor, " channels"],
) -> Float[Tensor, ""]:
    """Partial squared distance to the margin ReLU of the teacher: sum per sample, mean over the batch.

    With t' = max(t, margin of the channel): (s - t')^2, but nothing where s <= t' <= 0. Both are pre-activations;
    auxiliaries.overhaul_margin gives the (negative) margins.
    Source: B. Heo et al., "A Comprehensive Overhaul of Feature Distillation", 2019.

    Raises:
        ValueError: the shapes differ, the margins are not one per channel, or a tensor is empty.
    """
    require_equal("shapes", student.shape, teacher.shape)
    require_equal("channels", student.shape[1:2], margin.shape)
    student, teacher = full_precision(student, teacher)
    wanted = torch.maximum(teacher, margin.detach().to(teacher)[:, None, None])
    quiet = (student <= wanted) & (wanted <= 0)
    return torch.where(quiet, 0.0, student - wanted).square().sum() / len(student)


def hierarchical_context(
    students: Float[Tensor, "_ _ _ _"] | Sequence[Float[Tensor, "_ _ _ _"]],
    teachers: Float[Tensor, "_ _ _ _"] | Sequence[Float[Tensor, "_ _ _ _"]],
) -> Float[Tensor, ""]:
    """ReviewKD's loss of a pair of maps "batch channels height width", or the sum over a list of pairs.

    A pair costs the weighted mean of the mean squared errors of the maps (weight 1) and of the maps average-pooled
    to 4 x 4, 2 x 2 and 1 x 1; the weight halves at each pooling, and a map not larger than a pooling skips it.
    Source: P. Chen et al., "Distilling Knowledge via Knowledge Review", 2021, and the authors' code.

    Raises:
        ValueError: the numbers of maps or the shapes of a pair differ, or there is nothing to compare.
    """
    students = [students] if isinstance(students, Tensor) else students
    teachers = [teachers] if isinstance(teachers, Tensor) else teachers
    require_equal("numbers of maps", [len(students)], [len(teachers)])
    pairs = zip(students, teachers, strict=True)
    return torch.stack([_context(student, teacher) for student, teacher in pairs]).sum()


def _context(student: Tensor, teacher: Tensor) -> Tensor:
    require_equal("shapes", student.shape, teacher.shape)
    student, teacher = full_precision(student, teacher)
    difference = student - teacher  # pooling is linear: the difference is pooled once for both sides
    smallest = min(student.shape[2:])
    pooled = [functional.adaptive_avg_pool2d(difference, level) for level in (4, 2, 1) if level < smallest]
    levels = [difference, *pooled]
    weights = [0.5**depth for depth in range(len(levels))]
    errors = [weight * level.square().mean() for weight, level in zip(weights, levels, strict=True)]
    return torch.stack(errors).sum() / sum(weights)


def simkd(
    student: Float[Tensor, "batch channels height width"], teacher: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """Mean of (student - teacher)^2 over all elements of the last feature maps, the student's projected.

    The projected student goes on through the teacher's own classifier: auxiliaries.SimilarityProjector.
    Source: D. Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", 2022.

    Raises:
        ValueError: the shapes differ, or a tensor is empty.
    """
    return hint(student, teacher)


def channel_wise(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels height width"],
    *,
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    """T^2 * mean over samples and channels of KL(softmax(teacher / T) || softmax(student / T)) over the positions.

    Source: C. Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", 2021.

    Raises:
        ValueError: the temperature is not positive and finite, the shapes differ, or a tensor is empty.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be positive and finite, got {temperature}")
    require_equal("shapes", student.shape, teacher.shape)
    student, teacher = full_precision(student, teacher)
    log_student = (student.flatten(2) / temperature).log_softmax(dim=-1).flatten(0, 1)
    log_teacher = (teacher.flatten(2) / temperature).log_softmax(dim=-1).flatten(0, 1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2
