"""YAML -> a validated Recipe; every mistake told with file, line, key, expected and got."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field, ValidationError, model_validator

from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.data import DigitsData, ImageFolderData, ImportData, NpzData
from edgedistill.recipe.export import Export, ParitySettings, Qat, Quantize
from edgedistill.recipe.gate import Gate, LatencyGate, PredictedGate, QualityGate, SizeGate
from edgedistill.recipe.models import ConvnetModel, ImportedModel, Normalize, StudentModel
from edgedistill.recipe.reading import Places, explain, override_key, read_yaml
from edgedistill.recipe.section import Section
from edgedistill.recipe.teachers import ConvnetTeacher, EnsembleTeacher, FileTeacher, ImportedTeacher, Teacher
from edgedistill.recipe.terms import CrossEntropy, Schedule, SoftTargets, Term
from edgedistill.recipe.training import (
    Assistants,
    Augment,
    BornAgain,
    Cache,
    Distill,
    MultiStage,
    Mutual,
    Offline,
    SelfDistillation,
    Train,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import Json


S = TypeVar("S", bound="Section")

__all__ = [  # the recipe's sections, whichever file describes them
    "Assistants",
    "Augment",
    "Benchmark",
    "BornAgain",
    "Cache",
    "ConvnetModel",
    "ConvnetTeacher",
    "CrossEntropy",
    "DigitsData",
    "Distill",
    "EnsembleTeacher",
    "FileTeacher",
    "Gate",
    "ImageFolderData",
    "ImportData",
    "ImportedModel",
    "ImportedTeacher",
    "LatencyGate",
    "MultiStage",
    "Mutual",
    "Normalize",
    "NpzData",
    "Offline",
    "ParitySettings",
    "PredictedGate",
    "Qat",
    "QualityGate",
    "Recipe",
    "Schedule",
    "SelfDistillation",
    "SizeGate",
    "SoftTargets",
    "Term",
    "Train",
    "canonical",
    "files_recipe",
    "load_policy",
    "load_recipe",
    "recipe_sha256",
]


class Recipe(Section):
    """A whole compression: data, teacher, student, and what is asked of the artifacts."""

    name: str = Field(default="", pattern=r"^[\w. -]*$")
    """Shown in the report. Default: the recipe's file name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the split, the initial weights, the order of samples and the calibration set."""
    threads: int = Field(default=1, ge=1)
    """Threads for training; results are reproducible for one number of threads."""
    data: Annotated[DigitsData | NpzData | ImageFolderData | ImportData, Field(discriminator="source")]
    """Where the samples come from, by `source`."""
    teacher: Teacher
    """The large model: `family: convnet`, `model: package.module:function`, `file: x.onnx`, or `ensemble: [...]` of these."""
    student: StudentModel
    """The small model: `family: convnet`, or `model: package.module:function`."""
    distill: Distill
    """How the student learns from the teacher."""
    export: Export = Export()
    """Formats and precisions to write."""
    quantize: Quantize = Quantize()
    """How static int8 is calibrated."""
    parity: ParitySettings = ParitySettings()
    """How far artifacts may depart from their torch model."""
    benchmark: Benchmark = Benchmark()
    """How latency and memory are measured."""
    gate: Gate = Gate()
    """What must hold before the artifacts may ship."""

    @model_validator(mode="after")
    def _teachers_exist(self) -> Recipe:
        names = self.teacher.names if isinstance(self.teacher, EnsembleTeacher) else []
        scheme = self.distill.scheme
        phases = [phase.objective for phase in scheme.phases] if isinstance(scheme, MultiStage) else []
        for term in [term for objective in [self.distill.terms, *phases] for term in objective]:
            if term.member is not None and term.member not in names:
                raise ValueError(
                    f"the term {term.loss} names the teacher {term.member!r}; "
                    + (f"the ensemble has {names}" if names else "only an ensemble's members can be named")
                )
        return self

    @model_validator(mode="after")
    def _has_something_to_fold(self) -> Recipe:
        if "normalization" in self.export.fold and self.data.normalize == "none":
            raise ValueError("export.fold names normalization, and data.normalize is none; drop one of them")
        return self

    @model_validator(mode="after")
    def _may_train_on(self) -> Recipe:
        if "int8-qat" in self.export.precisions and self.quantize.qat.when == "never":
            raise ValueError("export.precisions asks for int8-qat, and quantize.qat.when is never; drop one of them")
        return self


def canonical(value: object) -> str:
    """One text for one meaning: the JSON that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: object) -> Json:
    """A section or a noun as JSON."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"neither a section nor a noun: {value!r}")


def recipe_sha256(recipe: Recipe) -> str:
    """Digest of what a recipe means, whatever its comments and order."""
    return hashlib.sha256(canonical(recipe).encode()).hexdigest()


_JUDGING = {"name", "parity", "benchmark", "gate"}
"""Sections that do not change a byte of the files."""


def files_recipe(recipe: Recipe, *, quantized: bool) -> Json:
    """What the files say of the recipe: the digest of those sections that decide what is in them, and their names.

    Not the whole: files stay what they are when only the gate changes.
    """
    document = recipe.model_dump(mode="json", exclude=_JUDGING | (set() if quantized else {"quantize"}))
    if not quantized:
        del document["export"]["precisions"]
    return {"sha256": hashlib.sha256(canonical(document).encode()).hexdigest(), "sections": sorted(document)}


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--set a.b=c` overrides.

    Raises:
        RecipeError: unreadable, not YAML, or not a recipe; the message names line and key.
    """
    document, places = read_yaml(path)
    for override in overrides:
        keys = override_key(document, override)
        places = {known: place for known, place in places.items() if known[: len(keys)] != keys}
        places[keys] = f"--set {override}"
    document.setdefault("name", path.stem)
    return _validated(Recipe, document, path, places)


def load_policy(path: Path) -> Gate:
    """Read a gate policy: the recipe's `gate` section in a file of its own.

    Raises:
        RecipeError: as `load_recipe`.
    """
    document, places = read_yaml(path)
    return _validated(Gate, document, path, places)


def _validated(section: type[S], document: dict[str, object], path: Path, places: Places) -> S:
    try:
        return section.model_validate(document)
    except ValidationError as error:
        raise explain(error, section, document, path, places) from None
