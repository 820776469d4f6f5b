"""Microcontroller boards, as far as it must be known whether a model fits: the Arm boards of MLPerf Tiny v1.2."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgedistill.errors import UsageError, nearest

KIB = 1024
_SIZES = re.compile(r"sram=(\d+)([km]?),flash=(\d+)([km]?)")
_UNITS = {"": 1, "k": KIB, "m": KIB * KIB}


@dataclass(frozen=True)
class Board:
    """A board.

    Attributes:
        name: as its maker writes it, in small letters.
        chip: the microcontroller.
        core: its core that runs the model.
        sram_bytes: the largest stretch of contiguous on-chip RAM: an arena is one array.
        flash_bytes: on-chip flash for program and model.
        source: where the two sizes come from.
    """

    name: str
    chip: str
    core: str
    sram_bytes: int
    flash_bytes: int
    source: str


def _boards(*boards: Board) -> dict[str, Board]:
    return {board.name: board for board in boards}


BOARDS = _boards(
    Board("nucleo-l4r5zi", "STM32L4R5ZI", "cortex-m4", 640 * KIB, 2048 * KIB, "Zephyr, boards/st/nucleo_l4r5zi"),
    Board(
        "cy8cproto-062-4343w",
        "CY8C624ABZI-S2D44",
        "cortex-m4",
        1024 * KIB,
        2048 * KIB,
        "Zephyr, boards/infineon/cy8cproto_062_4343w",
    ),
    Board("disco-f746ng", "STM32F746NG", "cortex-m7", 320 * KIB, 1024 * KIB, "Zephyr, dts/arm/st/f7/stm32f746Xg.dtsi"),
    Board(
        "nucleo-h7a3zi-q",
        "STM32H7A3ZI",
        "cortex-m7",
        1024 * KIB,
        2048 * KIB,
        "Zephyr, dts/arm/st/h7/stm32h7a3.dtsi: AXI SRAM; 352 KB more lie apart",
    ),
    Board(
        "nucleo-u575zi-q",
        "STM32U575ZI",
        "cortex-m33",
        768 * KIB,
        2048 * KIB,
        "Zephyr, boards/st/nucleo_u575zi_q: SRAM 1 to 3 of 786 KB in all",
    ),
    Board(
        "ek-ra8d1",
        "R7FA8D1BHECBD",
        "cortex-m85",
        896 * KIB,
        2016 * KIB,
        "Zephyr, dts/arm/renesas/ra/ra8/ra8x1.dtsi and r7fa8d1bhecbd.dtsi; 128 KB of TCM lie apart",
    ),
    Board("nucleo-g0b1re", "STM32G0B1RE", "cortex-m0+", 144 * KIB, 512 * KIB, "Zephyr, dts/arm/st/g0/stm32g0b1Xe.dtsi"),
)
"""Sizes are those of the Zephyr project's board and device-tree files (Apache-2.0), read in November 2026."""


def read_board(device_id: str) -> Board:
    """Read `micro:nucleo-l4r5zi`, or `micro:sram=256k,flash=1m` for a board that is not listed.

    Raises:
        UsageError: no such board.
    """
    name = device_id.partition(":")[2]
    if name in BOARDS:
        return BOARDS[name]
    sizes = _SIZES.fullmatch(name)
    if sizes is not None:
        sram, flash = (int(sizes[n]) * _UNITS[sizes[n + 1]] for n in (1, 3))
        return Board(name, "a microcontroller", "any core", sram, flash, "as given")
    raise UsageError(
        f"unknown microcontroller board {device_id!r}" if name else "micro names no board",
        where=f"device: {device_id}",
        expected=nearest(name, BOARDS),
        got=repr(device_id),
        fix="name a board, or its sizes, such as micro:sram=256k,flash=1m",
    )
