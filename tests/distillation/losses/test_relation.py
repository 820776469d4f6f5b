"""The relation losses against the papers' formulas, what they ignore, where others divide by zero, and their cost."""

from __future__ import annotations

import math
import weakref
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from edgedistill.distillation.losses import geometry
from edgedistill.distillation.losses.relation import (
    correlation_congruence,
    fsp,
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Loss = Callable[[Tensor, Tensor], Tensor]

LOSSES: list[Loss] = [rkd_distance, rkd_angle, similarity_preserving, pkt, correlation_congruence]
OF_DISTANCES: list[Loss] = [rkd_distance, rkd_angle]
OF_COSINES: list[Loss] = [pkt, correlation_congruence]
every_loss = pytest.mark.parametrize("loss", LOSSES)
seeds = st.integers(0, 10_000)
few = settings(max_examples=20, deadline=None)
Rows = list[list[float]]


def _features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _gradient(loss: Loss, student: Tensor, teacher: Tensor) -> Tensor:
    own = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(own, teacher), own)
    return gradient


# The formulas, in Python floats and loops.


def _dot(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _huber(x: float) -> float:
    return x * x / 2 if abs(x) <= 1 else abs(x) - 0.5


def _distance_formula(student: Rows, teacher: Rows) -> float:
    n = len(student)

    def relative(rows: Rows) -> dict[tuple[int, int], float]:
        distances = {(i, j): math.dist(rows[i], rows[j]) for i, j in product(range(n), repeat=2)}
        mean = math.fsum(d for (i, j), d in distances.items() if i != j) / (n * (n - 1))
        return {pair: d / mean for pair, d in distances.items()}

    own, wanted = relative(student), relative(teacher)
    return math.fsum(_huber(own[pair] - wanted[pair]) for pair in own) / n**2


def _angle_formula(student: Rows, teacher: Rows) -> float:
    n = len(student)

    def cosine(rows: Rows, i: int, j: int, k: int) -> float:
        sides = [[a - b for a, b in zip(rows[end], rows[j], strict=True)] for end in (i, k)]
        lengths = math.hypot(*sides[0]) * math.hypot(*sides[1])
        return _dot(*sides) / lengths if lengths > 0 else 0.0

    triples = product(range(n), repeat=3)
    return math.fsum(_huber(cosine(student, *ijk) - cosine(teacher, *ijk)) for ijk in triples) / n**3


def _similarity_formula(student: Rows, teacher: Rows) -> float:
    def similarities(rows: Rows) -> Rows:
        products = [[_dot(a, b) for b in rows] for a in rows]
        return [[value / math.hypot(*row) for value in row] for row in products]

    own, wanted = similarities(student), similarities(teacher)
    return math.fsum(math.dist(a, b) ** 2 for a, b in zip(own, wanted, strict=True)) / len(student) ** 2


def _pkt_formula(student: Rows, teacher: Rows) -> float:
    def chances(rows: Rows) -> list[float]:
        kernel = [[(_dot(a, b) / math.hypot(*a) / math.hypot(*b) + 1) / 2 for b in rows] for a in rows]
        return [value / math.fsum(row) for row in kernel for value in row]

    pairs = zip(chances(student), chances(teacher), strict=True)
    return math.fsum(p * math.log((p + 1e-7) / (q + 1e-7)) for q, p in pairs) / len(student) ** 2


def _congruence_formula(student: Rows, teacher: Rows, gamma: float = 0.4, order: int = 2) -> float:
    def kernel(rows: Rows) -> list[float]:
        cosines = [_dot(a, b) / math.hypot(*a) / math.hypot(*b) for a, b in product(rows, repeat=2)]
        terms = range(order + 1)
        return [
            math.fsum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * c**p for p in terms)
            for c in cosines
        ]

    return math.dist(kernel(student), kernel(teacher)) ** 2 / len(student) ** 2


FORMULAS = [_distance_formula, _angle_formula, _similarity_formula, _pkt_formula, _congruence_formula]


@pytest.mark.parametrize(("loss", "formula"), list(zip(LOSSES, FORMULAS, strict=True)))
@pytest.mark.parametrize(("batch", "width", "teacher_width"), [(2, 3, 3), (5, 4, 7), (12, 6, 2)])
def test_value_is_the_formula(
    loss: Loss, formula: Callable[[Rows, Rows], float], batch: int, width: int, teacher_width: int
) -> None:
    student, teacher = _features(batch, width, seed=1) * 3, _features(batch, teacher_width, seed=2)
    wanted = formula(student.tolist(), teacher.tolist())
    assert loss(student, teacher).item() == pytest.approx(wanted, rel=1e-9, abs=1e-15)
    found = loss(student.float(), teacher.float())
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(wanted, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.1, 0.4, 2.0])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_congruence_is_the_taylor_polynomial_of_its_order(gamma: float, order: int) -> None:
    student, teacher = _features(5, 4, seed=1), _features(5, 6, seed=2)
    wanted = _congruence_formula(student.tolist(), teacher.tolist(), gamma, order)
    assert correlation_congruence(student, teacher, gamma=gamma, order=order).item() == pytest.approx(wanted, rel=1e-9)


def test_congruence_of_a_high_order_is_the_gaussian_kernels() -> None:
    student, teacher = (functional.normalize(_features(6, 5, seed=s)) for s in (1, 2))
    own, wanted = ((-0.4 * torch.cdist(rows, rows) ** 2).exp() for rows in (student, teacher))
    assert correlation_congruence(student, teacher, order=20).item() == pytest.approx(
        functional.mse_loss(own, wanted).item(), rel=1e-9
    )


@pytest.mark.parametrize("loss", OF_DISTANCES)
def test_huber_is_linear_where_student_and_teacher_are_far_apart(loss: Loss) -> None:
    student = torch.tensor([[0.0], [1.0], [2.0], [100.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0], [100.0], [-1.0], [1.0]], dtype=torch.float64)
    formula = _distance_formula if loss is rkd_distance else _angle_formula
    assert loss(student, teacher).item() == pytest.approx(formula(student.tolist(), teacher.tolist()), rel=1e-9)


@every_loss
def test_gradient_is_its_finite_difference(loss: Loss) -> None:
    student, teacher = _features(6, 4, seed=1).requires_grad_(), _features(6, 7, seed=2)
    assert torch.autograd.gradcheck(lambda own: loss(own, teacher), student)
    assert torch.autograd.gradcheck(lambda own: loss(own * 3, teacher).square(), student)  # not 1 comes in


@every_loss
def test_maps_are_flattened(loss: Loss) -> None:
    student, teacher = _features(4, 2, 3, 3, seed=1), _features(4, 5, 2, seed=2)
    assert loss(student, teacher) == loss(student.flatten(1), teacher.flatten(1))


@every_loss
@pytest.mark.parametrize("block", [1, 20, 100])
def test_angles_do_not_depend_on_the_block(loss: Loss, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = _features(7, 4, seed=1), _features(7, 3, seed=2)
    wanted, slope = loss(student, teacher), _gradient(loss, student, teacher)
    monkeypatch.setattr(geometry, "_BLOCK", block)
    torch.testing.assert_close(loss(student, teacher), wanted)
    torch.testing.assert_close(_gradient(loss, student, teacher), slope)


# What the losses must see and what they must ignore.


@few
@given(seeds)
@every_loss
def test_loss_is_at_its_minimum_when_student_equals_teacher(loss: Loss, seed: int) -> None:
    features, other = _features(5, 4, seed=seed), _features(5, 4, seed=seed + 1)
    assert loss(features, features) == 0
    assert loss(other, features) > 1e-6
    slope = _gradient(loss, features, features).abs().max()
    assert slope <= (1e-5 if loss is pkt else 0)  # pkt's eps moves its minimum a little, most at opposite samples


@few
@given(seeds)
@every_loss
def test_loss_ignores_the_order_of_samples(loss: Loss, seed: int) -> None:
    student, teacher = _features(6, 4, seed=seed), _features(6, 3, seed=seed + 1)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))
    torch.testing.assert_close(
        _gradient(loss, student[order], teacher[order]), _gradient(loss, student, teacher)[order]
    )


@few
@given(seeds, st.floats(1e-3, 1e3))
@every_loss
def test_loss_ignores_rotation_and_scale(loss: Loss, seed: int, scale: float) -> None:
    student, teacher = _features(6, 4, seed=seed), _features(6, 4, seed=seed + 1)
    rotation = torch.linalg.qr(_features(4, 4, seed=seed + 2)).Q
    wanted = loss(student, teacher)
    torch.testing.assert_close(loss(student @ rotation * scale, teacher), wanted)
    torch.testing.assert_close(loss(student, teacher @ rotation * scale), wanted)


@few
@given(seeds, st.floats(-100, 100))
@pytest.mark.parametrize("loss", OF_DISTANCES)
def test_distances_and_angles_ignore_translation(loss: Loss, seed: int, shift: float) -> None:
    student, teacher = _features(6, 4, seed=seed), _features(6, 5, seed=seed + 1)
    offset = shift * _features(1, 4, seed=seed + 2)
    torch.testing.assert_close(loss(student + offset, teacher), loss(student, teacher))
    torch.testing.assert_close(_gradient(loss, student + offset, teacher), _gradient(loss, student, teacher))


@every_loss
def test_a_sample_of_its_own_scale_matters_except_to_cosines(loss: Loss) -> None:
    student, teacher = _features(6, 4, seed=1), _features(6, 4, seed=2)
    sizes = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    same = torch.isclose(loss(student * sizes, teacher), loss(student, teacher))
    assert same == (loss in OF_COSINES)


@every_loss
def test_no_gradient_reaches_the_teacher(loss: Loss) -> None:
    student, teacher = _features(4, 3, seed=1).requires_grad_(), _features(4, 3, seed=2).requires_grad_()
    torch.autograd.backward(loss(student, teacher))
    assert student.grad is not None
    assert teacher.grad is None


# Where distances, norms and angles have no gradient.


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["zero", "constant", "a zero row", "duplicates", "one sample", "peaked", "tiny"])
def test_degenerate_features_have_a_finite_loss_and_gradient(loss: Loss, dtype: torch.dtype, kind: str) -> None:
    student, teacher = _features(6, 4, seed=1), _features(6, 5, seed=2)
    match kind:
        case "zero":
            student = torch.zeros(6, 4)
        case "constant":
            student, teacher = torch.full((6, 4), 3.7), torch.full((6, 5), -1.3)
        case "a zero row":
            student[2], teacher[4] = 0, 0
        case "duplicates":
            student[3], teacher[1] = student[0], teacher[2]
        case "one sample":
            student, teacher = student[:1], teacher[:1]
        case "peaked":
            student = torch.eye(6) * 500
        case "tiny":
            student = student * 1e-3
    student, teacher = student.to(dtype), teacher.to(dtype)
    found, gradient = loss(student, teacher), _gradient(loss, student, teacher)
    assert found.dtype is torch.promote_types(dtype, torch.float32)
    assert gradient.dtype is dtype
    assert torch.isfinite(found)
    assert torch.isfinite(gradient).all()
    if kind == "zero":
        assert not gradient.any()
    if kind == "a zero row" and loss in OF_COSINES:
        assert not gradient[2].any()  # 0 has no direction


@pytest.mark.parametrize("loss", OF_DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_one_sample_has_no_distances_and_no_angles(loss: Loss, dtype: torch.dtype) -> None:
    student, teacher = _features(1, 4, dtype=dtype), _features(1, 3, seed=1, dtype=dtype)
    assert loss(student, teacher) == 0
    assert not _gradient(loss, student, teacher).any()


@pytest.mark.parametrize("loss", OF_DISTANCES)
def test_two_equal_samples_pull_nothing(loss: Loss) -> None:
    student, teacher = _features(6, 4, seed=1), _features(6, 4, seed=2)
    student[3] = student[0]
    formula = _distance_formula if loss is rkd_distance else _angle_formula
    assert loss(student, teacher).item() == pytest.approx(formula(student.tolist(), teacher.tolist()), rel=1e-9)
    ours = _gradient(loss, student, teacher)
    assert ours.norm() < 1

    # Along a move that keeps the two together the loss has a slope, and it is this one.
    move = _features(6, 4, seed=3)
    move[3] = move[0]
    ahead, behind = (formula((student + h * move).tolist(), teacher.tolist()) for h in (1e-5, -1e-5))
    assert (ours * move).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


def test_public_code_has_a_gradient_of_billions_there() -> None:
    student, teacher = _features(6, 4, seed=1), _features(6, 4, seed=2)
    student[3] = student[0]

    def public(own: Tensor, wanted: Tensor) -> Tensor:
        return functional.smooth_l1_loss(_normalised_angles(own), _normalised_angles(wanted))

    assert _gradient(public, student, teacher).norm() > 1e6
    assert _gradient(rkd_angle, student, teacher).norm() < 1


@pytest.mark.parametrize("loss", OF_DISTANCES)
@pytest.mark.parametrize("gap", [1e-4, 1e-7, 1e-9])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_close_samples_keep_their_distance_and_angles(loss: Loss, gap: float, offset: float) -> None:
    student, teacher = _features(5, 4, seed=1) + offset, _features(5, 4, seed=2)
    student[1] = student[0] + gap * _features(4, seed=3)
    formula = _distance_formula if loss is rkd_distance else _angle_formula
    wanted = formula(student.tolist(), teacher.tolist())
    assert loss(student, teacher).item() == pytest.approx(wanted, rel=1e-5)


@every_loss
def test_autocast_changes_nothing(loss: Loss) -> None:
    student, teacher = _features(8, 16, seed=1, dtype=torch.float32), _features(8, 16, seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(student, teacher)
    assert found.dtype is torch.float32
    assert found == loss(student, teacher)


@pytest.mark.parametrize("loss", [rkd_angle, similarity_preserving])
def test_loss_compiles_to_one_graph(loss: Loss) -> None:
    student, teacher = _features(6, 4, seed=1), _features(6, 5, seed=2)
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(student, teacher), loss(student, teacher))
    torch.testing.assert_close(_gradient(compiled, student, teacher), _gradient(loss, student, teacher))


# Flow of the solution procedure.


def _flow_formula(first: Any, second: Any, size: int) -> Rows:
    """One sample's FSP matrix from nested lists of square maps whose sides are multiples of size."""

    def pooled(grid: Rows) -> list[float]:
        step = len(grid) // size
        corners = product(range(0, len(grid), step), repeat=2)
        return [max(grid[y + dy][x + dx] for dy, dx in product(range(step), repeat=2)) for y, x in corners]

    return [[_dot(pooled(a), pooled(b)) / size**2 for b in second] for a in first]


@pytest.mark.parametrize(
    ("student_sides", "teacher_sides"), [((4, 4), (4, 4)), ((8, 4), (6, 2)), ((2, 4), (3, 3)), ((1, 1), (4, 2))]
)
def test_fsp_is_the_formula(student_sides: tuple[int, int], teacher_sides: tuple[int, int]) -> None:
    maps = [
        _features(3, channels, side, side, seed=seed)
        for seed, (channels, side) in enumerate(zip((2, 5, 2, 5), student_sides + teacher_sides, strict=True))
    ]
    total = 0.0
    for sample in zip(*(m.tolist() for m in maps), strict=True):
        own = _flow_formula(sample[0], sample[1], min(student_sides))
        wanted = _flow_formula(sample[2], sample[3], min(teacher_sides))
        total += math.fsum(math.dist(a, b) ** 2 for a, b in zip(own, wanted, strict=True))
    assert fsp(*maps).item() == pytest.approx(total / 3, rel=1e-9)


def test_fsp_of_maps_of_crossing_sizes_meets_in_the_smaller_sides() -> None:
    tall, wide = _features(2, 3, 6, 2, seed=1), _features(2, 4, 3, 4, seed=2)
    pooled = [functional.adaptive_max_pool2d(maps, (3, 2)) for maps in (tall, wide)]
    other = [torch.zeros(2, 3, 1, 1, dtype=torch.float64), torch.zeros(2, 4, 1, 1, dtype=torch.float64)]
    assert fsp(tall, wide, *other) == fsp(*pooled, *other) > 0


def test_gradient_of_fsp_is_its_finite_difference() -> None:
    first, second = _features(2, 3, 4, 4, seed=1).requires_grad_(), _features(2, 2, 2, 2, seed=2).requires_grad_()
    teacher = _features(2, 3, 3, 3, seed=3), _features(2, 2, 3, 3, seed=4)
    assert torch.autograd.gradcheck(lambda a, b: fsp(a, b, *teacher), (first, second))


@few
@given(seeds)
def test_fsp_is_zero_for_the_teacher_itself_and_ignores_the_order_of_samples_and_positions(seed: int) -> None:
    maps = [_features(4, 3, 4, 4, seed=seed + s) for s in range(4)]
    assert fsp(maps[0], maps[1], maps[0], maps[1]) == 0
    wanted = fsp(*maps)
    assert wanted > 0
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fsp(*(m[order] for m in maps)), wanted)
    torch.testing.assert_close(fsp(*(m[:, :, order] for m in maps[:2]), *maps[2:]), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fsp_of_large_or_constant_maps_in_half_precision_is_finite(dtype: torch.dtype) -> None:
    student = torch.full((1, 3, 8, 8), 500.0, dtype=dtype).requires_grad_()
    teacher = torch.zeros(1, 3, 8, 8, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fsp(student, student, teacher, teacher)
    (gradient,) = torch.autograd.grad(found * 1e-6, student)
    assert found.dtype is torch.float32
    assert found.item() == pytest.approx(9 * 500.0**4, rel=1e-2 if dtype is torch.bfloat16 else 1e-6)
    assert torch.isfinite(gradient).all()


def test_fsp_gives_no_gradient_to_the_teacher() -> None:
    maps = [_features(2, 3, 4, 4, seed=s).requires_grad_() for s in range(4)]
    torch.autograd.backward(fsp(*maps))
    assert [m.grad is not None for m in maps] == [True, True, False, False]


# Refusals.


@every_loss
@pytest.mark.parametrize(("own", "wanted"), [(3, 4), (3, 1), (1, 3), (0, 0)])
def test_batches_that_differ_or_are_empty_are_refused(loss: Loss, own: int, wanted: int) -> None:
    with pytest.raises(ValueError, match=f"as many, at least 1, got {own} and {wanted}"):
        loss(torch.ones(own, 4), torch.ones(wanted, 4))


def test_fsp_refuses_other_channels_and_batches() -> None:
    maps = torch.ones(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"second maps .* as many channels, got 5 and 3"):
        fsp(maps, torch.ones(2, 5, 4, 4), maps, maps)
    with pytest.raises(ValueError, match=r"first maps .* as many channels, got 3 and 1"):
        fsp(maps, maps, maps[:, :1], maps)
    with pytest.raises(ValueError, match="as many, at least 1, got 2 and 1"):
        fsp(maps, maps, maps[:1], maps[:1])


@pytest.mark.parametrize("gamma", [0.0, -0.4, math.nan])
def test_a_gamma_that_is_not_positive_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"gamma must be positive.*{gamma}"):
        correlation_congruence(_features(3, 2), _features(3, 2), gamma=gamma)


@pytest.mark.parametrize("order", [0, -1])
def test_an_order_below_1_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order must be at least 1, got {order}"):
        correlation_congruence(_features(3, 2), _features(3, 2), order=order)


# Cost, at a batch of 64 with features of 64 channels of 8 x 8, against the formulas written out.


def _normalised_angles(rows: Tensor) -> Tensor:
    differences = functional.normalize(rows[None] - rows[:, None], dim=2)
    return torch.bmm(differences, differences.mT)


def _textbook_angle(student: Tensor, teacher: Tensor) -> Tensor:
    with torch.no_grad():
        wanted = _normalised_angles(teacher.flatten(1))
    return functional.smooth_l1_loss(_normalised_angles(student.flatten(1)), wanted)


def _similarity(products: Callable[[Tensor], Tensor]) -> Loss:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = functional.normalize(products(teacher.flatten(1)))
        return (functional.normalize(products(student.flatten(1))) - wanted).square().sum() / len(student) ** 2

    return loss


_textbook_similarity = _similarity(lambda rows: (rows[:, None] * rows[None]).sum(2))
_one_product_similarity = _similarity(lambda rows: rows @ rows.T)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it bare
    """The most bytes that results of operations, forward and backward, held at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it bare
        self.live = 0
        self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage.data_ptr(), storage.nbytes()
        if size and key not in self.seen:
            self.seen.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.live -= size


def _peak(loss: Loss, student: Tensor, teacher: Tensor) -> int:
    memory = _LiveBytes()
    with memory:
        _gradient(loss, student, teacher)
    return memory.peak


def test_live_bytes_are_counted() -> None:
    with _LiveBytes() as memory:
        held = torch.ones(1000)
        for _ in range(5):
            (held + 1).square_()
        assert memory.live == 4000
    assert memory.peak == 8000


@pytest.mark.parametrize(
    ("loss", "textbook"), [(rkd_angle, _textbook_angle), (similarity_preserving, _textbook_similarity)]
)
def test_angles_and_similarities_take_a_fifth_of_the_textbooks_memory(loss: Loss, textbook: Loss) -> None:
    student, teacher = (_features(64, 64, 8, 8, seed=s, dtype=torch.float32) for s in (1, 2))
    torch.testing.assert_close(loss(student, teacher), textbook(student, teacher), rtol=1e-5, atol=0)
    wanted = _gradient(textbook, student, teacher)
    assert (_gradient(loss, student, teacher) - wanted).norm() < 1e-4 * wanted.norm()
    assert 5 * _peak(loss, student, teacher) < _peak(textbook, student, teacher)


def test_memory_of_the_angle_loss_does_not_grow_with_the_cube_of_the_batch() -> None:
    student, teacher = _features(192, 8, seed=1), _features(192, 8, seed=2)
    cosines = 192**3 * 8
    assert _peak(rkd_angle, student, teacher) < cosines / 3  # where the formula holds several of that size


@pytest.mark.parametrize("loss", [similarity_preserving, pkt, correlation_congruence])
def test_similarities_take_three_products_where_autograd_takes_four(loss: Loss) -> None:
    student, teacher = _features(8, 32, seed=1), _features(8, 32, seed=2)
    counts = []
    for each in (loss, _one_product_similarity):
        with FlopCounterMode(display=False) as counter:
            _gradient(each, student, teacher)
        counts.append(counter.get_total_flops())
    product_of_rows = 2 * 8 * 8 * 32
    assert counts == [3 * product_of_rows, 4 * product_of_rows]
