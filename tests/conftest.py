"""Two small recipes, each run once for the whole session, by whichever worker comes first; tests work on copies."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).parent.parent
# a busy machine is not a fault of the code; the same examples in every run: a red run is a change's doing
settings.register_profile("edgedistill", deadline=None, derandomize=True)
settings.load_profile("edgedistill")
SMALL = """\
name: small
data: {source: digits}
teacher:
  family: convnet
  width: 8
  depth: 2
  train: {epochs: 4, learning_rate: 0.1}
student: {family: convnet, width: 3, depth: 2}
distill: {epochs: 3, baseline: true, learning_rate: 0.1}
quantize: {samples: 64, candidates: default, max_drop: 0.2, validation_samples: 200}
parity: {int8: {min_psnr_db: 15, min_top1_agreement: 0.85}}
benchmark: {rounds: 2, min_queries: 40, min_duration_s: 0.02, warmup_s: 0.01}
gate: {quality: {max_drop: 0.9}, size: {max_ratio: 2.0}, parity: true}
"""


TINY = """\
name: tiny
data: {source: digits}
teacher: {family: convnet, width: 4, depth: 1, train: {epochs: 1, learning_rate: 0.1}}
student: {family: convnet, width: 2, depth: 1}
distill: {epochs: 1, learning_rate: 0.1}
export: {formats: [onnx]}
quantize: {samples: 16, candidates: default, fallback: false, max_drop: 1, validation_samples: 50}
parity: {int8: {min_psnr_db: 5, min_top1_agreement: 0.5}}
benchmark: {rounds: 1, min_queries: 10, min_duration_s: 0.01, warmup_s: 0.01}
gate: {quality: {max_drop: 1}, size: {max_ratio: 20}, parity: true}
"""
"""What a run does, and not what comes out of it: one format, students that learn next to nothing."""


def edgedistill(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "edgedistill.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def documents(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON document on stdout."""
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def states(document: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in document["stages"]}


def digests(report: dict[str, Any]) -> dict[str, str]:
    return {artifact["id"]: artifact["sha256"] for artifact in report["artifacts"]}


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker makes and the others of the session wait for."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    folder = (factory.getbasetemp().parent if worker else factory.getbasetemp()) / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "made").touch()
    return folder


def finished_run(factory: pytest.TempPathFactory, name: str, text: str) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run of a recipe: its directory and its --json answer."""

    def make(folder: Path) -> None:
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
        done = edgedistill("compress", folder / f"{name}.yaml", "--run", folder / "run", "--json")
        assert done.returncode == 0, done.stderr
        (folder / "answer.json").write_text(done.stdout, encoding="utf-8")

    folder = once(factory, name, make)
    return folder / "run", json.loads((folder / "answer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Of the small recipe: three formats."""
    return finished_run(tmp_path_factory, "small", SMALL)


@pytest.fixture(scope="session")
def finished_tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Of the tiny recipe: one format."""
    return finished_run(tmp_path_factory, "tiny", TINY)


@pytest.fixture
def copied(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished run, free to be damaged."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


@pytest.fixture
def copied_tiny(finished_tiny: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the tiny recipe's run, free to be damaged."""
    return Path(shutil.copytree(finished_tiny[0], tmp_path / "run"))


def kill_in(stage: str, recipe: Path, run: Path) -> bool:
    """Start the run and end it by SIGKILL once it says that the stage has begun; whether that was in time."""
    command = [sys.executable, "-m", "edgedistill.cli", "compress", str(recipe), "--run", str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.split()[:2] == [stage, "..."]:
                process.send_signal(signal.SIGKILL)
                break
        process.stderr.read()
    return process.returncode == -signal.SIGKILL


def last_line(lines: Sequence[str]) -> str:
    return [line for line in lines if line.strip()][-1]
