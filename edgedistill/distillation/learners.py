"""What is trained: a student that also gives features, or a cohort of students. Both answer with signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgedistill.models.capture import Captured, Tap
from edgedistill.models.signals import LOGITS, Signal, Signals

if TYPE_CHECKING:
    from collections.abc import Sequence


class Student(nn.Module):
    """One student and the layers that its objective listens to."""

    def __init__(self, module: nn.Module, wanted: Sequence[Signal], example: Tensor) -> None:
        super().__init__()
        self.names = {f"{s.layer}@{s.tap}": s for s in wanted if s.layer is not None}
        requests: dict[str, tuple[str, Tap]] = {
            f"{s.layer}@{s.tap}": (s.layer, s.tap) for s in wanted if s.layer is not None
        }
        self.captured = Captured(module, requests, example)

    def forward(self, inputs: Tensor) -> Signals:
        """Logits and features of a batch."""
        logits, features = self.captured(inputs)
        return {LOGITS: logits} | {self.names[name]: tensor for name, tensor in features.items()}

    @property
    def shapes(self) -> dict[Signal, tuple[int, ...]]:
        """Shape of one sample's features."""
        return {self.names[name]: point.shape for name, point in self.captured.points.items()}

    def close(self) -> None:
        """Take the hooks off the student."""
        self.captured.close()


def peer(number: int) -> Signal:
    """The logits of a cohort's member; the first is the student itself."""
    return LOGITS if number == 0 else Signal(member=f"peer {number}")


class Cohort(nn.Module):
    """Students that learn side by side, on the same batches."""

    def __init__(self, peers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.peers = nn.ModuleList(peers)

    def forward(self, inputs: Tensor) -> Signals:
        """Everyone's logits."""
        return {peer(number): student(inputs) for number, student in enumerate(self.peers)}

    def close(self) -> None:
        """Nothing is attached to the peers."""
