"""Real boards that ssh reaches: `ssh:NAME`, described in devices.toml or in the user's ssh config (docs/boards.md)."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import edgedistill.agent
from edgedistill.agent import load_opener
from edgedistill.calling import arguments_of, hung, raise_refusal, time_limit_s
from edgedistill.errors import DeviceError, UsageError, nearest
from edgedistill.events import QUIET
from edgedistill.types import AgentAnswer, DeviceInfo, Source, Traits, file_sha256

from ._remote.described import find_ssh_board, ssh_boards, ssh_hosts, unknown
from ._remote.ssh_call import call

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgedistill.errors import EdgeDistillError
    from edgedistill.events import Events
    from edgedistill.types import AgentCall, Json, Runtime

    from ._remote.described import SshBoard
    from ._remote.ssh_call import Call

REQUIRES: tuple[str, ...] = ()
SCHEME = "ssh"
_INSTALL_S = 1800.0
TRAITS = Traits(Source.MEASURED)
_OUTPUTS = "outputs.npz"
_INPUTS = "inputs.npz"
_OPENER = "runtime.py"


def devices() -> list[DeviceInfo]:
    """Boards that are described, without asking them anything."""
    described = ssh_boards()
    told = {name: f"board at {board.host or name}, described in devices.toml" for name, board in described.items()}
    told |= {host: "a Host of the ssh config" for host in ssh_hosts() if host not in told}
    return [DeviceInfo(f"{SCHEME}:{name}", text, "", 0, 0) for name, text in told.items()]


def describe(device_id: str) -> DeviceInfo:
    """Ask the board for its processor, its cores and its memory.

    Raises:
        UsageError: nobody described the board.
        DeviceError: it cannot be reached, or runs no Python that is new enough.
    """
    board = _find(device_id)
    found = _facts(board, {})
    name = " ".join(part for part in (found["board"], found["cpu"]) if part)
    return DeviceInfo(device_id, name, found["machine"], len(found["cores"]), found["memory_bytes"])


def runtimes(device_id: str, known: Mapping[str, Runtime]) -> dict[str, str]:
    """Those found on the board and their versions, among those that devices.toml names; raises as `describe`.

    devices.toml must name `known` ones.
    """
    board = _find(device_id, known)
    found = _facts(board, {name: (one.module, one.distribution) for name, one in known.items()})["runtimes"]
    return {name: version for name, version in found.items() if not board.runtimes or name in board.runtimes}


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Push what the board does not have yet, run the agent there, fetch its document and outputs.

    `board` in the document's facts tells the processor, governors and temperatures before and after.

    Raises:
        UsageError: nobody described the board, or it does not have the cores asked for.
        ArtifactError: the runtime refuses the file or the inputs.
        DeviceError: the board is out of reach, busy or full, lacks the runtime, or the agent hung or died.
    """
    board = _find(device_id)
    files = {"agent.py": Path(edgedistill.agent.__file__), _OPENER: job.opener}
    files |= {file.name: file for file in job.files}
    if job.inputs is not None:
        files[_INPUTS] = job.inputs
    names = {job.opener: _OPENER, job.inputs: _INPUTS, job.outputs: _OUTPUTS}
    request = {
        **_request(board, "run", {job.runtime: load_opener(str(job.opener)).RUNTIMES[job.runtime]}),
        "runtime": job.runtime,
        "files": [_listed(name, path) for name, path in files.items()],
        "arguments": arguments_of(job, lambda file: names.get(file, file.name)),
        "threads": job.threads,
        "timeout_s": time_limit_s(job),
    }
    with call(board, request) as made:
        by_digest = {one["sha256"]: files[one["name"]] for one in request["files"]}
        done = _converse(made, board, by_digest, time_limit_s(job), job)
        if job.outputs is not None and done["outputs_bytes"]:
            _fetch(made, done["outputs_bytes"], job.outputs)
    document, told = done["document"], done["board"]
    raise_refusal(document, job, told["cores"])
    held = told.pop("held_s")
    facts = {**document["facts"], "board": told}
    flags = _throttled(told)
    return AgentAnswer(device_id, {**document, "facts": facts, "board_held_s": held, "device_flags": flags})


def _throttled(told: Json) -> list[str]:
    """A Raspberry Pi's own word (firmware's get_throttled): its low four bits are of now."""
    word = int(told["after"].get("throttled", "0"), 16)
    names = ("voltage is too low", "clock is capped", "clock is lowered", "soft temperature limit")
    found = [name for bit, name in enumerate(names) if word >> bit & 1]
    return [f"throttled: the board says {', '.join(found)}"] if found else []


def bootstrap(
    device_id: str,
    wanted: Sequence[str],
    wheels: Path | None,
    known: Mapping[str, Runtime],
    events: Events = QUIET,
) -> Json:
    """Install runtimes on the board, in a venv in its workdir; the versions that are there afterwards.

    Args:
        device_id: `ssh:NAME`.
        wanted: runtimes, perhaps with a version (`onnxruntime==1.16.3`); without one, that of this machine is taken.
            None given: those that devices.toml names for the board.
        wheels: folder of wheels, for boards that reach no package index.
        known: runtimes that exporters bring.
        events: told each step, as a note.

    Raises:
        UsageError: an unknown runtime, none at all, or no wheels in the folder.
        DeviceError: the board is out of reach, busy or full, or something cannot be installed or imported there.
    """
    board = _find(device_id, known)
    pinned = _pinned(board, wanted, known)
    found = sorted(wheels.glob("*.whl")) if wheels is not None else []
    if wheels is not None and not found:
        raise UsageError(
            f"{wheels} holds no wheels",
            where="--wheels",
            expected="a folder of .whl files for the board",
            got="none",
            fix=f"pip download -d {wheels} --only-binary=:all: --platform ... {' '.join(pinned.values())}",
        )
    numpy = "numpy<2" if "tflite-runtime" in pinned else "numpy"  # tflite-runtime is built against numpy 1
    files = {path.name: path for path in found}
    request = {
        **_request(board, "bootstrap", {name: (known[name].module, known[name].distribution) for name in pinned}),
        "packages": [numpy, *pinned.values()],
        "wheels": [_listed(name, path) for name, path in files.items()],
        "timeout_s": _INSTALL_S,
    }
    with call(board, request) as made:
        by_digest = {one["sha256"]: files[one["name"]] for one in request["wheels"]}
        done = _converse(made, board, by_digest, _INSTALL_S, None, events)
    return {"id": board.id, "python": done["python"], "venv": done["venv"], "versions": done["versions"]}


def _find(device_id: str, known: Mapping[str, Runtime] | None = None) -> SshBoard:
    if device_id == SCHEME:
        raise unknown(device_id, {*ssh_boards(), *ssh_hosts()}, "name a board: ssh:NAME")
    return find_ssh_board(device_id, known)


def _request(board: SshBoard, verb: str, runtimes: Mapping[str, tuple[str, str]]) -> Json:
    """What every verb is told; `runtimes`: name -> (module, distribution) of those that it is about."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return {
        "verb": verb,
        "workdir": board.workdir if board.workdir.startswith(("/", "~/")) else f"~/{board.workdir}",
        "lock": board.lock,
        "lock_timeout_s": board.lock_timeout_s,
        "holder": f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}, since {since}",
        "runtimes": dict(runtimes),
    }


def _listed(name: str, path: Path) -> Json:
    return {"name": name, "sha256": file_sha256(path), "bytes": path.stat().st_size}


def _facts(board: SshBoard, runtimes: Mapping[str, tuple[str, str]]) -> Json:
    with call(board, _request(board, "facts", runtimes)) as made:
        return dict(_converse(made, board, {}, 0.0, None)["facts"])


def _converse(
    made: Call,
    board: SshBoard,
    files: Mapping[str, Path],
    running_s: float,
    job: AgentCall | None,
    events: Events = QUIET,
) -> Json:
    """Answer the board's events until it is done."""
    waits = {"waiting": board.lock_timeout_s, "running": running_s}
    wait_s = board.connect_timeout_s
    while True:
        told = made.event(wait_s)
        wait_s = waits.get(told["event"], 0.0)
        if told["event"] == "done":
            return told
        if told["event"] == "error":
            raise _failure(told, board, job)
        if told["event"] == "send":
            made.send_file(files[told["sha256"]], told["offset"])
        elif told["event"] == "waiting":
            sys.stderr.write(f"{board.id}: waiting for {told['holder']}\n")
        elif told["event"] == "step":
            events.note(told["title"])


def _fetch(made: Call, count: int, path: Path) -> None:
    """Outputs, under their name when they are whole."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        made.receive(count, stream)
    part.replace(path)


def _pinned(board: SshBoard, wanted: Sequence[str], known: Mapping[str, Runtime]) -> dict[str, str]:
    """Runtime -> requirement for pip."""
    found = {}
    for text in wanted or board.runtimes:
        name, _, version = text.partition("==")
        if name not in known:
            raise UsageError(
                f"unknown runtime {name!r}",
                where="--runtime",
                expected=nearest(name, known),
                got=repr(text),
                fix="name a known runtime",
            )
        distribution = known[name].distribution
        try:
            version = version or importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        found[name] = f"{distribution}=={version}" if version else distribution
    if not found:
        raise UsageError(
            "which runtime?",
            where="--runtime",
            expected=f"one of {', '.join(known)}",
            got="none",
            fix="add --runtime, or `runtimes` of the board in devices.toml",
        )
    return found


def _missing(board: SshBoard, what: str, runtime: str) -> DeviceError:
    return DeviceError(
        f"{board.id}: {what}",
        where=f"device: {board.id}",
        expected=f"numpy and {runtime} on the board",
        got=what,
        fix=f"edgedistill devices bootstrap {board.id} --runtime {runtime}",
    )


def _failure(told: Json, board: SshBoard, job: AgentCall | None) -> EdgeDistillError:
    """What the board could not do, as an error."""
    code, message, where = told["code"], told["message"], f"device: {board.id}"
    if code == "timeout" and job is not None:
        return hung(job)
    if code == "runtime_missing" and job is not None:
        return _missing(board, message, job.runtime)
    if code == "died" and job is not None:
        return DeviceError(
            f"the agent died on {job.artifact.name} in {job.runtime} on {board.id}",
            where=str(job.artifact),
            expected="one JSON document",
            got=message,
            fix="a signal tells of memory (SIGKILL) or of an instruction that the board lacks (SIGILL)",
        )
    expected, fix = {
        "busy": ("a free board", "try again later, or raise lock_timeout_s of the board in devices.toml"),
        "lock": ("a lock that can be made", "set `lock` of the board in devices.toml"),
        "full": ("space on the board", f"free some: {board.workdir} on the board holds our cache, and may be removed"),
        "workdir": ("a folder that can be written", "set `workdir` of the board in devices.toml"),
        "damaged": ("the bytes that were sent", "look at the board's memory card"),
        "timeout": (f"an answer within {_INSTALL_S:g} s", "run the same command again: it goes on"),
        "bootstrap": (
            "packages that can be installed and imported there",
            "name another version (--runtime NAME==VERSION), give --wheels DIR, or install python3-venv on the board",
        ),
    }.get(code, ("a board that answers", "look at the board"))
    told_so = {"full": "its disk is full", "busy": "it is in use"}.get(code, message)
    return DeviceError(f"{board.id}: {told_so}", where=where, expected=expected, got=message, fix=fix)
