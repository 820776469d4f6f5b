"""Plain torch loops: the least that labels alone, a teacher beside the student, or a cached teacher can cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from benchmarks.studies.peers.task import ALPHA, LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from benchmarks.studies.peers.task import Task


def labels_only(task: Task) -> Callable[[], nn.Module]:
    """The student alone, cross-entropy on the labels: the physical limit."""
    student = task.student()
    optimizer = sgd(student)

    def train() -> nn.Module:
        for inputs, labels in task:
            update(optimizer, functional.cross_entropy(student(inputs), labels))
        return student

    return train


def online(task: Task) -> Callable[[], nn.Module]:
    """The teacher runs on every batch."""
    teacher, student = task.teacher(), task.student()
    optimizer = sgd(student)

    def train() -> nn.Module:
        for inputs, labels in task:
            with torch.no_grad():
                targets = teacher(inputs)
            update(optimizer, distillation_loss(student(inputs), targets, labels))
        return student

    return train


def cached(task: Task) -> Callable[[], nn.Module]:
    """The teacher ran before the clock started; its logits lie in RAM."""
    teacher, student = task.teacher(), task.student()
    with torch.no_grad():
        targets = torch.stack([teacher(inputs) for inputs in task.inputs])
    optimizer = sgd(student)

    def train() -> nn.Module:
        for (inputs, labels), wanted in zip(task, targets, strict=True):
            update(optimizer, distillation_loss(student(inputs), wanted, labels))
        return student

    return train


def sgd(student: nn.Module) -> torch.optim.SGD:
    """The optimiser of every subject."""
    return torch.optim.SGD(
        student.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )


def update(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """One step down the gradient."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward without annotations
    optimizer.step()


def distillation_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Alpha T^2 KL(teacher || student) at temperature T, plus (1 - alpha) cross-entropy.

    Source: G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", 2015.
    """
    soft = functional.kl_div(
        (student / TEMPERATURE).log_softmax(1),
        (teacher / TEMPERATURE).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
    return ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * functional.cross_entropy(student, labels)
