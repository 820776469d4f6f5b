"""The training loop: order, modes, schedules, windows, clipping, averages, choice of the epoch, and its one error."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distillation.objective.objective import Losses
from edgedistill.distillation.training.checkpoint import load_checkpoint
from edgedistill.distillation.training.place import deterministic
from edgedistill.distillation.training.schedules import learning_rate
from edgedistill.distillation.training.trainer import Lesson, fit
from edgedistill.errors import ModelError
from edgedistill.models.signals import LOGITS, Signals
from edgedistill.recipe.document import Train
from tests.helpers.listening import Listening
from tests.helpers.school import Pupil, images, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from edgedistill.distillation.objective.terms import Step
    from edgedistill.events import Epoch


@pytest.fixture(autouse=True)
def _mode_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


class Learner(nn.Module):
    """Any module as a learner."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Signals:
        return {LOGITS: self.module(inputs)}


class Task(nn.Module):
    """An objective of one term, that remembers the rows and the moment of every batch; `factor` is a learned part."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy) -> None:
        super().__init__()
        self.loss = loss
        self.factor = nn.Parameter(torch.ones(2))
        self.batches: list[list[int]] = []
        self.moments: list[float] = []
        self.modes: list[bool] = []

    def forward(self, step: Step, epoch: float) -> Losses:
        self.batches.append(step.rows.tolist())
        self.moments.append(epoch)
        self.modes.append(self.training)
        value = self.loss(step.student[LOGITS] * self.factor, step.labels)
        return Losses(value, {"task": value})


def separable(n: int, validation: int = 0) -> Lesson:
    """Two clouds of points; the last ones are for validation."""
    labels = torch.arange(n) % 2
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    rows = torch.arange(n)
    return Lesson(noise * 0.3 + 4.0 * labels[:, None] - 2.0, labels, rows[: n - validation], rows[n - validation :], 0)


def net(seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    return Learner(nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2)))


def plain(seed: int = 0) -> Learner:
    """Without batch norm and dropout: samples do not meet."""
    torch.manual_seed(seed)
    return Learner(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))


def weights(seed: int) -> dict[str, Tensor]:
    learner = net()
    with deterministic(seed, threads=1):
        fit(learner, Task(), separable(50), Train(epochs=3, batch_size=8), seed)
    return learner.state_dict()


def test_one_seed_gives_the_same_weights_bit_for_bit_and_another_gives_others() -> None:
    torch.rand(3)  # where the global generator stands must not matter
    first = weights(5)
    torch.rand(7)
    assert same(first, weights(5))
    assert not same(first, weights(6))


def test_the_order_of_samples_depends_on_the_seed_alone() -> None:
    orders = []
    for seed, learner in ((3, net()), (3, Learner(nn.Linear(2, 2))), (4, net())):
        torch.rand(5)
        task = Task()
        fit(learner, task, separable(30), Train(epochs=2, batch_size=7), seed)
        orders.append(task.batches)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:5] != orders[0][5:]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(20, [8, 8, 4]), (16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (9, [9]), (5, [5]), (2, [2])],
)
def test_every_sample_counts_once_an_epoch_and_a_lone_last_one_joins_its_neighbour(n: int, sizes: list[int]) -> None:
    task = Task()
    fit(net(), task, separable(n), Train(epochs=2, batch_size=8), 0)
    assert [len(batch) for batch in task.batches] == sizes * 2
    assert Counter(row for batch in task.batches for row in batch) == dict.fromkeys(range(n), 2)
    assert task.moments == pytest.approx([e + b / len(sizes) for e in range(2) for b in range(len(sizes))])


def closed_form(settings: Train, step: int, per_epoch: int) -> float:
    """The recipe's words: a linear rise from zero over the warm-up, then a fall to zero over the rest."""
    warm = round(settings.warmup_epochs * per_epoch)  # whole steps, so that the peak is reached and not passed
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    share = (step - warm) / (settings.epochs * per_epoch - warm)
    falling = {"cosine": math.cos(math.pi * share / 2) ** 2, "linear": 1 - share, "constant": 1.0}
    return settings.learning_rate * falling[settings.lr_schedule]


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("n", "accumulate", "per_epoch"), [(16, 1, 2), (17, 1, 2), (56, 2, 4)])
def test_the_learning_rate_follows_its_closed_form_step_by_step(
    shape: str, warmup: float, n: int, accumulate: int, per_epoch: int
) -> None:
    """A parameter with the gradient 1 walks by the learning rates alone; a merged last batch is no step."""
    settings = Train.model_validate(
        {
            "epochs": 4,
            "batch_size": 8,
            "weight_decay": 0,
            "momentum": 0,
            "accumulate": accumulate,
            "lr_schedule": shape,
            "warmup_epochs": warmup,
        }
    )
    walker = Learner(nn.Linear(1, 2))
    walked: list[float] = []
    task = Task(lambda logits, _: logits[:, 0].mean())
    task.factor.requires_grad_(False)
    lesson = Lesson(torch.zeros(n, 1), torch.zeros(n, dtype=torch.long), torch.arange(n), torch.arange(0), 0)
    start = walker.module.bias[0].item()  # type: ignore[index]  # of the linear layer above

    def stepped(_: float) -> None:
        walked.append(walker.module.bias[0].item())  # type: ignore[index]  # as above

    fit(walker, task, lesson, settings, 0, events=Listening(training=stepped))
    assert len(walked) == 4 * per_epoch
    moves = [before - after for before, after in pairwise([start, *walked])]
    expected = [closed_form(settings, step, per_epoch) for step in range(4 * per_epoch)]
    assert moves == pytest.approx(expected, abs=2e-7)
    assert [learning_rate(settings, step, per_epoch) for step in range(len(expected))] == pytest.approx(expected)


@pytest.mark.parametrize("n", [24, 22, 21, 25])
def test_accumulated_batches_are_one_big_batch_also_in_the_last_partial_window(n: int) -> None:
    """Windows of 3 batches of 4: 24 samples fill two of them, 22 and 21 leave a partial one."""
    big, small = plain(), plain()
    tasks = Task(), Task()
    history = fit(big, tasks[0], separable(n), Train(epochs=3, batch_size=12), 0)
    windows = fit(small, tasks[1], separable(n), Train(epochs=3, batch_size=4, accumulate=3), 0)
    assert len(tasks[1].batches) > 2 * len(tasks[0].batches)
    for name, tensor in big.state_dict().items():
        assert small.state_dict()[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-6, abs=1e-6), name
    assert tasks[1].factor.tolist() == pytest.approx(tasks[0].factor.tolist(), rel=1e-6)
    assert [e.loss for e in windows] == pytest.approx([e.loss for e in history], rel=1e-6)


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (1e3, False)])
def test_clipping_limits_the_norm_over_the_student_and_the_objectives_own_parts(*, limit: float, clipped: bool) -> None:
    """Without momentum and decay one step at rate 1 moves every parameter by its clipped gradient."""
    learner, task = plain(), Task()
    settings = Train(
        epochs=1, batch_size=16, learning_rate=1.0, lr_schedule="constant", momentum=0, weight_decay=0, clip_norm=limit
    )
    lesson = separable(16)
    before = [p.detach().double().numpy().copy() for p in [*learner.parameters(), *task.parameters()]]
    torch.autograd.backward(functional.cross_entropy(learner(lesson.inputs)[LOGITS] * task.factor, lesson.labels))
    gradients = [np.asarray(p.grad, dtype=np.float64) for p in [*learner.parameters(), *task.parameters()]]
    learner.zero_grad()
    task.zero_grad()
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    fit(learner, task, lesson, settings, 0)
    scale = limit / norm if clipped else 1.0
    assert (norm > limit) == clipped
    for parameter, start, gradient in zip([*learner.parameters(), *task.parameters()], before, gradients, strict=True):
        assert start - parameter.detach().numpy() == pytest.approx(scale * gradient, abs=3e-7)


def test_the_average_equals_one_computed_by_hand() -> None:
    learner = net()
    states = [{name: tensor.double().numpy().copy() for name, tensor in learner.state_dict().items()}]

    def stepped(_: float) -> None:
        states.append({name: tensor.double().numpy().copy() for name, tensor in learner.state_dict().items()})

    fit(learner, Task(), separable(20), Train(epochs=3, batch_size=8, ema=0.7), 0, events=Listening(training=stepped))
    for name, tensor in learner.state_dict().items():
        expected = states[0][name]
        for state in states[1:]:
            expected = 0.7 * expected + 0.3 * state[name]
        if name.endswith("num_batches_tracked"):
            expected = np.asarray(9)
        assert tensor.numpy() == pytest.approx(expected, rel=1e-5, abs=1e-6), name
    assert not np.allclose(states[-1]["module.0.weight"], learner.state_dict()["module.0.weight"].numpy())


def test_the_best_epoch_is_kept_and_training_stops_when_patience_is_over() -> None:
    """Chance labels: accuracy wanders. The first of the best is kept, and 3 epochs after it are enough."""
    lesson = separable(60, validation=20)
    chance = torch.randint(2, (60,), generator=torch.Generator().manual_seed(7))
    lesson = Lesson(lesson.inputs, chance, lesson.rows, lesson.validation, 0)
    learner, task = net(), Task()
    states: list[dict[str, Tensor]] = []
    accuracies: list[float] = []

    def judged(told: Epoch) -> None:
        states.append({name: tensor.clone() for name, tensor in learner.state_dict().items()})
        learner.eval()
        with torch.no_grad():
            chosen = learner(lesson.inputs[40:])[LOGITS].argmax(1)
        accuracies.append(sum(int(a == b) for a, b in zip(chosen.tolist(), chance[40:].tolist(), strict=True)) / 20)
        assert told.validation == accuracies[-1]

    settings = Train(
        epochs=40, batch_size=8, learning_rate=0.5, validation_fraction=0.3, select="best", patience=3
    )  # the lesson says which samples are kept out
    history = fit(learner, task, lesson, settings, 0, events=Listening(epoch=judged))
    best = accuracies.index(max(accuracies))
    assert best > 0
    assert len(history) == best + 1 + 3 < 40
    assert same(learner.state_dict(), states[best])
    assert not same(learner.state_dict(), states[-1])
    assert {row for batch in task.batches for row in batch} == set(range(40))


def test_validation_samples_choose_and_do_not_teach() -> None:
    """Other validation samples: another choice perhaps, but the same training."""
    found = []
    for shift in (0.0, 100.0):
        lesson, learner = separable(40, validation=10), net()
        lesson.inputs[30:] += shift
        fit(learner, Task(), lesson, Train(epochs=3, batch_size=8, validation_fraction=0.25), 0)
        found.append(learner.state_dict())
    assert same(*found)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error_that_names_its_place_and_keeps_a_good_checkpoint(
    bad: float, tmp_path: Path
) -> None:
    calls: list[int] = []
    seen: list[Epoch] = []

    def breaks_in_the_eighth_step(logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return functional.cross_entropy(logits, labels) * (bad if len(calls) == 8 else 1.0)

    settings = Train(epochs=5, batch_size=8, checkpoint_seconds=0)
    with pytest.raises(ModelError, match=r"the loss became (nan|inf): task, step 8, epoch 3") as caught:
        fit(
            net(),
            Task(breaks_in_the_eighth_step),
            separable(24),
            settings,
            0,
            folder=tmp_path,
            events=Listening(epoch=seen.append),
        )
    assert caught.value.where == "epoch 3 of 5, step 8, term task"
    assert str(tmp_path / "checkpoint.pt") in str(caught.value)
    assert "learning_rate" in caught.value.fix
    assert [epoch.number for epoch in seen] == [1, 2]
    assert kept(tmp_path)["place"]["step"] == 7


def kept(folder: Path) -> dict[str, Any]:
    """The checkpoint, which can be read and holds finite numbers."""
    document = load_checkpoint(folder / "checkpoint.pt")
    assert document is not None
    tensors = [*document["learner"].values(), *document["objective"].values()]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    return document


@pytest.mark.parametrize("epochs", [1, 50])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_weights_that_are_no_numbers_are_never_kept(epochs: int, clip: float | None, tmp_path: Path) -> None:
    """The loss is finite and its gradient is not: the weights break before the next loss can tell, if there is one."""

    def root_of_nothing(logits: Tensor, _: Tensor) -> Tensor:
        return (logits - logits.detach()).abs().sum().sqrt()

    settings = Train(epochs=epochs, batch_size=8, checkpoint_seconds=0, clip_norm=clip)
    with pytest.raises(ModelError, match="became"):
        fit(plain(), Task(root_of_nothing), separable(8), settings, 0, folder=tmp_path)
    kept(tmp_path)


def test_a_learning_rate_far_too_high_ends_as_that_error(tmp_path: Path) -> None:
    learner = Learner(nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 2)))
    settings = Train(epochs=50, batch_size=8, learning_rate=1e20, checkpoint_seconds=0)
    with pytest.raises(ModelError, match="became"):
        fit(learner, Task(), separable(32), settings, 0, folder=tmp_path)
    kept(tmp_path)


def test_epochs_are_told_once_each_in_order_and_returned() -> None:
    told: list[Epoch] = []
    history = fit(net(), Task(), separable(20), Train(epochs=4, batch_size=8), 0, events=Listening(epoch=told.append))
    assert told == history
    assert [epoch.number for epoch in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_epochs_figures_are_means_over_samples_not_over_batches(accumulate: int) -> None:
    """The loss is the batch's size; of the ten samples four have no label."""
    lesson = separable(10)
    lesson.labels[:4] = -1
    task = Task(lambda logits, _: logits.sum() * 0 + len(logits))
    (epoch,) = fit(net(), task, lesson, Train(epochs=1, batch_size=8, accumulate=accumulate), 0)
    assert [len(batch) for batch in task.batches] == [8, 2]
    assert epoch.loss == pytest.approx((8 * 8 + 2 * 2) / 10)
    assert epoch.terms == {"task": epoch.loss}
    assert 6 * epoch.accuracy == pytest.approx(round(6 * epoch.accuracy))
    assert 0 <= epoch.accuracy <= 1


def test_everything_trains_in_train_mode_and_ends_in_eval_mode() -> None:
    learner, task = net(), Task()
    modes: list[bool] = []

    def evaluate(_: Epoch) -> None:
        modes.append(learner.training)
        learner.eval()
        task.eval()

    lesson = separable(16, validation=4)
    fit(
        learner,
        task,
        lesson,
        Train(epochs=3, batch_size=8, validation_fraction=0.2),
        0,
        events=Listening(epoch=evaluate),
    )
    assert task.modes == [True] * 6
    assert not any(module.training for part in (learner, task) for module in part.modules())


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_deterministic_puts_thread_count_and_mode_back(*, before: bool, fails: bool) -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(before)
    with suppress(RuntimeError), deterministic(0, threads=1):
        assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (1, True)
        if fails:
            torch.dot(torch.zeros(2), torch.zeros(3))
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == (2, before)


def test_deterministic_seeds_torch() -> None:
    drawn = []
    for seed in (1, 1, 2):
        with deterministic(seed, threads=1):
            drawn.append(torch.rand(4).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_separable_problem_is_learned() -> None:
    lesson, learner = separable(64), net()
    history = fit(learner, Task(), lesson, Train(epochs=15, batch_size=16), 0)
    assert history[-1].loss < history[0].loss
    assert history[-1].accuracy == 1
    assert bool((learner(lesson.inputs)[LOGITS].argmax(1) == lesson.labels).all())


def pictures() -> Lesson:
    inputs, labels = images(48)
    return Lesson(torch.from_numpy(inputs), torch.from_numpy(labels), torch.arange(48), torch.arange(0), 0)


class Plain(nn.Module):
    """Cross-entropy on three classes."""

    def forward(self, step: Step, epoch: float) -> Losses:  # noqa: ARG002 - an objective's face
        value = functional.cross_entropy(step.student[LOGITS], step.labels)
        return Losses(value, {"cross_entropy": value})


@pytest.mark.parametrize(
    ("settings", "departure"),
    [
        ({"channels_last": True}, 1e-5),
        ({"precision": "bf16"}, 0.05),
        pytest.param({"compile": True}, 1e-4, marks=pytest.mark.slow),  # half a minute of a C++ compiler
    ],
)
def test_other_layouts_precisions_and_compilation_learn_the_same(settings: dict[str, Any], departure: float) -> None:
    common = {"epochs": 6, "batch_size": 16, "learning_rate": 0.1, **settings}
    learner = Learner(Pupil(dropout=0.0))
    history = fit(learner, Plain(), pictures(), Train.model_validate(common), 0)
    usual = fit(Learner(Pupil(dropout=0.0)), Plain(), pictures(), Train(epochs=6, batch_size=16, learning_rate=0.1), 0)
    assert history[-1].loss < 0.7 * history[0].loss
    assert [e.loss for e in history] == pytest.approx([e.loss for e in usual], rel=departure, abs=departure)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in learner.parameters())
    assert list(learner.state_dict()) == list(Learner(Pupil()).state_dict())


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ModelError, match="fp16 needs a GPU") as caught:
        fit(net(), Task(), separable(8), Train(epochs=1, precision="fp16"), 0)
    assert "bf16" in caught.value.fix
