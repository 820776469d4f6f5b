"""What redoes what: every input of every stage is changed in turn, and the expected stages have another key.

Digests of earlier stages are held fixed: what is seen is each stage's own reading. What follows, follows by them.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save_file

from edgedistill import pipeline
from edgedistill.events import QUIET
from edgedistill.recipe.document import Recipe
from edgedistill.recipe.section import document_of, part_of
from edgedistill.runs import Run, Stage
from edgedistill.stages import NAMES, code
from edgedistill.stages.work import Work
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILES = {"export", "quantize", "requantize"}
"""They write a digest of the recipe into their files, but for what only judges."""
TRAINED = {"teacher", "student", "cache", "distill", "retrain"}
RECIPE: dict[str, Any] = {
    "name": "keys",
    "data": {"source": "npz", "path": "data.npz", "evaluation_fraction": 0.5},
    "teacher": {"family": "convnet", "width": 6, "train": {"epochs": 2}},
    "student": {"family": "convnet", "width": 2, "checkpoint": "student.safetensors"},
    "distill": {"epochs": 3, "baseline": False, "augment": {"views": 2}},
    "export": {"formats": ["onnx", "tflite"], "licence": "MIT"},
    "quantize": {"samples": 32, "calibration": "calibration.npz"},
    "gate": {"quality": {"max_drop": 0.1}, "size": {"max_ratio": 1.0}, "parity": True},
}
OTHERWISE: dict[str, Any] = {
    "export.formats": ["onnx"],
    "export.precisions": ["fp32"],
    "export.fold": ["normalization"],
    "export.licence": "Apache-2.0",
    "quantize.candidates": "default",
    "quantize.calibration": None,
    "quantize.qat.when": "always",
    "benchmark.device": "micro:nucleo-l4r5zi",
    "benchmark.preset": "official",
    "benchmark.simulated": ["raspberry-pi-4b"],
    "benchmark.affinity": [0],
    "data.layout": "as-is",
    "data.normalize": "none",
    "data.labels": [str(n) for n in range(10)],
    "data.unlabelled": "calibration.npz",
    "data.evaluation_path": "data.npz",
    "name": "another",
}
"""Values for keys whose type does not tell another one."""


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    np.savez(folder / "data.npz", x=np.zeros((20, 8, 8)), y=np.arange(20) % 10)
    np.savez(folder / "calibration.npz", x=np.zeros((4, 8, 8)))
    save_file({"w": np.zeros(1, np.float32)}, folder / "student.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(beside: Path) -> dict[str, str]:
    return keys(original(), beside)


class Paper(Run):
    """A run that writes nothing: what each stage depends on is kept, and every stage's digest is its name."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.depends: dict[str, str] = {}

    def stage(self, name: str, depends: Mapping[str, Any], make: object) -> Stage:
        del make
        self.depends[name] = json.dumps(depends, sort_keys=True)
        return Stage(name, "", self.root, name)


class Unpublished(pipeline.Do):
    """Of such a run there is nothing to publish."""

    def _publish(self, found: Stage) -> None:
        del found


def keys(recipe: Recipe, beside: Path) -> dict[str, str]:
    """What every stage depends on besides what the earlier ones wrote."""
    for name in ("candidates.json", "artifacts.json"):
        (beside / name).write_text("[]", encoding="utf-8")
    (beside / "stage.json").write_text('{"refused.json": ""}', encoding="utf-8")
    work = Work(recipe, beside, beside, QUIET, {})
    run = Paper(beside)
    do = Unpublished(work, {stage.NAME: stage.key(work) for stage in pipeline.STAGES}, run, "bundle")
    pipeline.walk(do, recipe)
    assert list(run.depends) == list(NAMES)
    return run.depends


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in NAMES if before[name] != after[name]}


@functools.cache
def original() -> Recipe:
    return Recipe.model_validate(RECIPE)


def leaves(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        key = f"{above}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def other_values(key: str, value: Any) -> list[Any]:
    """Candidates for another value, one of which the recipe takes."""
    if key in OTHERWISE:
        return [OTHERWISE[key]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value / 2, value * 2, 0.3]
    return (
        [1, 2.0, 0.5, "cuda", "bf16-mixed", "sgd", "cosine", "file", "fp16", "always", "off"] if value is None else []
    )


def with_value(document: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {**document, first: with_value(document.get(first) or {}, rest, value) if rest else value}


@functools.cache
def mutations() -> dict[str, Recipe]:
    """Every leaf of the recipe that has another value -> the recipe with it."""
    found = {}
    document = original().model_dump(mode="json", exclude_defaults=False)
    del document["distill"]["objective"], document["distill"]["temperature"], document["distill"]["alpha"]
    for key, value in leaves(document):
        for other in other_values(key, value):
            try:
                made = Recipe.model_validate(with_value(RECIPE, key, other))
            except ValidationError:
                continue
            if made != original():
                found[key] = made
                break
    return found


def expected(key: str) -> set[str]:
    """By hand, from what a stage is for. The gate names the whole recipe's digest."""
    section, _, rest = key.partition(".")
    own: dict[str, set[str]] = {
        "name": {"report"},
        "seed": {"data", "quantize", "report", *TRAINED, *FILES},
        "threads": {*TRAINED, *FILES},
        "data": {"data", *FILES},
        "teacher": {"teacher", "cache", "distill", "retrain", *FILES},
        "student": {"student", "distill", "retrain", *FILES},
        "distill": {"distill", "retrain", *FILES},
        "parity": {"parity"},
        "benchmark": {"benchmark"},
        "gate": set(),
    }
    if key.startswith("teacher.train"):
        return {"teacher", *FILES, "gate"}
    if key == "distill.baseline":
        return {*own["distill"], "report", "gate"}
    if section == "export":
        return {"gate"} | {
            "formats": {*FILES, "parity", "benchmark", "bundle"},
            "precisions": {"quantize", "requantize"},
            "fold": {*FILES, "parity", "benchmark", "bundle"},
            "licence": FILES,
        }[rest]
    if section == "quantize":  # all of it is in the digest that quantised files tell
        calibrates = rest in ("samples", "calibration", "validation_samples")
        return {"quantize", "requantize", "gate"} | (
            {"retrain"} if calibrates or rest in ("qat.epochs", "qat.learning_rate") else set()
        )
    if rest in ("device", "threads", "affinity") and section == "benchmark":
        return {"benchmark", "quantize", "requantize", "gate"} | ({"report", "parity"} if rest == "device" else set())
    return own[section] | {"gate"}


MAY = {"distill": {"cache"}, "student": {"retrain"}}
"""Some keys of a section also decide how often the teacher is asked, and what of it is kept."""


def test_every_key_that_a_stage_reads_is_tried() -> None:
    tried = set(mutations())
    assert len(tried) > 80
    for stage in pipeline.STAGES:
        for key in (*stage.READS, *stage.SEES):
            assert key in ("*", "data.layout") or any(one == key or one.startswith(f"{key}.") for one in tried), key


@pytest.mark.parametrize("key", sorted(mutations()))
def test_a_key_of_the_recipe_redoes_the_stages_that_read_it(key: str, beside: Path, base: dict[str, str]) -> None:
    found = changed(base, keys(mutations()[key], beside))
    assert found - MAY.get(key.partition(".")[0], set()) == expected(key) - MAY.get(key.partition(".")[0], set()), key
    assert found <= expected(key) | MAY.get(key.partition(".")[0], set())


@settings(max_examples=12)
@given(data=st.data())
def test_two_changes_redo_what_each_redoes(beside: Path, base: dict[str, str], data: st.DataObject) -> None:
    first, second = (data.draw(st.sampled_from(sorted(mutations()))) for _ in range(2))
    one, other = (dict(leaves(mutations()[key].model_dump(mode="json"))).get(key) for key in (first, second))
    try:
        both = Recipe.model_validate(with_value(with_value(RECIPE, first, one), second, other))
    except ValidationError:
        return
    single = [changed(base, keys(mutations()[key], beside)) for key in (first, second)]
    assert changed(base, keys(both, beside)) <= single[0] | single[1] | {"cache"}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("data.npz", {"data"}),
        ("student.safetensors", {"student", "distill", "export", "retrain", "requantize"}),
        ("calibration.npz", {"quantize", "retrain", "requantize"}),
    ],
)
def test_the_bytes_of_a_file_redo_the_stages_that_read_it(name: str, stages: set[str], beside: Path) -> None:
    before, content = keys(original(), beside), (beside / name).read_bytes()
    try:
        (beside / name).write_bytes(content + b"\0")
        assert changed(before, keys(original(), beside)) == stages
        (beside / name).write_bytes(content)
        assert changed(before, keys(original(), beside)) == set()
    finally:
        (beside / name).write_bytes(content)


@pytest.mark.parametrize(
    ("tool", "stages"),
    [
        ("torch", {*TRAINED, *FILES, "report"}),
        ("onnx", {*FILES, "report"}),
        ("litert-torch", {*FILES, "report"}),
        ("onnxruntime", {*FILES, "parity", "benchmark", "report"}),
        ("tflite-runtime", {"parity", "benchmark", "report"}),
        ("openvino", {"report"}),  # no format of this recipe: the report lists it
        ("matplotlib", {"report"}),
        ("jinja2", {"gate"}),
        ("pytest", set()),
    ],
)
def test_the_version_of_a_tool_redoes_the_stages_that_use_it(
    tool: str, stages: set[str], beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = keys(original(), beside), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "999" if name == tool else real(name))
    assert changed(before, keys(original(), beside)) == stages


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        *((f"edgedistill/stages/{name}.py", {name}) for name in NAMES),
        ("edgedistill/cli/main.py", set()),
        ("edgedistill/cli/progress.py", set()),
        ("edgedistill/report/terminal.py", set()),
        ("edgedistill/report/page.html", {"report", "gate"}),  # beside what draws
        ("edgedistill/report/html.py", {"gate"}),
        ("edgedistill/report/plots.py", {"report", "gate"}),
        ("edgedistill/release/bundle.py", {"report", "bundle"}),
        ("edgedistill/data/splits.py", set(NAMES) - {"gate"}),
        ("edgedistill/data/sources.py", {"data"}),
        ("edgedistill/distillation/training/trainer.py", {"teacher", "cache", "distill", "retrain", "requantize"}),
        ("edgedistill/parity/compare.py", {"parity"}),
        ("exporters/onnx/export.py", {*FILES, "parity", "benchmark", "bundle"}),
        ("exporters/onnx/runner.py", {*FILES, "parity", "benchmark", "bundle"}),
        ("exporters/openvino/export.py", set()),  # no format of this recipe
        ("devices/local.py", {"quantize", "requantize", "parity", "benchmark"}),
        ("devices/ssh.py", set()),
        ("benchmarks/latency.py", {"quantize", "requantize", "benchmark"}),
        ("edgedistill/errors.py", set(NAMES)),
    ],
)
def test_a_file_of_the_code_redoes_the_stages_that_reach_it(
    path: str, stages: set[str], beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = keys(original(), beside), code.content
    file = ROOT / path
    assert file.is_file()
    monkeypatch.setattr(code, "content", lambda f: real(f) + (b"#" if f.resolve() == file else b""))
    assert changed(before, keys(original(), beside)) == stages


def test_a_stage_cannot_read_what_it_does_not_name(beside: Path) -> None:
    work = Work(original(), beside, beside, QUIET, {})
    for stage in pipeline.STAGES:
        handed = work.handed_to(stage, {}).recipe
        for key, _ in leaves(original().model_dump(mode="json")):
            named = any(key == one or key.startswith(f"{one}.") or one == "*" for one in (*stage.READS, *stage.SEES))
            value: Any = handed
            try:
                for part in key.split("."):
                    value = getattr(value, part)
            except AttributeError:
                assert not named, (stage.NAME, key)
            else:
                assert named, (stage.NAME, key)


def test_a_part_of_a_recipe_tells_its_keys_and_no_others() -> None:
    wanted = ("seed", "quantize.samples", "quantize.qat.epochs", "data.layout")
    part = part_of(original(), wanted)
    assert (part.seed, part.quantize.samples) == (0, 32)
    with pytest.raises(AttributeError):
        _ = part.quantize.max_drop
    with pytest.raises(AttributeError):
        _ = part.gate
    assert document_of(original(), wanted) == {
        "seed": 0,
        "quantize": {"samples": 32, "qat": {"epochs": None}},
        "data": {"layout": "auto"},
    }


def test_stages_and_their_names_are_the_same() -> None:
    assert tuple(stage.NAME for stage in pipeline.STAGES) == NAMES
    folder = Path(pipeline.__file__).parent / "stages"
    assert {stage.__file__ for stage in pipeline.STAGES} == {str(folder / f"{name}.py") for name in NAMES}
