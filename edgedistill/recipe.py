"""YAML -> a validated Recipe; every mistake told with file, line, key, expected and got."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistill.errors import RecipeError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


S = TypeVar("S", bound="_Section")


class _Section(BaseModel):
    """A part of the recipe: frozen, unknown keys refused, descriptions taken from docstrings."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Normalize(_Section):
    """Fixed normalisation, in the unit of the raw data: model input = (raw - mean) / std."""

    mean: list[float] = Field(min_length=1)
    """One value, or one per channel."""
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """One value, or one per channel; positive."""

    @model_validator(mode="after")
    def _same_length(self) -> Normalize:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}; they must match")
        return self


class _Data(_Section):
    evaluation_fraction: float = Field(default=0.5, gt=0, lt=1)
    """Share of the samples kept for evaluation (stratified by class, seeded) where the source has no split of its own."""
    normalize: Literal["auto", "none"] | Normalize = "auto"
    """`auto`: mean and standard deviation per channel (axis 1) of the training split; `none`; or fixed values."""
    labels: list[str] | None = None
    """Class names in the order of the label numbers. Default: from the source, or the numbers."""


class DigitsData(_Data):
    """scikit-learn's handwritten digits: 1,797 real scans of 8 x 8 pixels, 0 to 16."""

    source: Literal["digits"]


class NpzData(_Data):
    """Arrays in an .npz file (never pickled ones)."""

    source: Literal["npz"]
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
    path: str
    """The folder; relative to the recipe."""
    size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """(height, width) that every image is resized to. Default: all images must already be of one size."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colour or grey. Raw values are pixel / 255, 0 to 1."""


class ImportData(_Data):
    """A function of yours that returns a torch Dataset, or a pair (training, evaluation) of them."""

    source: Literal["import"]
    function: str
    """`package.module:function`, looked up beside the recipe, then in the environment."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the function."""
    depends: list[str] = Field(default_factory=list)
    """Files it reads: when one changes, the data are loaded again. Its source code is watched anyway."""


class Train(_Section):
    """One training run: SGD with Nesterov momentum 0.9 under a cosine schedule, seeded."""

    epochs: int = Field(ge=1)
    """Passes over the training split."""
    batch_size: int = Field(default=64, ge=2)
    """Samples per step; the last, smaller batch counts."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Peak, decayed to zero by a cosine."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """L2 penalty."""


class _Model(_Section):
    checkpoint: str | None = None
    """Weights to load: .safetensors, or a state dict written by torch.save (read with weights_only)."""


class ConvnetModel(_Model):
    """The built-in convolutional family: `depth` 3x3 convolutions, the first `width` channels wide, each further one doubling them at half the resolution."""

    family: Literal["convnet"]
    width: int = Field(ge=1, le=1024)
    """Channels of the first convolution."""
    depth: int = Field(default=2, ge=1, le=8)
    """Number of convolutions."""


class ImportedModel(_Model):
    """Your own model: a function or class that returns a torch module giving logits of shape (batch, classes)."""

    model: str
    """`package.module:function`, looked up beside the recipe, then in the environment."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the function."""


class ConvnetTeacher(ConvnetModel):
    """A teacher of the built-in family."""

    train: Train | None = None
    """Train it on the labels first. Needed unless there is a checkpoint."""

    @model_validator(mode="after")
    def _has_weights(self) -> ConvnetTeacher:
        if (self.train is None) == (self.checkpoint is None):
            raise ValueError("a convnet teacher needs exactly one of `checkpoint` and `train`")
        return self


class ImportedTeacher(ImportedModel):
    """A teacher of yours. Without `checkpoint` and `train` it is taken as your function returns it."""

    train: Train | None = None
    """Train it on the labels first (from the checkpoint, if there is one)."""


class Distill(Train):
    """Response-based distillation: alpha T^2 KL(teacher || student at temperature T) + (1 - alpha) cross-entropy."""

    temperature: float = Field(default=2.0, gt=0)
    """Softens both distributions."""
    alpha: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher; the labels get the rest."""
    baseline: bool = False
    """Also train the same student on labels only: same initial weights, seed and budget."""


class Export(_Section):
    """What to write."""

    formats: list[str] = Field(default=["onnx", "tflite", "openvino"], min_length=1)
    """Exporters by name (`edgedistill plugins`)."""
    precisions: list[Literal["fp32", "int8"]] = Field(default=["fp32", "int8"], min_length=1)
    """fp32 is always written, since parity and int8 start from it; `int8` is static, per channel."""


class Quantize(_Section):
    """Calibration of static int8."""

    samples: int = Field(default=256, ge=1)
    """Training samples used for calibration, drawn with the seed; never evaluation samples."""
    calibration: str | None = None
    """An .npz with raw samples (array `x`) to calibrate on instead; relative to the recipe."""


class Fp32Parity(_Section):
    """Tolerance of fp32 artifacts."""

    max_relative: float = Field(default=1e-4, gt=0)
    """Largest |artifact - torch| over all outputs, relative to the largest |torch| output."""


class Int8Parity(_Section):
    """Tolerance of int8 artifacts. A wrong graph lands far below both; rounding to 8 bits does not."""

    min_psnr_db: float = Field(default=20.0)
    """Least peak signal-to-noise ratio of the logits, in decibels."""
    min_top1_agreement: float = Field(default=0.95, ge=0, le=1)
    """Least share of samples on which artifact and torch choose the same class."""


class ParitySettings(_Section):
    """How far an artifact may depart from the torch model it was made of, over the whole evaluation split."""

    fp32: Fp32Parity = Fp32Parity()
    int8: Int8Parity = Int8Parity()


class Benchmark(_Section):
    """How latency and memory are measured: fresh processes of the agent, interleaved over artifacts."""

    device: str = "cpu"
    """Where (`edgedistill devices list`)."""
    threads: int = Field(default=1, ge=1)
    """Threads of the runtime."""
    rounds: int = Field(default=5, ge=1)
    """Fresh processes per artifact. The range of the medians of 5 rounds is a 94% interval of the median."""
    min_queries: int = Field(default=100, ge=2)
    """Least inferences per round."""
    min_duration_s: float = Field(default=0.25, ge=0)
    """Least seconds per round."""
    warmup_s: float = Field(default=0.1, ge=0)
    """Seconds of inferences before timing."""


class QualityGate(_Section):
    """Quality of each student artifact against the teacher."""

    max_drop: float
    """Most that may be lost, absolute (0.02: two points of top-1). Decided on the 95% interval of the paired difference."""


class SizeGate(_Section):
    """Size of each student artifact."""

    max_bytes: int | None = Field(default=None, ge=0)
    """Most bytes, all files of the artifact together."""
    max_ratio: float | None = Field(default=None, gt=0)
    """Most bytes relative to the teacher's fp32 artifact of the same format."""


class LatencyGate(_Section):
    """Latency of each student artifact."""

    max_ratio: float
    """Most p50 relative to the teacher's fp32 artifact in the same runtime. Every round must agree, or it is inconclusive."""


class Gate(_Section):
    """What must hold before the artifacts may ship. An absent part is not checked."""

    quality: QualityGate | None = None
    size: SizeGate | None = None
    latency: LatencyGate | None = None
    parity: bool = True
    """Every artifact, the teacher's too, must match its torch model."""


class Recipe(_Section):
    """A whole compression: data, teacher, student, and what is asked of the artifacts."""

    name: str = Field(default="", pattern=r"^[\w. -]*$")
    """Shown in the report. Default: the recipe's file name."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Decides the split, the initial weights, the order of samples and the calibration set."""
    threads: int = Field(default=1, ge=1)
    """Threads for training; results are reproducible for one number of threads."""
    data: Annotated[DigitsData | NpzData | ImageFolderData | ImportData, Field(discriminator="source")]
    teacher: ConvnetTeacher | ImportedTeacher
    student: ConvnetModel | ImportedModel
    distill: Distill
    export: Export = Export()
    quantize: Quantize = Quantize()
    parity: ParitySettings = ParitySettings()
    benchmark: Benchmark = Benchmark()
    gate: Gate = Gate()


def canonical(value: Any) -> str:
    """One text for one meaning: the JSON that digests are taken of."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), default=lambda section: section.model_dump(mode="json")
    )


def recipe_sha256(recipe: Recipe) -> str:
    """Digest of what a recipe means, whatever its comments and order."""
    return hashlib.sha256(canonical(recipe).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `--set a.b=c` overrides.

    Raises:
        RecipeError: unreadable, not YAML, or not a recipe; the message names line and key.
    """
    document, lines = _read_yaml(path)
    for override in overrides:
        _override(document, override)
    document.setdefault("name", path.stem)
    return _validated(Recipe, document, path, lines)


def load_policy(path: Path) -> Gate:
    """Read a gate policy: the recipe's `gate` section in a file of its own.

    Raises:
        RecipeError: as `load_recipe`.
    """
    document, lines = _read_yaml(path)
    return _validated(Gate, document, path, lines)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """The document, and the line of every key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"there is no file {str(path)!r}",
            where=str(path),
            expected="a YAML file",
            got="nothing at this path",
            fix="check the path; examples/digits.yaml is a recipe to start from",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{str(path)!r} cannot be read as text: {error}",
            where=str(path),
            expected="a YAML file in UTF-8",
            got=type(error).__name__,
            fix="give the path of a recipe",
        ) from error
    try:
        document = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise RecipeError(
            f"not YAML: {getattr(error, 'problem', None) or error}",
            where=f"{path}, line {mark.line + 1}" if mark else str(path),
            expected="valid YAML",
            got=str(error).splitlines()[0],
            fix="correct the indentation or the quotes at this line",
        ) from error
    if not isinstance(document, dict):
        raise RecipeError(
            "not a mapping of keys to values",
            where=str(path),
            expected=f"keys such as {', '.join(list(Recipe.model_fields)[:4])}",
            got=type(document).__name__,
            fix="start from examples/digits.yaml",
        )
    lines: dict[tuple[str | int, ...], int] = {}
    _collect_lines(root, (), lines)
    return document, lines


def _collect_lines(
    node: yaml.Node | None, prefix: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[*prefix, key.value] = key.start_mark.line + 1
            _collect_lines(value, (*prefix, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[*prefix, index] = value.start_mark.line + 1
            _collect_lines(value, (*prefix, index), lines)


def _override(document: dict[str, Any], override: str) -> None:
    """Apply one `a.b=c`; the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise RecipeError(
            f"--set {override!r} is not an assignment",
            where=f"--set {override}",
            expected="a.b=value",
            got=repr(override),
            fix="for example --set distill.epochs=40",
        )
    *parents, leaf = path.split(".")
    section: dict[str, Any] = document
    for parent in parents:
        below = section.get(parent)
        if below is None:
            below = section[parent] = {}
        if not isinstance(below, dict):
            raise RecipeError(
                f"--set {path}: {parent!r} is a value, not a section",
                where=f"--set {override}",
                expected=f"{parent} to have keys of its own",
                got=repr(below),
                fix=f"--set {'.'.join(parents)}=... sets it as a whole",
            )
        section = below
    try:
        section[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(
            f"--set {path}: the value is not YAML",
            where=f"--set {override}",
            expected="a YAML value such as 0.1, true or [onnx, tflite]",
            got=repr(text),
            fix="quote the value",
        ) from error


def _validated(section: type[S], document: dict[str, Any], path: Path, lines: dict[tuple[str | int, ...], int]) -> S:
    try:
        return section.model_validate(document)
    except ValidationError as error:
        raise _explain(error, section, document, path, lines) from None


def _explain(
    error: ValidationError,
    section: type[_Section],
    document: dict[str, Any],
    path: Path,
    lines: dict[tuple[str | int, ...], int],
) -> RecipeError:
    """The first mistake as a RecipeError (with the count of the others)."""
    problems = [(_real_location(problem["loc"], document), problem) for problem in _of_chosen_branch(error, document)]
    location, problem = problems[0]
    key = ".".join(str(part) for part in location) or "(top level)"
    line = next((lines[location[:n]] for n in range(len(location), 0, -1) if location[:n] in lines), None)
    where = f"{path}{f', line {line}' if line else ''}, key {key}"
    others = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        name = str(location[-1])
        known = _keys_at(section, location[:-1], document)
        return RecipeError(
            f"unknown key {name!r}{others}",
            where=where,
            expected=nearest(name, known),
            got=repr(name),
            fix="correct or delete the key (`edgedistill recipe schema` describes all)",
        )
    got = "nothing" if problem["type"] == "missing" else repr(problem["input"])
    return RecipeError(
        f"{key}: {problem['msg'][0].lower() + problem['msg'][1:]}{others}",
        where=where,
        expected=_expectation(section, location, document) or problem["msg"],
        got=got,
        fix=f"{'add' if problem['type'] == 'missing' else 'correct'} {key}",
    )


_UNION_TAGS = {  # the names by which pydantic tells union branches apart in its locations
    "digits", "npz", "image_folder", "import", "ConvnetTeacher", "ImportedTeacher", "ConvnetModel",
    "ImportedModel", "Normalize", "literal['auto','none']", "int", "float", "str",
}  # fmt: skip


def _real_location(location: tuple[str | int, ...], document: dict[str, Any]) -> tuple[str | int, ...]:
    """A pydantic location without the union tags that are not keys of the document."""
    real: list[str | int] = []
    node: Any = document
    for position, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        if part in _UNION_TAGS and not inside and position:
            continue
        real.append(part)
        if isinstance(node, dict):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            node = None
    return tuple(real)


def _of_chosen_branch(error: ValidationError, document: dict[str, Any]) -> list[Any]:
    """Problems of the union branch the writer meant: `model:` means an imported model, else a family."""
    problems = []
    for problem in error.errors(include_url=False):
        location: tuple[int | str, ...] = problem["loc"]
        branch = location[1] if len(location) > 1 else None
        if location[0] in ("teacher", "student") and isinstance(branch, str):
            given = document.get(str(location[0]))
            imported = isinstance(given, dict) and "model" in given
            if branch.startswith("Convnet" if imported else "Imported"):
                continue
        problems.append(problem)
    return problems or error.errors(include_url=False)


def _section_at(section: type[BaseModel], location: Iterable[str | int], document: Any) -> list[type[BaseModel]]:
    """The model classes that may stand at a location."""
    found: list[type[BaseModel]] = [section]
    for part in location:
        found = [
            model
            for candidate in found
            if str(part) in candidate.model_fields
            for model in _models_in(candidate.model_fields[str(part)].annotation)
        ]
        document = document.get(part) if isinstance(document, dict) else None
        if isinstance(document, dict):
            found = [model for model in found if _chosen(model, document)] or found
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _chosen(model: type[BaseModel], given: dict[str, Any]) -> bool:
    """Whether the given keys select this branch of a union."""
    if "source" in model.model_fields:
        return given.get("source") in get_args(model.model_fields["source"].annotation)
    if "family" in model.model_fields or "model" in model.model_fields:
        return ("model" in given) == ("model" in model.model_fields)
    return True


def _keys_at(section: type[_Section], location: tuple[str | int, ...], document: dict[str, Any]) -> set[str]:
    return {name for model in _section_at(section, location, document) for name in model.model_fields}


def _expectation(section: type[_Section], location: tuple[str | int, ...], document: dict[str, Any]) -> str:
    """What the schema says about the key: its description."""
    for model in _section_at(section, location[:-1], document) if location else []:
        field = model.model_fields.get(str(location[-1]))
        if field is not None and field.description:
            return field.description
    sections = _section_at(section, location, document)
    return (sections[0].__doc__ or "").strip() if sections else ""
