"""The losses on token sequences against plain loops from the papers' formulas, with masks and ruled-out words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, jaxtyped
from torch import Tensor

from edgedistill.distillation.losses.response import soft_target_kl
from edgedistill.distillation.losses.sequence import (
    forward_kl,
    jensen_shannon,
    reverse_kl,
    sequence_cross_entropy,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    Formula = Callable[[list[float], list[float], int], float]

BATCH, TOKENS, WORDS = 3, 4, 6
RULED_OUT = -math.inf


def _logits(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, TOKENS, WORDS, generator=generator, dtype=torch.float64).to(dtype) * 3


def _words(seed: int = 0) -> Tensor:
    return torch.randint(WORDS, (BATCH, TOKENS), generator=torch.Generator().manual_seed(seed))


def _some() -> Tensor:
    return torch.tensor([[True, True, False, False], [True, False, True, True], [False, False, False, False]])


# The formulas for one token, in Python floats.


def _softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((v - max(row)) / temperature) for v in row]
    return [power / math.fsum(powers) for power in powers]


def _divergence(p: list[float], q: list[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _forward(own: list[float], wanted: list[float], temperature: float) -> float:
    return temperature**2 * _divergence(_softmax(wanted, temperature), _softmax(own, temperature))


def _jensen_shannon(own: list[float], wanted: list[float], beta: float) -> float:
    p, q = _softmax(wanted), _softmax(own)
    m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
    return beta * _divergence(p, m) + (1 - beta) * _divergence(q, m)


CASES: dict[str, tuple[Loss, Formula]] = {
    "forward": (
        lambda s, t, _, mask: forward_kl(s, t, mask, temperature=2.0),
        lambda s, t, _: _forward(s, t, 2.0),
    ),
    "reverse": (
        lambda s, t, _, mask: reverse_kl(s, t, mask, temperature=2.0),
        lambda s, t, _: _forward(t, s, 2.0),
    ),
    "forward, as it comes": (lambda s, t, _, mask: forward_kl(s, t, mask), lambda s, t, _: _forward(s, t, 1.0)),
    "reverse, as it comes": (lambda s, t, _, mask: reverse_kl(s, t, mask), lambda s, t, _: _forward(t, s, 1.0)),
    "jensen-shannon": (lambda s, t, _, mask: jensen_shannon(s, t, mask), lambda s, t, _: _jensen_shannon(s, t, 0.5)),
    "jensen-shannon 0.1": (
        lambda s, t, _, mask: jensen_shannon(s, t, mask, beta=0.1),
        lambda s, t, _: _jensen_shannon(s, t, 0.1),
    ),
    "jensen-shannon 0": (
        lambda s, t, _, mask: jensen_shannon(s, t, mask, beta=0.0),
        lambda s, t, _: _forward(s, t, 1.0),
    ),
    "jensen-shannon 1": (
        lambda s, t, _, mask: jensen_shannon(s, t, mask, beta=1.0),
        lambda s, t, _: _forward(t, s, 1.0),
    ),
    "cross-entropy": (
        lambda s, _, words, mask: sequence_cross_entropy(s, words, mask),
        lambda s, _, word: -math.log(_softmax(s)[word]),
    ),
}
EVERY = pytest.mark.parametrize("name", CASES)
DIVERGENCES = pytest.mark.parametrize("name", [name for name in CASES if name != "cross-entropy"])


def _by_the_formula(name: str, student: Tensor, teacher: Tensor, words: Tensor, mask: Tensor) -> float:
    costs = [
        CASES[name][1](student[b, t].tolist(), teacher[b, t].tolist(), int(words[b, t]))
        for b in range(BATCH)
        for t in range(TOKENS)
        if mask[b, t]
    ]
    return math.fsum(costs) / len(costs)


def _value_and_gradient(
    name: str, student: Tensor, teacher: Tensor, mask: Tensor | None, words: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    own = student.detach().clone().requires_grad_()
    value = CASES[name][0](own, teacher, _words() if words is None else words, mask)
    (gradient,) = torch.autograd.grad(value, own)
    return value.detach(), gradient


@EVERY
@pytest.mark.parametrize("mask", [None, _some(), torch.ones(BATCH, TOKENS, dtype=torch.bool)])
def test_the_loss_is_the_mean_of_the_formula_over_the_tokens_that_count(name: str, mask: Tensor | None) -> None:
    student, teacher = _logits(1), _logits(2)
    counted = torch.ones(BATCH, TOKENS, dtype=torch.bool) if mask is None else mask
    wanted = _by_the_formula(name, student, teacher, _words(), counted)
    assert CASES[name][0](student, teacher, _words(), mask).item() == pytest.approx(wanted, rel=1e-6)
    assert wanted > 1e-3


@EVERY
@pytest.mark.parametrize("mask", [None, _some()])
def test_the_gradient_is_the_finite_difference(name: str, mask: Tensor | None) -> None:
    teacher, words = _logits(2), _words()
    assert torch.autograd.gradcheck(lambda own: CASES[name][0](own, teacher, words, mask), _logits(1).requires_grad_())


@EVERY
@pytest.mark.parametrize("rubbish", [math.nan, math.inf, -math.inf, 1e300])
def test_what_stands_at_masked_tokens_reaches_nothing(name: str, rubbish: float) -> None:
    student, teacher, words, mask = _logits(1), _logits(2), _words(), _some()
    wanted, slope = _value_and_gradient(name, student, teacher, mask)
    student[~mask], teacher[~mask], words[~mask] = rubbish, rubbish, -100
    found, gradient = _value_and_gradient(name, student, teacher, mask, words)
    assert torch.equal(found, wanted)
    assert torch.equal(gradient, slope)
    assert (gradient[~mask] == 0).all()


@EVERY
@pytest.mark.parametrize("rubbish", [0.0, math.nan])
def test_without_a_token_that_counts_loss_and_gradient_are_zero(name: str, rubbish: float) -> None:
    student, teacher = torch.full_like(_logits(1), rubbish), _logits(2)
    value, gradient = _value_and_gradient(name, student, teacher, torch.zeros(BATCH, TOKENS, dtype=torch.bool))
    assert value == 0
    assert (gradient == 0).all()


@EVERY
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    student, teacher = _logits(1).requires_grad_(), _logits(2).requires_grad_()
    CASES[name][0](student, teacher, _words(), None).backward()  # type: ignore[no-untyped-call]  # torch has no types
    assert student.grad is not None
    assert teacher.grad is None


@DIVERGENCES
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_only_a_copy_of_the_teacher_costs_nothing(name: str, seed: int) -> None:
    student, teacher = _logits(seed), _logits(seed + 1)
    value, gradient = _value_and_gradient(name, teacher + 5, teacher, _some())
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-9
    assert CASES[name][0](student, teacher, _words(), _some()) > 1e-6


@EVERY
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_the_order_of_sequences_and_of_tokens_does_not_matter(name: str, seed: int) -> None:
    student, teacher, words, mask = _logits(seed), _logits(seed + 1), _words(seed), _some()
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(BATCH, generator=generator)[:, None], torch.randperm(TOKENS, generator=generator)
    moved = (values[rows, columns] for values in (student, teacher, words, mask))
    torch.testing.assert_close(CASES[name][0](*moved), CASES[name][0](student, teacher, words, mask))


@given(st.integers(0, 10_000), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_jensen_shannon_is_symmetric_and_below_log_2(seed: int, beta: float) -> None:
    student, teacher = _logits(seed), _logits(seed + 1)
    found = jensen_shannon(student, teacher, beta=beta)
    torch.testing.assert_close(found, jensen_shannon(teacher, student, beta=1 - beta))
    assert jensen_shannon(student, teacher) < math.log(2)


def test_jensen_shannon_ends_in_the_two_divergences() -> None:
    student, teacher = _logits(1), _logits(2)
    assert torch.equal(jensen_shannon(student, teacher, beta=0.0), forward_kl(student, teacher))
    assert torch.equal(jensen_shannon(student, teacher, beta=1.0), reverse_kl(student, teacher))
    near = 1e-5
    forward = jensen_shannon(student, teacher, beta=near).item() / near
    reverse = jensen_shannon(student, teacher, beta=1 - near).item() / near
    assert forward == pytest.approx(forward_kl(student, teacher).item(), rel=0.01)
    assert reverse == pytest.approx(reverse_kl(student, teacher).item(), rel=0.01)


def test_forward_kl_is_per_token_and_not_per_sequence() -> None:
    student, teacher = _logits(1), _logits(2)
    wanted = soft_target_kl(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    torch.testing.assert_close(forward_kl(student, teacher, temperature=2.0), wanted)


# Words ruled out by a logit of -inf.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ruled_out", ["teacher", "student", "both", "either"])
@EVERY
def test_ruled_out_words_leave_loss_and_gradient_finite(name: str, ruled_out: str, dtype: torch.dtype) -> None:
    student, teacher, words = _logits(1, dtype), _logits(2, dtype), _words() % 3
    if ruled_out in ("teacher", "both", "either"):
        teacher[..., 4] = RULED_OUT
    if ruled_out in ("student", "both"):
        student[..., 4] = RULED_OUT
    if ruled_out == "either":
        student[..., 3] = RULED_OUT
    value, gradient = _value_and_gradient(name, student, teacher, None, words)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert 0 < value < 100
    assert gradient.abs().max() < 100


def test_a_word_without_the_teachers_favour_adds_nothing_to_forward_kl() -> None:
    student, teacher = _logits(1), _logits(2)
    teacher[..., 4] = RULED_OUT
    everywhere = torch.ones(BATCH, TOKENS, dtype=torch.bool)
    wanted = _by_the_formula("forward", student, teacher, _words(), everywhere)  # 0 log 0 = 0
    assert forward_kl(student, teacher, temperature=2.0).item() == pytest.approx(wanted, rel=1e-9)
    _, gradient = _value_and_gradient("forward", student, teacher, None)
    assert (gradient[..., 4] > 0).all()  # the student learns to avoid the word


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl])
def test_what_would_cost_an_infinity_is_judged_on_the_words_that_both_allow(loss: Callable[..., Tensor]) -> None:
    student, teacher = _logits(1), _logits(2)
    left = [0, 1, 2, 3, 5]
    blocked = (student if loss is forward_kl else teacher).clone()
    blocked[..., 4] = RULED_OUT
    sides = (blocked, teacher) if loss is forward_kl else (student, blocked)
    torch.testing.assert_close(loss(*sides), loss(student[..., left], teacher[..., left]))


# Precision and edges.

EDGES: dict[str, tuple[Tensor, Tensor]] = {
    "peaked, 500 apart": (torch.eye(TOKENS, WORDS).roll(1, 1) * 500, torch.eye(TOKENS, WORDS) * 500),
    "zero": (torch.zeros(TOKENS, WORDS), torch.zeros(TOKENS, WORDS)),
    "constant student": (torch.full((TOKENS, WORDS), 3.3), _logits(2)[0]),
}


@EVERY
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_stay_finite_at_the_edges(name: str, edge: str, dtype: torch.dtype) -> None:
    student, teacher = (logits.expand(BATCH, -1, -1).to(dtype) for logits in EDGES[edge])
    value, gradient = _value_and_gradient(name, student, teacher, _some())
    assert value.dtype is torch.float32
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e4


@EVERY
def test_autocast_and_half_precision_inputs_are_computed_in_float32(name: str) -> None:
    student, teacher = _logits(1, torch.bfloat16), _logits(2, torch.bfloat16)
    wanted = CASES[name][0](student.float(), teacher.float(), _words(), _some())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CASES[name][0](student, teacher, _words(), _some()), wanted)


@EVERY
def test_the_loss_compiles_as_one_graph(name: str) -> None:
    arguments = _logits(1), _logits(2), _words(), _some()
    torch.compiler.reset()
    compiled = torch.compile(CASES[name][0], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), CASES[name][0](*arguments))


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl])
@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_a_wrong_temperature_is_refused(loss: Callable[..., Tensor], wrong: float) -> None:
    with pytest.raises(ValueError, match=f"the temperature must be positive and finite, got {wrong}"):
        loss(_logits(1), _logits(2), temperature=wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_a_wrong_beta_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=rf"the beta must be in \[0, 1\], got {wrong}"):
        jensen_shannon(_logits(1), _logits(2), beta=wrong)


@EVERY
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    with pytest.raises((ValueError, TypeCheckError), match=r"mask's shape must be \(3, 4\), got \(1, 4\)|type-check"):
        CASES[name][0](_logits(1), _logits(2), _words(), _some()[:1])
    if name != "cross-entropy":
        with pytest.raises((ValueError, TypeCheckError), match=r"the same|type-check"):
            CASES[name][0](_logits(1), _logits(2)[..., :1], _words(), None)


def test_the_signatures_state_the_shapes() -> None:
    for loss in (forward_kl, reverse_kl, jensen_shannon):
        checked = jaxtyped(loss, typechecker=beartype)
        assert checked(_logits(1), _logits(2), _some()) > 0
        with pytest.raises(TypeCheckError):
            checked(_logits(1), _logits(2)[..., :5])
        with pytest.raises(TypeCheckError):
            checked(_logits(1), _logits(2), _some().double())
    words = jaxtyped(sequence_cross_entropy, typechecker=beartype)
    assert words(_logits(1), _words()) > 0
    with pytest.raises(TypeCheckError):
        words(_logits(1), _words()[:, :3])
