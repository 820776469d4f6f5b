"""Rows of a study, one JSON document a line: a study that was broken off goes on where it was."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.types import Json

_TOOLS = ("edgedistill", "onnxruntime", "ai-edge-litert", "tflite-runtime", "openvino", "numpy")


class Kept:
    """The rows of one study on one host with one set of settings, in a file."""

    def __init__(self, path: Path, settings: Json) -> None:
        """Take up what a file holds, or begin it.

        Raises:
            SystemExit: the file was made on another host, with other tools or other settings.
        """
        self.path = path
        head = {"host": host(), "settings": settings}
        found = read(path)
        if not found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._append(head)
        elif found[0] != head:
            raise SystemExit(f"{path} was made elsewhere or with other settings: {found[0]}; give another --folder")
        self.rows = found[1:]
        if found:  # without a last line that was broken off
            path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")

    def add(self, row: Json) -> None:
        """Keep a row; it is on disk when this returns."""
        row = {**row, "load_average": os.getloadavg()[0]}
        self._append(row)
        self.rows.append(row)

    def _append(self, row: Json) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def read(path: Path) -> list[Json]:
    """Head and rows of a file, as far as its lines are whole; none where there is no file."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def host() -> Json:
    """Processor, cores, system, and the versions of what is measured."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "tools": {name: _version(name) for name in _TOOLS},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
