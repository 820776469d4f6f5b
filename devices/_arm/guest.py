"""Run the agent in the emulated guest, and read what it and the counting plug-in leave."""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edgedistill.agent
from edgedistill.calling import raise_refusal
from edgedistill.errors import ArtifactError, CoreError, DeviceError

from .counts import Blocks, middle, read_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgedistill.types import AgentCall, Json

    from .cores import Core, Target
    from .layout import Layout

PLACES = {"arm": "arm64", "armv7": "armhf"}
EMULATORS = {"arm": "qemu-aarch64", "armv7": "qemu-arm"}
INFERENCES = 11
"""Counted apart, after those that compute the outputs; the middle one counts."""
STAGES = ("baseline", "after_import", "after_load", "peak")
_SNAPSHOT = 0x100
_SIGILL = 4
_SIGNALLED = 128
"""Exit codes above tell a signal."""
_GUEST_BASE = {"arm": 0, "armv7": 0x1_0000_0000}
"""Where the guest's address 0 lies in the emulator's process; armv7 is given it by -B."""

_LIBRARIES = {"arm": (), "armv7": ("usr/lib/arm-linux-gnueabihf/blas", "usr/lib/arm-linux-gnueabihf/lapack")}
"""Where the guest's loader looks too: Debian leaves BLAS to its alternatives, which are not set up here."""


@dataclass(frozen=True)
class GuestRun:
    """One run: the agent's document without any time, the middle inference's blocks, every inference's total."""

    document: Json
    blocks: Blocks
    totals: tuple[int, ...]


def command_of(layout: Layout, scheme: str, core: Core, plugin: Iterable[str] = ()) -> list[str]:
    """The emulator and the guest's Python; `plugin` are the counting plug-in's arguments, none: it stays away."""
    root = layout.root
    arguments = [*plugin]
    libraries = ":".join(str(root / "sysroot" / PLACES[scheme] / folder) for folder in _LIBRARIES[scheme])
    base = ["-B", f"{_GUEST_BASE[scheme]:#x}"] if _GUEST_BASE[scheme] else []
    return [
        str(root / "host/usr/bin" / EMULATORS[scheme]),
        "-E",
        f"LD_LIBRARY_PATH={libraries}",
        "-cpu",
        core.model,
        *base,
        "-L",
        str(root / "cores" / core.name),
        *(["-plugin", ",".join([str(layout.plugin), *arguments])] if arguments else []),
        str(root / "sysroot" / PLACES[scheme] / "usr/bin/python3.11"),
        "-B",
        "-s",
    ]


def host_libraries(layout: Layout) -> str:
    """Where the emulator's own libraries lie."""
    return ":".join(str(layout.root / "host" / folder / "x86_64-linux-gnu") for folder in ("usr/lib", "lib"))


def environment_of(layout: Layout, scheme: str) -> dict[str, str]:
    """Nothing of the user's: counts must not depend on it."""
    sysroot = layout.root / "sysroot" / PLACES[scheme]
    path = f"{layout.root / 'site' / PLACES[scheme]}:{sysroot / 'usr/lib/python3/dist-packages'}"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        "LD_LIBRARY_PATH": host_libraries(layout),
        "PYTHONPATH": path,
        "PYTHONHASHSEED": "0",
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        **threads,
    }


def run_guest(layout: Layout, target: Target, job: AgentCall, outputs: Path) -> GuestRun:
    """Compute every sample, then count single inferences.

    Raises:
        ArtifactError: the runtime refuses the file or the inputs.
        UsageError: samples that do not fit.
        CoreError: the core lacks an instruction, or a signal ended the guest.
        DeviceError: the guest ended otherwise, or did not.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistill-arm-") as folder:
        out = Path(folder) / "counts"
        caches = [f"l{n}={kib}:{ways}" for n, (kib, ways) in enumerate(target.core.caches, 1) if target.caches]
        command = command_of(layout, target.scheme, target.core, [f"out={out}", *caches])
        command += [edgedistill.agent.__file__, str(job.artifact.absolute())]
        command += ["--opener", str(job.opener.absolute()), "--runtime", job.runtime]
        command += ["--threads", "1", "--mark", str(INFERENCES), "--outputs", str(outputs.absolute())]
        command += ["--inputs", str(job.inputs.absolute())] if job.inputs is not None else []
        document = _answer(command, environment_of(layout, target.scheme), job, target)
        counted = [read_blocks(out.with_name(f"counts.{mark}")) for mark in range(2, INFERENCES + 2)]
        memory = _memory(out, document.pop("marked")["ranges"], _GUEST_BASE[target.scheme])
    timed = ("import_ms", "load_cold_ms", "load_warm_ms", "first_inference_ms", "page_cache", "cores", "profile")
    for key in timed:
        document.pop(key, None)
    document["memory_bytes"] = memory
    return GuestRun(document, middle(counted), tuple(blocks.total for blocks in counted))


def _answer(command: list[str], environment: dict[str, str], job: AgentCall, target: Target) -> Json:
    limit = max(job.timeout_s, 3600.0)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=limit,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{job.artifact.name} did not finish in {job.runtime} on the emulated {target.core.name}",
            where=str(job.artifact),
            expected=f"an answer within {limit:g} s",
            got="none",
            fix="give fewer samples (--inputs): emulation is 100 to 400 times slower than this machine",
        ) from error
    try:
        document: Json = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise _death(done, job, target) from error
    if document.get("error", {}).get("code") not in (None, "artifact_refused", "runtime_missing", "run"):
        raise_refusal(document, job, [])  # nothing that this core is to blame for
    if "error" in document:
        raise ArtifactError(
            f"{job.runtime} on {target.core.name} refuses {job.artifact.name}: {document['error']['message']}",
            where=str(job.artifact),
            expected=f"a file and inputs that {job.runtime} takes on this core",
            got=document["error"]["code"],
            fix="export the artifact again, or choose another runtime or core",
        )
    return document


def _death(done: subprocess.CompletedProcess[str], job: AgentCall, target: Target) -> DeviceError:
    """Why the guest died. A signal, an illegal instruction above all, is an answer, no accident."""
    if done.returncode in (-_SIGILL, 128 + _SIGILL) or f"target signal {_SIGILL} " in done.stderr:
        return CoreError(
            f"{job.artifact.name} in {job.runtime} needs an instruction that {target.core.name} lacks",
            where=str(job.artifact),
            expected=f"instructions of {target.core.name} only",
            got="illegal instruction",
            fix="choose a core that has it, or a runtime built for this one",
        )
    told = done.stderr.strip().splitlines()[-1:] or ["nothing"]
    signalled = done.returncode < 0 or done.returncode > _SIGNALLED or "target signal" in done.stderr
    return (CoreError if signalled else DeviceError)(
        f"{job.artifact.name} in {job.runtime} died on the emulated {target.core.name}",
        where=str(job.artifact),
        expected="one JSON document",
        got=f"exit code {done.returncode}, {told[0]}",
        fix="try another runtime, or look whether the file is damaged",
    )


def _memory(out: Path, ranges: list[list[list[int]]], base: int) -> Json:
    """The guest's own resident bytes at each stage: pages of the emulator's process in ranges that the guest knows."""
    found = {}
    for number, (stage, own) in enumerate(zip(STAGES, ranges, strict=True)):
        smaps = out.with_name(f"counts.{_SNAPSHOT + number}").read_text(encoding="utf-8")
        found[stage] = resident(smaps, [(start + base, end + base) for start, end in own])
    found["peak"] = max(found.values())
    return found


def resident(smaps: str, ranges: list[tuple[int, int]]) -> int:
    """Bytes of `Rss` in those mappings of a Linux smaps text that meet one of the ranges."""
    total, counts = 0, False
    for line in smaps.splitlines():
        first, *rest = line.split()
        if "-" in first and not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            counts = any(start < high and low < end for low, high in ranges)
        elif first == "Rss:" and counts:
            total += int(rest[0]) * 1024
    return total
