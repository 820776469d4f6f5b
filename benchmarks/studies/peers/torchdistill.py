"""torchdistill's DistillationBox on the same task, driven step by step through its public methods."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.studies.peers.task import ALPHA, LEARNING_RATE, MOMENTUM, TEMPERATURE, WEIGHT_DECAY

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from benchmarks.studies.peers.task import Task

_LIBRARY: Any = torch.library.Library
_NAMES = _LIBRARY("torchvision", "FRAGMENT")
"""Names live as long as this object."""


def online(task: Task) -> Callable[[], nn.Module]:
    """The teacher runs on every batch: version 1.1.5 has no cache. Its data loader is left out, to its advantage."""
    teacher, student = task.teacher(), task.student()
    box = _library().get_distillation_box(
        teacher, student, {}, _config(), torch.device("cpu"), device_ids=None, distributed=False, lr_factor=1
    )

    def train() -> nn.Module:
        box.pre_epoch_process(epoch=0)
        teacher.eval()  # it never calls this itself: a teacher in training mode would move its batch statistics
        for inputs, labels in task:
            loss = box.forward_process(inputs, labels, None)
            box.post_forward_process(loss=loss)
        return student

    return train


def _config() -> dict[str, Any]:
    """The objective of the task. Its `alpha` is the weight of the labels; its KL is multiplied by T^2."""
    logits = {"module_path": ".", "module_io": "output"}
    both = {f"{role}_{key}": value for role in ("student", "teacher") for key, value in logits.items()}
    kd = {"key": "KDLoss", "kwargs": {**both, "temperature": TEMPERATURE, "alpha": 1 - ALPHA, "reduction": "batchmean"}}
    optimizer = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "nesterov": True}
    return {
        "num_epochs": 1,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        "optimizer": {"key": "SGD", "kwargs": optimizer},
    }


@cache
def _library() -> Any:
    """The package, imported once.

    It imports torchvision for a model zoo that is not used here. A torchvision built for CUDA cannot load its own
    operators beside a CPU build of torch, and its import then stumbles over two of them: these are given a name.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            _NAMES.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("torchdistill.core.distillation")
