"""A tiny classroom for the tests of training: samples, a teacher, recipes, and trainings that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedistill.data.splits import Data
from edgedistill.distillation.schemes import Classroom, distil
from edgedistill.events import Quiet
from edgedistill.recipe.document import Recipe
from edgedistill.students.convnet import ConvNet
from edgedistill.teachers.module import Adapted
from edgedistill.types import Array, Normalization

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

    from edgedistill.events import Epoch

CLASSES = 3
TEACHER = {"family": "convnet", "width": 6, "train": {"epochs": 1}}
STUDENT = {"family": "convnet", "width": 3}
HINT = {"loss": "hint", "student_layers": "features.3", "teacher_layers": "features.3"}
SOFT = {"loss": "soft_targets", "temperature": 2.0}
HARD = {"loss": "cross_entropy"}


def images(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Noisy 6 x 6 images whose brightness tells the class, and the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    noise = random.normal(size=(count, 1, 6, 6))
    return (noise + 1.5 * (labels[:, None, None, None] - 1)).astype(np.float32), labels.astype(np.int64)


def splits(train: int = 40, *, unlabelled: int = 0) -> Data:
    inputs, labels = images(train + unlabelled)
    labels[train:] = -1
    return Data(inputs, labels, *images(12, seed=1), ("a", "b", "c"), Normalization((0.0,), (1.0,), "none"))


def recipe(distill: dict[str, Any], **more: Any) -> Recipe:
    document = {"data": {"source": "digits"}, "teacher": TEACHER, "student": STUDENT, "seed": 3, "distill": distill}
    return Recipe.model_validate({**document, **more})


def new_teacher() -> Adapted:
    """Random weights, and batch-norm statistics that are those of data."""
    torch.manual_seed(11)
    module = ConvNet(1, CLASSES, width=6, depth=2)
    module(torch.from_numpy(images(32, seed=2)[0]))
    with torch.no_grad():
        module.classifier.weight.mul_(8.0)
    return Adapted(module, None, None, "teacher").eval()


class Pupil(ConvNet):
    """A small student with dropout before its classifier."""

    def __init__(self, dropout: float = 0.2) -> None:
        torch.manual_seed(12)
        super().__init__(1, CLASSES, width=3, depth=2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.features(image).mean(dim=(2, 3))))
        return logits


class Witness(Quiet):
    """Remembers the epochs and steps that it was told of."""

    def __init__(self) -> None:
        self.epochs: list[tuple[str, Epoch]] = []
        self.steps: list[tuple[str, float]] = []

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:  # noqa: ARG002 - the protocol's name
        self.epochs.append((title, epoch))

    def training(self, title: str, done: float, epochs: int) -> None:  # noqa: ARG002 - the protocol's name
        self.steps.append((title, done))


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    weights: dict[str, Tensor]
    witness: Witness
    logs: dict[str, str]


@dataclass(frozen=True)
class Training:
    """A training that any process can do: everything it needs crosses process borders."""

    distill: dict[str, Any]
    dropout: float = 0.2
    more: dict[str, Any] = field(default_factory=dict)
    samples: int = 41

    def run(self, folder: Path, events: Witness | None = None) -> Trained:
        """Train, or go on training, with checkpoints and logs below a folder."""
        witness = events or Witness()
        told = recipe(self.distill, **self.more)
        room = Classroom(told, folder, splits(self.samples), folder, witness)
        student = distil(room, "student", Pupil(self.dropout), new_teacher(), None, told.seed)
        logs = {p.parent.parent.name: p.read_text(encoding="utf-8") for p in folder.glob("*/logs/steps.csv")}
        return Trained({name: tensor.clone() for name, tensor in student.state_dict().items()}, witness, logs)


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two state dicts agree in every bit."""
    return list(first) == list(second) and all(_bits(first[n]) == _bits(second[n]) for n in first)


def _bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    array = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return tensor.dtype, tuple(tensor.shape), array.tobytes()


@dataclass(frozen=True)
class Kill:
    """When a training ends itself by SIGKILL: at the n-th `step`, `epoch`, `open` or `os.rename` of its files."""

    event: str
    number: int


class _Doomed(Witness):
    def __init__(self, kill: Kill, folder: Path) -> None:
        super().__init__()
        self.kill = kill
        self.left = kill.number
        self.folder = str(folder)

    def count(self, event: str) -> None:
        self.left -= event == self.kill.event
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:  # noqa: ARG002 - the protocol's name
        self.count("epoch")

    def training(self, title: str, done: float, epochs: int) -> None:  # noqa: ARG002 - the protocol's name
        self.count("step")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The interpreter tells of every file that is about to be opened or renamed."""
        if event == self.kill.event and str(arguments[0]).startswith(self.folder):
            self.count(event)


def run_until_killed(training: Training, folder: Path, kill: Kill) -> None:
    doomed = _Doomed(kill, folder)
    sys.addaudithook(doomed.audit)
    training.run(folder, doomed)


def processes() -> ForkServerContext:
    """Fresh processes, forked from one that has imported everything and computed nothing."""
    root = str(Path(__file__).parents[2])
    if root not in sys.path:  # the processes look for this module there
        sys.path.insert(0, root)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["edgedistill.distillation.trainings", "torch.utils.tensorboard", "pytest"])
    return context


def joined(process: BaseProcess) -> int | None:
    """The exit code of a process that must end soon."""
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def killed(training: Training, folder: Path, kill: Kill) -> None:
    """Run a training in a process of its own that is killed on its way."""
    target: Callable[..., None] = run_until_killed
    process = processes().Process(target=target, args=(training, folder, kill))
    process.start()
    assert joined(process) == -signal.SIGKILL
