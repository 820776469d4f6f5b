"""Whether quantisation-aware training is needed: what calibrated files came to, and what the recipe says to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedistill.conversion.writing import takes_ranges
from edgedistill.stages.files import all_choices
from edgedistill.storage import read_json
from edgedistill.types import Precision

if TYPE_CHECKING:
    from edgedistill.documents.artifacts import ChoiceDocument, ListedFile
    from edgedistill.recipe.document import Recipe
    from edgedistill.recipe.export import Qat
    from edgedistill.runs import Stage


@dataclass(frozen=True)
class Need:
    """What quantisation-aware training is wanted for.

    Attributes:
        rivals: calibrated artifacts (ids) that a trained file may replace, each with the reason.
        own: whether trained files are wanted beside the calibrated ones.
        asked: whether the recipe asks for the training; else it is only a way out, and may be impossible.
    """

    rivals: dict[str, str]
    own: bool
    asked: bool

    def __bool__(self) -> bool:
        """Whether there is anything to train for."""
        return self.own or bool(self.rivals)


def needed(recipe: Recipe, quantized: Stage) -> Need:
    """Why each calibrated file wants a trained one in its place.

    Where `int8-qat` is asked for, calibrated files stay what they are: both are shown.
    """
    if "int8-qat" in recipe.export.precisions:
        return Need({}, own=True, asked=True)
    settings = recipe.quantize.qat
    choices = {choice["artifact"]: choice for choice in all_choices(quantized)}
    listed: list[ListedFile] = read_json(quantized.path / "artifacts.json") if settings.when != "never" else []
    static = [one for one in listed if one["precision"] == Precision.INT8_STATIC and one["id"] in choices]
    reasons = {
        one["id"]: _reason(settings, 1 - one["integer_mac_share"], choices[one["id"]])
        for one in static
        if takes_ranges(one["format"])
    }
    return Need({k: why for k, why in reasons.items() if why}, own=False, asked=settings.when == "always")


def _reason(settings: Qat, floats: float, choice: ChoiceDocument) -> str:
    """Why a file wants it; `floats`: share of its MACs in float."""
    kept = next(row["keep_float"] for row in choice["candidates"] if row["state"] == "shipped")
    if not choice["met"]:
        return "no calibrated file is within quantize.max_drop"
    if kept and floats > settings.max_float_macs:
        return f"{100 * floats:.0f} % of its MACs are in float, beyond quantize.qat.max_float_macs"
    return "quantize.qat.when is always" if settings.when == "always" else ""
