"""The terms of a training objective as a recipe writes them: one class a loss, its parameters its fields."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from edgedistill.recipe.section import NotNegative, Positive, Section


class Schedule(Section):
    """How a term's weight moves over the epochs; outside `from_epoch` to `to_epoch` the term is off."""

    shape: Literal["constant", "warmup", "cosine"] = "constant"
    """`warmup`: rises linearly from 0 over `warmup_epochs`; `cosine`: falls from the full weight to 0 by a half cosine."""
    from_epoch: NotNegative = 0.0
    """First epoch with the term, counted from 0; fractions are fractions of an epoch."""
    to_epoch: Positive | None = None
    """Epoch before which the term ends. Default: the end of the training."""
    warmup_epochs: Positive = 1.0
    """Length of the rise of `warmup`."""

    @model_validator(mode="after")
    def _forwards(self) -> Schedule:
        if self.to_epoch is not None and self.to_epoch <= self.from_epoch:
            raise ValueError(f"to_epoch ({self.to_epoch:g}) must lie after from_epoch ({self.from_epoch:g})")
        return self


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Layers = Annotated[list[str], BeforeValidator(_as_list)]
Tap = Literal["output", "input", "pre_activation"]
Projection = Literal["auto", "none", "linear", "conv1x1", "conv_bn"]


class _Term(Section):
    weight: float = Field(default=1.0, ge=0)
    """Factor of the term in the sum."""
    schedule: Schedule = Schedule()
    """How the weight moves over the epochs."""

    taught: ClassVar[bool] = False
    """Whether it listens to a teacher."""

    @property
    def member(self) -> str | None:
        """The ensemble's member that it listens to, if it names one."""
        return None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Layers of the student, each with its partner in the teacher; none: the term is of the logits."""
        return []

    @property
    def tap(self) -> Tap:
        """What is taken of every layer."""
        return "output"

    @property
    def projection(self) -> Projection:
        """What brings the student's features to the teacher's shape."""
        return "none"

    def parameters(self) -> dict[str, object]:
        """What the loss function itself is given."""
        return self.model_dump(exclude=set(_COMMON))


class CrossEntropy(_Term):
    """The labels: cross-entropy, with label smoothing or focal weighting. Samples without a label are left out."""

    loss: Literal["cross_entropy"]
    """Which loss this is."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target spread evenly over all classes."""
    focal_gamma: NotNegative = 0.0
    """Focal loss (Lin 2017): weight (1 - p)^gamma; 0 is plain cross-entropy."""


class _TeacherTerm(_Term):
    taught: ClassVar[bool] = True
    teacher: str | None = None
    """The ensemble's member that teaches this term. Default: the whole ensemble, or its `features_from`."""

    @property
    def member(self) -> str | None:
        """The teacher it names."""
        return self.teacher


class SoftTargets(_TeacherTerm):
    """The teacher's softened probabilities (Hinton 2015), times T^2, mean over the batch."""

    loss: Literal["soft_targets"]
    """Which loss this is."""
    temperature: Positive = 4.0
    """Softens both distributions."""
    form: Literal["kl", "cross_entropy"] = "kl"
    """Their gradients are equal; the cross-entropy adds the teacher's entropy to the value."""


class Dkd(_TeacherTerm):
    """Decoupled KD (Zhao 2022): target and non-target classes apart. Samples without a label are left out."""

    loss: Literal["dkd"]
    """Which loss this is."""
    temperature: Positive = 4.0
    """Softens both distributions."""
    alpha: NotNegative = 1.0
    """Weight of the target class."""
    beta: NotNegative = 8.0
    """Weight of the other classes."""


class Dist(_TeacherTerm):
    """DIST (Huang 2022): Pearson correlation of rows (classes) and columns (samples)."""

    loss: Literal["dist"]
    """Which loss this is."""
    temperature: Positive = 1.0
    """Softens both distributions."""
    beta: NotNegative = 1.0
    """Weight of the relation between classes."""
    gamma: NotNegative = 1.0
    """Weight of the relation between samples."""


class LogitStandardized(_TeacherTerm):
    """KD on logits standardised per sample (Sun 2024)."""

    loss: Literal["logit_standardized"]
    """Which loss this is."""
    temperature: Positive = 2.0
    """Softens both distributions."""


class MultiLevel(_TeacherTerm):
    """Multi-level logit distillation (Jin 2023): samples, batch and classes, over several temperatures."""

    loss: Literal["multi_level"]
    """Which loss this is."""
    temperatures: list[Positive] = Field(default=[2.0, 3.0, 4.0, 5.0, 6.0], min_length=1)
    """Averaged over."""


class HardLabel(_TeacherTerm):
    """Cross-entropy on the teacher's choice (DeiT)."""

    loss: Literal["hard_label"]
    """Which loss this is."""


class LogitMse(_TeacherTerm):
    """Mean squared difference of the logits."""

    loss: Literal["logit_mse"]
    """Which loss this is."""


class Binary(_TeacherTerm):
    """Every class a yes or no of its own (multi-label): sum over labels, mean over the batch, times T^2."""

    loss: Literal["binary"]
    """Which loss this is."""
    temperature: Positive = 1.0
    """Softens both."""


class _LayerTerm(_TeacherTerm):
    student_layers: Layers = Field(min_length=1)
    """Dotted names in the student (`edgedistill layers`); a name or a list."""
    teacher_layers: Layers = Field(min_length=1)
    """Their partners in the teacher, in the same order."""
    capture: Tap = "output"
    """What is taken of every layer."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """In the recipe's order."""
        return list(zip(self.student_layers, self.teacher_layers, strict=True))

    @property
    def tap(self) -> Tap:
        """The recipe's `capture`."""
        return self.capture

    @model_validator(mode="after")
    def _in_pairs(self) -> _LayerTerm:
        if len(self.student_layers) != len(self.teacher_layers):
            raise ValueError(
                f"{len(self.student_layers)} student_layers and {len(self.teacher_layers)} teacher_layers; "
                "every layer needs its partner"
            )
        return self


class _ProjectedTerm(_LayerTerm):
    projector: Projection = "auto"
    """Brings the student's features to the teacher's shape; trained, and never exported. `auto`: chosen by the shapes."""

    @property
    def projection(self) -> Projection:
        """The recipe's `projector`."""
        return self.projector


class Hint(_ProjectedTerm):
    """FitNets (Romero 2015): mean squared difference of features."""

    loss: Literal["hint"]
    """Which loss this is."""


class AttentionTransfer(_LayerTerm):
    """Attention transfer (Zagoruyko 2017): where the energy lies; channels may differ."""

    loss: Literal["attention_transfer"]
    """Which loss this is."""
    p: Positive = 2.0
    """Power of the activations."""


class NeuronSelectivity(_LayerTerm):
    """NST (Huang 2017): distribution of channel activations, polynomial kernel; channels may differ."""

    loss: Literal["neuron_selectivity"]
    """Which loss this is."""


class ActivationBoundary(_ProjectedTerm):
    """AB (Heo 2019): signs of pre-activations. Usually with `capture: pre_activation`."""

    loss: Literal["activation_boundary"]
    """Which loss this is."""
    margin: Positive = 1.0
    """Distance from zero that is asked for."""


class FactorTransfer(_LayerTerm):
    """Factor transfer (Kim 2018). The paraphraser learns beside the student, not before it."""

    loss: Literal["factor_transfer"]
    """Which loss this is."""
    factor_ratio: Positive = 0.5
    """Channels of the factor relative to the teacher's."""


class Vid(_LayerTerm):
    """Variational information distillation (Ahn 2019)."""

    loss: Literal["variational_information"]
    """Which loss this is."""


class Overhaul(_LayerTerm):
    """OFD (Heo 2019): pre-activation features under the teacher's margin. The teacher's layers must be batch norms."""

    loss: Literal["overhaul"]
    """Which loss this is."""


class Review(_LayerTerm):
    """ReviewKD (Chen 2021): every teacher level reviewed by the deeper student levels. Layers shallow to deep."""

    loss: Literal["review"]
    """Which loss this is."""


class SimKd(_LayerTerm):
    """SimKD (Chen 2022): the feature before the classifier, projected. The student keeps a classifier of its own."""

    loss: Literal["simkd"]
    """Which loss this is."""


class ChannelWise(_ProjectedTerm):
    """CWD (Shu 2021): each channel as a distribution over positions."""

    loss: Literal["channel_wise"]
    """Which loss this is."""
    temperature: Positive = 4.0
    """Softens both distributions."""


class TinyBertHidden(_ProjectedTerm):
    """TinyBERT's hidden states (Jiao 2020): (batch, tokens, width)."""

    loss: Literal["tinybert_hidden"]
    """Which loss this is."""


class TinyBertAttention(_LayerTerm):
    """TinyBERT's attention scores: (batch, heads, tokens, tokens), before the softmax."""

    loss: Literal["tinybert_attention"]
    """Which loss this is."""


class MiniLm(_LayerTerm):
    """MiniLM (Wang 2020, 2021): relations of queries with keys, and of values. Layers in threes: query, key, value."""

    loss: Literal["minilm"]
    """Which loss this is."""
    relation_heads: int = Field(default=1, ge=1)
    """Both widths are split into so many heads."""

    @model_validator(mode="after")
    def _in_threes(self) -> MiniLm:
        if len(self.student_layers) != 3:  # query, key, value
            raise ValueError(f"minilm takes 3 layers of each side (query, key, value), got {len(self.student_layers)}")
        return self


class Fsp(_LayerTerm):
    """FSP (Yim 2017): inner products of two layers' channels. Layers in twos: the first and the second."""

    loss: Literal["fsp"]
    """Which loss this is."""

    @model_validator(mode="after")
    def _in_twos(self) -> Fsp:
        if len(self.student_layers) != 2:  # a flow has two ends
            raise ValueError(f"fsp takes 2 layers of each side, got {len(self.student_layers)}")
        return self


class _RelationTerm(_LayerTerm):
    student_layers: Layers = Field(default=[])
    """Dotted names in the student; a name or a list. Default: the logits."""
    teacher_layers: Layers = Field(default=[])
    """Their partners in the teacher. Default: the logits."""


class RkdDistance(_RelationTerm):
    """Relational KD (Park 2019): distances between samples."""

    loss: Literal["rkd_distance"]
    """Which loss this is."""


class RkdAngle(_RelationTerm):
    """Relational KD (Park 2019): angles between samples."""

    loss: Literal["rkd_angle"]
    """Which loss this is."""


class Similarity(_RelationTerm):
    """Similarity-preserving KD (Tung 2019)."""

    loss: Literal["similarity_preserving"]
    """Which loss this is."""


class Pkt(_RelationTerm):
    """Probabilistic knowledge transfer (Passalis 2018)."""

    loss: Literal["pkt"]
    """Which loss this is."""


class CorrelationCongruence(_RelationTerm):
    """Correlation congruence (Peng 2019)."""

    loss: Literal["correlation_congruence"]
    """Which loss this is."""
    gamma: Positive = 0.4
    """Width of the Gaussian kernel."""
    order: int = Field(default=2, ge=1)
    """Terms of its Taylor series."""


class Crd(_RelationTerm):
    """Contrastive representation distillation (Tian 2020), with a memory of every sample."""

    loss: Literal["crd"]
    """Which loss this is."""
    dim: int = Field(default=128, ge=1)
    """Width of the embeddings."""
    negatives: int | None = Field(default=None, ge=1)
    """Negatives a sample. Default: 16,384, or all others if there are fewer."""
    temperature: Positive = 0.07
    """Of the contrast."""


_COMMON = ("loss", "weight", "schedule", "teacher", "student_layers", "teacher_layers", "capture", "projector")

Term = Annotated[
    CrossEntropy
    | SoftTargets
    | Dkd
    | Dist
    | LogitStandardized
    | MultiLevel
    | HardLabel
    | LogitMse
    | Binary
    | Hint
    | AttentionTransfer
    | NeuronSelectivity
    | ActivationBoundary
    | FactorTransfer
    | Vid
    | Overhaul
    | Review
    | SimKd
    | ChannelWise
    | TinyBertHidden
    | TinyBertAttention
    | MiniLm
    | Fsp
    | RkdDistance
    | RkdAngle
    | Similarity
    | Pkt
    | CorrelationCongruence
    | Crd,
    Field(discriminator="loss"),
]
