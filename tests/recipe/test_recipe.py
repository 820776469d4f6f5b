"""A recipe that is right loads; every mistake in one is told with file, line, key, expected, got and fix."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.errors import RecipeError
from edgedistill.recipe.data import DigitsData
from edgedistill.recipe.document import ConvnetTeacher, Recipe, load_policy, load_recipe, recipe_sha256

ROOT = Path(__file__).parents[2]

GOOD = """\
seed: 0
data:
  source: digits
teacher:
  family: convnet
  width: 4
  train: {epochs: 1}
student:
  family: convnet
  width: 2
distill:
  epochs: 1
"""


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str) -> RecipeError:
    """The error that loading gives; every such error has all its parts and exits with 2."""
    with pytest.raises(RecipeError) as raised:
        load_recipe(path, overrides)
    error = raised.value
    assert error.exit_code == 2
    assert error.code == "recipe_error"
    assert all((error.message, error.where, error.expected, error.got, error.fix))
    assert "[_" not in str(error), "a validator's internal name leaked"
    return error


def changed(folder: Path, old: str, new: str) -> Path:
    assert old in GOOD
    return write(folder, GOOD.replace(old, new, 1))


def test_the_example_recipe_loads_with_what_it_says() -> None:
    recipe = load_recipe(ROOT / "examples" / "digits.yaml")
    assert recipe.name == "digits"
    assert isinstance(recipe.data, DigitsData)
    assert isinstance(recipe.teacher, ConvnetTeacher)
    assert (recipe.teacher.width, recipe.teacher.depth) == (39, 3)
    assert recipe.export.formats == ["onnx", "tflite", "openvino"]
    assert recipe.gate.quality is not None
    assert recipe.gate.quality.max_drop == 0.15


def test_the_own_model_example_loads() -> None:
    recipe = load_recipe(ROOT / "examples" / "own_model" / "own_model.yaml")
    assert recipe.data.source == "import"


def test_a_recipe_without_a_name_is_called_after_its_file(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, GOOD, "pet cats.yaml")).name == "pet cats"


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "suggested"),
    [
        ("seed: 0", "sed: 0", 1, "sed", "seed"),
        ("distill:\n", "distil:\n", 11, "distil", "distill"),
        ("distill:\n", "distill:\n  temprature: 2\n", 12, "distill.temprature", "temperature"),
        ("source: digits", "source: digits\n  lables: [a]", 4, "data.lables", "labels"),
        ("width: 2", "widht: 2", 10, "student.widht", "width"),
        ("{epochs: 1}", "{epoch: 1}", 7, "teacher.train.epoch", "epochs"),
        ("width: 4", "width: 4\n  dept: 2", 7, "teacher.dept", "depth"),
        ("seed: 0", "parity: {int8: {min_psnr: 3}}", 1, "parity.int8.min_psnr", "min_psnr_db"),
        ("seed: 0", "gate: {qualty: {max_drop: 1}}", 1, "gate.qualty", "quality"),
        (
            "digits",
            "digits\n  normalize: {mean: [0], std: [1], sdt: [1]}",
            4,
            "data.normalize.sdt",
            "std",
        ),
    ],
)
def test_an_unknown_key_is_told_with_its_line_and_the_nearest_known_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, suggested: str
) -> None:
    path = changed(tmp_path, old, new)
    error = _unknown(path, key)
    assert error.where == f"{path}, line {line}, key {key}"
    assert f"did you mean {suggested!r}?" in error.expected
    assert error.got == repr(key.rpartition(".")[2])


def _unknown(path: Path, key: str) -> RecipeError:
    error = refused(path)
    assert error.message.startswith(f"unknown key {key.rpartition('.')[2]!r}")
    return error


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "got", "says"),
    [
        # wrong types
        ("seed: 0", "seed: soon", 1, "seed", "'soon'", "integer"),
        ("  epochs: 1\n", "  epochs: many\n", 12, "distill.epochs", "'many'", "integer"),
        ("{epochs: 1}", "{epochs: many}", 7, "teacher.train.epochs", "'many'", "integer"),
        ("{epochs: 1}", "yes please", 7, "teacher.train", "'yes please'", "dictionary"),
        ("width: 2", "width: 2\n  depth: [1]", 11, "student.depth", "[1]", "integer"),
        ("seed: 0", "export: {formats: onnx}", 1, "export.formats", "'onnx'", "list"),
        ("seed: 0", "export: {precisions: [fp32, int4]}", 1, "export.precisions.1", "'int4'", "'int8'"),
        ("seed: 0", "name: 2020-01-01", 1, "name", "2020", "string"),
        ("seed: 0", "name: a/b", 1, "name", "'a/b'", "pattern"),
        ("seed: 0", "gate: ~", 1, "gate", "None", "dictionary"),
        ("seed: 0", "1: 2", 1, "1", "1", "strings"),
        ("digits", "digits\n  normalize: atuo", 4, "data.normalize", "'atuo'", "'auto'"),
        ("digits", "digits\n  normalize: {mean: [1, 2], std: [1]}", 4, "data.normalize", "[1, 2]", "must match"),
        ("digits", "image_folder\n  path: a\n  size: [3]", 5, "data.size.1", "nothing", "required"),
        # out of range
        ("seed: 0", "seed: -1", 1, "seed", "-1", "0"),
        ("seed: 0", "seed: 4294967296", 1, "seed", "4294967296", "4294967296"),
        ("seed: 0", "threads: 0", 1, "threads", "0", "1"),
        ("digits", "digits\n  evaluation_fraction: 1.5", 4, "data.evaluation_fraction", "1.5", "less than 1"),
        ("digits", "digits\n  normalize: {mean: [1], std: [0]}", 4, "data.normalize.std.0", "0", "greater than 0"),
        ("  epochs: 1\n", "  epochs: 0\n", 12, "distill.epochs", "0", "1"),
        ("  epochs: 1\n", "  epochs: 1\n  alpha: 2\n", 13, "distill.alpha", "2", "less than or equal to 1"),
        ("  epochs: 1\n", "  epochs: 1\n  temperature: 0\n", 13, "distill.temperature", "0", "greater than 0"),
        ("  epochs: 1\n", "  epochs: 1\n  temperature: .inf\n", 13, "distill.temperature", "inf", "finite"),
        ("width: 2", "width: 5000", 10, "student.width", "5000", "1024"),
        ("width: 4", "width: 0", 6, "teacher.width", "0", "1"),
        ("seed: 0", "gate: {quality: {max_drop: .nan}}", 1, "gate.quality.max_drop", "nan", "finite"),
        ("seed: 0", "gate: {latency: {max_ratio: .nan}}", 1, "gate.latency.max_ratio", "nan", "finite"),
        ("seed: 0", "parity: {int8: {min_psnr_db: .nan}}", 1, "parity.int8.min_psnr_db", "nan", "finite"),
        # missing keys: the line of the section that lacks them
        ("  epochs: 1\n", "  alpha: 0.5\n", 11, "distill.epochs", "nothing", "required"),
        ("digits", "npz", 2, "data.path", "nothing", "required"),
        ("seed: 0", "gate: {quality: {}}", 1, "gate.quality.max_drop", "nothing", "required"),
        ("{epochs: 1}", "{}", 7, "teacher.train.epochs", "nothing", "required"),
        # the wrong branch of a union
        ("  train: {epochs: 1}\n", "", 4, "teacher", "'width': 4", "exactly one of `checkpoint` and `train`"),
        ("width: 4", "checkpoint: a.pt\n  width: 4", 4, "teacher", "'a.pt'", "exactly one of `checkpoint` and `train`"),
        ("convnet", "convnets", 5, "teacher.family", "'convnets'", "'convnet'"),
        ("source: digits", "source: digit", 3, "data.source", "'digit'", "did you mean 'digits'?"),
        ("source: digits", "labels: [a]", 2, "data.source", "nothing", "image_folder"),
        ("family: convnet\n  width: 2", "model: 3", 9, "student.model", "3", "string"),
    ],
)
def test_a_wrong_value_is_told_with_line_key_expected_and_got(
    tmp_path: Path, old: str, new: str, line: int, key: str, got: str, says: str
) -> None:
    path = changed(tmp_path, old, new)
    error = refused(path)
    assert error.where == f"{path}, line {line}, key {key}"
    assert got in error.got
    assert says in f"{error.message}\n{error.expected}"
    assert key in error.fix


@pytest.mark.parametrize("section", ["data", "teacher", "student", "distill"])
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    document = yaml.safe_load(GOOD)
    del document[section]
    error = refused(write(tmp_path, yaml.safe_dump(document)))
    assert error.where == f"{tmp_path / 'recipe.yaml'}, key {section}"
    assert error.got == "nothing"
    assert error.fix == f"add {section}"


@pytest.mark.parametrize("given", ["convnet", "[1]", "~", "3"])
@pytest.mark.parametrize("section", ["data", "teacher", "student", "distill"])
def test_a_section_that_is_no_mapping_is_named(tmp_path: Path, section: str, given: str) -> None:
    document = yaml.safe_load(GOOD)
    document[section] = yaml.safe_load(given)
    error = refused(write(tmp_path, yaml.safe_dump(document)))
    assert error.where.endswith(f", key {section}")
    assert error.got == repr(yaml.safe_load(given))


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    error = refused(write(tmp_path, GOOD + "sed: 1\nthreds: 2\n"))
    assert "1 more" in error.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1\nb: 2\n", 2),
        ("a:\n\tb: 1\n", 2),
        ("a: 1\n---\nb: 2\n", 2),
        ("a: 1\n? [b]\n: 1\n", 2),
        ("a: 'open\n", 2),
        ("a: !!python/object/apply:os.getcwd []\n", 1),
    ],
)
def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    error = refused(write(tmp_path, text))
    assert error.message.startswith("not YAML")
    assert error.where == f"{tmp_path / 'recipe.yaml'}, line {line}"


@pytest.mark.parametrize(
    "text", ["a: \x07", "[" * 5000, GOOD + "quantize: &q {samples: *q}\n"], ids=["control", "deep", "recursive"]
)
def test_yaml_that_cannot_be_read_at_all_is_a_recipe_error(tmp_path: Path, text: str) -> None:
    assert str(tmp_path / "recipe.yaml") in refused(write(tmp_path, text)).where


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    error = refused(write(tmp_path, GOOD + "seed: 7\n"))
    assert error.where == f"{tmp_path / 'recipe.yaml'}, line 13, key seed"
    assert "line 1" in f"{error.message}\n{error.expected}\n{error.got}"


@pytest.mark.parametrize(("text", "got"), [("", "NoneType"), ("- a\n", "list"), ("word\n", "str")])
def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str, got: str) -> None:
    error = refused(write(tmp_path, text))
    assert error.message == "not a mapping of keys to values"
    assert error.got == got


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.yaml")
    assert error.where == str(tmp_path / "none.yaml")
    assert "examples/digits.yaml" in error.fix


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert refused(tmp_path).got == "IsADirectoryError"


def test_bytes_that_are_no_utf8_are_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_bytes(b"name: \xff\xfe\n")
    assert refused(tmp_path / "recipe.yaml").got == "UnicodeDecodeError"


def test_set_overrides_values_adds_sections_and_reads_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    recipe = load_recipe(
        path, ["distill.epochs=40", "gate.size.max_ratio=.1", "data.labels=[a, b]", "seed=3", "seed=4"]
    )
    assert recipe.distill.epochs == 40
    assert recipe.gate.size is not None
    assert recipe.gate.size.max_ratio == 0.1
    assert recipe.data.labels == ["a", "b"]
    assert recipe.seed == 4, "the last one holds"


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", ".=1", "distill.=1", "distill.epochs", ""])
def test_an_override_that_is_no_assignment_is_refused(tmp_path: Path, override: str) -> None:
    error = refused(write(tmp_path, GOOD), override)
    assert error.where == f"--set {override}"
    assert error.expected == "a.b=value"


@pytest.mark.parametrize("override", ["distill.epochs=[1", "distill.epochs=a: b: c"])
def test_an_override_whose_value_is_not_yaml_is_refused(tmp_path: Path, override: str) -> None:
    error = refused(write(tmp_path, GOOD), override)
    assert error.where == f"--set {override}"
    assert error.got == repr(override.partition("=")[2])


def test_an_override_below_a_value_is_refused(tmp_path: Path) -> None:
    assert "'seed' is a value, not a section" in refused(write(tmp_path, GOOD), "seed.a=3").message


@pytest.mark.parametrize(
    ("override", "key", "says"),
    [
        ("distill.temprature=3", "distill.temprature", "did you mean 'temperature'?"),
        ("sed=1", "sed", "did you mean 'seed'?"),
        ("seed=-2", "seed", "0"),
        ("teacher.width=0", "teacher.width", "1"),
        ("distill.epochs=", "distill.epochs", "integer"),
    ],
)
def test_a_mistake_in_an_override_is_told_as_the_overrides_and_not_as_a_line_of_the_file(
    tmp_path: Path, override: str, key: str, says: str
) -> None:
    error = refused(write(tmp_path, GOOD), override)
    assert f"--set {override}" in error.where
    assert "line" not in error.where.replace(str(tmp_path), "")
    assert error.where.endswith(f"key {key}")
    assert says in f"{error.message}\n{error.expected}"


def test_a_policy_is_a_gate_of_its_own(tmp_path: Path) -> None:
    gate = load_policy(write(tmp_path, "quality: {max_drop: 0.02}\nparity: false\n", "policy.yaml"))
    assert gate.quality is not None
    assert gate.quality.max_drop == 0.02
    assert gate.size is None
    assert not gate.parity


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("quality: {max_dorp: 0.02}\n", "quality.max_dorp", "did you mean 'max_drop'?"),
        ("qualty: {}\n", "qualty", "did you mean 'quality'?"),
        ("size: {max_bytes: -1}\n", "size.max_bytes", "0"),
        ("gate: {parity: true}\n", "gate", "parity"),
    ],
)
def test_a_mistake_in_a_policy_is_told_like_one_in_a_recipe(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = write(tmp_path, text, "policy.yaml")
    with pytest.raises(RecipeError) as raised:
        load_policy(path)
    assert raised.value.exit_code == 2
    assert raised.value.where == f"{path}, line 1, key {key}"
    assert says in f"{raised.value.message}\n{raised.value.expected}"


def shuffled(value: Any, draw: st.DrawFn) -> Any:
    """The same document with the keys of every mapping in another order."""
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_digest_is_independent_of_key_order_and_comments(data: st.DataObject) -> None:
    document = yaml.safe_load((ROOT / "examples" / "digits.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(data.draw(st.composite(lambda draw: shuffled(document, draw))()), sort_keys=False)
    comments = data.draw(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126)), max_size=3))
    lines = [*(f"# {comment}" for comment in comments), *(f"{line}  # {len(line)}" for line in text.splitlines())]
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "\n".join(lines), "digits.yaml")
        assert recipe_sha256(load_recipe(path)) == recipe_sha256(load_recipe(ROOT / "examples" / "digits.yaml"))


def test_the_digest_is_independent_of_notation_and_of_spelled_out_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    same = load_recipe(path, ["distill.alpha=9.0e-1", "distill.temperature=2", "gate={}", "student.depth=0x2"])
    assert recipe_sha256(same) == recipe_sha256(load_recipe(path))


@pytest.mark.parametrize(
    "override", ["seed=1", "name=other", "distill.alpha=0.5", "data.labels=[a]", "gate.parity=false", "student.width=3"]
)
def test_the_digest_changes_with_every_value(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, GOOD)
    assert recipe_sha256(load_recipe(path, [override])) != recipe_sha256(load_recipe(path))


def _properties() -> list[tuple[str, dict[str, Any]]]:
    schema = Recipe.model_json_schema()
    sections = {"Recipe": schema, **schema["$defs"]}
    return [(f"{s}.{k}", p) for s, section in sections.items() for k, p in section.get("properties", {}).items()]


@pytest.mark.parametrize(("name", "field"), _properties())
def test_the_json_schema_describes_every_field(name: str, field: dict[str, Any]) -> None:
    assert len(field.get("description", "")) >= 8, name
