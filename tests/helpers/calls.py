"""Calls of the agent for a file alone, without an artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgedistill.plugins import find_devices, known_runtimes
from edgedistill.types import AgentCall

if TYPE_CHECKING:
    from pathlib import Path


def opener_of(runtime: str) -> Path:
    """The runtime file that has it: an exporter's, or a device's own."""
    own = [opener for device in find_devices().values() for opener in device.TRAITS.own_openers.values()]
    return known_runtimes()[runtime].opener if runtime in known_runtimes() else own[0]


def call(path: Path, runtime: str, **asked: Any) -> AgentCall:
    """Open a file in a runtime; `asked`: other fields of the call."""
    return AgentCall(path, runtime, opener_of(runtime), **asked)
