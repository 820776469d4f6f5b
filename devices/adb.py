"""Android devices: `adb:SERIAL`. No Python there: the runtimes' own benchmark programs, which devices.toml names.

Their figures are not the agent's: what a program does not tell is not there, and the flags say so (docs/boards.md).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edgedistill.errors import UsageError, nearest
from edgedistill.types import AgentAnswer, DeviceInfo, Source, Traits

from ._remote.adb_call import MACHINES, attached, properties, require_ready, run_tool
from ._remote.described import AdbBoard, adb_boards
from ._remote.elf import SCRIPT, machine_of
from ._remote.programs import FIGURES, TOOLS, Tool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgedistill.types import AgentCall, Json, Runtime

REQUIRES: tuple[str, ...] = ()
SCHEME = "adb"
TRAITS = Traits(Source.MEASURED, computes=False)
"""No outputs and perhaps no single latencies: recipes cannot be proved on such a device."""


def devices() -> list[DeviceInfo]:
    """Devices that devices.toml names, without asking them anything."""
    return [
        DeviceInfo(board.id, "Android device, described in devices.toml", "", 0, 0) for board in adb_boards().values()
    ]


def describe(device_id: str) -> DeviceInfo:
    """What its properties say.

    Raises:
        UsageError: there is no adb here, or no serial was given.
        DeviceError: the device is not attached, not authorised, or offline.
    """
    serial = _serial(device_id)
    require_ready(serial)
    told, cores, memory_bytes = properties(serial)
    words = [told.get(f"ro.product.{key}", "") for key in ("manufacturer", "model")]
    chip = told.get("ro.soc.model") or told.get("ro.board.platform", "")
    abi = told.get("ro.product.cpu.abi", "")
    name = " ".join(word for word in [*words, f"({chip})" if chip else ""] if word) or serial
    return DeviceInfo(device_id, name, MACHINES.get(abi, abi), cores, memory_bytes)


def runtimes(device_id: str, known: Mapping[str, Runtime]) -> dict[str, str]:
    """Those whose benchmark program devices.toml names, which does not tell its version; it needs none of `known`.

    Raises:
        UsageError: it names none for this device.
    """
    del known
    return _runtimes(device_id)


def _runtimes(device_id: str) -> dict[str, str]:
    board = _described(_serial(device_id))
    found = dict.fromkeys((tool.runtime for tool in TOOLS if getattr(board, tool.key)), "unknown")
    if not found:
        known = [one.id for one in adb_boards().values()]
        others = f"; {nearest(device_id, known)}" if known and device_id not in known else ""
        raise UsageError(
            f"no benchmark program is named for {device_id}",
            where=f"devices.toml, key {SCHEME}.{board.name}",
            expected=f"one of {', '.join(tool.key for tool in TOOLS)}: a binary built for the device{others}",
            got="none",
            fix=f'[{SCHEME}.{board.name}] tflite_benchmark = "path/of/benchmark_model" (docs/boards.md)',
        )
    return found


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Push the program and the artifact, run it, read its output.

    Raises:
        UsageError: no adb, no program for the runtime, one of another processor, or a job that no program can do.
        DeviceError: the device is not there, busy or full, or the program failed, hung, or told nothing.
    """
    serial = _serial(device_id)
    tool = _tool(device_id, job)
    board = _described(serial)
    require_ready(serial)
    told, _, _ = properties(serial)
    binary = getattr(board, tool.key)
    _require_abi(binary, told.get("ro.product.cpu.abilist", told.get("ro.product.cpu.abi", "")), tool, board)
    reading, cores = run_tool(board, tool, binary, job, lambda text: sys.stderr.write(f"{board.id}: {text}\n"))
    return AgentAnswer(device_id, _document(tool, job, told, reading, cores))


def _document(tool: Tool, job: AgentCall, told: Json, reading: Json, cores: list[int]) -> Json:
    """The reading under the names of the agent's document, as far as it goes."""
    kept = ("latency_ns", "latency_summary_ms", "first_inference_ms")
    peak = {"memory_bytes": {"peak": round(reading["peak_bytes"])}} if "peak_bytes" in reading else {}
    missing = [name for name in FIGURES if name not in reading["latency_summary_ms"]]
    missing += [name for name in kept[2:] if name not in reading] + ([] if peak else ["memory"])
    lacks = f"{tool.key} does not tell: {', '.join([*missing, 'cold and warm load'])}"
    own_inputs = [f"inputs are {tool.key}'s own"] if job.inputs is not None else []
    properties_told = ("ro.product.model", "ro.soc.model", "ro.build.version.release", "ro.product.cpu.abi")
    return {
        "schema": "edgedistill.native/1",
        "runtime": job.runtime,
        "runtime_version": reading.get("version", "unknown"),
        "machine": MACHINES.get(told.get("ro.product.cpu.abi", ""), told.get("ro.product.cpu.abi", "")),
        "threads": job.threads,
        "cores": cores,
        "facts": {
            "tool": tool.key,
            "board": {key: told[key] for key in properties_told if key in told},
            **({"init_ms": reading["init_ms"]} if "init_ms" in reading else {}),
        },
        **{key: reading[key] for key in kept if key in reading},
        **peak,
        "device_flags": [lacks, *own_inputs, *tool.notes],
    }


def _serial(device_id: str) -> str:
    serial = device_id.partition(":")[2]
    if serial:
        return serial
    known = [f"{SCHEME}:{one}" for one in {*adb_boards(), *attached()}]
    raise UsageError(
        f"{SCHEME}: which device?",
        where=f"device: {device_id}",
        expected=", ".join(sorted(known)) or "a serial",
        got=repr(device_id),
        fix="name one, as `adb devices` lists it: adb:SERIAL",
    )


def _described(serial: str) -> AdbBoard:
    return adb_boards().get(serial) or AdbBoard(serial)


def _tool(device_id: str, job: AgentCall) -> Tool:
    """The program for a job that one can do."""
    available = _runtimes(device_id)
    for wanted, option in (
        (job.outputs is not None, "outputs (parity, evaluation)"),
        (job.min_queries == 0, "outputs (parity, evaluation)"),
        (job.profile > 0, "--profile"),
        (job.sustained_min > 0, "--sustained"),
    ):
        if wanted:
            raise UsageError(
                f"{device_id} cannot give {option}",
                where=f"device: {device_id}",
                expected="latency: the runtimes' own benchmark programs give nothing else",
                got=option,
                fix="leave it out, or use a board that runs Python (ssh:NAME)",
            )
    if job.runtime not in available:
        raise UsageError(
            f"no benchmark program of {job.runtime} is named for {device_id}",
            where=f"device: {device_id}",
            expected=", ".join(available),
            got=job.runtime,
            fix="name one in devices.toml (docs/boards.md)",
        )
    return next(tool for tool in TOOLS if tool.runtime == job.runtime)


def _require_abi(binary: Path, abis: str, tool: Tool, board: AdbBoard) -> None:
    own = machine_of(binary)
    wanted = [MACHINES.get(abi, abi) for abi in abis.split(",") if abi]
    if wanted and own not in (*wanted, SCRIPT):
        raise UsageError(
            f"{binary} is not built for {board.id}",
            where=f"devices.toml, key {SCHEME}.{board.name}.{tool.key}",
            expected=f"a program for {' or '.join(dict.fromkeys(wanted))}",
            got=own,
            fix="name the binary that is built for this device",
        )
