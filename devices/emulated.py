"""Emulated aarch64 cores: `arm:cortex-a53` and others. Outputs, instructions and memory, never a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.types import Source, Traits

from ._arm import device
from ._arm import install as installing
from ._arm.cores import CORES
from ._arm.layout import layout, pins

if TYPE_CHECKING:
    from edgedistill.events import Events
    from edgedistill.types import AgentAnswer, AgentCall, DeviceInfo, Json

REQUIRES: tuple[str, ...] = ()
SCHEME = "arm"
TRAITS = Traits(Source.EMULATED, runtimes=device.RUNTIMES[SCHEME])


def describe(device_id: str) -> DeviceInfo:
    """The core; the bare scheme stands for all."""
    return device.describe(device_id)


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Run the agent in the guest (see `_arm/device.py` for what is raised)."""
    return device.run(device_id, job)


def setup(events: Events, *, again: bool = False) -> Json:
    """Install the emulator for both schemes; `status()` afterwards, with `changed`.

    Raises:
        UsageError: this machine lacks what it takes.
        DeviceError: something could not be fetched or does not run.
    """
    changed = installing.install(layout(), pins(), events, again=again)
    return {**status(), "changed": changed}


def status() -> Json:
    """What is installed, from where, how large, and the cores that are known."""
    return installing.status(layout(), CORES)
