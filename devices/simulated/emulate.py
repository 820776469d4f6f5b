"""One emulated inference of a file, counted once and kept by the file's digest."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import edgedistill.agent
from edgedistill.errors import ArtifactError
from edgedistill.storage import write_atomically
from edgedistill.types import file_sha256

from .._arm.cores import CORES
from .._arm.counts import read_blocks
from .._arm.guest import command_of, environment_of
from .._arm.layout import layout
from .counts import FEATURES, LAST_LEVEL, features_of_blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array

GUEST = Path(__file__).with_name("guest.py")
_LIMIT_S = 3600.0
_VERSION = 2
"""Counted up when the features change their meaning."""


def counted(
    files: tuple[Path, ...], runtime: str, opener: Path, core: str, shapes: Mapping[str, tuple[int, ...]]
) -> Array:
    """The count features of one inference on an emulated core, one thread.

    Args:
        files: the file, and those beside it that hold its weights.
        runtime: that opens it in the guest.
        opener: the runtime file that has it.
        core: whose instructions are counted, `cortex-a72`.
        shapes: input -> shape with a batch of 1 (ncnn files do not always tell).

    Raises:
        UsageError: the emulator is not installed.
        ArtifactError: the runtime refuses the file.
    """
    where = layout()
    where.require()
    digests = [file_sha256(file) for file in (*files, GUEST, opener) if file.is_file()]
    parts = [_VERSION, where.digest, runtime, core, sorted(shapes.items()), digests]
    kept = where.base / "features" / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))["features"]
        return np.array([found[name] for name in FEATURES], float)
    except (OSError, ValueError, KeyError):
        features = _count(files[0], runtime, opener, core, shapes)
    kept.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "artifact": files[0].name,
        "runtime": runtime,
        "core": core,
        "features": dict(zip(FEATURES, features.tolist(), strict=True)),
    }
    write_atomically(kept, json.dumps(document) + "\n", contended=True)
    return features


def _count(path: Path, runtime: str, opener: Path, core: str, shapes: Mapping[str, tuple[int, ...]]) -> Array:
    where, target = layout(), CORES["arm"][core]
    with tempfile.TemporaryDirectory(prefix="edgedistill-predict-") as folder:
        out = Path(folder) / "counts"
        caches = [f"l{n}={kib}:{ways}" for n, (kib, ways) in enumerate((target.caches[0], LAST_LEVEL[core]), 1)]
        command = command_of(where, "arm", target, [f"out={out}", *caches])
        command += [str(GUEST), edgedistill.agent.__file__, str(opener.absolute()), str(path.absolute()), runtime]
        command.append(json.dumps({name: list(shape) for name, shape in shapes.items()}))
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=environment_of(where, "arm"), timeout=_LIMIT_S
            )
            told = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        except subprocess.TimeoutExpired:
            told = [f"no answer within {_LIMIT_S:g} s"]
        if not out.with_name("counts.2").is_file():
            raise ArtifactError(
                f"{path.name} could not be counted in {runtime} on an emulated {core}",
                where=str(path),
                expected=f"a file that {runtime} computes on this core",
                got=told[0],
                fix="--predictor graph needs no emulator",
            )
        return features_of_blocks(read_blocks(out.with_name("counts.2")))
