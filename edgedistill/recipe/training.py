"""How models are trained: the optimiser, the objective, the scheme, the teacher's cache."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgedistill.recipe.models import StudentModel
from edgedistill.recipe.section import Positive, Section
from edgedistill.recipe.terms import CrossEntropy, SoftTargets, Term


class Augment(Section):
    """Seeded augmentation of images: what a sample looks like depends on seed, sample and view alone."""

    crop_padding: int = Field(default=0, ge=0)
    """Pad by so many pixels of the mean on every side, then crop to the old size at a random place."""
    flip: bool = False
    """Mirror left and right with probability 1/2."""
    cutout: int = Field(default=0, ge=0)
    """Side of a square set to the mean at a random place; 0 for none."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of Gaussian noise, relative to the normalised data (whose own is 1). For data of any shape."""
    views: int | None = Field(default=None, ge=1)
    """Distinct augmented views of every sample: epoch e shows view e modulo `views`. Default: a new one every epoch."""


class Train(Section):
    """One training run: seeded, resumable at any step."""

    epochs: int = Field(ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=64, ge=2)
    """Samples per step, over all devices together; the last, smaller batch counts."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd` has Nesterov momentum."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak, after the warm-up."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd; adamw has its own."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty (sgd), or decoupled decay (adamw)."""
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls to zero after the warm-up, step by step."""
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Linear rise of the learning rate from zero."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimiser step; the last, incomplete window of an epoch counts with its own mean."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient; a longer one is scaled down."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights; the average is what is kept."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the forward pass (automatic mixed precision); the losses are always computed in fp32. fp16 needs a GPU."""
    compile: bool = False
    """Run the model through torch.compile."""
    channels_last: bool = False
    """Images and convolutions in channels-last memory: faster on most CPUs and GPUs, equal up to rounding."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """Where. Bit-identical resumption is promised on cpu."""
    devices: int = Field(default=1, ge=1)
    """Processes that share every batch (distributed data parallel). `torchrun` decides where it started us."""
    augment: Augment | None = None
    """Seeded augmentation of the training samples."""
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    """Share of the training split that is kept out of it for model selection and early stopping."""
    select: Literal["last", "best"] = "last"
    """`best`: the epoch of the highest validation accuracy (the first of equals)."""
    patience: int | None = Field(default=None, ge=1)
    """Stop after so many epochs without a better validation accuracy."""
    checkpoint_seconds: float = Field(default=10.0, ge=0)
    """Most work that a kill may lose. 0: a checkpoint every step."""

    @model_validator(mode="after")
    def _has_validation(self) -> Train:
        if self.validation_fraction == 0 and (self.select == "best" or self.patience is not None):
            raise ValueError("select: best and patience need a validation_fraction above 0")
        return self


class Cache(Section):
    """The teacher's answers, kept on disk: it runs once for every distinct view of a sample."""

    mode: Literal["auto", "always", "never"] = "auto"
    """`auto`: when it saves teacher runs and fits `max_gb`; the reason is printed."""
    store: Literal["fp32", "fp16", "topk"] = "fp32"
    """How logits are kept. fp32 trains the same student, bit for bit, as no cache. Features are kept dense."""
    top_k: int = Field(default=10, ge=1)
    """Classes kept a sample with `topk`; the rest of the probability is spread evenly over the others."""
    max_gb: Positive = 8.0
    """Largest cache, in GB of 10^9 bytes."""


class Phase(Section):
    """One phase of multi-stage training."""

    epochs: int = Field(ge=1)
    """Passes over the training split."""
    objective: list[Term] = Field(min_length=1)
    """The terms of this phase."""
    learning_rate: Positive | None = None
    """Default: that of `distill`."""


class Offline(Section):
    """A fixed teacher, one training."""

    kind: Literal["offline"] = "offline"
    """Which scheme this is."""


class MultiStage(Section):
    """Phases one after another on the same student: features first, then logits (FitNets, Romero 2015)."""

    kind: Literal["multi_stage"]
    """Which scheme this is."""
    phases: list[Phase] = Field(min_length=1)
    """In order. `epochs` of `distill` is not used."""


class Assistants(Section):
    """Teacher assistants (Mirzadeh 2020): each model of the chain teaches the next, the last one the student."""

    kind: Literal["assistants"]
    """Which scheme this is."""
    chain: list[StudentModel] = Field(min_length=1)
    """Large to small, between teacher and student. Objectives with layers apply to the student alone."""


class BornAgain(Section):
    """Born-again networks (Furlanello 2018): the student's equals follow each other, each taught by the one before."""

    kind: Literal["born_again"]
    """Which scheme this is."""
    generations: int = Field(default=2, ge=2)
    """Students in all; the first learns from the teacher."""


class Mutual(Section):
    """Deep mutual learning (Zhang 2018): students teach each other while they learn. The teacher takes no part."""

    kind: Literal["mutual"]
    """Which scheme this is."""
    peers: int = Field(default=2, ge=2)
    """Students of the same architecture and different seeds; the first one is exported."""
    temperature: Positive = 1.0
    """Of the divergence between peers."""
    weight: float = Field(default=1.0, ge=0)
    """Of the mean divergence from the other peers, beside cross-entropy on the labels."""


class SelfDistillation(Section):
    """Be your own teacher (Zhang 2019): exits at earlier layers learn from the last one, and are dropped afterwards."""

    kind: Literal["self"]
    """Which scheme this is."""
    layers: list[str] = Field(min_length=1)
    """Layers of the student that get an exit (`edgedistill layers`)."""
    temperature: Positive = 3.0
    """Of the divergence from the last exit."""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """Weight of the last exit's soft targets; the labels get the rest."""


Scheme = Annotated[
    Offline | MultiStage | Assistants | BornAgain | Mutual | SelfDistillation, Field(discriminator="kind")
]


class Distill(Train):
    """How the student learns: by default alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy on the labels."""

    temperature: float = Field(default=2.0, gt=0)
    """Softens both distributions. Belongs to the short form."""
    alpha: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher; the labels get the rest. Belongs to the short form."""
    objective: list[Term] | None = Field(default=None, min_length=1)
    """Terms that are added up, instead of the short form `temperature` and `alpha`."""
    scheme: Scheme = Offline()
    """Who teaches whom, and in which order."""
    cache: Cache = Cache()
    """Whether the teacher's answers are kept."""
    seeds: int = Field(default=1, ge=1)
    """Students trained, with seeds `seed`, `seed` + 1, ...; mean and standard deviation are reported, the first is exported."""
    baseline: bool = False
    """Also train the same student on labels only: same initial weights, seeds and budget."""

    @model_validator(mode="after")
    def _one_form(self) -> Distill:
        short = sorted({"temperature", "alpha"} & self.model_fields_set)
        if self.objective is not None and short:
            raise ValueError(f"{' and '.join(short)} belong to the short form; write them into the objective's terms")
        return self

    @property
    def terms(self) -> list[Term]:
        """The objective, the short form spelt out."""
        if self.objective is not None:
            return self.objective
        soft = SoftTargets(loss="soft_targets", weight=self.alpha, temperature=self.temperature)
        return [soft, CrossEntropy(loss="cross_entropy", weight=1 - self.alpha)]
