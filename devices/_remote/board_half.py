"""The board's half of a remote device: sent over the connection with every call, never installed there.

Stands alone: Python 3.8 or newer, standard library, Linux. After this source, stdin carries one JSON request on a
line, then the bytes that were asked for; stdout carries events, one JSON object a line behind MARK, the last of them
`done` or `error`. While stdin is open the caller lives; at its end everything is stopped and removed.

    WORKDIR/files/SHA256       agent, artifacts, inputs: by content, written under `.part` and renamed when whole
    WORKDIR/runs/RANDOM        one run's working folder, removed at its end; what a power cut left, at the next run
    WORKDIR/venv               what `bootstrap` installed; `ready` in it says that it is whole
    LOCK                       held by flock as long as a caller works here, its agent included: none is ever stale
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import importlib.util
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any, Dict, List, NoReturn, Optional, Tuple

MARK = "\x1eedgedistill "
CHUNK = 1 << 20
UNUSED_DAYS = 30
"""A file in the cache that nobody used for so long is removed."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TAIL = 4000
_LINE = 300
Json = Dict[str, Any]

# Arm's main ID register tells no name; /proc/cpuinfo gives these numbers ("CPU implementer" 0x41).
_ARM_PARTS = {
    0xC07: "Cortex-A7",
    0xC08: "Cortex-A8",
    0xC09: "Cortex-A9",
    0xC0F: "Cortex-A15",
    0xC0E: "Cortex-A17",
    0xD04: "Cortex-A35",
    0xD03: "Cortex-A53",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD41: "Cortex-A78",
    0xD42: "Cortex-A78AE",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD40: "Neoverse-V1",
    0xD49: "Neoverse-N2",
    0xD4D: "Cortex-A715",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
}


class Failed(Exception):  # noqa: N818 - an answer to the caller, not a fault
    """What keeps the request from being carried out: (code, message, further facts)."""


class Gone(Exception):  # noqa: N818 - as above
    """The caller has gone: nobody is left to answer."""


class Caller:
    """The other end: its requests and bytes come by one descriptor, events go by another."""

    def __init__(self, come: int, go: int) -> None:
        self.come = come
        self.go = go

    def tell(self, event: str, **facts: object) -> None:
        """Send one event."""
        self.write((MARK + json.dumps(dict(facts, event=event)) + "\n").encode())

    def write(self, data: bytes) -> None:
        """Send bytes."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.go, view) :]
            except OSError as error:
                raise Gone from error

    def read(self, most: int) -> bytes:
        """Bytes that came; waits for them."""
        data = os.read(self.come, most)
        if not data:
            raise Gone
        return data

    def line(self) -> str:
        """A line, byte by byte: what follows belongs to somebody else."""
        text = bytearray()
        while not text.endswith(b"\n"):
            text += self.read(1)
        return text.decode()


def serve(come: int, go: int) -> int:
    """Carry out the one request; the exit code."""
    caller = Caller(come, go)
    try:
        request = json.loads(caller.line())
        workdir = os.path.expanduser(request["workdir"])
        try:
            VERBS[request["verb"]](caller, request, workdir)
        except Failed as failed:
            code, message, facts = failed.args
            caller.tell("error", code=code, message=message, **facts)
        except OSError as error:
            code = "full" if error.errno in _FULL else "workdir"
            caller.tell("error", code=code, message=str(error))
    except Gone:
        return 1
    return 0


def hold(caller: Caller, path: str, wait_s: float, holder: str) -> int:
    """Take the board for this caller; the descriptor that holds it.

    Whoever holds it stands in the file. A process's end, however it came, lets it go.
    """
    until = time.monotonic() + wait_s
    told = False
    while True:
        descriptor = _open_lock(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told_by = os.pread(descriptor, 500, 0).decode(errors="replace")
            other = "".join(letter for letter in told_by if letter.isprintable()) or "somebody"
            os.close(descriptor)
            if time.monotonic() >= until:
                raise Failed("busy", "the board is held by " + other, {"holder": other, "lock": path}) from None
            if not told:
                caller.tell("waiting", holder=other)
                told = True
            if select.select([caller.come], [], [], 0.1)[0]:
                raise Gone from None  # nothing was asked for yet: only the end can have come
            continue
        if _same_file(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
            return descriptor
        os.close(descriptor)  # somebody removed it between open and lock


def _open_lock(path: str) -> int:
    """For every user of the board; O_CREAT on another's file in /tmp is forbidden by many kernels."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags)
    except OSError as error:
        raise Failed("lock", "the lock %s cannot be made: %s" % (path, error), {}) from error
    os.fchmod(descriptor, 0o666)
    return descriptor


def _same_file(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _digest(path: str) -> str:
    total = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(CHUNK), b""):
            total.update(block)
    return total.hexdigest()


def obtain(caller: Caller, folder: str, sha256: str, size: int) -> str:
    """The path of a file of this content: the one that is there, or what the caller sends.

    A push that was cut goes on where it ended. What does not have the digest in its name is not believed.
    """
    path = os.path.join(folder, sha256)
    part = path + ".part"
    if os.path.exists(path) and _digest(path) == sha256:
        os.utime(path)
        return path
    _remove(path)
    have = min(os.path.getsize(part), size) if os.path.exists(part) else 0
    whole = _receive(caller, part, sha256, have, size)
    if not (whole or (have and _receive(caller, part, sha256, 0, size))):  # else what was there before was damaged
        raise Failed("damaged", "what came is not what was sent", {"sha256": sha256})
    os.rename(part, path)
    return path


def _receive(caller: Caller, part: str, sha256: str, offset: int, size: int) -> bool:
    """Ask for the bytes from offset, append them to part; whether its digest is right. A wrong one is removed."""
    try:
        with open(part, "r+b" if offset else "wb") as stream:
            stream.truncate(offset)
            stream.seek(offset)
            caller.tell("send", sha256=sha256, offset=offset)
            left = size - offset
            while left:
                data = caller.read(min(CHUNK, left))
                stream.write(data)
                stream.flush()
                left -= len(data)
            os.fsync(stream.fileno())
    except OSError:
        _remove(part)  # a full disk is not filled further
        raise
    if _digest(part) == sha256:
        return True
    _remove(part)
    return False


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def tidy(workdir: str) -> None:
    """Remove what runs that never ended left, and files that nobody used for long. Only whoever holds the lock may."""
    shutil.rmtree(os.path.join(workdir, "runs"), ignore_errors=True)
    for path in glob.glob(os.path.join(workdir, "files", "*")):
        if os.path.getmtime(path) < time.time() - UNUSED_DAYS * 86400:
            _remove(path)


def facts(runtimes: Json) -> Json:
    """What the board is: everything here stays the same from call to call.

    `runtimes`: name -> [module, distribution]; told are the versions of those that this interpreter finds.
    """
    return {
        "cpu": cpu_name(),
        "board": _text("/proc/device-tree/model").strip("\0\n "),
        "machine": platform.machine(),
        "cores": sorted(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "runtimes": {
            name: _version(distribution) for name, (module, distribution) in runtimes.items() if _is_there(module)
        },
    }


def conditions() -> Json:
    """What may change from run to run, as far as the kernel tells: governors, temperature, the Pi's own throttling."""
    found = {}  # type: Json
    governors = {_text(p).strip() for p in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    if governors:
        found["governors"] = sorted(governors)
    heat = [_text(path).strip() for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    celsius = [int(text) / 1000 for text in heat if text.lstrip("-").isdigit()]
    if celsius:
        found["temperature_c"] = max(celsius)
    throttled = _text("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    if throttled:
        found["throttled"] = throttled
    return found


def cpu_name() -> str:
    """The processor's name, or of ARM cores their kinds and numbers."""
    fields = [line.split(":", 1) for line in _text("/proc/cpuinfo").splitlines() if ":" in line]
    pairs = [(key.strip(), value.strip()) for key, value in fields]
    parts = [_ARM_PARTS.get(int(value, 16), value) for key, value in pairs if key == "CPU part"]
    if parts:
        return " + ".join("%d x %s" % (parts.count(part), part) for part in sorted(set(parts)))
    names = [value for key, value in pairs if key == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # its parent is not there
        return False


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def tell_facts(caller: Caller, request: Json, workdir: str) -> None:
    """The verb `facts`."""
    del workdir
    caller.tell("done", facts=facts(request["runtimes"]))


def run(caller: Caller, request: Json, workdir: str) -> None:
    """The verb `run`: hold the board, take the files, run the agent, send its document and outputs.

    Each file has `sha256`, `bytes` and the `name` that it gets in the working folder.
    """
    known = facts(request["runtimes"])
    _require(known, request["runtime"])
    os.makedirs(os.path.join(workdir, "files"), exist_ok=True)
    lock = hold(caller, os.path.expanduser(request["lock"]), request["lock_timeout_s"], request["holder"])
    since = time.monotonic()
    try:
        tidy(workdir)
        paths = {
            one["name"]: obtain(caller, os.path.join(workdir, "files"), one["sha256"], one["bytes"])
            for one in request["files"]
        }
        os.makedirs(os.path.join(workdir, "runs"), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.join(workdir, "runs")) as folder:
            for name, path in paths.items():
                os.symlink(os.path.abspath(path), os.path.join(folder, name))
            before = conditions()
            document = _run_agent(caller, request, folder, lock)
            board = {**known, "before": before, "after": conditions(), "held_s": [since, time.monotonic()]}
            outputs = os.path.join(folder, "outputs.npz")
            size = os.path.getsize(outputs) if os.path.exists(outputs) else 0
            caller.tell("done", document=document, board=board, outputs_bytes=size)
            if size:
                with open(outputs, "rb") as stream:
                    for block in iter(lambda: stream.read(CHUNK), b""):
                        caller.write(block)
    finally:
        os.ftruncate(lock, 0)
        os.close(lock)


def _require(known: Json, runtime: str) -> None:
    missing = [] if _is_there("numpy") else ["numpy"]
    missing += [] if runtime in known["runtimes"] else [runtime]
    if missing:
        raise Failed("runtime_missing", "%s has no %s" % (sys.executable, " and no ".join(missing)), known)


def _run_agent(caller: Caller, request: Json, folder: str, lock: int) -> Json:
    """The agent's document. It is stopped at its time limit, and when the caller goes.

    It inherits the lock: were this process killed, the board would stay held as long as the agent runs.
    """
    command = [sys.executable, "agent.py", *request["arguments"]]
    environment = dict(os.environ, OMP_NUM_THREADS=str(request["threads"]))
    code, out, err = supervise(caller, command, request["timeout_s"], folder, environment, (lock,))
    try:
        document: Json = json.loads(out.decode(errors="replace").strip().splitlines()[-1])
    except (IndexError, ValueError):
        text = err.decode(errors="replace").strip()
        told = text.splitlines()[-1] if text else "nothing on stderr"
        how = signal.Signals(-code).name if code < 0 else "exit code %d" % code
        raise Failed("full" if _tells_full(text) else "died", "%s, %s" % (how, told), {}) from None
    return document


def _short(line: str) -> str:
    """Pip lists every version that there is."""
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."


def _tells_full(text: str) -> bool:
    return any(os.strerror(number) in text for number in _FULL)


def supervise(
    caller: Caller,
    command: List[str],
    timeout_s: float,
    folder: Optional[str] = None,
    environment: Optional[Json] = None,
    keep: Tuple[int, ...] = (),
) -> Tuple[int, bytes, bytes]:
    """Run a command in a process group of its own: exit code, stdout, the end of stderr.

    Waits without waking up, so that nothing is disturbed; the group is killed whatever ends the wait.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        pass_fds=keep,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
    streams = {pipe.fileno(): bytearray() for pipe in pipes}
    out, err = streams.values()
    until = time.monotonic() + timeout_s
    try:
        caller.tell("running", pid=process.pid)
        while streams:
            ready = select.select([caller.come, *streams], [], [], max(0.0, until - time.monotonic()))[0]
            if caller.come in ready:
                caller.read(CHUNK)  # its end: Gone
            for descriptor in [one for one in ready if one in streams]:
                data = os.read(descriptor, CHUNK)
                streams[descriptor] += data
                if not data:
                    del streams[descriptor]
            del err[:-_TAIL]
            if time.monotonic() >= until:
                raise Failed("timeout", "no answer within %g s" % timeout_s, {"timeout_s": timeout_s})
        return process.wait(max(0.0, until - time.monotonic())), bytes(out), bytes(err)
    except subprocess.TimeoutExpired:
        raise Failed("timeout", "no answer within %g s" % timeout_s, {"timeout_s": timeout_s}) from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in pipes:
            pipe.close()


def bootstrap(caller: Caller, request: Json, workdir: str) -> None:
    """The verb `bootstrap`: packages into WORKDIR/venv, from wheels that come along or from the package index."""
    os.makedirs(os.path.join(workdir, "files"), exist_ok=True)
    lock = hold(caller, os.path.expanduser(request["lock"]), request["lock_timeout_s"], request["holder"])
    venv = os.path.join(workdir, "venv")
    python = os.path.join(venv, "bin", "python")
    ready = os.path.join(venv, "ready")
    try:
        tidy(workdir)
        os.makedirs(os.path.join(workdir, "runs"), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.join(workdir, "runs")) as wheels:
            for one in request["wheels"]:
                path = obtain(caller, os.path.join(workdir, "files"), one["sha256"], one["bytes"])
                os.symlink(os.path.abspath(path), os.path.join(wheels, one["name"]))
            pip = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
            pip += ["--no-index", "--find-links", wheels] if request["wheels"] else []
            was_ready = os.path.exists(ready)
            if not was_ready:
                _step(caller, request, [sys.executable, "-m", "venv", "--clear", venv], "venv")
            _remove(ready)  # until all is done, jobs do not use it
            try:
                _step(caller, request, [*pip, *request["packages"]], "pip")
            except Failed as failed:
                if was_ready and failed.args[2].get("exit_code", -1) > 0:  # pip has put back what it replaced
                    _touch(ready)
                raise
            for name, (module, _) in request["runtimes"].items():
                _step(caller, request, [python, "-c", "import " + module], "import " + name)
        _touch(ready)
        script = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
        wanted = {"numpy": "numpy", **{name: distribution for name, (_, distribution) in request["runtimes"].items()}}
        versions = _step(caller, request, [python, "-c", script, *wanted.values()], "versions")
        told = dict(zip(wanted, versions.split()))
        caller.tell("done", versions=told, python=platform.python_version(), venv=venv)
    finally:
        os.ftruncate(lock, 0)
        os.close(lock)


def _touch(path: str) -> None:
    with open(path, "w"):
        pass


def _step(caller: Caller, request: Json, command: List[str], title: str) -> str:
    caller.tell("step", title=title)
    code, out, err = supervise(caller, command, request["timeout_s"])
    if code:
        lines = [line for line in (err or out).decode(errors="replace").splitlines() if line.strip()]
        blamed = [line for line in lines if line.startswith("ERROR: ")] or lines  # pip's; the rest is a traceback's end
        told = " / ".join(_short(line) for line in blamed[-2:]) or "nothing said"
        how = signal.Signals(-code).name if code < 0 else "exit code %d" % code
        raise Failed(
            "full" if _tells_full(told) else "bootstrap",
            "%s: %s, %s" % (title, how, told),
            {"step": title, "exit_code": code},
        )
    return str(out.decode(errors="replace"))


VERBS = {"facts": tell_facts, "run": run, "bootstrap": bootstrap}


def _ended(*_: object) -> NoReturn:
    """A signal ends the work as the caller's end does: everything is stopped and removed."""
    raise Gone


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, _ended)
    sys.exit(serve(0, 1))
