"""Projectors: every joinable pair of shapes gets the teacher's shape, every other one an error."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distillation.objective.projectors import Kind, Mean, Resize, projector
from edgedistill.errors import ModelError
from edgedistill.models.capture import Captured
from edgedistill.students.convnet import ConvNet

SIZES = st.integers(1, 9)
VECTORS = st.tuples(SIZES)
TOKENS = st.tuples(SIZES, SIZES)
MAPS = st.tuples(SIZES, SIZES, SIZES)
Shape = tuple[int, ...]


@st.composite
def grids(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """A map, and tokens with as many positions."""
    image = draw(MAPS)
    return image, (image[1] * image[2], draw(SIZES))


PAIRS = st.one_of(
    st.tuples(VECTORS, VECTORS),
    st.tuples(TOKENS, TOKENS),
    st.tuples(MAPS, MAPS),
    st.tuples(MAPS, VECTORS),
    st.tuples(TOKENS, VECTORS),
    grids(),
    grids().map(lambda pair: pair[::-1]),
)


def _kinds(student: Shape, teacher: Shape) -> list[Kind]:
    return ["auto", "conv1x1", "conv_bn"] if len(student) == len(teacher) == 3 else ["auto", "linear"]


@given(PAIRS, st.data())
def test_every_joinable_pair_gets_the_teachers_shape_and_gradients_everywhere(
    pair: tuple[Shape, Shape], data: st.DataObject
) -> None:
    student, teacher = pair
    module = projector(student, teacher, data.draw(st.sampled_from(_kinds(*pair)))).double()
    for parameter in module.parameters():  # away from a batch norm's zero bias and from zero weights
        nn.init.normal_(parameter, 1.0)
    feature = torch.randn(3, *student, dtype=torch.float64, requires_grad=True)
    output = module(feature)
    assert output.shape == (3, *teacher)
    gradients = torch.autograd.grad((output * torch.randn_like(output)).sum(), [feature, *module.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    if not any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()):  # one can cancel all of a gradient
        assert all((gradient != 0).any() for gradient in gradients)
    assert all(parameter.requires_grad for parameter in module.parameters())


@given(st.one_of(VECTORS, TOKENS, MAPS, st.tuples(SIZES, SIZES, SIZES, SIZES)), st.sampled_from(["auto", "none"]))
def test_equal_shapes_need_nothing(shape: Shape, kind: Kind) -> None:
    module = projector(shape, shape, kind)
    assert isinstance(module, nn.Identity)
    assert not list(module.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "learned"),
    [
        ((8,), (16,), ["Linear"]),
        ((4, 8), (6, 16), ["Linear"]),
        ((4, 8), (6, 8), []),
        ((16, 8, 8), (64, 4, 4), ["Conv2d"]),
        ((16, 8, 8), (16, 4, 4), []),
        ((16, 8, 8), (64, 8, 8), ["Conv2d"]),
        ((16, 8, 8), (16,), []),
        ((16, 8, 8), (32,), ["Linear"]),
        ((16, 4, 4), (16, 32), ["Linear"]),
        ((16, 32), (8, 4, 4), ["Linear"]),
    ],
)
def test_auto_learns_only_where_widths_differ(student: Shape, teacher: Shape, learned: list[str]) -> None:
    module = projector(student, teacher)
    assert [type(layer).__name__ for layer in module.modules() if [*layer.parameters(recurse=False)]] == learned
    assert set(module.state_dict()) == {name for name, _ in module.named_parameters()}  # nothing stored but weights


@pytest.mark.parametrize(("kind", "learned"), [("conv1x1", [nn.Conv2d]), ("conv_bn", [nn.Conv2d, nn.BatchNorm2d])])
def test_a_kind_that_is_asked_for_is_made_for_equal_shapes_too(kind: Kind, learned: list[type]) -> None:
    assert [type(layer) for layer in projector((4, 2, 2), (4, 2, 2), kind).children()] == learned
    assert [type(layer) for layer in projector((4,), (4,), "linear").children()] == [nn.Linear]


@given(MAPS, st.tuples(SIZES, SIZES), st.integers(0, 1000))
def test_maps_shrink_by_adaptive_pooling_and_grow_bilinearly(shape: Shape, size: tuple[int, int], seed: int) -> None:
    """Each axis by the definitions, position by position in Python floats."""
    image = torch.randn(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    found = projector(shape, (shape[0], *size)).double()(image)
    rows, columns = _axis(shape[1], size[0]), _axis(shape[2], size[1])
    for channel in range(shape[0]):
        for i, down in enumerate(rows):
            for j, across in enumerate(columns):
                wanted = math.fsum(
                    a * b * image[0, channel, k, m].item() for k, a in down.items() for m, b in across.items()
                )
                assert found[0, channel, i, j].item() == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def _axis(size: int, target: int) -> list[dict[int, float]]:
    """The weight of each old position in each new one."""
    weights: list[dict[int, float]] = []
    for i in range(target):
        if target < size:
            cell = range(i * size // target, -(-(i + 1) * size // target))
            weights.append({k: 1 / len(cell) for k in cell})
        else:
            centre = max((i + 0.5) * size / target - 0.5, 0.0)
            low, high = int(centre), min(int(centre) + 1, size - 1)
            weights.append({high: centre - low})
            weights[-1][low] = weights[-1].get(low, 0.0) + 1 - (centre - low)
    return weights


@pytest.mark.parametrize(("size", "target"), [((8, 8), (4, 4)), ((9, 7), (4, 3)), ((4, 4), (8, 8)), ((3, 5), (7, 8))])
def test_resizing_both_axes_is_torchs_own_pooling_or_interpolation(size: Shape, target: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    found = projector((3, *size), (3, *target))(image)
    shrinks = target[0] < size[0]
    wanted = (
        functional.adaptive_avg_pool2d(image, target)
        if shrinks
        else functional.interpolate(image, target, mode="bilinear")
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resizing_keeps_half_precision(dtype: torch.dtype) -> None:
    assert Resize(8, 3, -1)(torch.randn(2, 8).to(dtype)).dtype is dtype


def test_tokens_shrink_by_averaging_neighbours() -> None:
    tokens = torch.tensor([[[1.0, 10], [3, 30], [5, 50], [7, 70]]])
    assert projector((4, 2), (2, 2))(tokens).tolist() == [[[2, 20], [6, 60]]]


def test_a_map_and_tokens_correspond_row_by_row() -> None:
    image = torch.arange(12.0).reshape(1, 2, 2, 3)
    tokens = projector((2, 2, 3), (6, 2))(image)
    assert tokens.tolist() == [[[p, p + 6] for p in range(6)]]
    assert torch.equal(projector((6, 2), (2, 2, 3))(tokens), image)


def test_a_vector_is_the_mean_over_all_positions() -> None:
    image, tokens = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 3)
    torch.testing.assert_close(projector((3, 4, 5), (3,))(image), image.sum((2, 3)) / 20)
    torch.testing.assert_close(projector((4, 3), (3,))(tokens), tokens.sum(1) / 4)
    assert [type(layer) for layer in projector((4, 3), (5,)).children()] == [Mean, nn.Linear]


@pytest.mark.parametrize("kind", ["conv1x1", "conv_bn"])
def test_a_projector_can_learn_the_teacher(kind: Kind) -> None:
    torch.manual_seed(0)
    student = torch.randn(16, 4, 4, 4)
    teacher = torch.einsum("bchw,dc->bdhw", functional.avg_pool2d(student, 2), torch.randn(6, 4)) + 1
    module = projector((4, 4, 4), (6, 2, 2), kind)
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    losses: list[float] = []
    for _ in range(150):
        loss = functional.mse_loss(module(student), teacher)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward without annotations
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_the_global_seed_decides_the_initial_weights() -> None:
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(cast("Tensor", projector((4, 2, 2), (8, 1, 1)).get_parameter("2.weight")))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


@pytest.mark.parametrize(
    ("student", "teacher", "kind", "expected"),
    [
        ((8,), (8, 4, 4), "auto", "map -> map"),
        ((8,), (4, 8), "auto", "tokens -> tokens"),
        ((8, 4, 4), (16, 4, 4), "linear", "'auto', 'conv1x1', 'conv_bn' for map -> map"),
        ((8,), (16,), "conv_bn", "'auto', 'linear' for vector -> vector"),
        ((8,), (16,), "none", "'auto', 'linear' for vector -> vector"),
        ((8, 4, 4), (17, 8), "auto", "class token"),
        ((17, 8), (8, 4, 4), "linear", "class token"),
        ((3, 2, 4, 4), (8, 2, 4, 4), "auto", "map -> map"),
        ((3, 2, 4, 4), (3, 2, 4, 4), "conv1x1", "map -> map"),
        ((), (4,), "auto", "vector -> vector"),
    ],
)
def test_what_cannot_be_joined_names_both_shapes_and_what_can(
    student: Shape, teacher: Shape, kind: Kind, expected: str
) -> None:
    with pytest.raises(ModelError) as caught:
        projector(student, teacher, kind)
    error = caught.value
    assert all(str(shape) in error.message and str(shape) in error.got for shape in (student, teacher))
    assert expected in error.expected
    assert "edgedistill layers" in error.fix
    assert repr(kind) in error.where


def test_inferring_shapes_touches_no_batch_norm_statistics() -> None:
    student, teacher = ConvNet(3, 10, width=4, depth=2).train(), ConvNet(3, 10, width=8, depth=3).train()
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (student, teacher)]
    example = torch.randn(2, 3, 8, 8)
    own = Captured(student, {"hint": ("features.4", "output")}, example)
    wanted = Captured(teacher, {"hint": ("features.7", "output")}, example)
    module = projector(own.points["hint"].shape, wanted.points["hint"].shape)
    for net, state in zip((student, teacher), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert net.training
    assert module(own(example)[1]["hint"]).shape == wanted(example)[1]["hint"].shape
    assert not {id(p) for p in module.parameters()} & {id(p) for p in own.parameters()}  # never in the student
