"""Our p50 beside a bare loop's in the runtime's own API, and beside OpenVINO's benchmark_app, interleaved."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from edgedistill.artifacts.running import Subject, call_for
from edgedistill.plugins import load_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.studies.harness.kept import Kept
    from edgedistill.types import Artifact, Json

BARE = Path(__file__).with_name("bare.py")


def harness(kept: Kept, files: Mapping[tuple[str, str], Artifact], rounds: int, seconds: float) -> None:
    """A row for each round, model and runtime that `kept` lacks; all models and runtimes meet in every round.

    Args:
        kept: where rows go.
        files: (model, runtime) -> file.
        rounds: how many.
        seconds: of each measurement.
    """
    done = {(row["round"], row["model"], row["runtime"]) for row in kept.rows}
    for number in range(rounds):
        for (model, runtime), file in files.items():
            if (number, model, runtime) not in done:
                row = {"round": number, "model": model, "runtime": runtime, **beside(file, runtime, seconds)}
                kept.add(row)
                sys.stderr.write(f"round {number + 1} of {rounds}: {model} in {runtime}: {row['ratio']:.3f}\n")


def beside(file: Artifact, runtime: str, seconds: float) -> Json:
    """Medians in milliseconds: bare, ours, ours, bare, so that drift cancels; ours over theirs.

    For OpenVINO also ours, benchmark_app, benchmark_app, ours, where it is installed; that one tells OpenVINO's own
    time of an inference, without the call from Python, so ours is then by the same clock.
    """
    theirs, ours = _around(lambda: _bare(file, runtime, seconds), lambda: _ours(file, runtime, seconds))
    row = {"ours_ms": ours, "bare_ms": theirs, "ratio": ours / theirs}
    app = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    if runtime == "openvino" and app:
        ours, theirs = _around(
            lambda: _ours(file, runtime, seconds, own_clock=True), lambda: _benchmark_app(app, file, seconds)
        )
        row |= {"ours_beside_app_ms": ours, "benchmark_app_ms": theirs, "ratio_to_benchmark_app": ours / theirs}
    return row


def _around(outer: Callable[[], float], inner: Callable[[], float]) -> tuple[float, float]:
    """Outer, inner, inner, outer: the geometric mean of each."""
    first, second, third, fourth = outer(), inner(), inner(), outer()
    return (first * fourth) ** 0.5, (second * third) ** 0.5


def _bare(file: Artifact, runtime: str, seconds: float) -> float:
    return float(_told([sys.executable, str(BARE), runtime, str(file.path), str(seconds)]).strip().splitlines()[-1])


def _ours(file: Artifact, runtime: str, seconds: float, *, own_clock: bool = False) -> float:
    job = replace(call_for(Subject(file, runtime)), min_queries=10, min_duration_s=seconds)
    document = load_device("cpu").run("cpu", job).document
    return float(document["runtime_p50_ms"] if own_clock else median(document["latency_ns"]) / 1e6)


def _benchmark_app(app: str, file: Artifact, seconds: float) -> float:
    """OpenVINO's own tool; it wants whole seconds."""
    shape = ",".join(["1", *(str(d) for d in file.signature.inputs[0].shape[1:])])
    said = _told(
        [
            app,
            "-m",
            str(file.path),
            "-shape",
            f"[{shape}]",
            "-d",
            "CPU",
            "-api",
            "sync",
            "-hint",
            "none",
            "-nthreads",
            "1",
            "-infer_precision",
            "f32",
            "-t",
            str(max(1, round(seconds))),
        ]
    )
    return median_of(said)


def median_of(said: str) -> float:
    """The median in benchmark_app's words, in milliseconds; it tells short ones in microseconds."""
    found = re.search(r"Median:\s+([\d.]+) (ms|us)\b", said)
    if found is None:
        raise RuntimeError(f"benchmark_app tells no median:\n{said}")
    return float(found[1]) / (1e3 if found[2] == "us" else 1)


def _told(command: Sequence[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as the harness sets it
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
