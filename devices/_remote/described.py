"""Boards that the user described: `devices.toml` here, then in the user's config folder, then hosts of the ssh config.

[ssh.pi4]                          # ssh:pi4
host = "192.168.1.20"

[adb.R58M12ABCDE]                  # adb:R58M12ABCDE
tflite_benchmark = "tools/benchmark_model"
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edgedistill.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from edgedistill.types import Json

FILE = "devices.toml"
_PORTS = 65535
_Described = TypeVar("_Described", "SshBoard", "AdbBoard")


@dataclass(frozen=True)
class SshBoard:
    """A board that ssh reaches. What is None is left to the ssh config.

    Attributes:
        name: as in `ssh:NAME`.
        host: host name or address, or a Host of the ssh config. Default: the name.
        port: of the ssh server.
        user: on the board.
        identity_file: the private key, relative to the file that names it.
        known_hosts: file with the board's host key, relative likewise.
        python: the board's Python, 3.8 or newer: makes the venv, and runs the agent where no venv is.
        workdir: on the board, relative to the user's home: cache, venv, working folders.
        lock: on the board: the file that whoever measures holds. One for all users and clients of it.
        runtimes: those to bootstrap and to measure with. Empty: all that are found there.
        connect_timeout_s: for the connection.
        lock_timeout_s: how long to wait for others.
    """

    name: str
    host: str = ""
    port: int | None = None
    user: str | None = None
    identity_file: Path | None = None
    known_hosts: Path | None = None
    python: str = "python3"
    workdir: str = ".cache/edgedistill"
    lock: str = "/tmp/edgedistill.lock"  # noqa: S108 - one for all users of the board; opened with care
    runtimes: tuple[str, ...] = ()
    connect_timeout_s: float = 10.0
    lock_timeout_s: float = 600.0

    @property
    def id(self) -> str:
        """`ssh:NAME`."""
        return f"ssh:{self.name}"

    @property
    def shell_workdir(self) -> str:
        """The workdir as a word of the board's shell."""
        return _home_word(self.workdir)


@dataclass(frozen=True)
class AdbBoard:
    """An Android device, and the benchmark binaries to push there.

    Attributes:
        name: its serial, as `adb devices` tells.
        tflite_benchmark: TFLite's benchmark_model.
        onnxruntime_perf_test: onnxruntime's.
        benchncnn: ncnn's.
        benchmark_app: OpenVINO's.
        libraries: shared objects that these need, pushed beside them.
        workdir: on the device.
        lock_timeout_s: how long to wait for others on this host.
    """

    name: str
    tflite_benchmark: Path | None = None
    onnxruntime_perf_test: Path | None = None
    benchncnn: Path | None = None
    benchmark_app: Path | None = None
    libraries: tuple[Path, ...] = field(default=())
    workdir: str = "/data/local/tmp/edgedistill"
    lock_timeout_s: float = 600.0

    @property
    def id(self) -> str:
        """`adb:SERIAL`."""
        return f"adb:{self.name}"


def _home_word(path: str) -> str:
    if path.startswith("/"):
        return shlex.quote(path)
    return '"$HOME"/' + shlex.quote(path.removeprefix("~/"))


def config_files() -> list[Path]:
    """Where boards are looked for, the first that names one wins."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [path for path in (Path(FILE), home / "edgedistill" / FILE) if path.is_file()]


def ssh_boards(known: Collection[str] | None = None) -> dict[str, SshBoard]:
    """Every board under `ssh`, by name; `known`: the runtimes that a board may name, None: that is not asked.

    Raises:
        UsageError: a file is no TOML, or a key is unknown or of the wrong type, or names an unknown runtime.
    """
    return _boards("ssh", SshBoard, known)


def adb_boards() -> dict[str, AdbBoard]:
    """Every device under `adb`, by serial; raises as `ssh_boards`."""
    return _boards("adb", AdbBoard, None)


def _boards(scheme: str, kind: type[_Described], known: Collection[str] | None) -> dict[str, _Described]:
    found: dict[str, _Described] = {}
    for file in config_files():
        for name, keys in _read(file, scheme).items():
            found.setdefault(name, _board(file, f"{scheme}.{name}", name, keys, kind, known))
    return found


def _read(file: Path, scheme: str) -> Json:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}",
            where=str(file),
            expected="a TOML file",
            got=type(error).__name__,
            fix="docs/boards.md shows one",
        ) from error
    for key in document:
        if key not in ("ssh", "adb"):
            raise _wrong(file, key, nearest(key, ["ssh", "adb"]), "an unknown table")
    table = document.get(scheme, {})
    if not isinstance(table, dict):
        raise _wrong(file, scheme, f"tables [{scheme}.NAME]", repr(table))
    return table


def _board(
    file: Path, where: str, name: str, keys: object, kind: type[_Described], runtimes: Collection[str] | None
) -> _Described:
    if not isinstance(keys, dict):
        raise _wrong(file, where, f"a table [{where}]", repr(keys))
    known = {one.name: str(one.type) for one in fields(kind) if one.name != "name"}
    values: Json = {"name": name}
    for key, value in keys.items():
        if key not in known:
            raise _wrong(file, f"{where}.{key}", nearest(key, known), "an unknown key")
        values[key] = _value(file, f"{where}.{key}", known[key], value)
    for runtime in values.get("runtimes", ()):
        if runtimes is not None and runtime not in runtimes:
            raise _wrong(file, f"{where}.runtimes", nearest(runtime, runtimes), repr(runtime))
    if kind is AdbBoard and not re.fullmatch(r"/[\w./-]+", values.get("workdir", "/ok")):
        raise _wrong(
            file, f"{where}.workdir", "a path from / on, of letters, digits, . _ and -", repr(values["workdir"])
        )
    return kind(**values)


def _value(file: Path, where: str, wanted: str, value: object) -> object:
    """A TOML value as the field's type wants it."""
    if wanted.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise _wrong(file, where, "a list of texts", repr(value))
        return tuple(_path(file, where, one) for one in value) if "Path" in wanted else tuple(value)
    if wanted.startswith("float"):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise _wrong(file, where, "seconds, more than 0", repr(value))
        return float(value)
    if wanted.startswith("int"):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _PORTS:
            raise _wrong(file, where, f"a port from 1 to {_PORTS}", repr(value))
        return value
    if not isinstance(value, str) or not value or value.startswith("-"):
        raise _wrong(file, where, "a text that does not begin with a dash", repr(value))
    return _path(file, where, value) if wanted.startswith("Path") else value


def _path(file: Path, where: str, text: str) -> Path:
    path = file.parent / Path(text).expanduser()
    if not path.is_file():
        raise _wrong(file, where, "the path of a file, absolute or relative to devices.toml", f"no file at {path}")
    return path


def _wrong(file: Path, key: str, expected: str, got: str) -> UsageError:
    return UsageError(
        f"{file}: {key} is not what it must be",
        where=f"{file}, key {key}",
        expected=expected,
        got=got,
        fix="correct the key (docs/boards.md lists all)",
    )


def find_ssh_board(device_id: str, known: Collection[str] | None = None) -> SshBoard:
    """The board of `ssh:NAME`: described in devices.toml, or a Host of the ssh config; `known` as in `ssh_boards`.

    Raises:
        UsageError: nobody knows the name, or devices.toml is wrong.
    """
    name = device_id.partition(":")[2]
    described = ssh_boards(known)
    if name in described:
        return described[name]
    hosts = ssh_hosts()
    if name in hosts:
        return SshBoard(name)
    raise unknown(device_id, {*described, *hosts}, "describe it in devices.toml, or add a Host to your ssh config")


def unknown(device_id: str, known: set[str], fix: str) -> UsageError:
    """The error for a board that nobody described."""
    scheme, _, name = device_id.partition(":")
    told = f"unknown device {device_id!r}" if name else f"{scheme}: which one?"
    expected = nearest(device_id, [f"{scheme}:{one}" for one in known])
    return UsageError(told, where=f"device: {device_id}", expected=expected, got=repr(device_id), fix=fix)


def ssh_config() -> Path | None:
    """The ssh config that EDGEDISTILL_SSH_CONFIG names in place of the user's own."""
    named = os.environ.get("EDGEDISTILL_SSH_CONFIG")
    return Path(named) if named else None


def ssh_hosts() -> list[str]:
    """Hosts of the ssh config, patterns left out."""
    own = Path.home() / ".ssh" / "config"
    return sorted({host for host in _hosts(ssh_config() or own, depth=0) if not set(host) & set("*?!")})


def _hosts(path: Path, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        key, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        try:
            words = shlex.split(rest)
        except ValueError:
            continue
        if key.lower() == "host":
            yield from words
        elif key.lower() == "include" and depth < 3:  # includes of includes of includes
            for word in words:
                base = Path.home() / ".ssh"
                pattern = Path(word).expanduser()
                folder, name = (base / pattern).parent, pattern.name
                for found in sorted(folder.glob(name)):
                    yield from _hosts(found, depth + 1)
