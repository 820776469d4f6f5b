"""Students trained on real data, for tables in which quality counts. Weights are kept under runs/trained."""

from __future__ import annotations

import runpy
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.studies.zoo import images, sequences
from edgedistill.students.convnet import ConvNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedistill.types import Array

ROOT = Path(__file__).resolve().parents[3]
KEPT = ROOT / "runs" / "trained"
_BATCH = 64

Split = tuple[dict[str, "Array"], "Array"]
"""Inputs by name, first axis: samples; and class numbers."""


@dataclass(frozen=True)
class Task:
    """Data that a student learns, and how long."""

    load: Callable[[], tuple[Split, Split]]
    epochs: int
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class TrainedStudent:
    """A student with its weights.

    Attributes:
        module: in eval mode.
        train: of the training split.
        test: of the evaluation split, never learned from.
    """

    name: str
    module: nn.Module
    train: Split
    test: Split


def digits(*, wide: bool) -> tuple[Split, Split]:
    """scikit-learn's digits, 898 + 899; `wide`: as images of 3 x 32 x 32."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = (bunch.images.astype(np.float32) / 16 - 0.3)[:, None]
    if wide:
        x = np.repeat(x.repeat(4, axis=2).repeat(4, axis=3), 3, axis=1)
    y = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:898], order[898:]
    return ({"image": x[train]}, y[train]), ({"image": x[test]}, y[test])


def fashion_mnist() -> tuple[Split, Split]:
    """Fashion-MNIST, the first 8,000 + 10,000, padded to 3 x 32 x 32."""

    def split(name: str, most: int) -> Split:
        with np.load(_fetched("fashion_mnist") / f"{name}.npz", allow_pickle=False) as archive:
            x, y = archive["x"][:most], archive["y"][:most]
        padded = np.pad(x.astype(np.float32) / 255 - 0.3, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-0.3)
        return {"image": np.repeat(padded, 3, axis=1)}, y

    return split("train", 8_000), split("test", 10_000)


def reuters() -> tuple[Split, Split]:
    """Reuters R8: 64 word numbers and their mask."""

    def split(name: str) -> Split:
        with np.load(_fetched("reuters_r8") / f"{name}.npz", allow_pickle=False) as archive:
            return {"ids": archive["ids"], "mask": archive["mask"]}, archive["y"]

    return split("train"), split("test")


def _fetched(example: str) -> Path:
    """The folder of an example whose data are there, fetched by its script when they are not."""
    folder = ROOT / "examples" / example
    if not (folder / "test.npz").is_file():
        arguments, sys.argv = sys.argv, [str(folder / "fetch.py")]
        try:
            runpy.run_path(str(folder / "fetch.py"), run_name="__main__")
        finally:
            sys.argv = arguments
    return folder


_SMALL, _WIDE = Task(partial(digits, wide=False), 40, 1e-2), Task(partial(digits, wide=True), 10)
_LONG = Task(partial(digits, wide=True), 50)
_FASHION, _NEWS = Task(fashion_mnist, 3), Task(reuters, 4, 1e-3)
STUDENTS: dict[str, tuple[Callable[[], nn.Module], Task]] = {
    "digits-convnet": (lambda: ConvNet(1, 10, width=8, depth=2), _SMALL),
    "digits-resnet": (images.ResNet, _WIDE),
    "digits-mobilenet": (partial(images.MobileNet, 1), _WIDE),
    "digits-shufflenet": (images.ShuffleNet, _LONG),
    "digits-convnext": (images.ConvNext, _WIDE),
    "digits-vit": (images.VisionTransformer, _LONG),
    "fashion-mobilenet": (partial(images.MobileNet, 1), _FASHION),
    "reuters-text-encoder": (partial(sequences.TextEncoder, 8000, 128, 64, 8), _NEWS),
}


def trained(name: str, folder: Path = KEPT) -> TrainedStudent:
    """The student of that name, trained now if it was not before (seeded, one thread, Adam, cross-entropy)."""
    build, task = STUDENTS[name]
    train, test = task.load()
    torch.manual_seed(0)
    module = build()
    weights = folder / f"{name}.safetensors"
    if weights.is_file():
        module.load_state_dict(load_file(weights))
        return TrainedStudent(name, module.eval(), train, test)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same weights on every host of this kind
    try:
        _learn(module, train, task)
    finally:
        torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(module.state_dict(), weights)
    return TrainedStudent(name, module.eval(), train, test)


def _learn(module: nn.Module, split: Split, task: Task) -> None:
    inputs, labels = {n: torch.from_numpy(x) for n, x in split[0].items()}, torch.from_numpy(split[1])
    steps = task.epochs * (len(labels) // _BATCH)
    optimizer = torch.optim.Adam(module.parameters(), lr=task.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, task.learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    module.train()
    for _ in range(task.epochs):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels) - _BATCH + 1, _BATCH):
            rows = order[start : start + _BATCH]
            loss = nn.functional.cross_entropy(module(*(x[rows] for x in inputs.values())), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
            schedule.step()
