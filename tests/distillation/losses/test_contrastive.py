"""CRD against the paper's formula, step by step, and that its memories, constants and negatives go on after a stop."""

from __future__ import annotations

import io
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgedistill.distillation.losses.contrastive import ContrastiveMemory

Rows = list[list[float]]


def _features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _memory(
    samples: int = 12, *, negatives: int | None = 5, temperature: float = 0.07, momentum: float = 0.5, seed: int = 0
) -> ContrastiveMemory:
    """A memory in float64 for students of width 6 and teachers of width 9, its heads the same every time."""
    torch.manual_seed(7)
    return ContrastiveMemory(
        samples, 6, 9, dim=4, negatives=negatives, temperature=temperature, momentum=momentum, seed=seed
    ).double()


def _batch(step: int, samples: int = 12, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    rows = torch.randperm(samples, generator=torch.Generator().manual_seed(step))[:size]
    return _features(size, 6, seed=10 + step), _features(size, 9, seed=20 + step), rows


def _losses(memory: ContrastiveMemory, steps: range) -> list[float]:
    return [memory(*_batch(step)).item() for step in steps]


# The paper's formula, in Python floats and loops.


def _unit(row: list[float]) -> list[float]:
    return [x / math.hypot(*row) for x in row]


def _dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _embedded(head: torch.nn.Linear, features: Rows) -> Rows:
    weights, biases = head.weight.tolist(), head.bias.tolist()
    return [_unit([_dot(w, row) + b for w, b in zip(weights, biases, strict=True)]) for row in features]


class _Formula:
    """CRD with both memories as nested lists; the negatives are told."""

    def __init__(self, memory: ContrastiveMemory) -> None:
        self.memory = memory
        self.banks: dict[str, Rows] = {
            "student": memory.student_memory.tolist(),
            "teacher": memory.teacher_memory.tolist(),
        }
        self.partitions: dict[str, float] = {}

    def step(self, student: Rows, teacher: Rows, rows: list[int], negatives: list[list[int]]) -> float:
        own = _embedded(self.memory.student_head, student)
        others = _embedded(self.memory.teacher_head, teacher)
        loss = self._side("teacher", own, rows, negatives) + self._side("student", others, rows, negatives)
        for bank, embeddings in (("student", own), ("teacher", others)):
            for row, embedding in zip(rows, embeddings, strict=True):
                m = self.memory.momentum
                old = self.banks[bank][row]
                self.banks[bank][row] = _unit([m * a + (1 - m) * b for a, b in zip(old, embedding, strict=True)])
        return loss

    def _side(self, name: str, anchors: Rows, rows: list[int], negatives: list[list[int]]) -> float:
        bank, n, k = self.banks[name], len(self.banks[name]), len(negatives[0])
        powers = [
            [math.exp(_dot(anchor, bank[u]) / self.memory.temperature) for u in (row, *drawn)]
            for anchor, row, drawn in zip(anchors, rows, negatives, strict=True)
        ]
        z = self.partitions.setdefault(name, n * math.fsum(map(math.fsum, powers)) / (len(rows) * (1 + k)))
        noise = k / n
        total = 0.0
        for of_sample in powers:
            own, *others = [power / z for power in of_sample]
            total -= math.log(own / (own + noise))
            total -= math.fsum(math.log(noise / (other + noise)) for other in others)
        return total / len(rows)


@pytest.mark.parametrize(("negatives", "temperature", "momentum"), [(5, 0.07, 0.5), (11, 0.5, 0.9), (1, 1.0, 0.0)])
def test_four_steps_are_the_formula(negatives: int, temperature: float, momentum: float) -> None:
    memory = _memory(negatives=negatives, temperature=temperature, momentum=momentum)
    formula = _Formula(memory)
    for step in range(4):
        student, teacher, rows = _batch(step)
        drawn = memory._others(rows, step).tolist()
        wanted = formula.step(student.tolist(), teacher.tolist(), rows.tolist(), drawn)
        assert memory(student, teacher, rows).item() == pytest.approx(wanted, rel=1e-9)
    for bank, found in (("student", memory.student_memory), ("teacher", memory.teacher_memory)):
        torch.testing.assert_close(found, torch.tensor(formula.banks[bank], dtype=torch.float64))
    z = [math.log(formula.partitions[bank]) for bank in ("student", "teacher")]
    assert memory.log_partitions.tolist() == pytest.approx(z, rel=1e-9)


def test_float32_is_the_same_to_its_precision() -> None:
    exact, single = _memory(), _memory().float()
    for step in range(3):
        student, teacher, rows = _batch(step)
        found = single(student.float(), teacher.float(), rows)
        assert found.dtype is torch.float32
        assert found.item() == pytest.approx(exact(student, teacher, rows).item(), rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_finite_differences(training: bool) -> None:
    memory = _memory(momentum=0.5)
    memory(*_batch(0))
    memory.train(training)
    state = {name: value.clone() for name, value in memory.state_dict().items()}
    student, teacher, rows = _batch(1)
    parameters = [student.requires_grad_(), *memory.parameters()]

    def loss(own: Tensor, *_: Tensor) -> Tensor:
        with torch.no_grad():
            for name, buffer in memory.named_buffers():
                buffer.copy_(state[name])
        value: Tensor = memory(own, teacher, rows)
        return value

    assert torch.autograd.gradcheck(loss, parameters)


def test_the_teachers_head_learns_and_the_teacher_does_not() -> None:
    memory, (student, teacher, rows) = _memory(), _batch(0)
    student.requires_grad_()
    teacher.requires_grad_()
    torch.autograd.backward(memory(student, teacher, rows))
    assert teacher.grad is None
    for learned in (student, *memory.parameters()):
        assert learned.grad is not None
        assert learned.grad.any()


def test_a_student_learns_to_tell_samples_as_the_teacher_does() -> None:
    memory, teacher = _memory(32, negatives=None), _features(32, 9)
    inputs = torch.cat([teacher, _features(32, 11, seed=1)], dim=1)
    student = torch.nn.Linear(20, 6).double()
    optimiser = torch.optim.Adam([*student.parameters(), *memory.parameters()], lr=0.02)
    losses = []
    for _ in range(150):
        loss = memory(student(inputs), teacher, torch.arange(32))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    similar = memory.student_memory @ memory.teacher_memory.T
    assert (similar.argmax(1) == torch.arange(32)).double().mean() > 0.9


# The memories.


def test_memories_start_as_different_unit_vectors_that_the_seed_fixes() -> None:
    first, again, other = _memory(seed=1), _memory(seed=1), _memory(seed=2)
    for name in ("student_memory", "teacher_memory"):
        bank = getattr(first, name)
        torch.testing.assert_close(bank.norm(dim=1), torch.ones(12, dtype=torch.float64), atol=1e-6, rtol=0)
        assert torch.equal(bank, getattr(again, name))
        assert not torch.equal(bank, getattr(other, name))
    assert not torch.equal(first.student_memory, first.teacher_memory)


def test_training_moves_the_batchs_rows_only_and_keeps_them_of_norm_1() -> None:
    memory, (student, teacher, rows) = _memory(), _batch(0)
    before = [memory.student_memory.clone(), memory.teacher_memory.clone()]
    memory(student, teacher, rows)
    for old, new in zip(before, (memory.student_memory, memory.teacher_memory), strict=True):
        moved = (old != new).any(dim=1).nonzero().flatten()
        assert moved.tolist() == sorted(rows.tolist())
        torch.testing.assert_close(new[rows].norm(dim=1), torch.ones(4, dtype=torch.float64))
        assert not new.requires_grad


def test_evaluation_changes_nothing_and_repeats_itself() -> None:
    memory = _memory()
    for warm in (False, True):
        if warm:
            memory.train()
            memory(*_batch(0))
        memory.eval()
        before = {name: value.clone() for name, value in memory.state_dict().items()}
        assert memory(*_batch(1)) == memory(*_batch(1))
        assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


def test_the_constants_are_the_first_training_batchs() -> None:
    memory = _memory()
    assert not memory.log_partitions.any()
    _losses(memory, range(1))
    first = memory.log_partitions.clone()
    assert first.all()
    _losses(memory, range(1, 4))
    assert torch.equal(memory.log_partitions, first)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_training_goes_on_from_a_stored_state_bit_by_bit(stop: int) -> None:
    undisturbed = _memory(seed=3)
    wanted = _losses(undisturbed, range(6))
    stopped = _memory(seed=3)
    assert _losses(stopped, range(stop)) == wanted[:stop]
    stored = io.BytesIO()
    torch.save(stopped.state_dict(), stored)
    stored.seek(0)
    resumed = _memory(seed=3)
    _losses(resumed, range(10, 12))  # its own past is forgotten
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    torch.manual_seed(99)  # the process's random numbers have no say
    assert _losses(resumed, range(stop, 6)) == wanted[stop:]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


# The negatives.


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(1, 60), st.integers(0, 10_000), st.integers(0, 10_000))
def test_negatives_are_rows_of_the_memory_other_than_the_anchors(samples: int, k: int, seed: int, step: int) -> None:
    memory = _memory(samples, negatives=k, seed=seed)
    rows = torch.arange(samples)
    drawn = memory._others(rows, step)
    assert drawn.shape == (samples, k)
    assert drawn.min() >= 0
    assert drawn.max() < samples
    assert (drawn != rows[:, None]).all()
    assert torch.equal(drawn, memory._others(rows, step))


def test_negatives_are_drawn_evenly() -> None:
    memory = _memory(11, negatives=10_000)
    for anchor, drawn in enumerate(memory._others(torch.arange(11), 0)):
        counts = torch.bincount(drawn, minlength=11).double()
        assert counts[anchor] == 0
        others = counts[torch.arange(11) != anchor]
        assert ((others - 1000).square() / 1000).sum() < 35  # chi-square with 9 degrees of freedom: 1 in 10,000


def test_every_seed_and_step_draws_negatives_of_its_own() -> None:
    drawn = {
        tuple(_memory(1000, negatives=20, seed=seed)._others(torch.arange(2), step).flatten().tolist())
        for seed in range(5)
        for step in range(5)
    }
    assert len(drawn) == 25


@pytest.mark.parametrize(("samples", "negatives"), [(2, 1), (100, 99), (16384, 16383), (16385, 16384), (20000, 16384)])
def test_negatives_are_all_others_but_at_most_16384_by_default(samples: int, negatives: int) -> None:
    assert ContrastiveMemory(samples, 1, 1, dim=1).negatives == negatives


# Precision and degenerate inputs.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["zero", "constant", "large", "one sample"])
@pytest.mark.parametrize("temperature", [0.07, 0.002])
def test_loss_and_gradient_are_finite_on_degenerate_features(dtype: torch.dtype, kind: str, temperature: float) -> None:
    memory = _memory(temperature=temperature).float()
    student, teacher, rows = _batch(0)
    match kind:
        case "zero":
            student, teacher = student * 0, teacher * 0
            torch.nn.init.zeros_(memory.student_head.bias)
            torch.nn.init.zeros_(memory.teacher_head.bias)
        case "constant":
            student, teacher = student * 0 + 1, teacher * 0 + 1
        case "large":
            student, teacher = student * 500, teacher * 500
        case "one sample":
            student, teacher, rows = student[:1], teacher[:1], rows[:1]
    own = student.to(dtype).requires_grad_()
    for _ in range(2):
        found = memory(own, teacher.to(dtype), rows)
        gradients = torch.autograd.grad(found, [own, *memory.parameters()])
        assert found.dtype is torch.float32
        assert torch.isfinite(found)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert all(torch.isfinite(buffer).all() for buffer in memory.buffers())


def test_autocast_changes_nothing() -> None:
    inside, outside, (student, teacher, rows) = _memory().float(), _memory().float(), _batch(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = inside(student.float(), teacher.float(), rows)
    assert found == outside(student.float(), teacher.float(), rows)
    assert torch.equal(inside.student_memory, outside.student_memory)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_module_in_half_precision_computes_in_float32(dtype: torch.dtype) -> None:
    memory, (student, teacher, rows) = _memory().to(dtype), _batch(0)
    found = memory(student.to(dtype), teacher.to(dtype), rows)
    assert found.dtype is torch.float32
    assert memory.student_memory.dtype is dtype
    assert found.item() == pytest.approx(_memory()(student, teacher, rows).item(), rel=0.1)


def test_maps_are_flattened_and_rows_may_be_of_any_integer_kind() -> None:
    student, teacher, rows = _batch(0)
    wanted = _memory()(student, teacher, rows)
    found = _memory()(student.reshape(4, 3, 2, 1), teacher.reshape(4, 3, 3), rows.to(torch.int32))
    assert found == wanted


# Refusals.


@pytest.mark.parametrize("rows", [[0, 1, 2, 12], [0, 1, 2, -1], [99, 0, 1, 2]])
def test_rows_outside_the_memory_are_refused_and_change_nothing(rows: list[int]) -> None:
    memory, (student, teacher, _) = _memory(), _batch(0)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    with pytest.raises(ValueError, match=f"rows must be from 0 to 11.*got {min(rows)} to {max(rows)}"):
        memory(student, teacher, torch.tensor(rows))
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


@pytest.mark.parametrize("sizes", [(3, 4, 4), (4, 1, 4), (4, 4, 1), (0, 0, 0)])
def test_batches_that_differ_or_are_empty_are_refused(sizes: tuple[int, int, int]) -> None:
    student, teacher, rows = _batch(0)
    with pytest.raises(ValueError, match="as many, at least 1, got {}, {} and {}".format(*sizes)):
        _memory()(student[: sizes[0]], teacher[: sizes[1]], rows[: sizes[2]])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("samples", 1, "at least 2, got 1"),
        ("student_width", 0, "at least 1, got 0"),
        ("teacher_width", -3, "at least 1, got -3"),
        ("dim", 0, "at least 1, got 0"),
        ("negatives", 0, "at least 1, got 0"),
        ("temperature", 0.0, "positive"),
        ("temperature", math.nan, "positive"),
        ("temperature", -1.0, "positive"),
        ("momentum", 1.0, "below 1, got 1.0"),
        ("momentum", -0.1, "at least 0"),
        ("momentum", math.nan, "at least 0"),
        ("seed", -1, "at least 0, got -1"),
    ],
)
def test_wrong_parameters_are_refused_by_name(name: str, value: float, told: str) -> None:
    arguments: dict[str, float] = {"samples": 8, "student_width": 2, "teacher_width": 2, name: value}
    with pytest.raises(ValueError, match=f"{name} must be .*{told}"):
        ContrastiveMemory(**arguments)  # type: ignore[arg-type]  # one is wrong on purpose


def test_losses_differ_from_step_to_step_with_the_negatives() -> None:
    memory = _memory(momentum=0.999999)
    batch = _batch(0)
    losses = [memory(*batch).item() for _ in range(4)]
    assert all(abs(a - b) > 1e-3 for a, b in pairwise(losses))
