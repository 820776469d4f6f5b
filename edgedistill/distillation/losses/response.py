"""Response-based losses: the student learns the teacher's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def soft_target_kl(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 * mean over the batch of KL(softmax(teacher / T) || softmax(student / T)).

    T^2 keeps the gradient's size independent of the temperature. Computed in log space and at least in
    float32, so peaked logits and half precision stay finite.
    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:  # NaN is not positive either
        raise ValueError(f"the temperature must be positive, got {temperature}")
    exact = torch.promote_types(student.dtype, torch.float32)
    log_student = functional.log_softmax(student.to(exact) / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.to(exact) / temperature, dim=1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def distillation_loss(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    temperature: float,
    alpha: float,
) -> Float[Tensor, ""]:
    """Alpha * soft_target_kl + (1 - alpha) * cross-entropy on the labels (same source)."""
    hard = functional.cross_entropy(student.to(torch.promote_types(student.dtype, torch.float32)), labels)
    return alpha * soft_target_kl(student, teacher, temperature) + (1 - alpha) * hard
