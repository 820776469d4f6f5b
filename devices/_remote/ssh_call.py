"""One call over the system's ssh: the board's half goes ahead of every request, events come back.

All calls of a process to a board share one connection (OpenSSH's multiplexing), which closes with the process.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from edgedistill.errors import DeviceError, UsageError

from . import board_half
from .described import ssh_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedistill.types import Json

    from .described import SshBoard

_CHUNK = 1 << 20
_OLDEST = (3, 8)
_NOT_FOUND = (126, 127)
"""The shell's exit codes for a command that it cannot run."""
_LAUNCH = (
    "import os,sys\n"
    "v=sys.version_info\n"
    "if v<({0},{1}): sys.stderr.write('edgedistill-python %d.%d'%(v[0],v[1])); sys.exit(9)\n"
    "s=b''\n"
    "while len(s)<{2}:\n"
    " b=os.read(0,{2}-len(s))\n"
    " if not b: sys.exit(1)\n"
    " s+=b\n"
    "exec(compile(s,'edgedistill-board','exec'),{{'__name__':'__main__'}})"
)
_SILENCE_S = 120.0
"""The board answers within this time beyond what it was told to wait itself."""


class Call:
    """A request in progress: the board's events, the bytes both ways."""

    def __init__(self, board: SshBoard, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self.board = board
        self._process = process
        self._complaints = complaints
        self._unread = b""
        self._met = False

    def send(self, data: bytes) -> None:
        """Send bytes. A board that stopped listening has said why: the next event tells."""
        stdin = self._process.stdin
        if stdin is None or stdin.closed:
            return
        try:
            stdin.write(data)
            stdin.flush()
        except OSError:
            self.hang_up()

    def send_file(self, path: Path, offset: int) -> None:
        """Send a file from a position to its end."""
        with path.open("rb") as stream:
            stream.seek(offset)
            while data := stream.read(_CHUNK):
                self.send(data)

    def event(self, wait_s: float) -> Json:
        """The next event.

        Raises:
            DeviceError: the connection could not be made, was cut, or nothing came in time.
        """
        until = time.monotonic() + wait_s + _SILENCE_S
        while True:
            line, found, rest = self._unread.partition(b"\n")
            if found:
                self._unread = rest
                text = line.decode(errors="replace")
                if text.startswith(board_half.MARK):  # others may speak first: the board's shell start-up files
                    self._met = True
                    return dict(json.loads(text.removeprefix(board_half.MARK)))
                continue
            self._unread += self._read(until)

    def receive(self, count: int, stream: IO[bytes]) -> None:
        """Write the next `count` bytes into a stream; raises as `event`."""
        while count:
            if not self._unread:
                self._unread = self._read(time.monotonic() + _SILENCE_S)
            data, self._unread = self._unread[:count], self._unread[count:]
            stream.write(data)
            count -= len(data)

    def _read(self, until: float) -> bytes:
        descriptor = cast("IO[bytes]", self._process.stdout).fileno()  # a pipe
        if not select.select([descriptor], [], [], max(0.0, until - time.monotonic()))[0]:
            raise DeviceError(
                f"{self.board.id} fell silent",
                where=f"device: {self.board.id}",
                expected="an answer",
                got="none",
                fix="look at the board, then run the same command again",
            )
        data = os.read(descriptor, _CHUNK)
        if not data:
            raise self._ended()
        return data

    def _ended(self) -> DeviceError:
        """Why there is no further event."""
        code = self._process.wait()
        self._complaints.seek(0)
        told = self._complaints.read().decode(errors="replace")
        if self._met:
            return DeviceError(
                f"the connection to {self.board.id} was cut",
                where=f"device: {self.board.id}",
                expected="a connection that lasts",
                got=_last(told) or f"ssh ended with exit code {code}",
                fix="run the same command again: files that are there already are not sent twice",
            )
        return explain(self.board, code, told)

    def hang_up(self) -> None:
        """End the board's stdin, which stops whatever it does for us."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except OSError:
            pass


def explain(board: SshBoard, code: int, told: str) -> DeviceError:
    """What ssh, or the board's shell, said before the board's half could speak."""
    wrong_python = "set `python` of the board in devices.toml to a Python 3.8 or newer, or install python3 there"
    host = board.host or board.name
    by_hand = " ".join(["ssh", *(["-p", str(board.port)] if board.port else []), host])
    known = [
        ("edgedistill-python", "{id}: its Python is too old", "Python 3.8 or newer", wrong_python),
        (
            "Host key verification failed",
            "{id}: its host key is not the known one",
            "a host key in known_hosts",
            f"connect once by hand and compare the fingerprint: {by_hand}",
        ),
        (
            "Permission denied (",
            "{id} does not let us in",
            "a key that the board accepts",
            f"ssh-copy-id {host}, or name another user or identity_file",
        ),
        ("Could not resolve", "{id}: nobody knows the host {host}", "a host name or an address", "correct `host`"),
        (
            "Connection refused",
            "{id}: nothing answers at {host}",
            "an ssh server",
            "start sshd there, or correct `port`",
        ),
        ("timed out", "{id}: {host} does not answer", "a board that is on", "switch the board on; check its address"),
        ("No route to host", "{id}: there is no way to {host}", "a reachable address", "check the network and `host`"),
        ("unreachable", "{id}: there is no way to {host}", "a reachable address", "check the network and `host`"),
    ]
    for sign, message, expected, fix in known:
        if sign in told:
            text = message.format(id=board.id, host=host)
            got = _last(told).replace("edgedistill-python", "Python")
            return DeviceError(text, where=f"device: {board.id}", expected=expected, got=got, fix=fix)
    if code in _NOT_FOUND:
        return DeviceError(
            f"{board.id}: there is no Python at {board.python}",
            where=f"device: {board.id}",
            expected="Python 3.8 or newer",
            got=_last(told),
            fix=wrong_python,
        )
    return DeviceError(
        f"{board.id} cannot be used",
        where=f"device: {board.id}",
        expected="a board that runs Python",
        got=_last(told) or f"exit code {code}",
        fix=f"try it by hand: {by_hand}",
    )


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def call(board: SshBoard, request: Json) -> Iterator[Call]:
    """Open a call; its end, however it comes, ends the board's work too.

    Raises:
        UsageError: this machine has no ssh.
    """
    source = Path(board_half.__file__).read_bytes()
    with tempfile.TemporaryFile() as complaints:  # a pipe would be held open by the shared connection
        process = subprocess.Popen(
            [*_ssh(board), board.host or board.name, _command(board, len(source))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        made = Call(board, process, complaints)
        try:
            made.send(source + json.dumps(request).encode() + b"\n")
            yield made
        finally:
            made.hang_up()
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let ssh end by itself, which it does when the board has tidied up."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _command(board: SshBoard, size: int) -> str:
    """For the board's login shell: the venv's Python where bootstrap made one, else the board's."""
    python = shlex.quote(board.python)
    script = (
        f'v={board.shell_workdir}/venv; p={python}; if [ -e "$v/ready" ]; then p=$v/bin/python; fi; '
        f'exec "$p" -c {shlex.quote(_LAUNCH.format(*_OLDEST, size))}'
    )
    return f"exec /bin/sh -c {shlex.quote(script)}"


def _ssh(board: SshBoard) -> list[str]:
    program = shutil.which("ssh")
    if program is None:
        raise UsageError(
            "there is no ssh on this machine",
            where=f"device: {board.id}",
            expected="the OpenSSH client",
            got="no ssh on PATH",
            fix="install openssh-client",
        )
    config = ssh_config()
    socket = _sockets() / hashlib.sha256(repr(board).encode()).hexdigest()[:12]
    options = {
        "BatchMode": "yes",  # nobody is asked for a password in the middle of a measurement
        "ConnectTimeout": str(round(board.connect_timeout_s) or 1),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "ControlMaster": "auto",
        "ControlPersist": "60",
        "ControlPath": str(socket),
        **({"UserKnownHostsFile": f'"{board.known_hosts.absolute()}"'} if board.known_hosts else {}),
        **({"IdentitiesOnly": "yes"} if board.identity_file else {}),
    }
    return [
        program,
        "-T",
        *(["-F", str(config)] if config else []),
        *(["-p", str(board.port)] if board.port else []),
        *(["-l", board.user] if board.user else []),
        *(["-i", str(board.identity_file.absolute())] if board.identity_file else []),
        *(word for key, value in options.items() for word in ("-o", f"{key}={value}")),
    ]


@cache
def _sockets() -> Path:
    """A folder of this process for its shared connections; at its end they are closed."""
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"  # noqa: S108 - sockets' paths end at 108
    folder = Path(tempfile.mkdtemp(prefix="edgedistill-ssh-", dir=short))
    atexit.register(_close, folder, os.getpid())
    return folder


def _close(folder: Path, owner: int) -> None:
    if os.getpid() != owner:
        return
    program = shutil.which("ssh")
    for socket in folder.iterdir():
        if program is not None:
            subprocess.run(
                [program, "-o", f"ControlPath={socket}", "-O", "exit", "board"], check=False, capture_output=True
            )
    shutil.rmtree(folder, ignore_errors=True)
