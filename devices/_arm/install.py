"""Install the ARM emulator without root: every step leaves a whole thing under its final name, or nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, StorageError, UsageError
from edgedistill.types import file_sha256

from . import apt
from .cores import CORES, PROCESSORS, Core
from .guest import EMULATORS, PLACES, command_of, environment_of, host_libraries
from .layout import SOURCES, Deb, Layout, Pins, Wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgedistill.events import Events
    from edgedistill.types import Json

SPACE_BYTES = 1_000_000_000
"""Free space that is asked for: 600 MB are kept, the rest is for what is packed and unpacked at once."""
_GLIBC = (17, 24, 27, 28, 31, 34, 35, 36)
"""The guest's is 2.36; pip wants every tag it may take."""
MACHINES = {"arm64": "aarch64", "armhf": "armv7l"}


@dataclass(frozen=True)
class Step:
    """One thing to make: `make` writes it at a path that nobody else knows, then it is renamed to `target`."""

    title: str
    target: Path
    make: Callable[[Path], None]


def steps(layout: Layout, pins: Pins) -> list[Step]:
    """All steps in order; each can stand on those before it."""
    root = layout.root
    index = root / "apt"
    found = [Step("compile the plug-in", layout.plugin, _compile)]
    found += [
        Step(
            f"package {deb.name} {deb.place}", root / "debs" / deb.place / deb.name, _fetch_deb(index, pins.suite, deb)
        )
        for deb in pins.debs
    ]
    found.append(Step("unpack the emulator", root / "host", _unpack(root / "debs" / "amd64")))
    for place in MACHINES:
        found.append(Step(f"unpack {place}", root / "sysroot" / place, _unpack(root / "debs" / place)))
        wheels = [wheel for wheel in pins.wheels if wheel.place == place]
        found.append(Step(f"runtimes {place}", root / "site" / place, _install_wheels(wheels, place)))
    for scheme, cores in CORES.items():
        sysroot = root / "sysroot" / PLACES[scheme]
        found += [Step(core.name, root / "cores" / core.name, _view(sysroot, core)) for core in cores.values()]
    return found


def install(layout: Layout, pins: Pins, events: Events, *, again: bool) -> bool:
    """Do what is not done yet; True when there was anything to do. `again`: from nothing.

    Raises:
        UsageError: this machine lacks what it takes (compiler, apt, pip, disk).
        DeviceError: something could not be fetched, or does not run.
    """
    with _disk(layout.base), _alone(layout.base):
        if again:
            shutil.rmtree(layout.root, ignore_errors=True)
        todo = [step for step in steps(layout, pins) if not step.target.exists()]
        if layout.lock.is_file() and not todo:
            return False
        _require_machine(layout)
        total = len(todo) + len(MACHINES)
        for number, step in enumerate(todo):
            events.step(f"install {step.title}", number, total)
            _do(step)
        versions = {}
        for number, place in enumerate(MACHINES):
            events.step(f"install and try {place}", total - len(MACHINES) + number, total)
            versions[place] = _probe(layout, place)
        events.step("install done", total, total)
        _write_lock(layout, pins, versions)
        shutil.rmtree(layout.root / "apt", ignore_errors=True)  # indexes of 300 MB, good for an hour
    return True


def _do(step: Step) -> None:
    step.target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=step.target.parent) as folder:
        made = Path(folder) / "made"
        step.make(made)
        made.rename(step.target)


@contextmanager
def _disk(base: Path) -> Iterator[None]:
    """Say what the disk refuses."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            "the disk is full" if full else f"the emulator's folder cannot be written: {error.strerror}",
            where=str(base),
            expected=f"a writable folder with {SPACE_BYTES / 1e9:g} GB free",
            got=str(error),
            fix="make room, or set EDGEDISTILL_ARM to a folder on another disk; then repeat, what is done is kept",
        ) from error


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    base.mkdir(parents=True, exist_ok=True)
    with (base / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _require_machine(layout: Layout) -> None:
    """Before anything is fetched: is all there that the steps need?"""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise UsageError(
            "the emulator is installed on x86-64 Linux only",
            where="this machine",
            expected="x86_64 Linux",
            got=f"{platform.machine()} {sys.platform}",
            fix="run this command on such a machine",
        )
    wanted = {
        "a C compiler (its plug-in is compiled here)": (_compiler(), "apt-get install gcc libc6-dev, or set CC"),
        "apt-get and dpkg-deb (Debian packages)": (
            shutil.which("apt-get") and shutil.which("dpkg-deb"),
            "use a Debian machine or container",
        ),
        "Debian's archive keys": (apt.KEYRING.is_file(), "install the package debian-archive-keyring"),
        "pip in this Python": (find_spec("pip"), f"{sys.executable} -m ensurepip"),
    }
    for what, (found, fix) in wanted.items():
        if not found:
            raise UsageError(
                f"the emulator needs {what}",
                where="this machine",
                expected=what,
                got="none found",
                fix=f"{fix}; repeat",
            )
    free = shutil.disk_usage(layout.base).free
    if free < SPACE_BYTES:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.2f} GB free", str(layout.base))


def _compiler() -> str | None:
    return next(
        (found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name and (found := shutil.which(name))), None
    )


def _command(command: list[str], *, what: str, fix: str, environment: dict[str, str] | None = None) -> str:
    """Run one; its stdout.

    Raises:
        DeviceError: it failed; its last word is told.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        if "No space left on device" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device", what)
        told = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        said = next((line for line in told if "error" in line.lower()), told[-1] if told else "no word")
        raise DeviceError(
            f"{what} failed",
            where=command[0],
            expected="exit code 0",
            got=f"exit code {done.returncode}: {said}",
            fix=fix,
        )
    return done.stdout


def _compile(out: Path) -> None:
    compiler = _compiler() or "cc"
    source = str(SOURCES / "counting.c")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(out), source]
    _command(command, what="compiling the counting plug-in", fix="apt-get install gcc libc6-dev; repeat")


def _fetch_deb(index: Path, suite: str, deb: Deb) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        if not (index / "ready").is_file():
            apt.prepare(index, apt.mirror(), suite)
            (index / "ready").touch()
        out.mkdir()
        apt.download(index, deb, out)

    return make


def _platforms(place: str) -> list[str]:
    machine = MACHINES[place]
    tags = [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]
    chosen = ["--only-binary=:all:", "--no-deps", "--python-version=3.11", "--implementation=cp"]
    return [*(f"--platform={tag}" for tag in tags), *chosen]


def _install_wheels(wheels: list[Wheel], place: str) -> Callable[[Path], None]:
    """One pip for all; what it fetched before it was broken off is in its own cache."""

    def make(out: Path) -> None:
        wanted = out.with_name("wanted.txt")
        lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
        wanted.write_text("".join(lines), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += ["--require-hashes", *_platforms(place), f"--target={out}", f"--requirement={wanted}"]
        fix = "look at the network (and pip's index), then repeat: what was fetched is kept"
        _command(command, what=f"fetching the wheels for {place}", fix=fix)

    return make


def _unpack(debs: Path) -> Callable[[Path], None]:
    def make(out: Path) -> None:
        for package in sorted(debs.glob("*/*.deb")):
            _command(
                ["dpkg-deb", "-x", str(package), str(out)],
                what=f"unpacking {package.name}",
                fix="edgedistill arm setup --again",
            )
        shutil.rmtree(out / "usr" / "share", ignore_errors=True)
        for binary in (out / "usr" / "bin").glob("qemu-*"):
            if binary.name not in EMULATORS.values():
                binary.unlink()

    return make


def _view(sysroot: Path, core: Core) -> Callable[[Path], None]:
    """The guest's root as this core sees it: the shared one, and /proc/cpuinfo and /sys of its own."""

    def make(out: Path) -> None:
        write_view(out, sysroot, core.cpuinfo())

    return make


def write_view(out: Path, sysroot: Path, cpuinfo: str) -> None:
    """A folder for the emulator's -L: links into the sysroot, and what Linux tells of the processor."""
    online = out / "sys" / "devices" / "system" / "cpu"
    for folder in (out / "proc", online):
        folder.mkdir(parents=True)
    (out / "proc" / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    for name in ("online", "possible", "present"):
        (online / name).write_text(f"0-{PROCESSORS - 1}\n", encoding="utf-8")
    for entry in sysroot.iterdir():
        (out / entry.name).symlink_to(entry)


def _probe(layout: Layout, place: str) -> dict[str, str]:
    """Import every runtime in the guest; their versions as it tells them."""
    scheme = next(s for s, p in PLACES.items() if p == place)
    core = next(iter(CORES[scheme].values()))
    modules = {"numpy": "numpy", "ncnn": "ncnn", "tflite-runtime": "tflite_runtime.interpreter"}
    if place == "arm64":
        modules |= {
            "onnxruntime": "onnxruntime",
            "ai-edge-litert": "ai_edge_litert.interpreter",
            "openvino": "openvino",
        }
    program = (
        "import importlib, json; from importlib.metadata import version as v\n"
        f"print(json.dumps({{n: [importlib.import_module(m), v(n)][1] for n, m in {modules!r}.items()}}))"
    )
    try:
        told = _command(
            [*command_of(layout, scheme, core), "-c", program],
            what=f"running the {place} guest",
            fix="edgedistill arm setup --again; if it stays so, please report it",
            environment=environment_of(layout, scheme),
        )
        versions: dict[str, str] = json.loads(told.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise DeviceError(
            f"the {place} guest says nothing",
            where=str(layout.root),
            expected="its runtimes' versions",
            got="",
            fix="edgedistill arm setup --again",
        ) from error
    return versions


def _emulator_version(layout: Layout) -> str:
    emulator = str(layout.root / "host/usr/bin/qemu-aarch64")
    libraries = {"LD_LIBRARY_PATH": host_libraries(layout)}
    fix = "edgedistill arm setup --again"
    return _command([emulator, "--version"], what="the emulator", fix=fix, environment=libraries).splitlines()[0]


def _write_lock(layout: Layout, pins: Pins, versions: dict[str, dict[str, str]]) -> None:
    """Written last: its being there says that the rest is."""
    files = sorted((layout.root / "debs").glob("*/*/*.deb"))
    document = {
        "schema": "edgedistill.arm/1",
        "installed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "suite": pins.suite,
        "runtimes": versions,
        "emulator": _emulator_version(layout),
        "wheels": [f"{w.place} {w.name}=={w.version} sha256:{w.sha256}" for w in pins.wheels],
        "files": [
            {"name": str(f.relative_to(layout.root)), "bytes": f.stat().st_size, "sha256": file_sha256(f)}
            for f in files
        ],
    }
    temporary = layout.lock.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(document, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(layout.lock)


def status(layout: Layout, cores: dict[str, dict[str, Core]]) -> Json:
    """Installed or not, where, bytes by part, versions, cores by scheme, kept runs."""
    ready = layout.lock.is_file()
    document: Json = json.loads(layout.lock.read_text(encoding="utf-8")) if ready else {}
    parts = ("debs", "host", "sysroot", "site")
    counts = layout.base / "counts"
    return {
        "installed": ready,
        "path": str(layout.root),
        "since": document.get("installed"),
        "emulator": document.get("emulator"),
        "runtimes": document.get("runtimes", {}),
        "bytes": {part: _bytes_of(layout.root / part) for part in parts},
        "kept_runs": sum(1 for _ in counts.glob("*/run.json")),
        "cores": {
            scheme: [{"id": f"{scheme}:{name}", "runs_as": core.model} for name, core in known.items()]
            for scheme, known in cores.items()
        },
        "fix": None if ready else "edgedistill arm setup",
    }


def _bytes_of(folder: Path) -> int:
    return sum(f.lstat().st_size for f in folder.rglob("*") if f.is_file() and not f.is_symlink())
