"""Microcontrollers, `micro:nucleo-l4r5zi` and others: does a TFLite file run in tflite-micro, and does it fit?

tflite-micro's interpreter of this host runs it, so there is no time to tell; its kernels are the reference ones.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.calling import run_agent
from edgedistill.errors import ArtifactError, UsageError
from edgedistill.types import AgentAnswer, DeviceInfo, Source, Traits

from .boards import BOARDS, read_board
from .runtime import RUNTIMES

if TYPE_CHECKING:
    from edgedistill.types import AgentCall, Json

    from .boards import Board

REQUIRES = ("tflite_micro",)
SCHEME = "micro"
OPENER = Path(__file__).with_name("runtime.py")
TRAITS = Traits(
    Source.EMULATED,
    runtimes=tuple(RUNTIMES),
    own_openers={"tflite": OPENER},
    references=("tflite-runtime", "litert"),  # the first one's reference kernels round as tflite-micro's do
)
INTERPRETER_BYTES = 16 * 1024
"""Flash that tflite-micro's core takes on a Cortex-M3, without kernels, by its own README."""
NOTE = (
    "arena of reference kernels on a 64-bit host: structures are smaller on 32 bits, optimised kernels may add "
    "buffers; flash without the kernels' and the application's code"
)
_KEPT = ("schema", "runtime", "runtime_version", "threads", "inputs", "outputs", "facts", "samples")


def describe(device_id: str) -> DeviceInfo:
    """The board; the bare scheme stands for all."""
    if ":" not in device_id:
        return DeviceInfo(device_id, f"microcontroller boards: {', '.join(BOARDS)}", "cortex-m", 1, 0)
    board = read_board(device_id)
    told = f"{board.name}, {board.chip}, {board.flash_bytes // 1024} KB of flash"
    return DeviceInfo(device_id, told, board.core, 1, board.sram_bytes)


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Outputs of a TFLite file in tflite-micro, the smallest arena it takes, and whether that fits; never a time.

    Raises:
        UsageError: an unknown board, more than one thread, another runtime.
        ArtifactError: tflite-micro refuses the file (missing operators are named) or the inputs.
        DeviceError: it died, or did not finish.
    """
    board = read_board(device_id)
    if job.threads != 1 or job.runtime not in RUNTIMES:
        raise UsageError(
            f"{device_id} runs TFLite files in tflite-micro with one thread",
            where=f"device: {device_id}",
            expected="tflite-micro, 1 thread",
            got=f"{job.runtime}, {job.threads} threads",
            fix="give a .tflite file, and leave the threads at 1",
        )
    untimed = replace(job, min_queries=0, profile=0, sustained_min=0.0)
    try:
        found = run_agent(untimed)
    except ArtifactError as error:
        if "tflite-micro has no" in error.message:  # as runtime.py says it
            error.fix = "build the model of other operators, or choose another runtime"
        raise
    document = {key: found[key] for key in _KEPT if key in found}
    needs = fit(board, found["facts"]["arena_bytes"], job.artifact.stat().st_size)
    return AgentAnswer(device_id, {**document, "source": TRAITS.source.value, "microcontroller": needs})


def fit(board: Board, arena_bytes: int, model_bytes: int) -> Json:
    """What a model takes of a board, in bytes, and whether that is there."""
    flash = model_bytes + INTERPRETER_BYTES
    fits = arena_bytes <= board.sram_bytes and flash <= board.flash_bytes
    reasons = [
        f"arena: {arena_bytes:,} of {board.sram_bytes:,} bytes of SRAM",
        f"flash: {flash:,} of {board.flash_bytes:,} bytes (model {model_bytes:,}, interpreter {INTERPRETER_BYTES:,})",
    ]
    return {
        "arena_bytes": arena_bytes,
        "sram_bytes": board.sram_bytes,
        "flash_bytes": flash,
        "flash_size_bytes": board.flash_bytes,
        "model_bytes": model_bytes,
        "fits": fits,
        "reasons": reasons,
        "board_source": board.source,
        "note": NOTE,
    }
