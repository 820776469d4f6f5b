"""The transformer losses against plain loops from the papers' formulas, with masks and at their edges."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, install_import_hook
from torch import Tensor

from edgedistill.distillation.losses import transformer
from edgedistill.distillation.losses.transformer import minilm, minilm_relation, tinybert_attention, tinybert_hidden

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Loss = Callable[..., Tensor]  # (student, teacher, mask)

HEADS = 3
TOKENS = (2, 5, 6)  # batch, tokens, width
SCORES = (2, 3, 5, 5)
MASK = torch.tensor([[True, True, False, True, False], [True] * 5])
PADDED = torch.tensor([[False] * 5, [True, False, False, False, False]])


def _numbers(seed: int, shape: tuple[int, ...] = TOKENS, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _sixfold(loss: Loss, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """MiniLM's six tensors from two: queries, keys and values are different multiples of different shifts."""
    own, wanted = ([side, 0.5 * side.roll(1, dims=-1), -side.roll(2, dims=-1)] for side in (student, teacher))
    return loss(*own, *wanted, mask)


def _hidden(student: Array, teacher: Array, mask: Array) -> float:
    gaps = [
        (s - t) ** 2
        for own, wanted, counts in zip(student, teacher, mask, strict=True)
        for token in range(len(counts))
        if counts[token]
        for s, t in zip(own[token].tolist(), wanted[token].tolist(), strict=True)
    ]
    return math.fsum(gaps) / max(1, len(gaps))


def _scores(student: Array, teacher: Array, mask: Array) -> float:
    gaps = []
    for b, h, query, key in np.ndindex(*student.shape):
        if mask[b, query] and mask[b, key]:
            s, t = (float(scores[b, h, query, key]) for scores in (student, teacher))
            gaps.append(((0 if s <= -100 else s) - (0 if t <= -100 else t)) ** 2)
    return math.fsum(gaps) / max(1, len(gaps))


def _row(query: Array, keys: list[Array]) -> list[float]:
    """Softmax of the scaled dot products of one query with the keys that count."""
    products = [math.fsum((query * key).tolist()) / math.sqrt(len(query)) for key in keys]
    powers = [math.exp(product - max(products)) for product in products]
    return [power / math.fsum(powers) for power in powers]


def _relation(student: tuple[Array, Array], teacher: tuple[Array, Array], mask: Array, heads: int = HEADS) -> float:
    divergences = []
    for b in range(len(mask)):
        tokens = [token for token, counts in enumerate(mask[b]) if counts]
        for head in range(heads):
            for token in tokens:
                rows = []
                for queries, keys in (student, teacher):
                    size = queries.shape[-1] // heads
                    part = slice(head * size, (head + 1) * size)
                    rows.append(_row(queries[b, token, part], [keys[b, other, part] for other in tokens]))
                divergences.append(math.fsum(p * math.log(p / q) for q, p in zip(*rows, strict=True)))
    return math.fsum(divergences) / max(1, len(divergences))


def _self_relation(student: Array, teacher: Array, mask: Array) -> float:
    return _relation((student, student), (teacher, teacher), mask)


def _minilm(student: Array, teacher: Array, mask: Array) -> float:
    shifted = {
        side: (array, 0.5 * np.roll(array, 1, axis=-1), -np.roll(array, 2, axis=-1))
        for side, array in (("student", student), ("teacher", teacher))
    }
    (own_q, own_k, own_v), (wanted_q, wanted_k, wanted_v) = shifted["student"], shifted["teacher"]
    return _relation((own_q, own_k), (wanted_q, wanted_k), mask) + _self_relation(own_v, wanted_v, mask)


CASES: dict[str, tuple[Loss, Callable[[Array, Array, Array], float], tuple[int, ...]]] = {
    "tinybert_hidden": (tinybert_hidden, _hidden, TOKENS),
    "tinybert_attention": (tinybert_attention, _scores, SCORES),
    "minilm_relation": (functools.partial(minilm_relation, relation_heads=HEADS), _self_relation, TOKENS),
    "minilm": (functools.partial(_sixfold, functools.partial(minilm, relation_heads=HEADS)), _minilm, TOKENS),
}
every_loss = pytest.mark.parametrize("name", CASES)


def _pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Loss, Tensor, Tensor]:
    loss, _, shape = CASES[name]
    return loss, _numbers(1, shape, dtype), _numbers(2, shape, dtype)


def _gradient(loss: Loss, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    student = student.clone().requires_grad_()
    found = loss(student, teacher, mask)
    (gradient,) = torch.autograd.grad(found, student)
    return found, gradient


@every_loss
@pytest.mark.parametrize("mask", [None, torch.ones(2, 5, dtype=torch.bool), MASK, PADDED], ids=str)
def test_a_loss_is_its_formula(name: str, mask: Tensor | None) -> None:
    loss, student, teacher = _pair(name)
    counted = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    wanted = CASES[name][1](student.numpy(), teacher.numpy(), counted.numpy())
    found = loss(student, teacher, mask)
    assert found.shape == ()
    assert found.dtype is torch.float64
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-15)


@every_loss
def test_a_mask_is_the_third_argument_that_may_be_left_out(name: str) -> None:
    loss, student, teacher = _pair(name)
    assert loss(student, teacher) == loss(student, teacher, None)


@pytest.mark.parametrize(("own", "wanted"), [(3, 12), (9, 6), (6, 6)])
def test_widths_may_differ_in_relations(own: int, wanted: int) -> None:
    student, teacher = _numbers(1, (2, 5, own)), _numbers(2, (2, 5, wanted))
    formula = _self_relation(student.numpy(), teacher.numpy(), MASK.numpy())
    assert minilm_relation(student, teacher, MASK, relation_heads=HEADS).item() == pytest.approx(formula, rel=1e-9)


def test_six_tensors_of_their_own_are_each_in_their_place() -> None:
    own, wanted = [_numbers(seed, (2, 5, 6)) for seed in (1, 2, 3)], [_numbers(seed, (2, 5, 9)) for seed in (4, 5, 6)]
    (q, k, v), (tq, tk, tv) = ([tensor.numpy() for tensor in side] for side in (own, wanted))
    everything = np.ones((2, 5), dtype=bool)
    formula = _relation((q, k), (tq, tk), everything) + _relation((v, v), (tv, tv), everything)
    assert minilm(*own, *wanted, relation_heads=HEADS).item() == pytest.approx(formula, rel=1e-9)


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_the_number_of_relation_heads_counts(heads: int) -> None:
    student, teacher = _numbers(1), _numbers(2)
    own, wanted = student.numpy(), teacher.numpy()
    formula = _relation((own, own), (wanted, wanted), np.ones((2, 5), dtype=bool), heads)
    assert minilm_relation(student, teacher, relation_heads=heads).item() == pytest.approx(formula, rel=1e-9)


@every_loss
def test_float32_agrees_with_float64(name: str) -> None:
    loss, student, teacher = _pair(name)
    found = loss(student.float(), teacher.float(), MASK)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(loss(student, teacher, MASK).item(), rel=1e-4)


@every_loss
@pytest.mark.parametrize("mask", [None, MASK, PADDED], ids=str)
def test_the_gradient_is_the_finite_difference(name: str, mask: Tensor | None) -> None:
    loss, student, teacher = _pair(name)
    assert torch.autograd.gradcheck(lambda own: loss(own, teacher, mask), student.requires_grad_())


@every_loss
def test_the_teacher_gets_no_gradient(name: str) -> None:
    loss, student, teacher = _pair(name)
    torch.autograd.backward(loss(student.requires_grad_(), teacher.requires_grad_(), MASK))
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-2, 10))
def test_a_loss_is_0_when_the_student_equals_the_teacher_and_positive_else(name: str, seed: int, scale: float) -> None:
    loss, _, shape = CASES[name]
    teacher = _numbers(seed, shape)
    assert loss(teacher, teacher, MASK) == 0
    assert loss(teacher + scale * _numbers(seed + 1, shape), teacher, MASK) > 0


@every_loss
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_samples_and_of_the_tokens_does_not_matter(name: str, seed: int) -> None:
    loss, _, shape = CASES[name]
    student, teacher = _numbers(seed, shape), _numbers(seed + 1, shape)
    wanted = loss(student, teacher, MASK)
    torch.testing.assert_close(loss(student.flip(0), teacher.flip(0), MASK.flip(0)), wanted)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))

    def reordered(side: Tensor) -> Tensor:
        return side[:, :, order][..., order] if side.ndim == 4 else side[:, order]

    torch.testing.assert_close(loss(reordered(student), reordered(teacher), MASK[:, order]), wanted)


@every_loss
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf, 1e30])
def test_what_does_not_count_may_hold_anything(name: str, junk: float) -> None:
    loss, student, teacher = _pair(name)
    wanted, wanted_gradient = _gradient(loss, student, teacher, MASK)
    hidden = ~MASK[:, :, None] if student.ndim == 3 else ~(MASK[:, None, :, None] & MASK[:, None, None, :])
    found, gradient = _gradient(loss, student.masked_fill(hidden, junk), teacher.masked_fill(hidden, junk), MASK)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, wanted_gradient)
    assert gradient.masked_select(hidden).abs().max() == 0


@every_loss
def test_nothing_that_counts_costs_nothing(name: str) -> None:
    loss, student, teacher = _pair(name)
    found, gradient = _gradient(loss, student, teacher, torch.zeros(2, 5, dtype=torch.bool))
    assert found == 0
    assert gradient.abs().max() == 0


def test_scores_that_say_masked_count_as_0() -> None:
    student, teacher = _numbers(1, SCORES), _numbers(2, SCORES)
    wanted, _ = _gradient(tinybert_attention, student * (torch.arange(5) < 3), teacher * (torch.arange(5) < 3))
    for additive in (-100.0, -10000.0, -math.inf):
        own, teachers = (scores.masked_fill(torch.arange(5) >= 3, additive) for scores in (student, teacher))
        found, gradient = _gradient(tinybert_attention, own, teachers)
        torch.testing.assert_close(found, wanted)
        assert gradient[..., 3:].abs().max() == 0
        assert gradient[..., :3].abs().min() > 0


def test_a_score_of_minus_100_already_says_masked() -> None:
    found, gradient = _gradient(tinybert_attention, torch.full(SCORES, -100.0), torch.full(SCORES, 2.0))
    assert found == 4
    assert gradient.abs().max() == 0


def test_negative_scores_above_minus_100_are_scores() -> None:
    student, teacher = torch.full(SCORES, -99.9), torch.full(SCORES, -1.0)
    assert tinybert_attention(student, teacher).item() == pytest.approx(98.9**2, rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_relations_ignore_a_rotation_of_every_head(seed: int) -> None:
    student, teacher = _numbers(seed), _numbers(seed + 1)
    rotation = torch.linalg.qr(_numbers(seed + 2, (2, 2)))[0]
    turned = (student.reshape(2, 5, HEADS, 2) @ rotation).reshape(TOKENS)
    loss = functools.partial(minilm_relation, relation_heads=HEADS)
    torch.testing.assert_close(loss(turned, teacher), loss(student, teacher))


def _degenerate(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    some, other = _numbers(1, shape, dtype), _numbers(2, shape, dtype)
    peak = torch.zeros(shape, dtype=dtype)
    peak[..., 0, 0] = 500
    return {
        "zero": (torch.zeros(shape, dtype=dtype), other),
        "zero teacher": (some, torch.zeros(shape, dtype=dtype)),
        "constant": (torch.full(shape, 3.0, dtype=dtype), torch.full(shape, -2.0, dtype=dtype)),
        "equal": (some, some),
        "duplicates": (some[:1].expand(shape), other[:1].expand(shape)),
        "one sample": (some[:1], other[:1]),
        "500 apart": (peak, peak.flip(-2)),
        "scores 500 apart": (20 * some, -20 * other),
        "largest fp16": (torch.full(shape, 60000.0, dtype=dtype), torch.full(shape, -60000.0, dtype=dtype)),
    }


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("inputs", _degenerate(TOKENS, torch.float32))
def test_loss_and_gradient_stay_finite(name: str, inputs: str, dtype: torch.dtype) -> None:
    loss, _, shape = CASES[name]
    found, gradient = _gradient(loss, *_degenerate(shape, dtype)[inputs])
    assert found.dtype is torch.float32
    assert torch.isfinite(found)
    assert gradient.dtype is dtype
    assert torch.isfinite(gradient).all()


@every_loss
def test_autocast_changes_nothing(name: str) -> None:
    loss, student, teacher = _pair(name, torch.float32)
    wanted = loss(student, teacher, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher, MASK)
    assert found.dtype is torch.float32
    assert found == wanted


@every_loss
@pytest.mark.parametrize("mask", [None, MASK], ids=str)
def test_a_loss_compiles_in_one_graph(name: str, mask: Tensor | None) -> None:
    torch.compiler.reset()
    loss, student, teacher = _pair(name, torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(_gradient(compiled, student, teacher, mask), _gradient(loss, student, teacher, mask))


@pytest.mark.parametrize("heads", [0, -1, 4, 5, 7])
def test_relation_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(ValueError, match=f"relation_heads must divide the width 6, got {heads}"):
        minilm_relation(_numbers(1), _numbers(2), relation_heads=heads)


def test_relation_heads_must_divide_the_teachers_width_too() -> None:
    with pytest.raises(ValueError, match="relation_heads must divide the width 8, got 3"):
        minilm_relation(_numbers(1), _numbers(2, (2, 5, 8)), relation_heads=3)


REFUSED = (ValueError, TypeCheckError)  # the second where the annotated shapes are checked before


@every_loss
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_shapes_that_would_broadcast_are_refused(name: str, axis: int) -> None:
    loss, student, teacher = _pair(name)
    with pytest.raises(REFUSED, match="student"):
        loss(student, teacher.narrow(axis, 0, 1))


@every_loss
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    loss, student, teacher = _pair(name)
    for wrong in (MASK[:1], MASK[:, :1], MASK[:, :4]):
        with pytest.raises(REFUSED, match="mask"):
            loss(student, teacher, wrong)


@every_loss
def test_an_empty_batch_is_refused(name: str) -> None:
    loss, student, teacher = _pair(name)
    with pytest.raises(REFUSED, match="empty"):
        loss(student[:0], teacher[:0])


def test_the_annotated_shapes_hold_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, transformer.__name__)
    monkeypatch.setattr("edgedistill.distillation.losses.transformer", transformer)  # put back after the test
    with install_import_hook(transformer.__name__, "beartype.beartype"):
        checked = importlib.import_module(transformer.__name__)
    own, wanted = _numbers(1), _numbers(2)
    checked.tinybert_hidden(own, wanted, MASK)
    checked.tinybert_attention(_numbers(1, SCORES), _numbers(2, SCORES), MASK)
    checked.minilm_relation(own, _numbers(2, (2, 5, 9)), MASK, relation_heads=HEADS)
    checked.minilm(own, own, own, wanted, wanted, wanted, MASK, relation_heads=HEADS)
    with pytest.raises(TypeCheckError):
        checked.tinybert_hidden(own, _numbers(2, (2, 5, 5)))
