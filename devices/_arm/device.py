"""The verbs of an emulated device, for either scheme."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

from edgedistill.errors import UsageError
from edgedistill.types import AgentAnswer, DeviceInfo

from .cores import CORES, PROCESSORS, Target, read_target
from .counts import classify
from .guest import INFERENCES, run_guest
from .layout import layout
from .store import keep, key_of, recall

if TYPE_CHECKING:
    from edgedistill.types import AgentCall, Json

    from .guest import GuestRun

RUNTIMES = {
    "arm": ("onnxruntime", "tflite-runtime", "litert", "openvino", "ncnn"),
    "armv7": ("tflite-runtime", "ncnn"),
}
"""What is built for the guest."""
_CLASSES = {"arm": "aarch64", "armv7": "armv7l"}


def describe(device_id: str) -> DeviceInfo:
    """The core, as far as an emulator has one; the bare scheme stands for all its cores."""
    scheme, _, name = device_id.partition(":")
    if name:
        core = read_target(device_id).core
        told = f"{core.name}, emulated" + (f" by {core.model}'s instructions" if core.stands_in else "")
    else:
        told = f"emulated cores: {', '.join(CORES[scheme])}"
    return DeviceInfo(device_id, told, _CLASSES[scheme], PROCESSORS, 0)


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Outputs, instruction counts and memory of an artifact on an emulated core; never a time.

    A run made before with the same files, inputs, runtime and core is taken again, and says so (`reused`), unless
    EDGEDISTILL_ARM_FRESH is set.

    Raises:
        UsageError: an unknown core, no installation, more than one thread, a runtime that the guest lacks.
        ArtifactError: the runtime refuses the file or the inputs.
        DeviceError: the core lacks an instruction, or the guest died.
    """
    target = read_target(device_id)
    where = layout()
    where.require()
    _require(target, job)
    folder = where.base / "counts" / key_of(where, target, job)
    with tempfile.TemporaryDirectory(prefix="edgedistill-arm-") as temporary:
        outputs = job.outputs or Path(temporary) / "outputs.npz"
        kept = None if os.environ.get("EDGEDISTILL_ARM_FRESH") else recall(folder, outputs)
        made = kept or run_guest(where, target, job, outputs)
        if kept is None:
            keep(folder, made, outputs, job.artifact)
    document = {
        **made.document,
        "source": "emulated",
        "core": target.core.name,
        "reused": kept is not None,
        "instructions": _instructions(made),
        "blocks": str(folder / "blocks.json.gz"),
        "emulation_flags": _flags(target),
    }
    if target.caches:
        names = ("accesses", "l1_misses", "l2_misses")
        sizes = [{"kib": kib, "ways": ways, "line_bytes": 64} for kib, ways in target.core.caches]
        document["caches"] = {**dict(zip(names, made.blocks.caches, strict=True)), "l1": sizes[0], "l2": sizes[1]}
    return AgentAnswer(device_id, document)


def _require(target: Target, job: AgentCall) -> None:
    if job.threads != 1:
        raise UsageError(
            "instructions are counted with one thread only",
            where="--threads, benchmark.threads",
            expected="1",
            got=str(job.threads),
            fix="leave the threads at 1 for emulated devices",
        )
    if job.runtime not in RUNTIMES[target.scheme]:
        raise UsageError(
            f"there is no {job.runtime} for {target.scheme} guests",
            where=f"device: {target.scheme}",
            expected=", ".join(RUNTIMES[target.scheme]),
            got=job.runtime,
            fix="use a file that one of these opens",
        )


def _instructions(made: GuestRun) -> Json:
    """Of one inference, Python's call included: the middle one of several; `spread`: their quartiles' distance."""
    found = classify(made.blocks)
    low, median, high = quantiles(made.totals, n=4)
    return {**found, "inferences": INFERENCES, "totals": list(made.totals), "spread": (high - low) / median}


def _flags(target: Target) -> list[str]:
    if not target.core.stands_in:
        return []
    return [f"{target.core.name} runs as {target.core.model}: same instructions, and its own name to the runtimes"]
