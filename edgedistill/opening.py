"""Opening a file as its runtime would. For exporters."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from edgedistill import agent
from edgedistill.types import Check, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgedistill.types import Artifact


def opens(artifact: Artifact, runtime: str, opener: Path) -> Check:
    """Whether a runtime opens the file and computes one inference, tried in a process of its own.

    tflite-runtime dies of a segmentation fault on a damaged file; the process that asks must not.
    """
    name = f"support:{artifact.id}:{runtime}"
    command = [sys.executable, agent.__file__, str(artifact.path), "--opener", str(opener), "--runtime", runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check(name, State.PASS, f"{runtime} opens {artifact.path.name}")
    try:
        error = json.loads(done.stdout.splitlines()[-1])["error"]
        told = error["message"]
    except (IndexError, ValueError, KeyError):
        error, told = {}, f"it died with exit code {done.returncode}"
    if error.get("code") == "unsized":
        return Check(name, State.PASS, f"{runtime} opens {artifact.path.name}; nothing was computed: {told}")
    return Check(name, State.FAIL, f"{runtime} refuses {artifact.path.name}: {told}")


def supported(
    artifact: Artifact, opener: Path, refusals: Callable[[Artifact], Mapping[str, str]] = lambda _: {}
) -> list[Check]:
    """For each runtime of the opener: refused by the operators of the file, or opened."""
    refused: Mapping[str, str] = {}
    with suppress(Exception):  # a damaged or missing file has many errors of its reader; opening tells better
        refused = refusals(artifact)
    return [
        Check(f"support:{artifact.id}:{runtime}", State.FAIL, f"not for {runtime}: {refused[runtime]}")
        if runtime in refused
        else opens(artifact, runtime, opener)
        for runtime in agent.load_opener(str(opener)).RUNTIMES
    ]
