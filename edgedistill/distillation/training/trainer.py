"""One seeded, resumable training loop for teachers, students and cohorts: only the objective differs.

Nothing random has a state: the order of samples is a function of seed and epoch, dropout of seed and step,
augmentation of seed, sample and view. So a checkpoint is weights, the optimiser's state and a place in the order,
and a training that was killed anywhere ends with the weights of one that was not.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from edgedistill.data.augment import augment, view_of_epoch
from edgedistill.distillation.objective.objective import Losses
from edgedistill.distillation.objective.terms import Step
from edgedistill.distillation.training.checkpoint import load_checkpoint, save_checkpoint
from edgedistill.distillation.training.distributed import own_share, synchronized, whole, world
from edgedistill.distillation.training.log import TrainingLog
from edgedistill.distillation.training.place import Place, epoch_batches, mixed
from edgedistill.distillation.training.schedules import learning_rate
from edgedistill.errors import ModelError
from edgedistill.events import QUIET, Epoch
from edgedistill.models.signals import LOGITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float, Int

    from edgedistill.events import Events
    from edgedistill.models.signals import Signals
    from edgedistill.recipe.document import Train
    from edgedistill.types import Array


class Answers(Protocol):
    """A teacher, live or from its cache."""

    def __call__(self, rows: Array, view: int, inputs: Tensor, /) -> Signals:
        """Its signals for a view of some samples, whose augmented inputs are given."""
        ...


@dataclass(frozen=True)
class Lesson:
    """What is learned from.

    Attributes:
        inputs: all training samples, normalised.
        labels: their classes; -1 where there is none.
        rows: numbers of the samples that are learned.
        validation: numbers of those that are kept out for choosing an epoch.
        seed: of the augmentation.
        answers: the teacher, if the objective has one.
    """

    inputs: Float[Tensor, "n ..."]
    labels: Int[Tensor, " n"]
    rows: Int[Tensor, " learned"]
    validation: Int[Tensor, " kept"]
    seed: int
    answers: Answers | None = None


def fit(
    learner: nn.Module,
    objective: nn.Module,
    lesson: Lesson,
    settings: Train,
    seed: int,
    *,
    folder: Path | None = None,
    name: str = "model",
    events: Events = QUIET,
) -> list[Epoch]:
    """Train in place; learner and objective end in eval mode, the learner with the chosen epoch's weights.

    Args:
        learner: gives signals for a batch of inputs (see learners.py).
        objective: `(Step, epoch) -> Losses`; its parameters are trained too.
        lesson: samples, labels, teacher.
        settings: the recipe's.
        seed: decides order and dropout.
        folder: for checkpoint and logs; a training found there is continued. None keeps nothing.
        name: of the training, for those who look on.
        events: told after every epoch, and after every batch the passes over the data so far.

    Raises:
        ModelError: a term of the loss became NaN or infinite; the last good checkpoint is kept.
    """
    with synchronized(learner):
        return _Training(learner, objective, lesson, settings, seed, folder).run(name, events)


class _Training:
    def __init__(
        self, learner: nn.Module, objective: nn.Module, lesson: Lesson, settings: Train, seed: int, folder: Path | None
    ) -> None:
        self.learner = learner
        self.objective = objective
        self.lesson = lesson
        self.settings = settings
        self.seed = seed
        self.leads = world().leads
        self.checkpoint = folder / "checkpoint.pt" if folder is not None else None
        self.fabric = _fabric(settings)
        if settings.channels_last:
            _lay_out(self.learner, torch.channels_last)
        self.objective.to(self.fabric.device)
        self.optimizer = _optimizer([*learner.parameters(), *objective.parameters()], settings)
        model = cast("nn.Module", torch.compile(self.learner)) if settings.compile else self.learner
        self.model, self.stepper = self.fabric.setup(model, self.optimizer)
        self.place = Place()
        self.idle: dict[frozenset[str], list[nn.Parameter]] = {}
        self.average = self._state() if settings.ema is not None else {}
        self.best: dict[str, Tensor] = {}
        if self.checkpoint is not None and self.checkpoint.is_file():
            self._restore(self.checkpoint)
        self.log = TrainingLog(folder / "logs" if folder is not None and self.leads else None, self.place.step)
        self.saved = time.monotonic()

    def run(self, name: str, events: Events) -> list[Epoch]:
        if self.place.step == 0:
            self._save()
        for told in self.place.history:
            events.epoch(name, told, self.settings.epochs)
        while self.place.epoch < self.settings.epochs and not self._out_of_patience():
            self._epoch(name, events)
            events.epoch(name, self.place.history[-1], self.settings.epochs)
        self._finish()
        return self.place.history

    def _epoch(self, name: str, events: Events) -> None:
        """The rest of the running epoch: windows of `accumulate` batches, one optimiser step each."""
        self.model.train()
        self.objective.train()
        place, every = self.place, self.settings.accumulate
        batches = epoch_batches(self.lesson.rows, self.settings.batch_size, self.seed, place.epoch)
        windows = [batches[start : start + every] for start in range(0, len(batches), every)]
        for number in range(place.batch, len(windows)):
            self._window(windows[number], number / len(windows), len(windows))
            place.batch = number + 1
            events.training(name, place.epoch + place.batch / len(windows), self.settings.epochs)
            if time.monotonic() - self.saved >= self.settings.checkpoint_seconds:
                self._save()
        self._close_epoch()

    def _window(self, batches: list[Tensor], done: float, windows: int) -> None:
        """One optimiser step over several batches, each weighing as its samples."""
        place, epoch = self.place, self.place.epoch + done
        rate = learning_rate(self.settings, place.step, windows)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.stepper.zero_grad()
        samples = sum(len(rows) for rows in batches)
        total, at_work = 0.0, frozenset[str]()
        for number, rows in enumerate(batches):
            torch.manual_seed(mixed(self.seed, place.step, number, world().rank))
            with self.fabric.no_backward_sync(self.model, enabled=number < len(batches) - 1):
                losses = self._losses(rows, epoch)
                self.fabric.backward(losses.total * (len(rows) / samples))
            total += losses.total.item() * len(rows) / samples
            at_work = frozenset(losses.terms)
        for parameter in self.idle.get(at_work, ()):
            parameter.grad = None
        if self.settings.clip_norm is not None:
            self._clip(self.settings.clip_norm)
        self.stepper.step()
        place.step += 1
        self._average()
        self.log.step(place.step, epoch, total, rate)

    def _clip(self, norm: float) -> None:
        self.fabric.clip_gradients(self.model, self.optimizer, max_norm=norm, error_if_nonfinite=False)

    def _losses(self, rows: Tensor, epoch: float) -> Losses:
        lesson, place = self.lesson, self.place
        here = rows[own_share(len(rows))]
        numbers = here.numpy()
        view = view_of_epoch(self.settings.augment, place.epoch)
        inputs = augment(lesson.inputs[here], numbers, view, self.settings.augment, lesson.seed)
        inputs = self.fabric.to_device(inputs)
        teacher = lesson.answers(numbers, view, inputs) if lesson.answers is not None else {}
        if self.settings.channels_last and inputs.ndim == 4:  # images
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        student = self.model(inputs)
        labels = self.fabric.to_device(lesson.labels[rows])
        step = Step(
            {signal: whole(tensor.float(), len(rows)) for signal, tensor in student.items()},
            {signal: whole(self.fabric.to_device(tensor), len(rows)) for signal, tensor in teacher.items()},
            labels,
            self.fabric.to_device(rows),
        )
        losses: Losses = self.objective(step, epoch)
        self._count(losses, step)
        if world().size == 1:
            return losses
        self._look_for_idle(losses)
        unused = sum((0.0 * tensor.sum() for tensor in step.student.values()), start=losses.total.new_zeros(()))
        return Losses(losses.total + unused, losses.terms)  # every process waits for every parameter's gradient

    def _look_for_idle(self, losses: Losses) -> None:
        """Note the parameters that the terms at work do not reach.

        Alone, such a parameter has no gradient and the optimiser skips it; DistributedDataParallel would give it one
        of zeros, and weight decay would move it.
        """
        at_work = frozenset(losses.terms)
        if at_work in self.idle:
            return
        trained = [parameter for parameter in self.learner.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(losses.total, trained, retain_graph=True, allow_unused=True)
        self.idle[at_work] = [p for p, gradient in zip(trained, gradients, strict=True) if gradient is None]

    def _count(self, losses: Losses, step: Step) -> None:
        """Add a batch to the epoch's sums.

        Raises:
            ModelError: its loss is not finite.
        """
        place, count = self.place, len(step.labels)
        total = losses.total.item()
        if not torch.isfinite(losses.total):
            raise self._broken(losses)
        known = step.labels >= 0
        place.loss += total * count
        place.samples += count
        place.labelled += int(known.sum())
        place.right += int(((step.student[LOGITS].argmax(1) == step.labels) & known).sum())
        for name, value in losses.terms.items():
            place.terms[name] = place.terms.get(name, 0.0) + value.item() * count

    def _broken(self, losses: Losses) -> ModelError:
        place = self.place
        values = {name: value.item() for name, value in losses.terms.items()}
        name = next((name for name, value in losses.terms.items() if not torch.isfinite(value)), "the weighted sum")
        kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint is not None else ""
        return ModelError(
            f"the loss became {values.get(name, losses.total.item())}: "
            f"{name}, step {place.step + 1}, epoch {place.epoch + 1}{kept}",
            where=f"epoch {place.epoch + 1} of {self.settings.epochs}, step {place.step + 1}, term {name}",
            expected="a finite loss",
            got=", ".join(f"{term} {value:g}" for term, value in values.items()),
            fix="lower learning_rate or the term's weight, set clip_norm, or check the teacher's outputs",
        )

    def _close_epoch(self) -> None:
        place = self.place
        validation = self._validate() if len(self.lesson.validation) else None
        told = Epoch(
            place.epoch + 1,
            place.loss / place.samples,
            place.right / max(1, place.labelled),
            {name: value / place.samples for name, value in place.terms.items()},
            validation,
        )
        place.history.append(told)
        if validation is not None and validation > place.best:
            place.best, place.best_epoch = validation, told.number
            if self.settings.select == "best":
                self.best = self._kept()
        self.log.epoch(told, place.step)
        place.epoch, place.batch, place.samples, place.labelled, place.right = place.epoch + 1, 0, 0, 0, 0
        place.loss, place.terms = 0.0, {}
        if time.monotonic() - self.saved >= min(1.0, self.settings.checkpoint_seconds):
            self._save()

    @torch.no_grad()
    def _validate(self) -> float:
        """Accuracy over the validation samples, unaugmented, of the weights that would be kept."""
        moved = self._state()
        self.learner.load_state_dict(self._kept())
        self.model.eval()
        right = 0
        for rows in torch.split(self.lesson.validation, self.settings.batch_size):
            logits = self.model(self.fabric.to_device(self.lesson.inputs[rows]))[LOGITS]
            right += int((logits.argmax(1).cpu() == self.lesson.labels[rows]).sum())
        self.learner.load_state_dict(moved)
        return right / len(self.lesson.validation)

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.place.epoch - self.place.best_epoch >= patience

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.learner.state_dict().items()}

    def _kept(self) -> dict[str, Tensor]:
        """The weights as they would be kept now: the average, where there is one."""
        return {name: tensor.clone() for name, tensor in self.average.items()} or self._state()

    def _average(self) -> None:
        """Exponential moving average of weights and statistics; counters are copied."""
        if self.settings.ema is None:
            return
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - self.settings.ema)
            else:
                self.average[name].copy_(tensor)

    def _finish(self) -> None:
        self._save()
        self.learner.load_state_dict(self.best or self._kept())
        _lay_out(self.learner, torch.contiguous_format)
        self.learner.to("cpu").eval()
        self.objective.to("cpu").eval()
        self.log.close()

    def _save(self) -> None:
        self.saved = time.monotonic()
        self._require_finite()
        if self.checkpoint is None or not self.leads:
            return
        self.log.flush()
        document = {
            "place": asdict(self.place),
            "learner": self.learner.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": self.average,
            "best": self.best,
        }
        save_checkpoint(document, self.checkpoint)

    def _require_finite(self) -> None:
        """A finite loss may have a gradient that is not; such weights are never kept.

        Raises:
            ModelError: a weight is NaN or infinite.
        """
        for name, tensor in self.learner.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint is not None else ""
                raise ModelError(
                    f"the weights became NaN or infinite: {name}, step {self.place.step}{kept}",
                    where=f"step {self.place.step}, tensor {name}",
                    expected="finite weights",
                    got="NaN or infinity, from a gradient that was not finite",
                    fix="lower learning_rate, set clip_norm, or look for a root or logarithm at zero in the loss",
                )

    def _restore(self, path: Path) -> None:
        document = load_checkpoint(path)
        if document is None:  # half of one cannot exist; a damaged disk can
            return
        self.place = Place.told(document["place"])
        self.learner.load_state_dict(document["learner"])
        self.objective.load_state_dict(document["objective"])
        self.optimizer.load_state_dict(document["optimizer"])
        self.fabric.strategy.precision.load_state_dict(document["precision"])
        self.average, self.best = document["average"], document["best"]


def _lay_out(module: nn.Module, memory_format: torch.memory_format) -> None:
    """Reorder the memory of all four-dimensional parameters."""
    convert: Callable[..., nn.Module] = module.to  # torch's annotations leave this form out
    convert(memory_format=memory_format)


def _fabric(settings: Train) -> Fabric:
    """Lightning Fabric: device, precision, processes."""
    size = world().size
    if settings.precision == "fp16" and (settings.accelerator == "cpu" or not torch.cuda.is_available()):
        raise ModelError(
            "fp16 needs a GPU",
            where="precision: fp16",
            expected="accelerator: cuda and a GPU, or another precision",
            got="a CPU",
            fix="use precision: bf16, or fp32",
        )
    names: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
        "fp32": "32-true",
        "bf16": "bf16-mixed",
        "fp16": "16-mixed",
    }
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=size,
        strategy="ddp" if size > 1 else "auto",
        precision=names[settings.precision],
    )
    if size > 1:
        fabric.launch()
    return fabric


def _optimizer(parameters: list[nn.Parameter], settings: Train) -> torch.optim.Optimizer:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(trained, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        trained,
        settings.learning_rate,
        settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
