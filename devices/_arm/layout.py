"""Where the ARM emulator lies, what it is made of, and whether it is there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from edgedistill.types import Json

SOURCES = Path(__file__).parent
LAYOUT = 2
"""Counted up when the folders below change their meaning."""


@dataclass(frozen=True)
class Deb:
    """A Debian package: `place` is its architecture, `version` what its version begins with."""

    place: str
    name: str
    version: str


@dataclass(frozen=True)
class Wheel:
    """A Python wheel for the guest of architecture `place`, pinned by version and SHA-256."""

    place: str
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Pins:
    """What is installed: a Debian suite's packages, and wheels."""

    suite: str
    debs: tuple[Deb, ...]
    wheels: tuple[Wheel, ...]


def read_pins(text: str) -> Pins:
    """Parse pins.txt: a `suite` line, `deb PLACE NAME=VERSION` and `wheel PLACE NAME==VERSION SHA256` lines.

    Raises:
        ValueError: a line is none of these.
    """
    suite, debs, wheels = "", list[Deb](), list[Wheel]()
    for line in text.splitlines():
        match line.split():
            case ["suite", name]:
                suite = name
            case ["deb", place, package] if "=" in package:
                debs.append(Deb(place, *package.split("=", 1)))
            case ["wheel", place, package, sha256] if "==" in package:
                name, version = package.split("==", 1)
                wheels.append(Wheel(place, name, version, sha256))
            case [] | ["#", *_]:
                pass
            case _:
                raise ValueError(f"not a pin: {line!r}")
    return Pins(suite, tuple(debs), tuple(wheels))


@dataclass(frozen=True)
class Layout:
    """The emulator's folders. `root` is named by what it holds: other pins, another folder.

    Below `base`: `counts/` (kept runs) and one folder per set of pins; below that `debs/`, `host/` (the
    emulator), `sysroot/PLACE/`, `site/PLACE/`, `cores/` (what differs by core) and `lock.json`, written last.
    """

    base: Path

    @cached_property
    def digest(self) -> str:
        """Of the pins and of the plug-in's source."""
        parts = [(SOURCES / name).read_bytes() for name in ("pins.txt", "counting.c")]
        return hashlib.sha256(b"\0".join([str(LAYOUT).encode(), *parts])).hexdigest()[:16]

    @property
    def root(self) -> Path:
        """This version's folder."""
        return self.base / self.digest

    @property
    def lock(self) -> Path:
        """What was installed; its being there says that all else is."""
        return self.root / "lock.json"

    @property
    def plugin(self) -> Path:
        """The compiled plug-in."""
        return self.root / "libcounting.so"

    def require(self) -> Json:
        """The lock's content.

        Raises:
            UsageError: the emulator is not installed.
        """
        try:
            document: Json = json.loads(self.lock.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            older = self.base.is_dir() and any(self.base.glob("*/lock.json"))
            raise UsageError(
                "the ARM emulator is not installed" + (" in this product's version" if older else ""),
                where=str(self.root),
                expected="an installation that `edgedistill arm setup` finished",
                got="an older one" if older else "none, or one that was broken off",
                fix="edgedistill arm setup",
            ) from None
        return document


def layout() -> Layout:
    """EDGEDISTILL_ARM, else `edgedistill/arm` under XDG_CACHE_HOME, else under ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Layout(Path(os.environ.get("EDGEDISTILL_ARM") or Path(cache) / "edgedistill" / "arm").absolute())


def pins() -> Pins:
    """The product's own."""
    return read_pins((SOURCES / "pins.txt").read_text(encoding="utf-8"))
