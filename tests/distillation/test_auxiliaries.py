"""The parts that are trained beside the student: what they compute, that they learn, and the margins' closed form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor, nn

from edgedistill.distillation.losses.feature import (
    activation_boundary,
    factor_transfer,
    hierarchical_context,
    overhaul,
    simkd,
    variational_information,
)
from edgedistill.distillation.objective.auxiliaries import (
    AttentionFusion,
    Paraphraser,
    SimilarityProjector,
    Translator,
    VariationalRegressor,
    boundary_connector,
    overhaul_margin,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def _maps(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PARTS: dict[str, Callable[[], nn.Module]] = {
    "VariationalRegressor": lambda: VariationalRegressor(3, 4),
    "Paraphraser": lambda: Paraphraser(4, 2),
    "Translator": lambda: Translator(3, 2),
    "AttentionFusion": lambda: AttentionFusion([3, 5], [(4, 8, 8), (6, 4, 4)]),
    "SimilarityProjector": lambda: SimilarityProjector(3, 4),
    "boundary_connector": lambda: boundary_connector(3, 4),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_seed_gives_the_weights_and_all_exist_from_the_start(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([parameter.detach().flatten() for parameter in PARTS[name]().parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def _trained_with(part: nn.Module, loss: Tensor, student: Tensor | None) -> None:
    torch.autograd.backward(loss)
    assert torch.isfinite(loss)
    for name, parameter in part.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    if student is not None:
        assert student.grad is not None
        assert student.grad.abs().max() > 0


def test_every_parameter_and_the_student_learn_from_the_loss_a_part_is_for() -> None:
    student, teacher = _maps(1, 4, 3, 6, 6), _maps(2, 4, 4, 6, 6)

    own = student.clone().requires_grad_()
    regressor = VariationalRegressor(3, 4)
    mean, variance = regressor(own)
    _trained_with(regressor, variational_information(mean, variance, teacher), own)

    own, translator, paraphraser = student.clone().requires_grad_(), Translator(3, 2), Paraphraser(4, 2)
    _trained_with(translator, factor_transfer(translator(own), paraphraser.factor(teacher)), own)
    assert all(parameter.grad is None for parameter in paraphraser.parameters())

    own, projector = student.clone().requires_grad_(), SimilarityProjector(3, 4)
    _trained_with(projector, simkd(projector(own), teacher), own)

    own, connector = student.clone().requires_grad_(), boundary_connector(3, 4)
    _trained_with(connector, activation_boundary(connector(own), teacher), own)

    own, connector = student.clone().requires_grad_(), boundary_connector(3, 4)
    _trained_with(connector, overhaul(connector(own), teacher, overhaul_margin(nn.BatchNorm2d(4))), own)

    own, fusion = student.clone().requires_grad_(), AttentionFusion([3, 3], [(4, 6, 6), (5, 3, 3)])
    _trained_with(fusion, hierarchical_context(fusion([own, own[..., ::2, ::2]]), [teacher, _maps(3, 4, 5, 3, 3)]), own)


def test_the_regressor_starts_at_variance_5_and_never_leaves_the_positive() -> None:
    regressor = VariationalRegressor(3, 4)
    mean, variance = regressor(_maps(1, 2, 3, 5, 7))
    assert mean.shape == (2, 4, 5, 7)
    torch.testing.assert_close(variance, torch.full((4,), 5.0))
    nn.init.constant_(regressor.raw_variance, -1000.0)
    _, least = regressor(_maps(1, 2, 3, 5, 7))
    assert torch.isfinite(variational_information(mean, least, _maps(2, 2, 4, 5, 7)))


def test_the_regressor_learns_the_noise_of_every_channel() -> None:
    torch.manual_seed(0)
    student, noise = _maps(1, 16, 2, 8, 8), torch.tensor([0.3, 1.0, 3.0])
    teacher = student.sum(dim=1, keepdim=True).relu() + noise[:, None, None] * _maps(2, 16, 3, 8, 8)
    regressor = VariationalRegressor(2, 3)
    optimizer = torch.optim.Adam(regressor.parameters(), lr=0.05)
    mean, found = regressor(student)
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(variational_information(mean, found, teacher))
        optimizer.step()
        mean, found = regressor(student)
    residual = (teacher - mean).square().mean(dim=(0, 2, 3))
    torch.testing.assert_close(found, residual, rtol=0.05, atol=0.01)  # the best variance for the mean it found
    assert (found.sqrt() / noise - 1).abs().max() < 0.5


def test_the_paraphraser_rebuilds_the_teacher_from_a_smaller_factor() -> None:
    torch.manual_seed(0)
    teacher = (_maps(1, 16, 1, 6, 6) * torch.tensor([1.0, -2.0, 0.5, 1.5])[:, None, None]).relu()
    paraphraser = Paraphraser(4, 2)
    assert paraphraser.factor(teacher).shape == (16, 2, 6, 6)
    optimizer = torch.optim.Adam(paraphraser.parameters(), lr=0.02)
    first = paraphraser.reconstruction_loss(teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(paraphraser.reconstruction_loss(teacher))
        optimizer.step()
    assert paraphraser.reconstruction_loss(teacher).item() < first / 4


def test_the_reconstruction_loss_is_the_mean_square_and_leaves_the_teacher_alone() -> None:
    paraphraser, teacher = Paraphraser(4, 2).eval(), _maps(1, 3, 4, 5, 5).requires_grad_()
    loss = paraphraser.reconstruction_loss(teacher)
    gap = (paraphraser(teacher) - teacher).detach().double().numpy()
    assert loss.item() == pytest.approx(float(np.mean(gap**2)), rel=1e-6)
    _trained_with(paraphraser, loss, student=None)
    assert teacher.grad is None


def test_translator_and_paraphraser_speak_of_the_same_factor() -> None:
    assert Translator(3, 2)(_maps(1, 2, 3, 5, 7)).shape == Paraphraser(8, 2).factor(_maps(1, 2, 8, 5, 7)).shape


STUDENT = [(3, 9, 7), (5, 4, 4), (6, 2, 3), (8, 1, 1)]
TEACHER = [(4, 8, 8), (6, 5, 3), (7, 2, 2), (9, 1, 1)]


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_fusion_gives_the_teachers_shapes_whatever_the_sizes(layers: int) -> None:
    students = [_maps(1, 2, *shape) for shape in STUDENT[:layers]]
    fusion = AttentionFusion([channels for channels, *_ in STUDENT[:layers]], TEACHER[:layers])
    assert [tuple(found.shape[1:]) for found in fusion(students)] == TEACHER[:layers]


def _convolved(maps: Array, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> Array:
    """Convolution and evaluated batch norm of one sample, position by position."""
    weight = convolution.weight.detach().numpy()
    _, height, width = maps.shape
    reach = weight.shape[-1] // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)))
    found = np.empty((len(weight), height, width))
    for out, y, x in np.ndindex(*found.shape):
        found[out, y, x] = np.sum(weight[out] * padded[:, y : y + 2 * reach + 1, x : x + 2 * reach + 1])
    if convolution.bias is not None:
        found += convolution.bias.detach().numpy()[:, None, None]
    if norm is None:
        return found
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance, gain, bias = (
        tensor.detach().numpy()[:, None, None]
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    normed: Array = gain * (found - mean) / np.sqrt(variance + norm.eps) + bias
    return normed


def _nearest(maps: Array, height: int, width: int) -> Array:
    rows, columns = (np.arange(new) * old // new for new, old in zip((height, width), maps.shape[1:], strict=True))
    resized: Array = maps[:, rows][:, :, columns]
    return resized


def test_fusion_is_the_papers_formula() -> None:
    fusion = AttentionFusion([2, 3], [(4, 6, 6), (5, 2, 2)]).double()
    fusion([_maps(seed, 8, *shape).double() for seed, shape in ((1, (2, 5, 4)), (2, (3, 3, 2)))])  # moves the averages
    fusion.eval()
    students = [_maps(3, 1, 2, 5, 4).double(), _maps(4, 1, 3, 3, 2).double()]
    shallow, deep = fusion.steps

    weights = [child for step in (shallow, deep) for child in step.modules() if isinstance(child, nn.Conv2d)]
    norms = [child for step in (shallow, deep) for child in step.modules() if isinstance(child, nn.BatchNorm2d)]
    reduce_shallow, weigh, expand_shallow, reduce_deep, expand_deep = weights
    deeper = _convolved(students[1][0].numpy(), reduce_deep, norms[2])
    own = _convolved(students[0][0].numpy(), reduce_shallow, norms[0])
    residual = _nearest(deeper, 5, 4)
    attention = 1 / (1 + np.exp(-_convolved(np.concatenate([own, residual]), weigh)))
    fused = attention[0] * own + attention[1] * residual
    wanted = [
        _convolved(_nearest(fused, 6, 6), expand_shallow, norms[1]),
        _convolved(_nearest(deeper, 2, 2), expand_deep, norms[3]),
    ]
    for found, expected in zip(fusion(students), wanted, strict=True):
        np.testing.assert_allclose(found[0].detach().numpy(), expected, rtol=1e-9, atol=1e-12)


def test_fusion_refuses_lists_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="equally many layers, at least one, got 2 and 1"):
        AttentionFusion([3, 5], [(4, 8, 8)])
    with pytest.raises(ValueError, match="got 0 and 0"):
        AttentionFusion([], [])
    with pytest.raises(ValueError, match="zip"):
        AttentionFusion([3], [(4, 8, 8)])([_maps(1, 2, 3, 8, 8)] * 2)


@pytest.mark.parametrize(("student", "teacher"), [(3, 8), (16, 64), (2, 1)])
def test_the_similarity_projector_is_a_bottleneck_that_ends_in_a_relu(student: int, teacher: int) -> None:
    projector, half = SimilarityProjector(student, teacher), max(1, teacher // 2)
    found = projector(_maps(1, 2, student, 5, 7))
    assert found.shape == (2, teacher, 5, 7)
    assert found.min() == 0
    weights = student * half + 9 * half * half + half * teacher
    assert sum(parameter.numel() for parameter in projector.parameters()) == weights + 2 * (2 * half + teacher)


def test_the_boundary_connector_is_a_normalised_linear_map_of_the_channels() -> None:
    connector = boundary_connector(3, 5)
    student = _maps(1, 8, 3, 6, 6)
    found = connector(student)
    assert found.shape == (8, 5, 6, 6)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.var(dim=(0, 2, 3), unbiased=False), torch.ones(5), rtol=1e-3, atol=0)
    torch.testing.assert_close(connector(7 * student), found, rtol=1e-3, atol=1e-4)  # linear without a constant
    assert sum(parameter.numel() for parameter in connector.parameters()) == 3 * 5 + 2 * 5


def _batch_norm(weight: list[float], bias: list[float], dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    batch_norm = nn.BatchNorm2d(len(weight)).to(dtype)
    with torch.no_grad():
        batch_norm.weight.copy_(torch.tensor(weight, dtype=dtype))
        batch_norm.bias.copy_(torch.tensor(bias, dtype=dtype))
    return batch_norm


@settings(max_examples=60, deadline=None)
@given(deviation=st.floats(0.05, 5), bias=st.floats(-8, 8))
def test_the_margin_is_the_expected_negative_response(deviation: float, bias: float) -> None:
    lowest = min(bias, 0) - 12 * deviation
    density: Any = stats.norm(bias, deviation)
    if density.cdf(0) < 1e-12:  # too little mass to integrate; the tail is tested below
        return

    def moment(power: int) -> float:
        value, _ = integrate.quad(
            lambda x: x**power * density.pdf(x), lowest, 0, epsabs=0, epsrel=1e-11, limit=300, points=[min(bias, 0)]
        )
        return float(value)

    (found,) = overhaul_margin(_batch_norm([deviation], [bias])).tolist()
    assert found == pytest.approx(moment(1) / moment(0), rel=1e-6)


@pytest.mark.parametrize("ratio", [3.0, 10.0, 37.0, 39.0, 200.0, 9e3, 2e4, 1e8, 1e200])
def test_the_margin_follows_the_tail_after_the_distribution_function_underflows(ratio: float) -> None:
    # The normal's tail is an exponential far out; its continued fraction gives the mean without any cancellation.
    below = 0.0
    for level in range(400, 1, -1):
        below = level / (ratio + below)
    mean = -1 / (ratio + below) if ratio > 5 else None
    (found,) = overhaul_margin(_batch_norm([2.0], [2 * ratio])).tolist()
    expected = 2 * mean if mean else stats.truncnorm.mean(-math.inf, -ratio, loc=2 * ratio, scale=2.0)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_negative_weight_spreads_as_a_positive_one_and_a_low_bias_is_its_own_margin() -> None:
    negative, positive = overhaul_margin(_batch_norm([-1.5, 1.5], [0.2, 0.2])).tolist()
    assert negative == positive
    assert overhaul_margin(_batch_norm([0.1, 1e-30, 1e-300], [-50.0, -2.0, -2.0])).tolist() == [-50.0, -2.0, -2.0]


def test_a_channel_without_deviation_has_its_negative_part() -> None:
    assert overhaul_margin(_batch_norm([0.0, 0.0, 0.0], [-0.7, 0.0, 0.7])).tolist() == [-0.7, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_margin_has_the_weights_type_and_no_gradient(dtype: torch.dtype) -> None:
    margin = overhaul_margin(_batch_norm([1.0, 1e-3, 2.0, 0.0], [0.0, 5.0, -3.0, 1.0], dtype))
    assert margin.dtype is dtype
    assert not margin.requires_grad
    assert torch.isfinite(margin).all()
    assert margin.max() <= 0
    assert margin[0].item() == pytest.approx(-math.sqrt(2 / math.pi), rel=1e-2)


def test_a_batch_norm_without_weight_and_bias_is_refused() -> None:
    with pytest.raises(ValueError, match="must be affine"):
        overhaul_margin(nn.BatchNorm2d(3, affine=False))
