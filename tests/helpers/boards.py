"""A board for tests: OpenSSH's own server on loopback, as the user who runs the tests, with keys of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="OpenSSH's server (openssh-server) or client is not installed"
)
PATIENCE_S = 60


@dataclass
class Loopback:
    """An sshd and the board behind it; `keys` of devices.toml may be changed between calls."""

    folder: Path
    port: int
    keys: dict[str, object] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def workdir(self) -> Path:
        return self.folder / "workdir"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def start(self) -> None:
        """Start the server; it listens when this returns."""
        assert SSHD is not None
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=self._log())
        wait_for(self._listens)

    def stop(self) -> None:
        """Stop the server and every session of it, at once."""
        if self.process is not None:
            for one in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if one.name().startswith("sshd") or one.pid == self.process.pid:
                        one.kill()
            self.process.wait()
            self.process = None

    def wrap(self, script: str) -> None:
        """Every session runs this shell script, in which $SSH_ORIGINAL_COMMAND is what was asked for."""
        wrapper = self.folder / "wrapper"
        wrapper.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        wrapper.chmod(0o755)

    def unwrap(self) -> None:
        """Sessions run what they are asked for."""
        self.wrap('exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"')

    def describe(self, **changed: object) -> None:
        """Write devices.toml into the current folder."""
        self.keys |= changed
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in self.keys.items() if value is not None]
        Path("devices.toml").write_text("[ssh.loopback]\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def files(self) -> set[str]:
        """Names in the board's cache."""
        return {path.name for path in self.workdir.glob("files/*")}

    def left(self) -> list[Path]:
        """Working folders of runs."""
        return list(self.workdir.glob("runs/*"))

    def agents(self) -> list[psutil.Process]:
        """Processes that work in a run's folder."""
        found = []
        for one in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if one.cwd().startswith(f"{self.workdir}/runs/"):
                    found.append(one)
        return found

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def _log(self) -> int:
        return os.open(self.folder / "sshd.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def wait_for(true: Callable[[], object]) -> None:
    """Until a condition holds; a test that waits in vain fails."""
    until = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def key(path: Path) -> str:
    """Make a key pair; the public half."""
    program = shutil.which("ssh-keygen")
    assert program is not None
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8").strip()


def loopback(folder: Path) -> Loopback:
    """A board with its own keys, port, workdir and lock, not yet started."""
    if os.getuid() == 0:  # the server's own demand when root starts it
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host_key = key(folder / "host_key")
    (folder / "authorized_keys").write_text(key(folder / "identity") + "\n", encoding="utf-8")
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}\n", encoding="utf-8")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ForceCommand": folder / "wrapper",
    }
    text = "".join(f"{name} {value}\n" for name, value in settings.items())
    (folder / "sshd_config").write_text(text, encoding="utf-8")
    assert SSHD is not None
    # newer servers lock an address out after failures, which the tests are full of; older ones do not know the word
    lenient = [SSHD, "-t", "-o", "PerSourcePenalties=no", "-f", str(folder / "sshd_config")]
    if subprocess.run(lenient, capture_output=True, check=False).returncode == 0:
        (folder / "sshd_config").write_text(f"{text}PerSourcePenalties no\n", encoding="utf-8")
    board = Loopback(folder, port)
    board.keys = {
        "host": "127.0.0.1",
        "port": port,
        "user": getpass.getuser(),
        "identity_file": str(folder / "identity"),
        "known_hosts": str(folder / "known_hosts"),
        "python": sys.executable,
        "workdir": str(board.workdir),
        "lock": str(board.lock),
    }
    board.unwrap()
    return board


_STAND_IN = """\
#!{python}
import os, sys
if "-O" in sys.argv:
    sys.exit(0)
os.execv("/bin/sh", ["/bin/sh", "-c", sys.argv[-1]])
"""


def stand_in(folder: Path) -> Loopback:
    """A board without a network, where there is no sshd: an `ssh` for PATH that runs the command on this machine."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(_STAND_IN.format(python=sys.executable), encoding="utf-8")
    (programs / "ssh").chmod(0o755)
    board = Loopback(folder, 22)
    board.keys = {"python": sys.executable, "workdir": str(board.workdir), "lock": str(board.lock)}
    return board


def doubling(path: Path, width: int = 3) -> Path:
    """Write an ONNX file that doubles its input of `width` values."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def scaling(path: Path, rows: int) -> Path:
    """Write an ONNX file with `rows` kB of weights that hash and compress badly."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(256, rows)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in (("x", 256), ("y", rows))
    ]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path
