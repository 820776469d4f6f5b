"""CPU time of a training step: every round runs every subject once, each in a fresh process of one thread."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.studies.peers.environment import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_WARM_UP_STEPS = 3
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Setting:
    """What is measured: `rounds` times, each over `steps` training steps of `batch` samples."""

    rounds: int
    steps: int
    batch: int


@dataclass(frozen=True)
class Sample:
    """One run of one subject: CPU milliseconds per step, and some answers of the trained student."""

    subject: str
    round: int
    cpu_ms: float
    logits: tuple[float, ...]


def schedule(subjects: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Every subject once a round; each round starts with another one, so that none is always first."""
    for number in range(rounds):
        start = number % len(subjects)
        yield from ((number, subject) for subject in (*subjects[start:], *subjects[:start]))


def in_fresh_process(python: Path, subject: str, number: int, setting: Setting) -> Sample:
    """Run `python -m benchmarks.studies.peers.measure` for one subject.

    Raises:
        RuntimeError: the subject failed.
    """
    command = [str(python), "-m", "benchmarks.studies.peers.measure", subject, str(setting.steps), str(setting.batch)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **_THREADS}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{subject} failed in round {number}:\n{done.stderr}")
    document = json.loads(done.stdout.splitlines()[-1])
    return Sample(subject, number, document["cpu_ms"], tuple(document["logits"]))


def run(key: str, steps: int, batch: int) -> dict[str, object]:
    """Measure in this process: a short training to warm up, then a new student, timed from its first step."""
    from benchmarks.studies.peers.subjects import subject

    prepare = subject(key).prepare  # before torch, which takes seconds to import

    import torch

    from benchmarks.studies.peers.task import cifar_sized

    torch.set_num_threads(1)
    task = cifar_sized(steps, batch)
    prepare(task.head(_WARM_UP_STEPS))()
    train = prepare(task)
    start = time.process_time()
    student = train()
    cpu_ms = 1e3 * (time.process_time() - start) / steps
    with torch.no_grad():
        logits = student.eval()(task.inputs[0])
    return {"cpu_ms": cpu_ms, "logits": logits.flatten().tolist()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))) + "\n")
