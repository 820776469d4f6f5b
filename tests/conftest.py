"""One small recipe, run once for the whole session; tests that change a run work on a copy."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def edgedistill(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "edgedistill.cli.main", *map(str, arguments)]
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


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An undisturbed run of the small recipe: its directory and its --json answer."""
    run = tmp_path_factory.mktemp("finished") / "run"
    done = edgedistill("compress", recipe, "--run", run, "--json")
    assert done.returncode == 0, done.stderr
    return run, documents(done)


@pytest.fixture
def copied(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the finished run, free to be damaged."""
    target = tmp_path / "run"
    shutil.copytree(finished[0], target)
    return target


def kill_in(stage: str, recipe: Path, run: Path) -> bool:
    """Start the run and end it by SIGKILL once it says that the stage has begun; whether that was in time."""
    command = [sys.executable, "-m", "edgedistill.cli.main", "compress", str(recipe), "--run", str(run)]
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
