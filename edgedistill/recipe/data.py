"""The section about data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgedistill.recipe.models import Normalize
from edgedistill.recipe.section import Section


class _Data(Section):
    evaluation_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of the samples kept for evaluation (stratified by class, seeded) where the source has no split of its own."""
    normalize: Literal["auto", "none"] | Normalize = "auto"
    """`auto`: mean and standard deviation per channel (axis 1) of the training split; `none`; or fixed values."""
    unlabelled: str | None = None
    """An .npz with further training samples that have no label (array `x`, raw like the others); relative to the recipe."""
    labels: list[str] | None = None
    """Class names in the order of the label numbers. Default: from the source, or the numbers."""


class DigitsData(_Data):
    """scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels, 0 to 16."""

    source: Literal["digits"]
    """Which kind of source this is."""


class NpzData(_Data):
    """Arrays in an .npz file (never pickled ones)."""

    source: Literal["npz"]
    """Which kind of source this is."""
    path: str
    """File with the arrays below; relative to the recipe."""
    inputs: str = "x"
    """Name of the array of samples, first axis: samples."""
    labels_key: str = "y"
    """Name of the array of class numbers."""
    evaluation_path: str | None = None
    """A second .npz with the evaluation split, same array names."""
    layout: Literal["auto", "NHWC", "as-is"] = "auto"
    """`auto`: (N, H, W) gets a channel axis, anything else is left; `NHWC`: channels are moved first; `as-is`: untouched."""


class ImageFolderData(_Data):
    """A folder with one folder per class; or with `train/` and `val/` (or `test/`, `eval/`) of such folders."""

    source: Literal["image_folder"]
    """Which kind of source this is."""
    path: str
    """The folder; relative to the recipe."""
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """(height, width) that every image is resized to. Default: all images must already be of one size."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colour or grey. Raw values are pixel / 255, 0 to 1."""


class ImportData(_Data):
    """A function of yours that returns a torch Dataset, or a pair (training, evaluation) of them."""

    source: Literal["import"]
    """Which kind of source this is."""
    function: str
    """`package.module:function`, looked up beside the recipe, then in the environment."""
    arguments: dict[str, object] = Field(default_factory=dict)
    """Keyword arguments for the function."""
    depends: list[str] = Field(default_factory=list)
    """Files it reads: when one changes, the data are loaded again. Its source code is watched anyway."""
