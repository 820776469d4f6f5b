"""What of a model's forward pass is listened to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from edgedistill.models.capture import Tap


@dataclass(frozen=True)
class Signal:
    """One thing that is learned from: the logits, or what a layer gives (`layer`, `tap`)."""

    layer: str | None = None
    tap: Tap = "output"
    member: str | None = None

    @property
    def text(self) -> str:
        """For people and file headers."""
        place = f"{self.layer} ({self.tap})" if self.layer else "logits"
        return f"{self.member}: {place}" if self.member else place


LOGITS = Signal()


Signals = dict[Signal, "Tensor"]
