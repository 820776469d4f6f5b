"""The feature losses against plain loops from the papers' formulas, at their edges, and what one of them costs."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, install_import_hook
from torch import Tensor
from torch.nn import functional

from edgedistill.distillation.losses import feature

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Loss = Callable[[Tensor, Tensor], Tensor]
    Formula = Callable[[Array, Array], float]

MARGIN = [-0.4, -1.2, -0.1, -0.7, -2.0]
VARIANCE = [0.5, 1.5, 2.0, 0.1, 5.0]
SHAPE = (3, 5, 6, 6)


def _hint(student: Array, teacher: Array) -> float:
    gaps = [s - t for s, t in zip(student.ravel().tolist(), teacher.ravel().tolist(), strict=True)]
    return math.fsum(gap**2 for gap in gaps) / len(gaps)


def _attention(student: Array, teacher: Array, p: float = 2.0) -> float:
    def attention(maps: Array) -> list[float]:
        channels, height, width = maps.shape
        energy = [
            math.fsum(abs(maps[c, y, x]) ** p for c in range(channels)) / channels
            for y in range(height)
            for x in range(width)
        ]
        norm = math.sqrt(math.fsum(e**2 for e in energy))
        return [e / norm for e in energy]

    pairs = [
        pair for s, t in zip(student, teacher, strict=True) for pair in zip(attention(s), attention(t), strict=True)
    ]
    return math.fsum((a - b) ** 2 for a, b in pairs) / len(pairs)


def _selectivity(student: Array, teacher: Array) -> float:
    def directions(maps: Array) -> list[Array]:
        return [channel.ravel() / np.linalg.norm(channel.ravel()) for channel in maps]

    def mean_kernel(first: list[Array], second: list[Array]) -> float:
        return math.fsum(float(np.dot(a, b)) ** 2 for a in first for b in second) / (len(first) * len(second))

    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        f, g = directions(s), directions(t)
        total += mean_kernel(f, f) - 2 * mean_kernel(f, g) + mean_kernel(g, g)
    return total / len(student)


def _boundary(student: Array, teacher: Array, margin: float = 1.0) -> float:
    total = 0.0
    for s, t in zip(student.ravel().tolist(), teacher.ravel().tolist(), strict=True):
        if t > 0 and s < margin:
            total += (s - margin) ** 2
        if t <= 0 and s > -margin:
            total += (s + margin) ** 2
    return total / len(student)


def _factor(student: Array, teacher: Array) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        size_s, size_t = (math.sqrt(math.fsum(v**2 for v in factor.ravel())) for factor in (s, t))
        total += math.fsum(abs(a / size_s - b / size_t) for a, b in zip(s.ravel(), t.ravel(), strict=True))
    return total / student.size


def _information(student: Array, teacher: Array) -> float:
    return float(
        np.mean(
            [
                0.5 * ((teacher[index] - student[index]) ** 2 / VARIANCE[index[1]] + math.log(VARIANCE[index[1]]))
                for index in np.ndindex(*student.shape)
            ]
        )
    )


def _overhaul(student: Array, teacher: Array) -> float:
    total = 0.0
    for index in np.ndindex(*student.shape):
        s, t = float(student[index]), max(float(teacher[index]), MARGIN[index[1]])
        if not s <= t <= 0:
            total += (s - t) ** 2
    return total / len(student)


def _context(student: Array, teacher: Array) -> float:
    def pool(maps: Array, size: int) -> Array:
        height, width = maps.shape[2:]
        pooled = np.empty((*maps.shape[:2], size, size))
        for row in range(size):
            for column in range(size):
                rows = slice(row * height // size, -(-(row + 1) * height // size))
                columns = slice(column * width // size, -(-(column + 1) * width // size))
                pooled[:, :, row, column] = maps[:, :, rows, columns].mean(axis=(2, 3))
        return pooled

    total, weight, weights = _hint(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < min(student.shape[2:]):
            weight /= 2
            total += weight * _hint(pool(student, size), pool(teacher, size))
            weights += weight
    return total / weights


def _channel_wise(student: Array, teacher: Array, temperature: float = 4.0) -> float:
    def softened(channel: Array) -> list[float]:
        powers = [math.exp(v / temperature) for v in channel.ravel()]
        return [power / math.fsum(powers) for power in powers]

    batch, channels = student.shape[:2]
    divergences = [
        p * math.log(p / q)
        for b in range(batch)
        for c in range(channels)
        for q, p in zip(softened(student[b, c]), softened(teacher[b, c]), strict=True)
    ]
    return temperature**2 * math.fsum(divergences) / (channels * batch)


@dataclass(frozen=True)
class Case:
    """A loss, what it should be, and whether the student may have other channels."""

    loss: Loss
    formula: Formula
    free_channels: bool = False
    minimum: float | None = 0.0


def _with_variance(student: Tensor, teacher: Tensor) -> Tensor:
    return feature.variational_information(student, torch.tensor(VARIANCE, dtype=torch.float64), teacher)


def _with_margin(student: Tensor, teacher: Tensor) -> Tensor:
    return feature.overhaul(student, teacher, torch.tensor(MARGIN, dtype=torch.float64))


CASES = {
    "hint": Case(feature.hint, _hint),
    "attention_transfer": Case(feature.attention_transfer, _attention, free_channels=True),
    "attention_transfer p=1": Case(
        functools.partial(feature.attention_transfer, p=1.0), functools.partial(_attention, p=1.0), free_channels=True
    ),
    "attention_transfer p=3.5": Case(
        functools.partial(feature.attention_transfer, p=3.5), functools.partial(_attention, p=3.5), free_channels=True
    ),
    "neuron_selectivity": Case(feature.neuron_selectivity, _selectivity, free_channels=True),
    "activation_boundary": Case(feature.activation_boundary, _boundary, minimum=None),
    "activation_boundary 0.3": Case(
        functools.partial(feature.activation_boundary, margin=0.3),
        functools.partial(_boundary, margin=0.3),
        minimum=None,
    ),
    "factor_transfer": Case(feature.factor_transfer, _factor),
    "variational_information": Case(_with_variance, _information, minimum=sum(map(math.log, VARIANCE)) / 10),
    "overhaul": Case(_with_margin, _overhaul, minimum=None),
    "hierarchical_context": Case(feature.hierarchical_context, _context),
    "simkd": Case(feature.simkd, _hint),
    "channel_wise": Case(feature.channel_wise, _channel_wise),
    "channel_wise 0.7": Case(
        functools.partial(feature.channel_wise, temperature=0.7), functools.partial(_channel_wise, temperature=0.7)
    ),
}
every_loss = pytest.mark.parametrize("name", CASES)


def _maps(seed: int, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _gradient(loss: Loss, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    found = loss(student, teacher)
    (gradient,) = torch.autograd.grad(found, student)
    return found, gradient


@every_loss
@pytest.mark.parametrize("shape", [SHAPE, (1, 5, 1, 1), (2, 5, 3, 7), (2, 5, 2, 1)])
def test_a_loss_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    student, teacher = _maps(1, shape), _maps(2, shape)
    wanted = CASES[name].formula(student.numpy(), teacher.numpy())
    found = CASES[name].loss(student, teacher)
    assert found.shape == ()
    assert found.dtype is torch.float64
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.free_channels])
@pytest.mark.parametrize(("own", "wanted"), [(2, 9), (7, 3), (40, 1)])
def test_channels_may_differ(name: str, own: int, wanted: int) -> None:
    student, teacher = _maps(1, (3, own, 5, 4)), _maps(2, (3, wanted, 5, 4))
    formula = CASES[name].formula(student.numpy(), teacher.numpy())
    assert CASES[name].loss(student, teacher).item() == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("loss", [feature.hint, feature.activation_boundary, feature.factor_transfer])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 5), (2, 3, 2, 2, 2)])
def test_features_may_have_any_number_of_axes(loss: Loss, shape: tuple[int, ...]) -> None:
    student, teacher = _maps(1, shape), _maps(2, shape)
    flat = loss(student.flatten(1), teacher.flatten(1))
    torch.testing.assert_close(loss(student, teacher), flat, rtol=1e-12, atol=0)


@every_loss
def test_float32_agrees_with_float64(name: str) -> None:
    exact = CASES[name].loss(_maps(1), _maps(2))
    found = CASES[name].loss(_maps(1).float(), _maps(2).float())
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)


@every_loss
def test_the_gradient_is_the_finite_difference(name: str) -> None:
    student, teacher = _maps(1, (2, 5, 3, 2)).requires_grad_(), _maps(2, (2, 5, 3, 2))
    assert torch.autograd.gradcheck(lambda own: CASES[name].loss(own, teacher), student)


def test_the_gradient_of_the_selectivity_is_right_for_large_maps_and_other_channels_too() -> None:
    student, teacher = _maps(1, (2, 2, 4, 3)).requires_grad_(), _maps(2, (2, 3, 4, 3))
    assert torch.autograd.gradcheck(lambda own: feature.neuron_selectivity(own, teacher), student)


def test_mean_and_variance_both_learn_from_the_information() -> None:
    mean, teacher = _maps(1, (2, 5, 2, 2)).requires_grad_(), _maps(2, (2, 5, 2, 2))
    variance = torch.tensor(VARIANCE, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, v: feature.variational_information(m, v, teacher), (mean, variance))


@every_loss
def test_the_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = _maps(1).requires_grad_(), _maps(2).requires_grad_()
    torch.autograd.backward(CASES[name].loss(student, teacher))
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 10))
def test_a_loss_is_least_when_the_student_equals_the_teacher(name: str, seed: int, scale: float) -> None:
    case, teacher = CASES[name], _maps(seed, (2, 5, 3, 3))
    equal = case.loss(teacher, teacher).item()
    if case.minimum is None:  # a hinge: copying the teacher costs something as well
        assert equal >= 0
        return
    assert equal == pytest.approx(case.minimum, abs=1e-14)
    assert case.loss(teacher + scale * _maps(seed + 1, (2, 5, 3, 3)), teacher).item() > equal


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_samples_does_not_matter(name: str, seed: int) -> None:
    student, teacher = _maps(seed, (4, 5, 3, 3)), _maps(seed + 1, (4, 5, 3, 3))
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(CASES[name].loss(student[order], teacher[order]), CASES[name].loss(student, teacher))


@pytest.mark.parametrize("loss", [feature.attention_transfer, feature.neuron_selectivity])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_maps_of_channels_ignore_the_channels_order(loss: Loss, seed: int) -> None:
    student, teacher = _maps(seed, (2, 5, 3, 3)), _maps(seed + 1, (2, 4, 3, 3))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(student[:, order], teacher), loss(student, teacher))


SCALE_FREE = [feature.attention_transfer, feature.neuron_selectivity, feature.factor_transfer]


@pytest.mark.parametrize("loss", SCALE_FREE)
@given(exponent=st.integers(-30, 30))
@settings(max_examples=20, deadline=None)
def test_directions_ignore_the_scale_however_far_it_lies(loss: Loss, exponent: int) -> None:
    student, teacher = _maps(1, dtype=torch.float32), _maps(2, dtype=torch.float32)
    wanted = loss(student, teacher)
    torch.testing.assert_close(loss(student * 10.0**exponent, teacher), wanted)
    torch.testing.assert_close(loss(student, teacher * 10.0**exponent), wanted)


@given(shift=st.floats(-100, 100))
@settings(max_examples=15, deadline=None)
def test_channel_wise_ignores_a_constant_per_channel(shift: float) -> None:
    constants = shift * torch.arange(5, dtype=torch.float64)[:, None, None]
    wanted = feature.channel_wise(_maps(1), _maps(2))
    torch.testing.assert_close(feature.channel_wise(_maps(1) + constants, _maps(2) - constants), wanted)


def test_a_student_beyond_the_margin_on_the_teachers_side_costs_nothing() -> None:
    teacher = _maps(2)
    beyond = torch.where(teacher > 0, 1.001, -1.001) * (1 + _maps(3).abs())
    found, gradient = _gradient(feature.activation_boundary, beyond, teacher)
    assert found == 0
    assert gradient.abs().max() == 0
    assert feature.activation_boundary(teacher.sign() * 0.5, teacher).item() == pytest.approx(5 * 6 * 6 * 0.25)


def test_a_teacher_at_zero_is_not_active() -> None:
    zero = torch.zeros(1, 1)
    assert feature.activation_boundary(torch.ones(1, 1), zero) == 4
    assert feature.activation_boundary(-torch.ones(1, 1), zero) == 0


def test_overhaul_forgives_what_the_teachers_relu_would_hide() -> None:
    def cost(student: float, teacher: float) -> float:
        margin = torch.tensor([-1.0])
        return feature.overhaul(torch.full((1, 1, 1, 1), student), torch.full((1, 1, 1, 1), teacher), margin).item()

    assert cost(-5, -3) == 0  # below the margin, as the teacher is
    assert cost(-0.5, -3) == 0.25  # to be pushed down to the margin, no further
    assert cost(0.5, -0.5) == 1
    assert cost(-0.7, -0.5) == 0
    assert cost(-1, 2) == 9  # the teacher speaks: an ordinary distance


def test_information_is_least_at_the_variance_of_the_residuals() -> None:
    mean, teacher = _maps(1), _maps(2)
    best = (teacher - mean).square().mean(dim=(0, 2, 3))
    least = feature.variational_information(mean, best, teacher)
    assert least.item() == pytest.approx(0.5 + 0.5 * best.log().mean().item(), rel=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert feature.variational_information(mean, factor * best, teacher) > least


def test_a_list_of_pairs_costs_their_sum() -> None:
    shapes = [(2, 3, 8, 8), (2, 5, 4, 4), (2, 7, 1, 1)]
    students, teachers = ([_maps(seed + n, shape) for n, shape in enumerate(shapes)] for seed in (1, 11))
    wanted = math.fsum(_context(s.numpy(), t.numpy()) for s, t in zip(students, teachers, strict=True))
    assert feature.hierarchical_context(students, teachers).item() == pytest.approx(wanted, rel=1e-12)


def _degenerate() -> dict[str, Callable[[torch.dtype], tuple[Tensor, Tensor]]]:
    def like(value: float) -> Callable[[torch.dtype], Tensor]:
        return lambda dtype: torch.full(SHAPE, value, dtype=dtype)

    def some(seed: int, dtype: torch.dtype) -> Tensor:
        return _maps(seed, dtype=dtype)

    peak = torch.zeros(SHAPE)
    peak[:, :, 0, 0] = 500
    return {
        "student zero": lambda dtype: (like(0)(dtype), some(2, dtype)),
        "teacher zero": lambda dtype: (some(1, dtype), like(0)(dtype)),
        "both zero": lambda dtype: (like(0)(dtype), like(0)(dtype)),
        "both constant": lambda dtype: (like(3)(dtype), like(-2)(dtype)),
        "equal": lambda dtype: (some(1, dtype), some(1, dtype)),
        "one channel zero": lambda dtype: (some(1, dtype) * (torch.arange(5) > 0)[:, None, None], some(2, dtype)),
        "duplicates": lambda dtype: (some(1, dtype)[:1].repeat(3, 1, 1, 1), some(2, dtype)[:1].repeat(3, 1, 1, 1)),
        "one sample": lambda dtype: (some(1, dtype)[:1], some(2, dtype)[:1]),
        "500 apart": lambda dtype: (peak.to(dtype), peak.flip(3).to(dtype)),
        "largest fp16": lambda dtype: (like(60000)(dtype), like(-60000)(dtype)),
        "smallest fp16": lambda dtype: (like(6e-8)(dtype), some(2, dtype)),
    }


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", _degenerate())
def test_loss_and_gradient_stay_finite(name: str, inputs: str, dtype: torch.dtype) -> None:
    found, gradient = _gradient(CASES[name].loss, *_degenerate()[inputs](dtype))
    assert found.dtype is torch.float32
    assert torch.isfinite(found)
    assert gradient.dtype is dtype
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", SCALE_FREE)
def test_the_direction_of_zero_has_no_gradient(loss: Loss) -> None:
    student = _maps(1)
    student[1] = 0
    _, gradient = _gradient(loss, student, _maps(2))
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    student, teacher = _maps(1, dtype=torch.float32), _maps(2, dtype=torch.float32)
    wanted = CASES[name].loss(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CASES[name].loss(student, teacher)
    assert found.dtype is torch.float32
    assert found == wanted


@every_loss
def test_a_loss_compiles_in_one_graph(name: str) -> None:
    torch.compiler.reset()
    student, teacher = _maps(1, dtype=torch.float32), _maps(2, dtype=torch.float32)
    compiled = torch.compile(CASES[name].loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(_gradient(compiled, student, teacher), _gradient(CASES[name].loss, student, teacher))


@pytest.mark.parametrize("p", [0.0, 0.5, -2.0, math.inf, math.nan])
def test_a_power_with_an_infinite_gradient_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=f"p must be finite and at least 1, got {p}"):
        feature.attention_transfer(_maps(1), _maps(2), p=p)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_margin_or_temperature_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"margin must be positive and finite, got {value}"):
        feature.activation_boundary(_maps(1), _maps(2), margin=value)
    with pytest.raises(ValueError, match=f"temperature must be positive and finite, got {value}"):
        feature.channel_wise(_maps(1), _maps(2), temperature=value)


REFUSED = (ValueError, TypeCheckError)  # the second where the annotated shapes are checked before


@every_loss
@pytest.mark.parametrize("shape", [(1, 5, 6, 6), (3, 5, 1, 6), (3, 5, 6, 1), (3, 5, 1, 1)])
def test_shapes_that_would_broadcast_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(REFUSED, match="student"):
        CASES[name].loss(_maps(1), _maps(2, shape))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.free_channels])
def test_channels_that_must_match_are_checked(name: str) -> None:
    with pytest.raises(REFUSED, match="student"):
        CASES[name].loss(_maps(1), _maps(2, (3, 1, 6, 6)))


@every_loss
def test_an_empty_batch_is_refused(name: str) -> None:
    with pytest.raises(REFUSED, match="empty"):
        CASES[name].loss(_maps(1)[:0], _maps(2)[:0])


def test_one_number_for_all_channels_is_refused() -> None:
    with pytest.raises(REFUSED, match="channels"):
        feature.overhaul(_maps(1), _maps(2), torch.tensor([-1.0]))
    with pytest.raises(REFUSED, match="channels"):
        feature.variational_information(_maps(1), torch.tensor([1.0]), _maps(2))


def test_lists_of_different_or_no_length_are_refused() -> None:
    with pytest.raises(ValueError, match="numbers of maps"):
        feature.hierarchical_context([_maps(1)], [_maps(2), _maps(2)])
    with pytest.raises(ValueError, match="empty"):
        feature.hierarchical_context([], [])


def test_the_annotated_shapes_hold_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, feature.__name__)
    monkeypatch.setattr("edgedistill.distillation.losses.feature", feature)  # put back after the test
    with install_import_hook(feature.__name__, "beartype.beartype"):
        checked = importlib.import_module(feature.__name__)
    student, teacher = _maps(1), _maps(2)
    checked.hierarchical_context([student, _maps(3, (2, 4, 2, 2))], [teacher, _maps(4, (2, 4, 2, 2))])
    checked.overhaul(student, teacher, torch.tensor(MARGIN))
    checked.variational_information(student, torch.tensor(VARIANCE), teacher)
    for loss in ("hint", "attention_transfer", "neuron_selectivity", "activation_boundary", "factor_transfer"):
        getattr(checked, loss)(student, teacher)
    for loss in ("hierarchical_context", "simkd", "channel_wise"):
        getattr(checked, loss)(student, teacher)
    with pytest.raises(TypeCheckError):
        checked.channel_wise(student, _maps(2, (3, 4, 6, 6)))


# What neuron selectivity costs, next to the formulation that compares all channels with one another.


def _textbook_selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(first: Tensor, second: Tensor) -> Tensor:  # (batch, channels, channels, positions) in between
        return (first.unsqueeze(1) * second.unsqueeze(2)).sum(dim=-1).square().mean()

    own, wanted = (functional.normalize(maps.flatten(2), dim=2) for maps in (student, teacher.detach()))
    return kernel(own, own) - 2 * kernel(own, wanted) + kernel(wanted, wanted)


def _peak_bytes(run: Callable[[], Any]) -> int:
    """The most memory that was allocated at once, as torch's allocator tells the profiler."""
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    recorder = profile.profiler
    assert recorder is not None
    assert recorder.kineto_results is not None
    events: list[Any] = recorder.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return int(held.max())


def test_selectivity_takes_at_most_a_fifth_of_the_textbooks_memory() -> None:
    shape = (64, 64, 8, 8)  # 64 samples of 64 channels
    student, teacher = _maps(1, shape, torch.float32), _maps(2, shape, torch.float32)
    losses: list[Loss] = [_textbook_selectivity, feature.neuron_selectivity]
    (wanted, by_the_book), (found, gradient) = (_gradient(loss, student, teacher) for loss in losses)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, by_the_book, rtol=1e-4, atol=1e-5 * by_the_book.abs().max().item())

    textbook_bytes, our_bytes = (_peak_bytes(functools.partial(_gradient, loss, student, teacher)) for loss in losses)
    assert textbook_bytes > 64**4 * 4  # the profiler saw the tensor of all pairs
    assert our_bytes > 64**3 * 4
    assert textbook_bytes > 5 * our_bytes


@pytest.mark.parametrize(("shape", "pairs_of"), [((4, 4, 32, 32), 32 * 32), ((4, 128, 4, 4), 128)])
def test_selectivity_builds_the_smaller_matrix(shape: tuple[int, ...], pairs_of: int) -> None:
    student, teacher = _maps(1, shape, torch.float32), _maps(2, shape, torch.float32)
    larger = 4 * len(student) * pairs_of**2
    assert _peak_bytes(functools.partial(feature.neuron_selectivity, student, teacher)) < larger
