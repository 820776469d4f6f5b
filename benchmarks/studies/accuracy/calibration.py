"""Calibrate this machine as a board, and predict ten networks that the suite does not hold.

    python -m benchmarks.studies.accuracy.calibration [--runtime onnxruntime] [--device cpu]

Suite and unseen networks are measured in the same interleaved rounds; the profile goes to a temporary folder. Exit
code 1 if fewer than 7 of the 10 lie in their 80% interval, or the median error is above 15%.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.events import QUIET
from edgedistill.plugins import find_plugin, load_device
from edgedistill.prediction.networks import FEW, SUITE, UNSEEN
from edgedistill.prediction.own_board import Board, exported, measured
from edgedistill.prediction.predict import predict

if TYPE_CHECKING:
    from edgedistill.prediction.own_board import Timing

MOST, LEAST = 0.15, 7


def main() -> int:
    """Measure, calibrate on the whole suite and on three of it, predict the rest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EDGEDISTILL_PROFILES"] = f"{folder}/profiles"
        files = {name: exported(name, arguments.runtime, Path(folder)) for name in (*SUITE, *UNSEEN)}
        board = Board("this-machine", arguments.runtime)
        timings = measured(files, board, arguments.device, QUIET)
        found = dict(zip(files, timings, strict=True))
        error, inside = _told("suite of 12", {n: found[n] for n in SUITE}, found, board, arguments.device)
        _told("three networks", {n: found[n] for n in FEW}, found, board, arguments.device)
    return 0 if error <= MOST and inside >= LEAST else 1


def _told(
    title: str, anchors: dict[str, Timing], found: dict[str, Timing], board: Board, device: str
) -> tuple[float, int]:
    """Calibrate on some, print the predictions of the unseen; their median error and how many lie in the interval."""
    info = load_device(device).describe(device)
    facts = {
        "name": info.name,
        "machine": info.machine,
        "cores": info.cores,
        "ram_mb": info.memory_bytes / 2**20,
        "source": title,
        "given": False,
    }
    rows = [{"path": t.path, "family": t.family, "ms": t.ms} for t in anchors.values()]
    made = find_plugin("devices", "simulated").calibrate(
        board.name, rows, facts, runtime=board.runtime, threads=board.threads, app_budget_mb=None
    )
    sys.stdout.write(
        f"{title}: held-out median error {made['mdape']:.1%}, 80% interval x/÷ {made['interval_factor']:.2f}\n"
    )
    errors, inside = [], 0
    for name in UNSEEN:
        one = predict(found[name].path, [board.name], runtime=board.runtime, predictor="graph")["predictions"][0]
        low, high = one["interval80_ms"]
        errors.append(one["latency_ms"]["p50"] / found[name].ms - 1)
        inside += low <= found[name].ms <= high
        rounds = f"rounds {min(found[name].rounds_ms):.3f} to {max(found[name].rounds_ms):.3f}"
        told = f"predicted {one['latency_ms']['p50']:8.3f} [{low:.3f}, {high:.3f}] {errors[-1]:+.0%}"
        sys.stdout.write(f"  {name:<16} measured {found[name].ms:8.3f} ms ({rounds}), {told}\n")
    median = float(np.median(np.abs(errors)))
    sys.stdout.write(f"  median error {median:.1%}, {inside} of {len(UNSEEN)} in the interval\n")
    return median, inside


if __name__ == "__main__":
    raise SystemExit(main())
