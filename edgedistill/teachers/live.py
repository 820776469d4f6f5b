"""What a teacher says about a batch: logits and features, of the whole or of one member."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from edgedistill.errors import ModelError, nearest
from edgedistill.models.capture import Captured, Tap
from edgedistill.models.signals import LOGITS, Signal, Signals
from edgedistill.teachers.build import members
from edgedistill.teachers.ensemble import Ensemble
from edgedistill.teachers.file import OnnxModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from edgedistill.teachers.build import Teacher
    from edgedistill.teachers.module import Adapted
    from edgedistill.types import Array


class LiveTeacher:
    """Runs the teacher on every batch, without gradients.

    Batches are filled up to one size, so that a sample's answer does not depend on how many stand beside it.
    """

    def __init__(self, teacher: Teacher, wanted: Sequence[Signal], example: Tensor, batch_size: int) -> None:
        self.teacher = teacher
        self.batch_size = batch_size
        self.asked = {signal: resolve(teacher, signal) for signal in wanted}
        self.wanted = list(dict.fromkeys(self.asked.values()))
        self.members = members(teacher)
        self.listening = {name: self._listen(name, member, example) for name, member in self.members.items()}

    def __call__(self, _rows: Array, _view: int, inputs: Tensor) -> Signals:
        """The wanted signals for a batch, float32."""
        self.teacher.to(inputs.device)
        parts = [self._answer(part) for part in torch.split(inputs, self.batch_size)]
        return {signal: torch.cat([part[signal] for part in parts]) for signal in parts[0]}

    def shapes(self, classes: int) -> dict[Signal, tuple[int, ...]]:
        """Shape of one sample's signals."""
        return {
            asked: (classes,) if signal.layer is None else self.listening[signal.member].points[_key(signal)].shape
            for asked, signal in self.asked.items()
        }

    def close(self) -> None:
        """Take the hooks off the teacher."""
        for captured in self.listening.values():
            captured.close()

    def _listen(self, name: str | None, member: Adapted, example: Tensor) -> Captured:
        requests: dict[str, tuple[str, Tap]] = {
            _key(s): (s.layer, s.tap) for s in self.wanted if s.layer is not None and s.member == name
        }
        with torch.no_grad():
            return Captured(member.module, requests, member.convert(example))

    @torch.no_grad()
    def _answer(self, inputs: Tensor) -> Signals:
        count = len(inputs)
        if count < self.batch_size:
            inputs = torch.cat([inputs, inputs[-1:].expand(self.batch_size - count, *inputs.shape[1:])])
        logits: dict[str | None, Tensor] = {}
        answers: Signals = {}
        for name in self._involved():
            member = self.members[name]
            returned, features = self.listening[name](member.convert(inputs))
            logits[name] = member.pick(returned)
            for signal in self.wanted:
                if signal.layer is not None and signal.member == name:
                    answers[signal] = features[_key(signal)]
        for signal in self.wanted:
            if signal.layer is None:
                answers[signal] = self._combined(logits) if signal.member is None else logits[signal.member]
        return {asked: answers[signal][:count].float().to(inputs.device) for asked, signal in self.asked.items()}

    def _involved(self) -> list[str | None]:
        """The members that have to run: all for the combined logits, else those that are named."""
        if any(signal == LOGITS for signal in self.wanted):
            return list(self.members)
        return [name for name in self.members if any(signal.member == name for signal in self.wanted)]

    def _combined(self, logits: dict[str | None, Tensor]) -> Tensor:
        if isinstance(self.teacher, Ensemble):
            return self.teacher.combined([logits[name] for name in self.members])
        return logits[None]


def _key(signal: Signal) -> str:
    return f"{signal.layer}@{signal.tap}"


def resolve(teacher: Teacher, signal: Signal) -> Signal:
    """A layer without a member's name is that of `features_from`, or of the only teacher there is.

    Raises:
        ModelError: the member is not there, not named where it has to be, or a black box without layers.
    """
    known = members(teacher)
    member = signal.member
    if signal.layer is not None and member is None and isinstance(teacher, Ensemble):
        member = teacher.features_from
    if member not in known and not (member is None and signal.layer is None):
        names = [str(name) for name in known if name is not None]
        raise ModelError(
            f"which teacher's {signal.text}?" if member is None else f"there is no teacher {member!r}",
            where=f"teacher of the term with {signal.text}",
            expected=nearest(str(member or ""), names),
            got=repr(member),
            fix="name a member in the term (`teacher:`), or set `features_from` of the ensemble",
        )
    if signal.layer is not None and isinstance(known[member].module, OnnxModel):
        raise ModelError(
            f"the layer {signal.layer!r} of a black box cannot be seen",
            where=f"teacher {member}" if member else "teacher",
            expected="a teacher that is a torch module",
            got="a file, which gives its outputs alone",
            fix="use a loss on logits, or name another member of an ensemble",
        )
    return Signal(signal.layer, signal.tap, member)
