"""The distillation losses against the formula, and where other libraries' go wrong."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses.response import distillation_loss, soft_target_kl


def _logits(batch: int = 16, classes: int = 100, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 3


def _by_the_formula(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 / n * sum of p log(p / q), sample by sample in Python floats."""

    def softened(row: list[float]) -> list[float]:
        powers = [math.exp(v / temperature) for v in row]
        return [power / math.fsum(powers) for power in powers]

    total = 0.0
    for own, wanted in zip(student.tolist(), teacher.tolist(), strict=True):
        q, p = softened(own), softened(wanted)
        total += math.fsum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (7, 10), (16, 100)])
def test_kl_is_the_formula(batch: int, classes: int, temperature: float, dtype: torch.dtype) -> None:
    student, teacher = (_logits(batch, classes, seed=s, dtype=dtype) for s in (1, 2))
    found = soft_target_kl(student, teacher, temperature)
    tolerance = 1e-6 if dtype is torch.float64 else 1e-4
    assert found.dtype is dtype
    assert found.item() == pytest.approx(_by_the_formula(student, teacher, temperature), rel=tolerance)


def test_kl_is_averaged_over_the_batch_and_summed_over_the_classes() -> None:
    student, teacher = _logits(seed=1), _logits(seed=2)
    elementwise = functional.kl_div((student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="none")
    found = soft_target_kl(student, teacher, 4.0)
    torch.testing.assert_close(found, 16 * elementwise.sum() / 16)
    assert found > 50 * 16 * elementwise.mean()  # what reduction="mean" would give is 100 times less


def test_kl_of_a_known_pair_of_distributions() -> None:
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    wanted = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert soft_target_kl(student, teacher, 1.0).item() == pytest.approx(wanted, rel=1e-6)
    assert soft_target_kl(2 * student, 2 * teacher, 2.0).item() == pytest.approx(4 * wanted, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_gradient_of_kl_is_its_finite_difference(temperature: float) -> None:
    student, teacher = _logits(4, 6, seed=1).requires_grad_(), _logits(4, 6, seed=2)
    assert torch.autograd.gradcheck(lambda own: soft_target_kl(own, teacher, temperature), student)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_gradient_of_the_mixed_loss_is_its_finite_difference(alpha: float) -> None:
    student, teacher, labels = _logits(4, 6, seed=1).requires_grad_(), _logits(4, 6, seed=2), torch.arange(4)

    def loss(own: Tensor) -> Tensor:
        return distillation_loss(own, teacher, labels, temperature=2.0, alpha=alpha)

    assert torch.autograd.gradcheck(loss, student)


@given(st.integers(0, 10_000), st.floats(0.5, 20))
def test_kl_is_positive_unless_the_distributions_are_equal(seed: int, temperature: float) -> None:
    student, teacher = _logits(3, 5, seed=seed), _logits(3, 5, seed=seed + 1)
    assert soft_target_kl(student, teacher, temperature) > 0
    assert soft_target_kl(student, student, temperature) == 0


@given(st.integers(0, 10_000), st.floats(-50, 50))
def test_kl_ignores_the_order_of_samples_and_a_constant_per_sample(seed: int, shift: float) -> None:
    student, teacher = _logits(5, 4, seed=seed), _logits(5, 4, seed=seed + 1)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    constants = shift * torch.arange(5, dtype=torch.float64)[:, None]
    wanted = soft_target_kl(student, teacher, 3.0)
    torch.testing.assert_close(soft_target_kl(student[order], teacher[order], 3.0), wanted)
    torch.testing.assert_close(soft_target_kl(student + constants, teacher - constants, 3.0), wanted)


def test_t_squared_keeps_the_gradient_of_one_size_as_the_temperature_grows() -> None:
    teacher = _logits(8, 10, seed=2)
    sizes = []
    for temperature in (50.0, 100.0, 200.0):
        student = _logits(8, 10, seed=1).requires_grad_()
        (gradient,) = torch.autograd.grad(soft_target_kl(student, teacher, temperature), student)
        sizes.append(gradient.norm().item())
    assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_loss_and_gradient_stay_finite_when_the_logits_are_500_apart(dtype: torch.dtype, temperature: float) -> None:
    student = torch.tensor([[500.0, 0, 0], [0, 0, 500]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0, 500.0, 0], [0, 0, 500]], dtype=dtype)
    found = soft_target_kl(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(found, student)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(temperature * 500 / 2, rel=1e-4)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, -math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        soft_target_kl(_logits(), _logits(), temperature)


def _mixed(alpha: float) -> float:
    student, teacher = _logits(seed=1, dtype=torch.float32), _logits(seed=2, dtype=torch.float32)
    return distillation_loss(student, teacher, torch.arange(16), temperature=4.0, alpha=alpha).item()


def test_alpha_0_is_cross_entropy_and_alpha_1_is_kl_alone() -> None:
    student, teacher = _logits(seed=1, dtype=torch.float32), _logits(seed=2, dtype=torch.float32)
    hard = -student.log_softmax(1)[torch.arange(16), torch.arange(16)].mean().item()
    assert _mixed(0.0) == pytest.approx(hard, rel=1e-6)
    assert _mixed(1.0) == pytest.approx(soft_target_kl(student, teacher, 4.0).item(), rel=1e-6)


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 0.25, 0.5, 0.999])
def test_the_mixed_loss_is_linear_in_alpha_without_a_step_at_0(alpha: float) -> None:
    assert _mixed(0.0) != pytest.approx(_mixed(1.0), rel=0.01)
    assert _mixed(alpha) == pytest.approx(_mixed(0.0) + alpha * (_mixed(1.0) - _mixed(0.0)), rel=1e-5)
