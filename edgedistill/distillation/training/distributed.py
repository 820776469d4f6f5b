"""Several processes that train one model: every objective sees the whole batch, every batch norm too.

Each process runs the student on its share of a batch; what it gives is exchanged (with gradients) and every process
computes the same objective of the whole batch. So N processes follow one process's loss curve up to rounding, also
for losses that relate samples to each other.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from edgedistill.errors import EdgeDistillError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Job = tuple[Callable[..., object], tuple[object, ...]]


_PATIENCE = timedelta(days=7)  # followers wait while the leader exports and measures


@dataclass(frozen=True)
class World:
    """Who this process is among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether it writes files and speaks."""
        return self.rank == 0


def world() -> World:
    """The processes that are connected now."""
    return World(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else World()


def started_by_torchrun() -> bool:
    """Whether torchrun (or what sets the same variables) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def together(devices: int) -> Iterator[None]:
    """Connect the processes that torchrun started, or start the missing ones; the first goes on inside.

    The others wait for work (see `share`) until the end of the block.
    """
    if dist.is_initialized():
        yield
        return
    if started_by_torchrun():
        followers: list[subprocess.Popen[bytes]] = []
    elif devices > 1:
        followers = _start(devices)
    else:
        yield
        return
    _connect()
    told = False  # whether the followers know how it ended
    try:
        yield
        told = True
    except EdgeDistillError:
        told = True  # they met the same error, and wait again
        raise
    finally:
        if told:
            share(None)
        dist.destroy_process_group()
        for follower in followers:
            if not told:
                follower.terminate()
            follower.wait()
        for name in _VARIABLES if followers else ():
            os.environ.pop(name, None)


_VARIABLES = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID",
)


def _start(devices: int) -> list[subprocess.Popen[bytes]]:
    """Start the followers with the variables that torchrun would set, and set ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "TORCHELASTIC_RUN_ID": f"edgedistill-{os.getpid()}",
    }
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]
    os.environ.update(environments[0])
    command = [sys.executable, "-m", "edgedistill.distillation.training.distributed"]
    return [subprocess.Popen(command, env={**os.environ, **own}) for own in environments[1:]]


def _connect() -> None:
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE)


def share(job: Job | None) -> None:
    """Tell the followers what to do: a function of a module of ours, and its arguments; None ends them."""
    if dist.is_initialized():
        dist.broadcast_object_list([job], src=0)


def follow() -> None:
    """Do what the leader shares, until it shares None."""
    _connect()
    try:
        while True:
            box: list[Job | None] = [None]
            dist.broadcast_object_list(box, src=0)
            if box[0] is None:
                return
            function, arguments = box[0]
            with suppress(EdgeDistillError):  # the leader meets the same and tells it
                function(*arguments)
    finally:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: object, tensor: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - torch: *args
        summed = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - torch: *args
        return _total(gradient)


def _total(tensor: Tensor) -> Tensor:
    """The sum over all processes, with gradients."""
    summed: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]  # torch leaves it without annotations
    return summed


def own_share(count: int) -> Tensor:
    """Positions in a batch that this process computes."""
    here = world()
    return torch.arange(here.rank, count, here.size)


def whole(part: Tensor, count: int) -> Tensor:
    """The whole batch's tensor from every process's share, with gradients.

    The gradient that comes back is the sum over processes; all of them compute the same objective, and averaging
    the parameters' gradients (as DistributedDataParallel does) makes it the objective's own.
    """
    if world().size == 1:
        return part
    positions = own_share(count).to(part.device)
    placed = part.new_zeros((count, *part.shape[1:])).index_copy(0, positions, part)
    return _total(placed)


@contextmanager
def synchronized(module: nn.Module) -> Iterator[None]:
    """Inside, every batch norm takes its statistics from all processes' samples.

    Only the class changes: parameters, buffers, names and hooks stay what they are.
    """
    norms = [child for child in module.modules() if isinstance(child, _BatchNorm)] if world().size > 1 else []
    kinds = [type(norm) for norm in norms]
    for norm in norms:
        norm.__class__ = GlobalBatchNorm
    try:
        yield
    finally:
        for norm, kind in zip(norms, kinds, strict=True):
            norm.__class__ = kind


class GlobalBatchNorm(_BatchNorm):
    """Batch normalisation whose statistics are those of the whole batch; torch's own does this on GPUs alone."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:  # batch, channels
            raise ValueError(f"batch norm needs (batch, channels, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise by the statistics of all processes in training, by the running ones in evaluation."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        axes = [0, *range(2, input.dim())]
        shape = (1, -1) + (1,) * (input.dim() - 2)
        values = input if input.dtype == torch.float64 else input.float()
        count = _total(values.new_tensor(float(values.numel() // values.shape[1])))
        mean = _total(values.sum(axes)) / count
        centred = values - mean.reshape(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._track(mean.detach(), (variance * count / (count - 1)).detach())
        result = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.weight is not None:
            result = result * self.weight.reshape(shape) + self.bias.reshape(shape)
        return result.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.training or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked or 1)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


if __name__ == "__main__":
    from edgedistill.distillation.training.distributed import follow as follow_from_the_package

    follow_from_the_package()
