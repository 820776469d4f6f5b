"""Which processor a program is built for: its ELF header tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MACHINES = {3: "i686", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""e_machine of the ELF specification -> as platform.machine() says it."""
_HEADER_BYTES = 20
SCRIPT = "a script"
"""It may stand around a program, and runs on any processor."""


def machine_of(path: Path) -> str:
    """The machine, or what the file is in place of an ELF program."""
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or head[:4] != b"\x7fELF":
        return SCRIPT if head[:2] == b"#!" else "no program"
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _MACHINES.get(number, f"ELF machine {number}")
