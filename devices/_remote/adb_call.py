"""The system's adb: what is attached, what it is, files to it, a program run there."""

from __future__ import annotations

import fcntl
import hashlib
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, UsageError, nearest
from edgedistill.types import file_sha256

from .programs import RESULTS, command_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from edgedistill.types import AgentCall, Json

    from .described import AdbBoard
    from .programs import Tool

MACHINES = {"arm64-v8a": "aarch64", "armeabi-v7a": "armv7l", "armeabi": "armv7l", "x86": "i686"}
"""Android's ABI -> as platform.machine() says it."""
_SHORT_S = 60.0
_PUSH_S = 900.0
_BUSY = 75
_STATES = {
    "unauthorized": ("does not trust this machine", "unlock the device and allow USB debugging from this machine"),
    "offline": ("is offline", "unplug it and plug it in again, or run `adb reconnect`"),
    "no permissions": ("may not be opened by this user", "install the udev rules for Android devices"),
}


def _program() -> str:
    program = shutil.which("adb")
    if program is None:
        raise UsageError(
            "there is no adb on this machine",
            where="PATH",
            expected="Android's platform tools",
            got="no adb",
            fix="install adb (Debian: apt install adb)",
        )
    return program


def _adb(serial: str, *words: str, wait_s: float = _SHORT_S) -> subprocess.CompletedProcess[str]:
    """Run an adb command for a device.

    Raises:
        DeviceError: the device went away, or nothing came in time.
    """
    command = [_program(), "-s", serial, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=wait_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise _gone(serial, f"no answer within {wait_s:g} s") from error
    told = done.stderr.strip() or done.stdout.strip()
    if done.returncode and re.search(r"device ('.*' )?(not found|offline|unauthorized)|no devices|error: closed", told):
        raise _gone(serial, told.splitlines()[-1])
    return done


def _gone(serial: str, told: str) -> DeviceError:
    return DeviceError(
        f"the connection to adb:{serial} was cut",
        where=f"device: adb:{serial}",
        expected="a device that stays attached",
        got=told,
        fix="look at the cable, then run the same command again: files that are there already are not sent twice",
    )


def _shell(serial: str, script: str, wait_s: float = _SHORT_S) -> tuple[int, str]:
    """A script's exit code and output, both streams. The code is printed: old devices do not hand it on."""
    done = _adb(serial, "shell", f"( {script} ) 2>&1; echo edgedistill-exit $?", wait_s=wait_s)
    output, found, code = done.stdout.replace("\r\n", "\n").rpartition("edgedistill-exit ")
    if not found:
        raise _gone(serial, (done.stderr.strip() or "the shell ended early").splitlines()[-1])
    return int(code), output


def attached() -> dict[str, str]:
    """Serial -> state of everything that `adb devices` lists; nothing where there is no adb."""
    if shutil.which("adb") is None:
        return {}
    done = subprocess.run(
        [_program(), "devices"], capture_output=True, text=True, errors="replace", timeout=_SHORT_S, check=False
    )
    lines = [line.split(None, 1) for line in done.stdout.splitlines()[1:] if line.strip() and line[0] != "*"]
    return {words[0]: words[1].strip() for words in lines if len(words) > 1}


def require_ready(serial: str) -> None:
    """Refuse a device that cannot be used.

    Raises:
        UsageError: there is no adb.
        DeviceError: the device is not attached, not authorised, or offline.
    """
    _program()
    states = attached()
    state = states.get(serial)
    if state == "device":
        return
    others = [f"{name} ({how})" for name, how in states.items()]
    message, fix = next(
        (told for sign, told in _STATES.items() if (state or "").startswith(sign)),
        ("is not attached", "plug it in, or name a device that `adb devices` lists"),
    )
    raise DeviceError(
        f"adb:{serial} {message}",
        where=f"device: adb:{serial}",
        expected=nearest(serial, others).replace("known", "attached"),
        got=state or "not attached",
        fix=fix,
    )


def properties(serial: str) -> tuple[dict[str, str], int, int]:
    """Its properties, its number of cores, its bytes of memory."""
    _, text = _shell(serial, "getprop; echo; grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo")
    told = dict(re.findall(r"^\[(.+?)\]: \[(.*)\]$", text, flags=re.MULTILINE))
    cores = re.findall(r"^(\d+)$", text, flags=re.MULTILINE)
    memory = re.search(r"MemTotal: +(\d+) kB", text)
    return told, int(cores[-1]) if cores else 0, int(memory.group(1)) * 1024 if memory else 0


def run_tool(
    board: AdbBoard, tool: Tool, binary: Path, job: AgentCall, tell: Callable[[str], object]
) -> tuple[Json, list[int]]:
    """Push what is not there, run the program, read its output: the reading, and the cores asked for.

    Raises:
        UsageError: the device does not have the cores, or the model does not tell what the program must know.
        DeviceError: another client measures, the device is full, the program failed, hung or told nothing.
    """
    try:
        command_of(tool, job, "", "")
    except ValueError as error:
        raise UsageError(
            str(error),
            where=str(job.artifact),
            expected="a model that tells the shape of its inputs",
            got="none",
            fix="export the model with fixed shapes",
        ) from error
    with _host_lock(board, tell):
        programs = _push(board, {binary.name: binary, **{path.name: path for path in board.libraries}})
        models = _push(board, {path.name: path for path in job.files})
        folder = f"{board.workdir}/run-{secrets.token_hex(4)}"
        try:
            code, output = _run(board, tool, job, folder, f"{programs}/{binary.name}", models)
            _, results = _shell(board.name, f"cat {folder}/{RESULTS}") if code == 0 else (1, "")
        finally:
            _clean(board, folder)
    if code:
        raise _failed(board, tool, job, code, output)
    try:
        return tool.read(output, results), list(job.affinity)
    except ValueError as error:
        raise DeviceError(
            f"{tool.key} told nothing that can be read",
            where=f"device: {board.id}",
            expected="its usual output",
            got=_last(output),
            fix="run it by hand; its version may print otherwise",
        ) from error


def _run(board: AdbBoard, tool: Tool, job: AgentCall, folder: str, binary: str, models: str) -> tuple[int, str]:
    """The program's exit code and output. Whoever runs holds the device's lock; its process id is kept, to stop it."""
    command = command_of(tool, job, binary, f"{models}/{job.artifact.name}")
    libraries = shlex.quote(binary.rpartition("/")[0])
    script = (
        f"mkdir -p {folder} && cd {folder} || exit 1; exec 9>{board.workdir}/lock; "
        # a device whose toybox has no flock is serialised by this host's lock alone
        f"if command -v flock >/dev/null; then flock -n 9 || exit {_BUSY}; fi; "
        f"export LD_LIBRARY_PATH={libraries}; {command} & echo $! > pid; wait $!"
    )
    until = time.monotonic() + board.lock_timeout_s
    while True:
        try:
            code, output = _shell(board.name, script, wait_s=job.timeout_s)
        except DeviceError as error:
            if "no answer within" not in error.got:
                raise
            raise DeviceError(
                f"{job.artifact.name} did not finish in {tool.key} on {board.id}",
                where=str(job.artifact),
                expected=f"an answer within {job.timeout_s:g} s",
                got="none",
                fix="lower benchmark.min_queries or min_duration_s, or look whether the model hangs",
            ) from error
        if code != _BUSY:
            return code, output
        if time.monotonic() >= until:
            raise DeviceError(
                f"{board.id}: it is in use",
                where=f"device: {board.id}",
                expected="a free device",
                got="another machine measures on it",
                fix="try again later, or raise lock_timeout_s in devices.toml",
            )
        time.sleep(1)


def _clean(board: AdbBoard, folder: str) -> None:
    """Stop what may still run and remove the working folder; a device that is gone is left alone."""
    try:
        _shell(board.name, f"if [ -e {folder}/pid ]; then kill -9 $(cat {folder}/pid) 2>/dev/null; fi; rm -rf {folder}")
    except DeviceError:
        return


@contextmanager
def _host_lock(board: AdbBoard, tell: Callable[[str], object]) -> Iterator[None]:
    """One client of this host at a time, pushes included. The lock goes with its process."""
    name = hashlib.sha256(board.name.encode()).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"edgedistill-adb-{name}.lock"
    until = time.monotonic() + board.lock_timeout_s
    with path.open("a") as held:
        told = False
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise DeviceError(
                        f"{board.id}: it is in use",
                        where=f"device: {board.id}",
                        expected="a free device",
                        got=f"another process of this machine holds {path}",
                        fix="try again later, or raise lock_timeout_s in devices.toml",
                    ) from error
                if not told:
                    tell("waiting for another process of this machine")
                    told = True
                time.sleep(0.1)
        yield


def _push(board: AdbBoard, files: Mapping[str, Path]) -> str:
    """Files into a folder named by their contents; the folder. What is there, whole, is not sent again."""
    digests = {name: file_sha256(path) for name, path in files.items()}
    key = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:16]
    folder = f"{board.workdir}/{key}"
    _, text = _shell(board.name, f"mkdir -p {folder} && cd {folder} && sha256sum *")
    there = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) +(.+)$", text, flags=re.MULTILINE)}
    for name, path in files.items():
        if there.get(name) == digests[name]:
            continue
        part = f"{folder}/{digests[name]}.part"
        done = _adb(board.name, "push", str(path), part, wait_s=_PUSH_S)
        if done.returncode:
            _shell(board.name, f"rm -f {part}")
            raise _not_pushed(board, path, done.stderr.strip() or done.stdout.strip())
        _shell(board.name, f"chmod 755 {part} && mv {part} {folder}/{shlex.quote(name)}")
    return folder


def _not_pushed(board: AdbBoard, path: Path, told: str) -> DeviceError:
    full = "No space left" in told
    return DeviceError(
        f"{board.id}: its disk is full" if full else f"{path.name} cannot be pushed to {board.id}",
        where=f"device: {board.id}",
        expected=f"room in {board.workdir}",
        got=_last(told),
        fix=f"free some: adb -s {board.name} shell rm -r {board.workdir} removes our cache",
    )


def _failed(board: AdbBoard, tool: Tool, job: AgentCall, code: int, output: str) -> DeviceError | UsageError:
    """Why a program ended with an error."""
    told = _last(output)
    if "taskset" in told:
        return UsageError(
            f"{board.id} cannot run on these cores",
            where="benchmark.affinity, --affinity",
            expected="cores that the device has",
            got=",".join(map(str, job.affinity)),
            fix="name other cores",
        )
    library = re.search(r'library "([^"]+)" not found', output)
    if library:
        return UsageError(
            f"{tool.key} needs {library.group(1)} on {board.id}",
            where=f"devices.toml, key adb.{board.name}.libraries",
            expected=f"the path of {library.group(1)}",
            got=_last(output),
            fix="add the library to the list",
        )
    signal = f"signal {code - 128}" if code > 128 else f"exit code {code}"  # the shell's own offset
    return DeviceError(
        f"{tool.key} failed on {job.artifact.name} on {board.id}",
        where=str(job.artifact),
        expected="exit code 0",
        got=f"{signal}, {told}",
        fix="a file that this runtime does not take, or a program of another version; run it by hand",
    )


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
