"""What the plug-in counted, block by block, and the classes of instructions made of it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.errors import DeviceError, PluginError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.types import Json

CLASSES = ("load_store", "fma", "dot", "matrix", "multiply_long", "sve", "branch", "simd_other", "other")
"""Every instruction is in exactly one, so that they sum to the total."""
_WORD = 8
_DOT = frozenset({"sdot", "udot", "usdot", "sudot", "bfdot"})
_MATRIX = frozenset({"smmla", "ummla", "usmmla", "bfmmla"})
_FMA = frozenset({"fmla", "fmls", "fmadd", "fmsub", "fnmadd", "fnmsub", "fmlal", "fmlal2", "fmlsl", "fmlsl2"})
_LONG = re.compile(r"(sq)?d?(s|u|sqd)?(mull|mlal|mlsl)2?$")
_A32 = (
    ("dot", re.compile(r"v[su]{1,2}dot")),
    ("multiply_long", re.compile(r"v(qd)?(mull|mlal|mlsl)\.")),
    ("fma", re.compile(r"vf?n?(mla|mls|ma|ms)(al|eq|ne|ge|gt|le|lt|hi|lo|hs|ls|mi|pl|vs|vc)?\.f")),
    (
        "load_store",
        re.compile(r"(ldr|str|ldm|stm|push|pop|vldr|vstr|vldm|vstm|vpush|vpop|vld[1-4]|vst[1-4]|ldrex|strex)"),
    ),
    ("simd_other", re.compile(r"v")),
    ("branch", re.compile(r"(b|bl|bx|blx|cbn?z|tb[bh])(eq|ne|ge|gt|le|lt|hi|lo|hs|ls|mi|pl|vs|vc|cs|cc)?(\.[wn])?$")),
)


@dataclass(frozen=True)
class Blocks:
    """How often each block of one inference ran.

    Attributes:
        runs: block -> times. A block is its opcode words in hexadecimal (aarch64), or its mnemonics joined by `;`
            (armv7, where an encoding does not tell by itself what it is).
        caches: line accesses, L1 misses, L2 misses of the cache model; empty when it did not run.
    """

    runs: dict[str, int]
    caches: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Instructions."""
        return sum(times * size_of(block) for block, times in self.runs.items())


def size_of(block: str) -> int:
    """Instructions of a block."""
    return len(split_blocks(block))


def split_blocks(block: str) -> list[str]:
    if ";" in block or not re.fullmatch(r"(?:[0-9a-f]{8})+", block):
        return block.split(";")
    return [block[at : at + _WORD] for at in range(0, len(block), _WORD)]


def read_blocks(path: Path) -> Blocks:
    """Parse what the plug-in wrote at a mark: `ADDRESS RUNS BLOCK` lines, perhaps a `cache` line first, then `end`.

    Raises:
        DeviceError: the file is missing or not whole.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    if not lines or lines[-1] != "end":
        raise DeviceError(
            "the instruction counts are not whole",
            where=str(path),
            expected="the plug-in's file, ending in `end`",
            got=f"{len(lines)} lines",
            fix="make room on the disk of the temporary folder, and repeat",
        )
    caches = tuple(int(word) for word in lines[0].split()[1:]) if lines[0].startswith("cache ") else ()
    runs: Counter[str] = Counter()
    for line in lines[bool(caches) : -1]:
        _, times, block = line.split()
        runs[block] += int(times)
    return Blocks(dict(runs), caches)


def middle(counted: Sequence[Blocks]) -> Blocks:
    """The inference with the median total (the lower one of an even number)."""
    return sorted(counted, key=lambda blocks: blocks.total)[(len(counted) - 1) // 2]


def classify(blocks: Blocks) -> Json:
    """Instructions by class (CLASSES), `total`, and `undecoded`, those of `other` that no decoder knew.

    Raises:
        PluginError: capstone, which decodes aarch64, is not installed.
    """
    each: Counter[str] = Counter()
    for block, times in blocks.runs.items():
        for instruction in split_blocks(block):
            each[instruction] += times
    words = [instruction for instruction in each if re.fullmatch(r"[0-9a-f]{8}", instruction)]
    decoded = decode_a64(words) if words else {}
    found: Counter[str] = Counter()
    for instruction, times in each.items():
        told = decoded.get(instruction)
        found[class_a64(instruction, told) if instruction in decoded else class_a32(instruction)] += times
        if told == "" or instruction == "?":
            found["undecoded"] += times
    return {"total": sum(each.values()), **{name: found[name] for name in CLASSES}, "undecoded": found["undecoded"]}


def decode_a64(words: Sequence[str]) -> dict[str, str]:
    """Opcode words in hexadecimal -> `mnemonic operands` by capstone, or an empty text.

    Raises:
        PluginError: capstone is not installed.
    """
    try:
        import capstone
    except ImportError as error:
        raise PluginError(
            "instructions are decoded by capstone, which this environment does not have",
            where="devices: emulated",
            expected="the extra 'arm' installed",
            got=str(error),
            fix="pip install 'edgedistill[arm]'",
        ) from error
    engine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    found = {}
    for word in words:
        told = list(engine.disasm_lite(int(word, 16).to_bytes(4, "little"), 0))
        found[word] = f"{told[0][2]} {told[0][3]}" if told else ""
    return found


def class_a64(word: str, told: str | None) -> str:
    """The class of an aarch64 instruction: by mnemonic, else by the top level of A64's encoding (bits 28 to 25).

    Arm Architecture Reference Manual, C4.1.
    """
    name, _, operands = (told or "").partition(" ")
    value = int(word, 16)
    group = f"{value >> 25 & 15:04b}"
    if group == "0010" or (group == "0000" and value >> 31):  # SVE, SME
        return "sve"
    if group[1] + group[3] == "10":
        return "load_store"
    if group[:3] == "101":
        return "branch"
    if group[1:] == "111":
        for label, names in (("dot", _DOT), ("matrix", _MATRIX), ("fma", _FMA)):
            if name in names:
                return label
        return "multiply_long" if _LONG.match(name) and operands.startswith("v") else "simd_other"
    return "other"


def class_a32(name: str) -> str:
    """The class of an A32 or T32 mnemonic as the emulator prints it."""
    return next((label for label, pattern in _A32 if pattern.match(name)), "other")
