"""Two processes that train one model follow one process's curve, and come to its weights."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from edgedistill import pipeline
from edgedistill.distillation.training.distributed import (
    GlobalBatchNorm,
    follow,
    own_share,
    share,
    synchronized,
    together,
    whole,
    world,
)
from edgedistill.errors import ModelError
from edgedistill.recipe.document import load_recipe
from tests.helpers.school import HARD, HINT, SOFT, Kill, Training, images, joined, processes, run_until_killed, same

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RELATIONS = [
    {"loss": "rkd_distance", "student_layers": "features.5", "teacher_layers": "features.5", "weight": 2.0},
    {"loss": "rkd_angle"},
    {"loss": "similarity_preserving", "student_layers": "features.3", "teacher_layers": "features.3"},
]
COMMON = {"epochs": 3, "batch_size": 8}
CRD = {"loss": "crd", "dim": 8, "negatives": 5, "student_layers": "features.5", "teacher_layers": "features.5"}
TRAININGS: dict[str, dict[str, Any]] = {  # 45 samples: the last of 6 batches has 5
    "relations": {"objective": [HARD, SOFT, HINT, *RELATIONS]},
    "windows, average, clipping, best epoch": {
        "objective": [HARD, *RELATIONS],
        "accumulate": 4,
        "ema": 0.8,
        "clip_norm": 0.5,
        "validation_fraction": 0.2,
        "select": "best",
    },
    "memory": {"objective": [HARD, CRD], "optimizer": "adamw", "learning_rate": 0.01},
    "features alone": {"objective": [HINT]},
    "augmented": {"augment": {"crop_padding": 1, "noise": 0.1}},
    "peers": {"scheme": {"kind": "mutual"}},
    "exits": {"scheme": {"kind": "self", "layers": ["features.2"]}},
}


def as_rank(rank: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    """What torchrun does for a process, and then the leader's work, or what it shares."""
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in variables.items()})
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "test"})
    torch.set_num_threads(1)
    if rank > 0:
        follow()
        return
    with together(1):
        assert world().size == 2
        share((work, arguments))
        work(*arguments)


def by_two(work: Callable[..., None], *arguments: Any) -> list[int | None]:
    """Do some work in two processes; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = processes()
    pair = [context.Process(target=as_rank, args=(rank, port, work, *arguments)) for rank in (0, 1)]
    for process in pair:
        process.start()
    return [joined(process) for process in pair]


def train(training: Training, folder: Path) -> None:
    trained = training.run(folder)
    if world().leads:
        torch.save(trained.weights, folder / "weights.pt")


def losses(text: str) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(io.StringIO(text))]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-4) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].double().numpy() == pytest.approx(tensor.double().numpy(), rel=within, abs=within), name


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_follow_the_curve_of_one(name: str, tmp_path: Path) -> None:
    training = Training({**COMMON, **TRAININGS[name]}, dropout=0.0, samples=45)
    alone = training.run(tmp_path / "alone")
    assert by_two(train, training, tmp_path / "two") == [0, 0]
    curve = losses(alone.logs["student"])
    assert len(curve) == 3 * (6 if "accumulate" not in training.distill else 2)
    text = (tmp_path / "two" / "student" / "logs" / "steps.csv").read_text(encoding="utf-8")
    assert losses(text) == pytest.approx(curve, rel=1e-5, abs=1e-5)
    assert_close(torch.load(tmp_path / "two" / "weights.pt", weights_only=True), alone.weights)


def die_together(training: Training, folder: Path, kill: Kill) -> None:
    if world().leads:
        run_until_killed(training, folder, kill)
    else:
        training.run(folder)


def test_two_processes_resume_exactly_and_none_outlives_a_killed_leader(tmp_path: Path) -> None:
    training = Training({**COMMON, "objective": [HARD, HINT, *RELATIONS], "checkpoint_seconds": 0}, samples=45)
    assert by_two(train, training, tmp_path / "undisturbed") == [0, 0]
    leader, follower = by_two(die_together, training, tmp_path / "killed", Kill("step", 8))
    assert leader == -signal.SIGKILL
    assert follower not in (0, -signal.SIGKILL)  # it ended by itself: its partner was gone
    assert by_two(train, training, tmp_path / "killed") == [0, 0]
    found = [torch.load(tmp_path / n / "weights.pt", weights_only=True) for n in ("killed", "undisturbed")]
    assert same(*found)


def fail(training: Training, folder: Path) -> None:
    if not world().leads:
        training.run(folder)
    with pytest.raises(ModelError, match="became"):
        training.run(folder)
    raise ModelError("as it should")


def test_an_error_that_all_meet_ends_all(tmp_path: Path) -> None:
    training = Training({**COMMON, "learning_rate": 1e25})
    assert by_two(fail, training, tmp_path) == [1, 0]


def check_norm(kind: type[nn.Module], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    """Every process computes the plain norm of the whole batch too, in float64."""
    torch.manual_seed(5)
    plain: Any = kind(shape[1], **options).double()
    if plain.affine:
        nn.init.normal_(plain.weight)
        nn.init.normal_(plain.bias)
    split: Any = kind(shape[1], **options).double()
    split.load_state_dict(plain.state_dict())
    weights = torch.randn(shape, dtype=torch.float64)
    with synchronized(split):
        assert type(split) is GlobalBatchNorm
        for _ in range(3):
            batch = torch.randn(shape, dtype=torch.float64) * 3 + 100  # far from zero, where naive variances fail
            rows = own_share(shape[0])
            own, every = batch[rows].requires_grad_(), batch.clone().requires_grad_()
            gathered, expected = whole(split(own), shape[0]), plain(every)
            torch.testing.assert_close(gathered, expected, rtol=1e-9, atol=1e-11)
            for result in (gathered, expected):
                torch.autograd.backward((result * weights).sin().sum())
            assert own.grad is not None
            assert every.grad is not None
            # Both processes computed the loss of the whole, so the gradients are twice its own.
            torch.testing.assert_close(own.grad / 2, every.grad[rows], rtol=1e-8, atol=1e-10)
    assert type(split) is kind
    for one, other in zip(split.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        dist.all_reduce(one.grad)
        torch.testing.assert_close(one.grad / 2, other.grad, rtol=1e-8, atol=1e-10)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(split.get_buffer(name), buffer, rtol=1e-9, atol=1e-11)
    tried = torch.randn(shape, dtype=torch.float64)
    with synchronized(split.eval()):
        torch.testing.assert_close(split(tried), plain.eval()(tried), rtol=1e-9, atol=1e-11)


def check_norms() -> None:
    for kind, shape in ((nn.BatchNorm1d, (5, 3)), (nn.BatchNorm1d, (2, 3, 4)), (nn.BatchNorm2d, (7, 2, 3, 2))):
        for options in ({}, {"momentum": None}, {"affine": False}, {"eps": 0.1, "momentum": 0.3}):
            check_norm(kind, shape, options)


def test_a_batch_norm_over_two_processes_is_that_of_the_whole_batch() -> None:
    assert by_two(check_norms) == [0, 0]


def check_whole() -> None:
    """The loss couples all samples: its gradient at a share needs all of them."""
    torch.manual_seed(6)
    full = torch.randn(5, 3, dtype=torch.float64)
    rows = own_share(5)
    assert rows.tolist() == list(range(world().rank, 5, 2))
    part = full[rows].requires_grad_()
    gathered = whole(part, 5)
    assert torch.equal(gathered.detach(), full)
    torch.autograd.backward(torch.cdist(gathered, gathered).square().sum())
    # d/dx_i sum_jk |x_j - x_k|^2 = 4 sum_k (x_i - x_k)
    expected = 4 * (5 * full - full.sum(0))
    assert part.grad is not None
    torch.testing.assert_close(part.grad / 2, expected[rows], rtol=1e-12, atol=1e-12)


def test_shares_make_the_whole_with_gradients() -> None:
    assert by_two(check_whole) == [0, 0]


def test_alone_nothing_is_exchanged() -> None:
    part, norm = torch.randn(4, 2), nn.BatchNorm1d(2)
    with synchronized(norm), together(1):
        assert type(norm) is nn.BatchNorm1d
        assert whole(part, 4) is part
        assert own_share(4).tolist() == [0, 1, 2, 3]
        assert world().leads


def command_line(*start: str | Path, changes: list[str]) -> None:
    options = [part for change in changes for part in ("--set", change)]
    command = [*map(str, start), *options, "--until", "distill"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_recipes_devices_and_torchrun_train_what_one_process_trains(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    inputs, labels = images(60)
    np.savez(tmp_path / "data.npz", x=inputs, y=labels)
    document = {
        "data": {"source": "npz", "path": "data.npz", "evaluation_fraction": 0.25},
        "teacher": {"family": "convnet", "width": 6, "train": {"epochs": 2, "batch_size": 8}},
        "student": {"family": "convnet", "width": 3},
        "distill": {**COMMON, "objective": [HARD, SOFT, HINT, *RELATIONS], "baseline": True},
        "export": {"formats": ["onnx"]},
    }
    recipe.write_text(json.dumps(document), encoding="utf-8")
    pipeline.compress(load_recipe(recipe), tmp_path, tmp_path / "one", until="distill")
    devices, torchrun = tmp_path / "devices", tmp_path / "torchrun"
    cli: list[str | Path] = ["-m", "edgedistill.cli.main", "compress", recipe, "--run"]
    command_line(sys.executable, *cli, devices, changes=["distill.devices=2"])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    command_line(sys.executable, *launch, *cli[1:], torchrun, changes=[])
    for run in (devices, torchrun):
        for name in ("student", "student-labels-only"):
            curves = [
                losses((r / "logs" / "training" / name / "steps.csv").read_text(encoding="utf-8"))
                for r in (run, tmp_path / "one")
            ]
            assert len(curves[0]) == 18
            assert curves[0] == pytest.approx(curves[1], rel=1e-5, abs=1e-5)
            files = [next((r / "stages" / "distill").glob(f"*/{name}.safetensors")) for r in (run, tmp_path / "one")]
            assert_close(load_file(files[0]), load_file(files[1]))
