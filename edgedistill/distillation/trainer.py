"""One seeded training loop for teachers, students and baselines: only the loss differs."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from edgedistill.recipe import Train


class Loss(Protocol):
    """Loss of a batch, given the model's logits and the numbers of its samples."""

    def __call__(self, logits: Float[Tensor, "batch classes"], rows: Int[Tensor, " batch"]) -> Tensor:
        """A scalar with a gradient."""
        ...


@dataclass(frozen=True)
class Epoch:
    """Means over an epoch's training samples, taken while the weights moved."""

    number: int
    loss: float
    accuracy: float


@contextmanager
def deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and forbid nondeterministic kernels inside; thread count and mode are put back after."""
    before = torch.get_num_threads()
    mode = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=mode, warn_only=warn_only)
        torch.set_num_threads(before)


def fit(
    model: nn.Module,
    inputs: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    loss: Loss,
    settings: Train,
    seed: int,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train in place by SGD (Nesterov momentum 0.9) under a cosine schedule; the model ends in eval mode.

    The order of samples depends on the seed alone, so two trainings with one seed see the same batches.

    Raises:
        ModelError: the loss became NaN or infinite.
    """
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        settings.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=settings.weight_decay,
    )
    steps = settings.epochs * len(_batches(torch.arange(len(inputs)), settings.batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history: list[Epoch] = []
    for number in range(1, settings.epochs + 1):
        model.train()
        total, right = 0.0, 0
        for rows in _batches(torch.randperm(len(inputs), generator=order), settings.batch_size):
            logits = model(inputs[rows])
            value = loss(logits, rows)
            if not torch.isfinite(value):
                raise ModelError(
                    f"the loss became {value.item()} in epoch {number}",
                    where=f"epoch {number} of {settings.epochs}",
                    expected="a finite loss",
                    got=str(value.item()),
                    fix="lower the learning rate (learning_rate), or check the teacher's outputs",
                )
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves backward without annotations
            optimizer.step()
            schedule.step()
            total += value.item() * len(rows)
            right += int((logits.argmax(1) == labels[rows]).sum())
        history.append(Epoch(number, total / len(inputs), right / len(inputs)))
        on_epoch(history[-1])
    model.eval()
    return history


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Consecutive batches; a last batch of one sample joins its neighbour (batch norm needs two)."""
    batches = list(torch.split(order, size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches
