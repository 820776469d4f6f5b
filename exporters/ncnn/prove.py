"""Run a file that was just written, in a process of its own, and compare it with the model that it came from."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np

from edgedistill import agent
from edgedistill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgedistill.types import Array

AGREEMENT = 1e-4
"""Largest difference over the largest magnitude, per output: beyond it a file is not kept."""
_TIMEOUT_S = 600


def computed(path: Path, runtime: str, opener: Path, inputs: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """Outputs by name, for samples by name; `opener`: the runtime file.

    Raises:
        ModelError: the runtime does not run the file.
    """
    np.savez(folder / "in.npz", **dict(inputs))
    command = [sys.executable, agent.__file__, str(path), "--opener", str(opener), "--runtime", runtime]
    command += ["--inputs", str(folder / "in.npz"), "--outputs", str(folder / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        raise ModelError(
            f"{runtime} does not run {path.name}: {_told(done)}",
            where=str(path),
            expected=f"a file that {runtime} runs",
            got=_told(done),
            fix=f"mend the model, or install {runtime}",
        )
    with np.load(folder / "out.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _told(done: subprocess.CompletedProcess[str]) -> str:
    try:
        message: str = json.loads(done.stdout.splitlines()[-1])["error"]["message"]
    except (IndexError, ValueError, KeyError):
        return f"it died with exit code {done.returncode}: {done.stderr.strip()[-200:]}"
    return message[:300]


def agree(expected: Array, got: Array, name: str, reference: str) -> None:
    """Compare one output.

    Raises:
        ModelError: it has another shape, or departs by more than `AGREEMENT`.
    """
    if expected.shape != got.shape:
        raise ModelError(f"{name} has shape {got.shape}, {reference} gives {expected.shape}", where=name)
    scale = float(np.abs(expected).max()) or 1.0
    relative = float(np.abs(expected - got).max()) / scale
    if not relative <= AGREEMENT:  # NaN is no agreement
        raise ModelError(f"{name} departs from {reference} by {relative:.1e} of its magnitude", where=name)
