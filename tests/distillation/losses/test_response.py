"""The response losses against plain loops from the papers' formulas in Python floats, and at their edges."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

from edgedistill.distillation.losses.response import (
    binary_kd,
    decoupled_kd,
    dist,
    distillation_loss,
    hard_label_kd,
    label_cross_entropy,
    logit_mse,
    logit_standardized_kd,
    multi_level_kd,
    regression_kd,
    soft_target_cross_entropy,
    soft_target_kl,
    teacher_bounded_regression,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
    Formula = Callable[[list[list[float]], list[list[float]], list[int]], float]

Rows = list[list[float]]


def _logits(batch: int = 5, classes: int = 7, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype) * 3


def _labels(batch: int = 5, classes: int = 7, *, seed: int = 0) -> Tensor:
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(seed))


# The formulas, in Python floats.


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def _log_softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    scaled = [v / temperature for v in row]
    return [v - _log_sum(scaled) for v in scaled]


def _softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    return [math.exp(v) for v in _log_softmax(row, temperature)]


def _kl(wanted: list[float], own: list[float], temperature: float = 1.0) -> float:
    p, q = _log_softmax(wanted, temperature), _log_softmax(own, temperature)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def _soft_target_kl(student: Rows, teacher: Rows, temperature: float) -> float:
    return temperature**2 * _mean([_kl(t, s, temperature) for s, t in zip(student, teacher, strict=True)])


def _soft_target_cross_entropy(student: Rows, teacher: Rows, temperature: float) -> float:
    costs = [
        -math.fsum(p * q for p, q in zip(_softmax(t, temperature), _log_softmax(s, temperature), strict=True))
        for s, t in zip(student, teacher, strict=True)
    ]
    return temperature**2 * _mean(costs)


def _target_and_others(wanted: list[float], own: list[float], label: int, t: float) -> tuple[float, float]:
    """TCKD and NCKD of one sample."""
    others = [[v / t for c, v in enumerate(row) if c != label] for row in (wanted, own)]
    sides = [[row[label] / t, _log_sum(rest)] for row, rest in zip((wanted, own), others, strict=True)]
    return _kl(sides[0], sides[1]), _kl(others[0], others[1])


def _decoupled_kd(student: Rows, teacher: Rows, labels: list[int], alpha: float, beta: float, t: float) -> float:
    parts = [_target_and_others(q, p, y, t) for p, q, y in zip(student, teacher, labels, strict=True)]
    return t**2 * _mean([alpha * target + beta * others for target, others in parts])


def _pearson(first: list[float], second: list[float]) -> float:
    a, b = ([v - _mean(row) for v in row] for row in (first, second))
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def _dist(student: Rows, teacher: Rows, beta: float, gamma: float, temperature: float) -> float:
    p, q = ([_softmax(row, temperature) for row in rows] for rows in (student, teacher))
    inter = _mean([1 - _pearson(a, b) for a, b in zip(p, q, strict=True)])
    intra = _mean(
        [1 - _pearson(list(a), list(b)) for a, b in zip(zip(*p, strict=True), zip(*q, strict=True), strict=True)]
    )
    return temperature**2 * (beta * inter + gamma * intra)


def _standardized(row: list[float]) -> list[float]:
    deviation = math.sqrt(math.fsum((v - _mean(row)) ** 2 for v in row) / (len(row) - 1))
    return [(v - _mean(row)) / (deviation + 1e-7) for v in row]


def _logit_standardized_kd(student: Rows, teacher: Rows, temperature: float) -> float:
    return _soft_target_kl([_standardized(r) for r in student], [_standardized(r) for r in teacher], temperature)


def _relation_gap(p: Rows, q: Rows) -> float:
    """The squared Frobenius norm between the two sides' products of all pairs of rows, over the number of rows."""
    products = [
        [math.fsum(x * y for x, y in zip(rows[i], rows[j], strict=True)) for i in range(len(p)) for j in range(len(p))]
        for rows in (p, q)
    ]
    return math.fsum((a - b) ** 2 for a, b in zip(*products, strict=True)) / len(p)


def _multi_level_kd(student: Rows, teacher: Rows, temperatures: list[float]) -> float:
    total = 0.0
    for t in temperatures:
        p, q = ([_softmax(row, t) for row in rows] for rows in (student, teacher))
        columns = ([list(column) for column in zip(*rows, strict=True)] for rows in (p, q))
        total += _soft_target_kl(student, teacher, t) + _relation_gap(p, q) + _relation_gap(*columns)
    return total / len(temperatures)


def _label_cross_entropy(student: Rows, labels: list[int], smoothing: float, gamma: float) -> float:
    costs = []
    for row, label in zip(student, labels, strict=True):
        targets = [smoothing / len(row) + (1 - smoothing) * (c == label) for c in range(len(row))]
        p = _softmax(row)
        costs.append(-math.fsum(t * (1 - q) ** gamma * math.log(q) for t, q in zip(targets, p, strict=True)))
    return _mean(costs)


def _hard_label_kd(student: Rows, teacher: Rows) -> float:
    return _label_cross_entropy(student, [row.index(max(row)) for row in teacher], 0, 0)


def _mean_square(student: Rows, teacher: Rows) -> float:
    pairs = [pair for s, t in zip(student, teacher, strict=True) for pair in zip(s, t, strict=True)]
    return _mean([(a - b) ** 2 for a, b in pairs])


def _binary_kd(student: Rows, teacher: Rows, temperature: float) -> float:
    costs = []
    for own, wanted in zip(student, teacher, strict=True):
        q, p = ([1 / (1 + math.exp(-v / temperature)) for v in row] for row in (own, wanted))
        terms = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True)]
        costs.append(math.fsum(terms))
    return temperature**2 * _mean(costs)


def _teacher_bounded_regression(student: Rows, teacher: Rows, margin: float) -> float:
    costs = []
    for own, bound in zip(student, teacher, strict=True):
        error, allowed = (math.fsum((v - 0.5) ** 2 for v in row) for row in (own, bound))
        costs.append(error if error + margin > allowed else 0.0)
    return _mean(costs)


def _half(values: Tensor) -> Tensor:
    return torch.full_like(values, 0.5)


CASES: dict[str, tuple[Loss, Formula]] = {
    "soft targets": (lambda s, t, _: soft_target_kl(s, t, 4.0), lambda s, t, _: _soft_target_kl(s, t, 4.0)),
    "soft targets, cross-entropy": (
        lambda s, t, _: soft_target_cross_entropy(s, t, 3.0),
        lambda s, t, _: _soft_target_cross_entropy(s, t, 3.0),
    ),
    "decoupled": (decoupled_kd, lambda s, t, y: _decoupled_kd(s, t, y, 1.0, 8.0, 4.0)),
    "decoupled, weighted": (
        lambda s, t, y: decoupled_kd(s, t, y, alpha=0.3, beta=2.0, temperature=1.5),
        lambda s, t, y: _decoupled_kd(s, t, y, 0.3, 2.0, 1.5),
    ),
    "dist": (lambda s, t, _: dist(s, t), lambda s, t, _: _dist(s, t, 1.0, 1.0, 1.0)),
    "dist, weighted": (
        lambda s, t, _: dist(s, t, beta=2.0, gamma=0.5, temperature=4.0),
        lambda s, t, _: _dist(s, t, 2.0, 0.5, 4.0),
    ),
    "standardised": (
        lambda s, t, _: logit_standardized_kd(s, t),
        lambda s, t, _: _logit_standardized_kd(s, t, 2.0),
    ),
    "multi-level": (lambda s, t, _: multi_level_kd(s, t), lambda s, t, _: _multi_level_kd(s, t, [2, 3, 4, 5, 6])),
    "hard label": (lambda s, t, _: hard_label_kd(s, t), lambda s, t, _: _hard_label_kd(s, t)),
    "logit mse": (lambda s, t, _: logit_mse(s, t), lambda s, t, _: _mean_square(s, t)),
    "labels": (lambda s, _, y: label_cross_entropy(s, y), lambda s, _, y: _label_cross_entropy(s, y, 0, 0)),
    "labels, smoothed": (
        lambda s, _, y: label_cross_entropy(s, y, label_smoothing=0.1),
        lambda s, _, y: _label_cross_entropy(s, y, 0.1, 0),
    ),
    "labels, focal": (
        lambda s, _, y: label_cross_entropy(s, y, focal_gamma=2.0),
        lambda s, _, y: _label_cross_entropy(s, y, 0, 2.0),
    ),
    "labels, smoothed and focal": (
        lambda s, _, y: label_cross_entropy(s, y, label_smoothing=0.2, focal_gamma=0.5),
        lambda s, _, y: _label_cross_entropy(s, y, 0.2, 0.5),
    ),
    "mixed": (
        lambda s, t, y: distillation_loss(s, t, y, temperature=2.0, alpha=0.3),
        lambda s, t, y: 0.3 * _soft_target_kl(s, t, 2.0) + 0.7 * _label_cross_entropy(s, y, 0, 0),
    ),
    "binary": (lambda s, t, _: binary_kd(s, t, temperature=2.0), lambda s, t, _: _binary_kd(s, t, 2.0)),
    "regression": (lambda s, t, _: regression_kd(s, t), lambda s, t, _: _mean_square(s, t)),
    "bounded regression": (
        lambda s, t, _: teacher_bounded_regression(s, t, _half(s), margin=30.0),
        lambda s, t, _: _teacher_bounded_regression(s, t, 30.0),
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)
# Those that a perfect copy of the teacher costs nothing.
COPYABLE = [
    "soft targets",
    "decoupled",
    "decoupled, weighted",
    "dist",
    "dist, weighted",
    "standardised",
    "multi-level",
    "logit mse",
    "binary",
    "regression",
]


def _value_and_gradient(name: str, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    own = student.detach().clone().requires_grad_()
    value = CASES[name][0](own, teacher, labels)
    (gradient,) = torch.autograd.grad(value, own)
    return value.detach(), gradient


@EVERY
@pytest.mark.parametrize(("batch", "classes"), [(5, 7), (16, 100), (3, 2)])
def test_the_loss_is_the_formula(name: str, batch: int, classes: int) -> None:
    loss, formula = CASES[name]
    student, teacher, labels = _logits(batch, classes, seed=1), _logits(batch, classes, seed=2), _labels(batch, classes)
    wanted = formula(student.tolist(), teacher.tolist(), labels.tolist())
    assert loss(student, teacher, labels).item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)
    assert wanted > 1e-3


@EVERY
def test_the_gradient_is_the_finite_difference(name: str) -> None:
    teacher, labels = _logits(seed=2), _labels()
    assert torch.autograd.gradcheck(lambda own: CASES[name][0](own, teacher, labels), _logits(seed=1).requires_grad_())


@EVERY
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = _logits(seed=1).requires_grad_(), _logits(seed=2).requires_grad_()
    CASES[name][0](student, teacher, _labels()).backward()  # type: ignore[no-untyped-call]  # torch has no types here
    assert student.grad is not None
    assert teacher.grad is None


@EVERY
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_the_samples_does_not_matter(name: str, seed: int) -> None:
    student, teacher, labels = _logits(seed=seed), _logits(seed=seed + 1), _labels(seed=seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    loss, _ = CASES[name]
    torch.testing.assert_close(loss(student[order], teacher[order], labels[order]), loss(student, teacher, labels))


@pytest.mark.parametrize("name", COPYABLE)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_a_perfect_copy_costs_nothing_and_all_else_something(name: str, seed: int) -> None:
    student, teacher, labels = _logits(seed=seed), _logits(seed=seed + 1), _labels(seed=seed)
    value, gradient = _value_and_gradient(name, teacher, teacher, labels)
    assert value == 0
    assert gradient.abs().max() < 1e-9
    assert CASES[name][0](student, teacher, labels) > 1e-9


def test_soft_cross_entropy_is_least_at_a_copy_and_has_the_gradient_of_kl() -> None:
    student, teacher, labels = _logits(seed=1), _logits(seed=2), _labels()
    entropy, slope = _value_and_gradient("soft targets, cross-entropy", teacher, teacher, labels)
    assert slope.abs().max() < 1e-9
    found = soft_target_cross_entropy(student, teacher, 3.0)
    torch.testing.assert_close(found - soft_target_kl(student, teacher, 3.0), entropy)


# Precision and edges.

EDGES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "peaked, 500 apart": lambda: (torch.eye(5, 7).roll(1, 1) * 500, torch.eye(5, 7) * 500),
    "peaked downwards": lambda: (torch.eye(5, 7) * -500, torch.eye(5, 7).roll(1, 1) * -500),
    "zero": lambda: (torch.zeros(5, 7), torch.zeros(5, 7)),
    "zero student": lambda: (torch.zeros(5, 7), _logits(seed=2)),
    "constant": lambda: (torch.full((5, 7), 3.3), torch.full((5, 7), -0.1)),
    "constant student": lambda: (torch.full((5, 7), 3.3), _logits(seed=2)),
    "constant teacher": lambda: (_logits(seed=1), torch.full((5, 7), 3.3)),
    "equal samples": lambda: (_logits(1, 7, seed=1).expand(5, 7), _logits(1, 7, seed=2).expand(5, 7)),
    "batch of one": lambda: (_logits(1, 7, seed=1), _logits(1, 7, seed=2)),
    "copy": lambda: (_logits(seed=1), _logits(seed=1)),
}


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("edge", EDGES)
def test_loss_and_gradient_stay_finite_at_the_edges(name: str, edge: str, dtype: torch.dtype) -> None:
    student, teacher = (logits.to(dtype) for logits in EDGES[edge]())
    value, gradient = _value_and_gradient(name, student, teacher, _labels(len(student)))
    assert value.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert value.shape == ()
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e4  # nothing is divided by nearly zero
    assert value > -1e-5


# For the others the plain formula itself divides by zero or takes the logarithm of 0.
@pytest.mark.parametrize("name", ["soft targets", "decoupled", "standardised", "multi-level", "hard label", "mixed"])
@pytest.mark.parametrize("edge", ["peaked, 500 apart", "peaked downwards", "batch of one", "copy"])
def test_float32_agrees_with_the_formula_at_the_edges(name: str, edge: str) -> None:
    student, teacher = EDGES[edge]()
    labels = _labels(len(student))
    wanted = CASES[name][1](student.tolist(), teacher.tolist(), labels.tolist())
    assert CASES[name][0](student.float(), teacher.float(), labels).item() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@EVERY
def test_autocast_changes_nothing(name: str) -> None:
    student, teacher, labels = _logits(seed=1).float(), _logits(seed=2).float(), _labels()
    wanted, slope = _value_and_gradient(name, student, teacher, labels)
    own = student.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = CASES[name][0](own, teacher, labels)
    (gradient,) = torch.autograd.grad(found, own)
    assert torch.equal(found, wanted)
    assert torch.equal(gradient, slope)


@EVERY
def test_half_precision_inputs_are_computed_in_float32(name: str) -> None:
    student, teacher, labels = _logits(seed=1).half(), _logits(seed=2).half(), _labels()
    assert torch.equal(
        CASES[name][0](student, teacher, labels), CASES[name][0](student.float(), teacher.float(), labels)
    )


@EVERY
def test_the_loss_compiles_as_one_graph(name: str) -> None:
    student, teacher, labels = _logits(seed=1), _logits(seed=2), _labels()
    torch.compiler.reset()
    compiled = torch.compile(CASES[name][0], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(student, teacher, labels), CASES[name][0](student, teacher, labels))


@pytest.mark.parametrize("name", [name for name in CASES if name != "multi-level"])  # no autocast on "meta"
def test_the_loss_stays_on_its_device(name: str) -> None:
    found = CASES[name][0](_logits().to("meta"), _logits().to("meta"), _labels().to("meta"))
    assert found.device.type == "meta"


# What each loss promises by itself.


def test_the_named_reductions_differ_by_the_counts() -> None:
    student, teacher = _logits(seed=1), _logits(seed=2)
    for loss in (soft_target_kl, soft_target_cross_entropy):
        each = loss(student, teacher, 4.0, reduction="none")
        assert each.shape == (5,)
        torch.testing.assert_close(each[3], loss(student[3:4], teacher[3:4], 4.0))
        torch.testing.assert_close(loss(student, teacher, 4.0, reduction="sum"), each.sum())
        torch.testing.assert_close(loss(student, teacher, 4.0, reduction="batchmean"), each.sum() / 5)
        torch.testing.assert_close(loss(student, teacher, 4.0, reduction="mean"), each.sum() / 35)
        with pytest.raises(ValueError, match=r"the reduction must be one of .*, got 'average'"):
            loss(student, teacher, 4.0, reduction="average")  # type: ignore[arg-type]  # the mistake


@given(st.integers(0, 10_000), st.floats(0.5, 10))
@settings(deadline=None)
def test_kd_is_tckd_plus_weighted_nckd(seed: int, temperature: float) -> None:
    student, teacher, labels = _logits(1, seed=seed), _logits(1, seed=seed + 1), _labels(1, seed=seed)
    target, others = (
        decoupled_kd(student, teacher, labels, alpha=alpha, beta=1 - alpha, temperature=temperature) for alpha in (1, 0)
    )
    rest = 1 - (teacher / temperature).softmax(1)[0, labels[0]]
    torch.testing.assert_close(soft_target_kl(student, teacher, temperature), target + rest * others)


def test_with_two_classes_the_other_class_says_nothing() -> None:
    student, teacher, labels = _logits(5, 2, seed=1), _logits(5, 2, seed=2), _labels(5, 2)
    assert decoupled_kd(student, teacher, labels, alpha=0.0) == 0
    torch.testing.assert_close(decoupled_kd(student, teacher, labels), soft_target_kl(student, teacher, 4.0))


def test_decoupled_kd_sees_margins_that_probabilities_round_away() -> None:
    student = torch.tensor([[500.0, 1.0, 0.0]], requires_grad=True)
    teacher, label = torch.tensor([[500.0, 0.0, 1.0]]), torch.tensor([0])
    value = decoupled_kd(student, teacher, label, alpha=0.0, beta=1.0, temperature=1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(_kl([0, 1], [1, 0]), rel=1e-6)
    assert gradient[0, 1] == -gradient[0, 2] != 0


@pytest.mark.parametrize("name", ["decoupled", "labels", "labels, smoothed and focal"])
def test_samples_without_a_label_are_left_out(name: str) -> None:
    student, teacher, labels = _logits(seed=1), _logits(seed=2), torch.tensor([3, -1, 0, -1, 6])
    value, gradient = _value_and_gradient(name, student, teacher, labels)
    known = labels >= 0
    torch.testing.assert_close(value, CASES[name][0](student[known], teacher[known], labels[known]))
    assert (gradient[~known] == 0).all()
    assert (gradient[known] != 0).any()
    value, gradient = _value_and_gradient(name, student, teacher, torch.full((5,), -1))
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("label", [7, -2])
@pytest.mark.parametrize("name", ["decoupled", "labels"])
def test_a_label_that_names_no_class_is_refused(name: str, label: int) -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        CASES[name][0](_logits(), _logits(), torch.tensor([0, 1, label, 2, 3]))


@given(st.integers(0, 10_000), st.floats(0.05, 1.0), st.floats(-20, 20))
@settings(deadline=None)
def test_dist_ignores_what_pearson_ignores(seed: int, share: float, shift: float) -> None:
    teacher = _logits(seed=seed)
    mixed = (share * teacher.softmax(1) + (1 - share) / 7).log()  # probabilities scaled and shifted alike
    assert dist(mixed + shift, teacher).item() == pytest.approx(0, abs=1e-9)
    assert soft_target_kl(mixed, teacher, 1.0) > 1e-6 or share > 0.9


def test_dist_where_a_side_does_not_vary() -> None:
    flat, varied = torch.full((5, 7), 0.1), _logits(seed=1).float()
    assert dist(varied, flat) == 0  # nothing to learn
    assert dist(flat, varied) == 2  # no correlation with any sample nor any class
    assert dist(varied[:1], varied[1:2]) == dist(varied[:1], varied[1:2], gamma=0.0)  # one sample has no spread


def test_dist_sees_the_columns_of_improbable_classes() -> None:
    student, teacher = _logits(seed=1).float(), _logits(seed=2).float()
    faint = torch.tensor([0.0, 0, 0, 0, 0, 0, -60])  # squares of such probabilities are 0 in float32
    wanted = _dist((student + faint).tolist(), (teacher + faint).tolist(), 0.0, 1.0, 1.0)
    assert dist(student + faint, teacher + faint, beta=0.0).item() == pytest.approx(wanted, rel=1e-5)


@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(-20, 20))
@settings(deadline=None)
def test_standardisation_ignores_scale_and_shift_of_each_sample(seed: int, scale: float, shift: float) -> None:
    student, teacher = _logits(seed=seed), _logits(seed=seed + 1)
    wanted = logit_standardized_kd(student, teacher)
    torch.testing.assert_close(logit_standardized_kd(student * scale + shift, teacher), wanted, rtol=1e-5, atol=1e-9)
    assert logit_standardized_kd(teacher * scale + shift, teacher) < 1e-9


def test_standardisation_fades_out_for_tiny_logits() -> None:
    student, teacher = _logits(seed=1) * 1e-7, _logits(seed=2) * 1e-7  # as small as the epsilon
    wanted = _logit_standardized_kd(student.tolist(), teacher.tolist(), 2.0)
    assert logit_standardized_kd(student, teacher).item() == pytest.approx(wanted, rel=1e-6)


def test_a_sample_with_equal_logits_standardises_to_zero_without_a_gradient() -> None:
    flat = torch.full((1, 7), 0.1, requires_grad=True)  # its mean in float32 is not 0.1
    teacher = _logits(1, seed=2).float()
    value = logit_standardized_kd(flat, teacher)
    (gradient,) = torch.autograd.grad(value, flat)
    torch.testing.assert_close(value, logit_standardized_kd(torch.zeros(1, 7), teacher), rtol=0, atol=0)
    assert (gradient == 0).all()


def test_multi_level_is_the_mean_over_its_temperatures() -> None:
    student, teacher = _logits(seed=1), _logits(seed=2)
    apart = [multi_level_kd(student, teacher, temperatures=[t]).item() for t in (2.0, 5.0)]
    assert multi_level_kd(student, teacher, temperatures=(2.0, 5.0)).item() == pytest.approx(sum(apart) / 2)


def test_binary_kd_is_soft_target_kl_of_yes_and_no() -> None:
    student, teacher = _logits(seed=1), _logits(seed=2)
    no = torch.zeros(5)
    apart = [
        soft_target_kl(torch.stack([student[:, c], no], 1), torch.stack([teacher[:, c], no], 1), 3.0) for c in range(7)
    ]
    torch.testing.assert_close(binary_kd(student, teacher, temperature=3.0), torch.stack(apart).sum())


@given(st.integers(0, 10_000), st.floats(0, 5), st.floats(0, 0.9))
@settings(deadline=None)
def test_focal_weights_only_lower_the_cost(seed: int, gamma: float, smoothing: float) -> None:
    student, labels = _logits(seed=seed), _labels(seed=seed)
    plain = label_cross_entropy(student, labels, label_smoothing=smoothing)
    focal = label_cross_entropy(student, labels, label_smoothing=smoothing, focal_gamma=gamma)
    assert 0 <= focal <= plain


def test_smoothing_holds_back_overconfidence_under_focal_weights_too() -> None:
    labels = torch.tensor([0])
    costs = [
        label_cross_entropy(torch.tensor([[margin, 0.0]]), labels, label_smoothing=0.1, focal_gamma=2.0).item()
        for margin in (5.0, 10.0, 20.0)
    ]
    assert costs == sorted(costs)


def test_the_teacher_bounds_the_regression() -> None:
    targets = torch.zeros(3, 2)
    teacher = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])  # errors of 25
    student = torch.tensor([[5.0, 0.0], [1.0, 2.0], [6.0, 0.0]])  # errors of 25, 5 and 36
    assert teacher_bounded_regression(student, teacher, targets) == pytest.approx(36 / 3)
    assert teacher_bounded_regression(student, teacher, targets, margin=19.0) == pytest.approx((25 + 36) / 3)
    assert teacher_bounded_regression(student, teacher, targets, margin=21.0) == pytest.approx((25 + 5 + 36) / 3)
    boxes = [values.expand(2, 3, 2) for values in (student, teacher, targets)]
    assert teacher_bounded_regression(*boxes) == pytest.approx(36 / 3)


def test_a_student_that_is_not_a_number_is_not_hidden() -> None:
    broken, good, labels = _logits(seed=1), _logits(seed=2), _labels()
    broken[2, 3] = math.nan
    for name, (loss, _) in CASES.items():
        assert math.isnan(loss(broken, good, labels).item()), name


def test_classes_that_the_teacher_rules_out_cost_nothing_by_themselves() -> None:
    student, teacher = _logits(seed=1), _logits(seed=2)
    teacher[:, 4] = -math.inf
    left = [0, 1, 2, 3, 5, 6]
    own = [row[4] for row in student.log_softmax(1).tolist()]  # the mass wasted on the class
    wasted = _mean([-math.log1p(-math.exp(v)) for v in own])
    wanted = _soft_target_kl(student[:, left].tolist(), teacher[:, left].tolist(), 1.0) + wasted
    assert soft_target_kl(student, teacher, 1.0).item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t, y, temperature: decoupled_kd(s, t, y, temperature=temperature),
        lambda s, t, _, temperature: dist(s, t, temperature=temperature),
        lambda s, t, _, temperature: soft_target_kl(s, t, temperature),
        lambda s, t, _, temperature: soft_target_cross_entropy(s, t, temperature),
        lambda s, t, _, temperature: logit_standardized_kd(s, t, temperature=temperature),
        lambda s, t, _, temperature: multi_level_kd(s, t, temperatures=(2.0, temperature)),
        lambda s, t, _, temperature: binary_kd(s, t, temperature=temperature),
    ],
)
def test_a_wrong_temperature_is_refused(loss: Callable[..., Tensor], wrong: float) -> None:
    with pytest.raises(ValueError, match=f"the temperature must be positive and finite, got {wrong}"):
        loss(_logits(), _logits(), _labels(), wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: decoupled_kd(s, s, y, alpha=-1.0), "the alpha must be at least 0 and finite, got -1.0"),
        (lambda s, y: decoupled_kd(s, s, y, beta=math.nan), "the beta must be at least 0 and finite, got nan"),
        (lambda s, y: decoupled_kd(s[:, :1], s[:, :1], y), "the number of classes must be at least 2, got 1"),
        (lambda s, _: dist(s, s, beta=-0.5), "the beta must be at least 0 and finite, got -0.5"),
        (lambda s, _: dist(s, s, gamma=-0.5), "the gamma must be at least 0 and finite, got -0.5"),
        (lambda s, _: multi_level_kd(s, s, temperatures=()), r"the temperatures must be at least one, got \(\)"),
        (lambda s, y: label_cross_entropy(s, y, label_smoothing=1.0), r"must be in \[0, 1\), got 1.0"),
        (lambda s, y: label_cross_entropy(s, y, label_smoothing=-0.1), r"must be in \[0, 1\), got -0.1"),
        (lambda s, y: label_cross_entropy(s, y, focal_gamma=-2.0), "focal gamma must be at least 0 and finite"),
        (lambda s, _: teacher_bounded_regression(s, s, s, margin=-1.0), "margin must be at least 0 and finite"),
    ],
)
def test_wrong_parameters_are_refused(call: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(_logits(), _labels())


@pytest.mark.parametrize("name", [name for name in CASES if "label" not in name or name == "hard label"])
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises((ValueError, TypeCheckError), match=r"the same|type-check"):
        CASES[name][0](_logits(5, 7), _logits(1, 7), _labels())
    with pytest.raises(ValueError, match="without a zero"):
        CASES[name][0](_logits(0, 7), _logits(0, 7), _labels(0))


def test_the_signatures_state_the_shapes() -> None:
    checked: dict[Any, Any] = {
        loss: jaxtyped(loss, typechecker=beartype)
        for loss in (decoupled_kd, label_cross_entropy, multi_level_kd, binary_kd, hard_label_kd, soft_target_kl)
    }
    student, labels = _logits(), _labels()
    assert checked[decoupled_kd](student, student, labels) == 0
    assert checked[soft_target_kl](student, student, 2.0, reduction="none").shape == (5,)
    with pytest.raises(TypeCheckError):
        checked[decoupled_kd](student, student, labels[:3])
    with pytest.raises(TypeCheckError):
        checked[label_cross_entropy](student, labels.double())
    for loss in (multi_level_kd, binary_kd, hard_label_kd):
        with pytest.raises(TypeCheckError):
            checked[loss](student, student[:, :6])
        with pytest.raises(TypeCheckError):
            checked[loss](student[0], student[0])
