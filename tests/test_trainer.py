"""The seeded training loop."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.distillation.trainer import Epoch, deterministic, fit
from edgedistill.errors import ModelError
from edgedistill.recipe import Train

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _mode_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


def _ignore(_: Epoch) -> None:
    pass


class _Recorder:
    """Cross-entropy that remembers the rows of every batch."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels
        self.batches: list[list[int]] = []

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        assert len(logits) == len(rows)
        self.batches.append(rows.tolist())
        return functional.cross_entropy(logits, self.labels[rows])


def _separable(n: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(n) % 2
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    return noise * 0.3 + 4.0 * labels[:, None] - 2.0, labels


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 2))


def _weights(seed: int) -> list[Tensor]:
    inputs, labels = _separable(50)
    with deterministic(seed, threads=1):
        model = _net()
        fit(model, inputs, labels, _Recorder(labels), Train(epochs=3, batch_size=8), seed, _ignore)
    return list(model.state_dict().values())


def test_one_seed_gives_the_same_weights_bit_for_bit() -> None:
    torch.rand(3)  # where the global generator stands must not matter
    first = _weights(5)
    torch.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first, _weights(5), strict=True))


def test_another_seed_gives_other_weights() -> None:
    assert not all(torch.equal(a, b) for a, b in zip(_weights(5), _weights(6), strict=True))


def test_the_order_of_samples_depends_on_the_seed_alone() -> None:
    orders = []
    for seed, model in ((3, _net(0)), (3, nn.Linear(2, 2)), (4, _net(0))):
        inputs, labels = _separable(30)
        torch.rand(5)
        recorder = _Recorder(labels)
        fit(model, inputs, labels, recorder, Train(epochs=2, batch_size=7), seed, _ignore)
        orders.append(recorder.batches)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:5] != orders[0][5:]


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(20, [8, 8, 4]), (16, [8, 8]), (17, [8, 9]), (18, [8, 8, 2]), (9, [9]), (5, [5]), (2, [2])],
)
def test_every_sample_counts_once_an_epoch_and_a_lone_last_one_joins_its_neighbour(n: int, sizes: list[int]) -> None:
    inputs, labels = _separable(n)
    recorder = _Recorder(labels)
    fit(_net(), inputs, labels, recorder, Train(epochs=2, batch_size=8), 0, _ignore)
    assert [len(batch) for batch in recorder.batches] == sizes * 2
    assert Counter(row for batch in recorder.batches for row in batch) == dict.fromkeys(range(n), 2)


class _Constant(nn.Module):
    """A parameter whose gradient is always 1, so that it walks by the learning rates alone."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.position + torch.zeros(len(x), 2)


@pytest.mark.parametrize(("plain", "merged"), [(8, 9), (16, 17)])
def test_the_learning_rate_decays_over_the_steps_taken_also_when_the_last_batch_was_merged(
    plain: int, merged: int
) -> None:
    def mean(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.sum() / (2 * len(rows))

    walked = []
    for n in (plain, merged):
        model = _Constant()
        settings = Train(epochs=4, batch_size=8, weight_decay=0)
        fit(model, torch.zeros(n, 1), torch.zeros(n, dtype=torch.long), mean, settings, 0, _ignore)
        walked.append(model.position.item())
    assert walked[0] == pytest.approx(walked[1], rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_an_error_naming_its_epoch(bad: float) -> None:
    inputs, labels = _separable(8)
    calls: list[int] = []
    seen: list[Epoch] = []

    def breaks_in_the_third_epoch(logits: Tensor, rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return logits.sum() * (bad if len(calls) == 3 else 0.0)

    with pytest.raises(ModelError, match=r"loss became .* in epoch 3") as caught:
        fit(_net(), inputs, labels, breaks_in_the_third_epoch, Train(epochs=5, batch_size=8), 0, seen.append)
    assert caught.value.where == "epoch 3 of 5"
    assert "learning rate" in caught.value.fix
    assert [epoch.number for epoch in seen] == [1, 2]


def test_a_learning_rate_far_too_high_ends_as_that_error() -> None:
    inputs, labels = _separable(32)
    with pytest.raises(ModelError, match="the loss became"):
        fit(
            nn.Sequential(nn.Linear(2, 16), nn.Linear(16, 2)),
            inputs,
            labels,
            _Recorder(labels),
            Train(epochs=50, batch_size=8, learning_rate=1e20),
            0,
            _ignore,
        )


def test_epochs_are_told_once_each_in_order_and_returned() -> None:
    inputs, labels = _separable(20)
    told: list[Epoch] = []
    history = fit(_net(), inputs, labels, _Recorder(labels), Train(epochs=4, batch_size=8), 0, told.append)
    assert told == history
    assert [epoch.number for epoch in told] == [1, 2, 3, 4]


def test_an_epochs_loss_is_the_mean_over_samples_not_over_batches() -> None:
    inputs, labels = _separable(10)
    sizes: list[int] = []

    def size_of_the_batch(logits: Tensor, rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return logits.sum() * 0 + len(rows)

    (epoch,) = fit(_net(), inputs, labels, size_of_the_batch, Train(epochs=1, batch_size=8), 0, _ignore)
    assert sizes == [8, 2]
    assert epoch.loss == pytest.approx((8 * 8 + 2 * 2) / 10)


def test_the_model_trains_in_train_mode_and_ends_in_eval_mode() -> None:
    inputs, labels = _separable(16)
    model = _net()
    modes: list[bool] = []

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        modes.append(model.training)
        return functional.cross_entropy(logits, labels[rows])

    def evaluate(_: Epoch) -> None:
        model.eval()

    fit(model, inputs, labels, loss, Train(epochs=3, batch_size=8), 0, evaluate)
    assert modes == [True] * 6
    assert not any(module.training for module in model.modules())


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
    inputs, labels = _separable(64)
    model = _net()
    history = fit(model, inputs, labels, _Recorder(labels), Train(epochs=15, batch_size=16), 0, _ignore)
    assert history[-1].loss < history[0].loss
    assert bool((model(inputs).argmax(1) == labels).all())
