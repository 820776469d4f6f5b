"""Emulated 32-bit ARM cores: `armv7:cortex-a7` and others. Outputs, instructions and memory, never a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.types import Source, Traits

from ._arm import device

if TYPE_CHECKING:
    from edgedistill.types import AgentAnswer, AgentCall, DeviceInfo

REQUIRES: tuple[str, ...] = ()
SCHEME = "armv7"
TRAITS = Traits(Source.EMULATED, runtimes=device.RUNTIMES[SCHEME])


def describe(device_id: str) -> DeviceInfo:
    """The core; the bare scheme stands for all."""
    return device.describe(device_id)


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Run the agent in the guest (see `_arm/device.py` for what is raised)."""
    return device.run(device_id, job)
