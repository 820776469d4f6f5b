"""What a recipe says of artifacts: formats, precisions, quantisation, how far they may depart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from edgedistill.recipe.section import Positive, Section


class Export(Section):
    """What to write."""

    formats: list[str] = Field(default=["onnx", "tflite", "openvino"], min_length=1)
    """Exporters by name (`edgedistill plugins`)."""
    precisions: list[Literal["fp32", "fp16", "int8", "int8-qat", "int8-dynamic", "int8-weights", "int4-weights"]] = (
        Field(default=["fp32", "int8"], min_length=1)
    )
    """fp32 is always written, since parity and the others start from it; `int8` is static, per channel; `int8-qat` is the
    same from a student trained on with its rounding (`quantize.qat`), in files of its own. A format that has no such
    precision is left as it is (`edgedistill plugins` lists them)."""
    fold: list[Literal["normalization", "softmax", "argmax"]] = Field(default_factory=list)
    """Put into the graph: `normalization` (files take raw samples), and `softmax` (they give probabilities) or `argmax`
    (they give class numbers). Of the teacher's files too."""
    licence: str = Field(default="", pattern=r"^[\w.+() -]*$")
    """Under which the files are given away, an SPDX name; it stands inside them."""

    @field_validator("fold")
    @classmethod
    def _one_end(cls, fold: list[str]) -> list[str]:
        if len(set(fold)) < len(fold) or {"softmax", "argmax"} <= set(fold):
            raise ValueError("say each word once, and one of softmax and argmax: argmax chooses the same class")
        return fold


class Qat(Section):
    """Quantisation-aware training: the student learns on from its teacher with the rounding of its int8 file."""

    when: Literal["needed", "always", "never"] = "needed"
    """`needed`: where calibration, with its layers in float, does not bring an int8 file within `max_drop`, or leaves more
    than `max_float_macs` in float; `always`: as one more candidate of every int8 file. `int8-qat` in `export.precisions`
    asks for trained files beside the calibrated ones."""
    max_float_macs: float = Field(default=0.25, ge=0, le=1)
    """Share of multiply-accumulates that layers returned to float may leave unquantised before training is the better way."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training split. Default: half of those of `distill`."""
    learning_rate: Positive | None = None
    """Peak. Default: a fifth of that of `distill`, whose other settings and objective hold."""


class Quantize(Section):
    """Calibration of static int8."""

    samples: int = Field(default=256, ge=1)
    """Training samples used for calibration, drawn with the seed; never evaluation samples."""
    calibration: str | None = None
    """An .npz with raw samples (array `x`) to calibrate on instead; relative to the recipe."""
    candidates: Literal["auto", "default"] | list[str] = "auto"
    """`auto` measures every scheme of the exporter and ships the best, `default` takes its first; or schemes by name."""
    max_drop: float = Field(default=0.01, ge=0, le=1)
    """Quality that int8 may lose against the fp32 file of its format, over the validation samples."""
    validation_samples: int = Field(default=2000, ge=1)
    """Labelled training samples that choose between candidates; calibration and evaluation samples are not among them."""
    integer_ends: bool = True
    """Whether inputs and outputs of int8 TFLite files are integers too; else float."""
    fallback: bool = True
    """Return layers to float, the fewest that bring the loss within `max_drop`, where no scheme does."""
    qat: Qat = Qat()
    """Training with the rounding in place, where calibration is not enough."""


class Fp32Parity(Section):
    """Tolerance of fp32 artifacts."""

    max_relative: float = Field(default=1e-4, gt=0)
    """Largest |artifact - torch| over all outputs, relative to the largest |torch| output."""


class Int8Parity(Section):
    """Tolerance of int8 artifacts. A wrong graph lands far below both; rounding to 8 bits does not."""

    min_psnr_db: float = Field(default=20.0)
    """Least peak signal-to-noise ratio of the logits, in decibels."""
    min_top1_agreement: float = Field(default=0.95, ge=0, le=1)
    """Least share of samples on which artifact and torch choose the same class."""


class Fp16Parity(Section):
    """Tolerance of fp16 artifacts."""

    min_psnr_db: float = Field(default=45.0)
    """Least peak signal-to-noise ratio of the logits, in decibels."""
    min_top1_agreement: float = Field(default=0.99, ge=0, le=1)
    """Least share of samples on which artifact and torch choose the same class."""


class ParitySettings(Section):
    """How far an artifact may depart from the torch model it was made of, over the whole evaluation split."""

    fp32: Fp32Parity = Fp32Parity()
    """Of fp32 artifacts."""
    fp16: Fp16Parity = Fp16Parity()
    """Of fp16 artifacts."""
    int8: Int8Parity = Int8Parity()
    """Of artifacts with integers."""
