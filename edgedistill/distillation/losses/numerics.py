"""What the losses on distributions share: parameter checks, precision and log probabilities."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def demand(holds: bool, parameter: str, expectation: str, value: object) -> None:
    """Refuse a parameter that is not what it must be.

    Raises:
        ValueError: the expectation does not hold.
    """
    if not holds:
        raise ValueError(f"the {parameter} must be {expectation}, got {value}")


def demand_positive(parameter: str, value: float) -> None:
    """Refuse what is not a positive finite number; NaN is none.

    Raises:
        ValueError: the value is not positive or not finite.
    """
    demand(0 < value < math.inf, parameter, "positive and finite", value)


def demand_weight(parameter: str, value: float) -> None:
    """Refuse what is not a finite number of at least 0.

    Raises:
        ValueError: the value is negative or not finite.
    """
    demand(0 <= value < math.inf, parameter, "at least 0 and finite", value)


def exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The same values in float32, or in their own precision where that is higher."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def exact_pair(
    student: Float[Tensor, "*shape"], teacher: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Both sides in the student's exact precision, the teacher's cut off from the gradient.

    Raises:
        ValueError: the shapes differ, which broadcasting would hide, or are empty.
    """
    shape, other = tuple(student.shape), tuple(teacher.shape)
    demand(shape == other, "shape of student and teacher", "the same", f"{shape} and {other}")
    demand(0 not in shape, "shape of student and teacher", "without a zero", shape)
    own = exact(student)
    return own, teacher.detach().to(own.dtype)


def log_probabilities(
    logits: Float[Tensor, "*rows classes"], temperature: float = 1.0
) -> Float[Tensor, "*rows classes"]:
    """Log softmax(logits / temperature), with a finite stand-in for log 0 so that 0 * log 0 is 0, not NaN.

    Raises:
        ValueError: the temperature is not positive and finite.
    """
    demand_positive("temperature", temperature)
    # A quarter leaves room for the difference of two such values.
    lowest = torch.finfo(logits.dtype).min / 4
    return functional.log_softmax(logits / temperature, dim=-1).clamp(min=lowest)


def relative_entropy(
    log_p: Float[Tensor, "*rows classes"], log_q: Float[Tensor, "*rows classes"]
) -> Float[Tensor, "*rows"]:
    """KL(p || q) = sum p (log p - log q) over the last axis, in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def mean_over(chosen: Bool[Tensor, "*shape"], costs: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """The mean of the chosen costs; 0 with a gradient of 0 where none is chosen."""
    return costs.masked_fill(~chosen, 0).sum() / chosen.sum().clamp(min=1)
