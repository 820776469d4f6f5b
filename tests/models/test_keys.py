"""Models are built as the recipe says, refused with a reason, and known by their code and weights."""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgedistill.data.splits import Data
from edgedistill.errors import ModelError
from edgedistill.models.facts import ModelFacts, facts, save_facts
from edgedistill.models.key import model_key
from edgedistill.models.weights import load_checkpoint, save_weights
from edgedistill.recipe.document import ConvnetModel, ImportedModel
from edgedistill.students.build import build
from edgedistill.students.convnet import ConvNet
from edgedistill.tasks.classification import signature
from edgedistill.types import Normalization
from edgedistill.user_code import source_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE, CLASSES = (3, 9, 7), 5
GOOD = """\
from torch import nn
def student(wide=4, classes=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 7, wide), nn.ReLU(), nn.Linear(wide, classes))
"""


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the import path is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def module(folder: Path, text: str = GOOD) -> str:
    """A module of a name that no other test uses."""
    name = f"models_of_{folder.name}"
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return name


def own(folder: Path, text: str = GOOD, name: str = "student", **settings: Any) -> ImportedModel:
    return ImportedModel(model=f"{module(folder, text)}:{name}", **settings)


def refused(spec: ConvnetModel | ImportedModel, beside: Path, sample: tuple[int, ...] = IMAGE) -> ModelError:
    """The error that building gives; every such error has all its parts and exits with 2."""
    with pytest.raises(ModelError) as raised:
        build(spec, sample, CLASSES, beside, seed=0)
    return complete(raised.value)


def complete(error: ModelError) -> ModelError:
    assert error.exit_code == 2
    assert all((error.message, error.where, error.expected, error.got, error.fix))
    return error


def unloadable(path: Path) -> ModelError:
    net = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ModelError) as raised:
        load_checkpoint(net, path)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), "a refused checkpoint changed the model"
    assert raised.value.where == str(path)
    return complete(raised.value)


def save_torch(state: Any, path: Path) -> None:
    torch.save(state, path)


def save_safe(state: Any, path: Path) -> None:
    save_file(state, path)


SAVERS = pytest.mark.parametrize(("save", "name"), [(save_torch, "w.pt"), (save_safe, "w.safetensors")])


def widths(width: int, depth: int) -> list[tuple[int, int]]:
    """(channels in, channels out) of every convolution."""
    out = [width * 2**block for block in range(depth)]
    return list(zip([IMAGE[0], *out], out, strict=False))


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (4, 2), (39, 3), (3, 4)])
def test_a_convnet_has_the_parameters_and_macs_of_its_closed_form(tmp_path: Path, width: int, depth: int) -> None:
    net = build(ConvnetModel(family="convnet", width=width, depth=depth), IMAGE, CLASSES, tmp_path, seed=0)
    last = width * 2 ** (depth - 1)
    parameters = sum(9 * i * o + 2 * o for i, o in widths(width, depth)) + last * CLASSES + CLASSES
    pixels = [-(-IMAGE[1] // 2**block) * -(-IMAGE[2] // 2**block) for block in range(depth)]
    macs = sum(9 * i * o * area for (i, o), area in zip(widths(width, depth), pixels, strict=True)) + last * CLASSES
    assert facts(net, IMAGE) == ModelFacts(parameters, macs)
    assert not net.training


def test_the_example_teacher_and_student_have_the_sizes_that_the_recipe_states() -> None:
    teacher, student = ConvNet(1, 10, width=39, depth=3), ConvNet(1, 10, width=4, depth=2)
    assert round(facts(teacher, (1, 8, 8)).parameters / 1000) == 139
    assert facts(student, (1, 8, 8)).parameters == 438


def test_facts_are_written_as_json(tmp_path: Path) -> None:
    save_facts(ModelFacts(438, 9000), tmp_path / "facts.json")
    assert (tmp_path / "facts.json").read_text(encoding="utf-8") == '{"parameters": 438, "macs": 9000}'


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for spec in (ConvnetModel(family="convnet", width=4), own(tmp_path)):
        first, again, other = (build(spec, IMAGE, CLASSES, tmp_path, seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_own_model_is_built_by_import_path_with_arguments(tmp_path: Path) -> None:
    net = build(own(tmp_path, arguments={"wide": 6}), IMAGE, CLASSES, tmp_path, seed=0)
    assert facts(net, IMAGE) == ModelFacts(189 * 6 + 6 + 6 * 5 + 5, 189 * 6 + 6 * 5)


def test_an_own_model_may_be_a_class_in_a_package(tmp_path: Path) -> None:
    package = tmp_path / f"package_of_{tmp_path.name}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("from torch.nn import Flatten\n", encoding="utf-8")
    text = "from .base import Flatten\nfrom torch import nn\nclass Net(nn.Sequential):\n"
    text += "    def __init__(self): super().__init__(Flatten(), nn.Linear(189, 5))\n"
    (package / "nets.py").write_text(text, encoding="utf-8")
    net = build(ImportedModel(model=f"{package.name}.nets:Net"), IMAGE, CLASSES, tmp_path, seed=0)
    assert type(net).__name__ == "Net"


def test_the_convnet_family_refuses_what_is_no_image(tmp_path: Path) -> None:
    error = refused(ConvnetModel(family="convnet", width=4), tmp_path, sample=(7,))
    assert error.got == "samples of shape (7,)"
    assert "model: my_models:student" in error.fix


@pytest.mark.parametrize("reference", ["no_colon", ":student", "module:", ""])
def test_an_import_path_without_module_or_name_is_refused(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ModelError) as raised:
        build(ImportedModel(model=reference), IMAGE, CLASSES, tmp_path, seed=0)
    assert raised.value.exit_code == 2
    assert raised.value.expected == "package.module:function"


@pytest.mark.parametrize("reference", ["no_such_module_here:f", ".relative:f", "..:f", "torch.none:f", " :f"])
def test_a_module_that_does_not_exist_is_refused(tmp_path: Path, reference: str) -> None:
    error = refused(ImportedModel(model=reference), tmp_path)
    assert error.where == reference
    assert reference.partition(":")[0] in error.message


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("def student(:\n", "SyntaxError"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import no_such_module_here\n", "no_such_module_here"),
        ("from torch import no_such_name\n", "no_such_name"),
        ("raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(tmp_path: Path, text: str, got: str) -> None:
    assert got in refused(own(tmp_path, text), tmp_path).got


def test_a_missing_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    error = refused(own(tmp_path, name="studnet"), tmp_path)
    assert "did you mean 'student'?" in error.expected
    assert error.got == "'studnet'"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("def student(): raise KeyError('boom')\n", "KeyError: 'boom'"),
        ("def student(needed): return needed\n", "TypeError"),
        ("student = 3\n", "TypeError: 'int' object is not callable"),
        ("def student(): raise SystemExit(0)\n", "SystemExit"),
    ],
)
def test_a_call_that_raises_is_refused(tmp_path: Path, text: str, got: str) -> None:
    assert got in refused(own(tmp_path, text), tmp_path).got


@pytest.mark.parametrize(
    ("returns", "got"),
    [
        ("None", "NoneType"),
        ("nn.Linear", "type"),
        ("nn.Sequential(nn.Flatten(), nn.Linear(189, 4))", "(batch, 4)"),
        ("nn.Conv2d(3, 5, 1)", "(batch, 5, 9, 7)"),
        ("nn.Linear(7, 5)", "(batch, 3, 9, 5)"),
        ("nn.Linear(8, 5)", "RuntimeError"),
        ("nn.Flatten(0)", "(batch, )"),
        ("T()", "tuple"),
        ("nn.Module()", "NotImplementedError"),
    ],
)
def test_a_model_that_gives_no_logits_is_refused(tmp_path: Path, returns: str, got: str) -> None:
    pair = "class T(nn.Module):\n    def forward(self, x): return x, x\n"
    text = f"from torch import nn\n{pair}student = lambda: {returns}\n"
    assert refused(own(tmp_path, text), tmp_path).got.startswith(got)


@SAVERS
def test_a_checkpoint_is_loaded(tmp_path: Path, save: Callable[[Any, Path], None], name: str) -> None:
    weights = build(own(tmp_path), IMAGE, CLASSES, tmp_path, seed=7).state_dict()
    save(weights, tmp_path / name)
    built = build(own(tmp_path, checkpoint=name), IMAGE, CLASSES, tmp_path, seed=0).state_dict()
    assert all(torch.equal(built[key], weights[key]) for key in weights)


def test_a_state_dict_wrapped_by_a_training_framework_is_loaded(tmp_path: Path) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "w.ckpt")
    load_checkpoint(target, tmp_path / "w.ckpt")
    assert torch.equal(target.weight, source.weight)


def test_saved_weights_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    source, target = ConvNet(3, 5, width=4, depth=2), ConvNet(3, 5, width=4, depth=2)
    source(torch.randn(8, *IMAGE))  # moves batch norm's statistics
    save_weights(source, tmp_path / "w.safetensors")
    load_checkpoint(target, tmp_path / "w.safetensors")
    for name, tensor in source.state_dict().items():
        assert target.state_dict()[name].numpy().tobytes() == tensor.numpy().tobytes()


def test_weights_that_share_memory_are_saved_and_loaded(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    save_weights(nn.Sequential(first, second), tmp_path / "w.safetensors")
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    load_checkpoint(nn.Sequential(one, two), tmp_path / "w.safetensors")
    assert torch.equal(one.weight, first.weight)
    assert torch.equal(two.weight, first.weight)
    assert torch.equal(two.bias, second.bias)


@SAVERS
@pytest.mark.parametrize(
    ("state", "got"),
    [
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, "weight: the model has (2, 3), the file (2, 4)"),
        ({"weight": torch.zeros(2, 3)}, "bias: missing in the file"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "b2": torch.zeros(1)}, "b2: unknown to the model"),
        ({f"layer{n}": torch.zeros(1) for n in range(9)}, "and 7 more"),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(
    tmp_path: Path, save: Callable[[Any, Path], None], name: str, state: dict[str, torch.Tensor], got: str
) -> None:
    save(state, tmp_path / name)
    error = unloadable(tmp_path / name)
    assert error.message == "the checkpoint is of another architecture"
    assert got in error.got


@pytest.mark.parametrize(
    "state",
    [[1], {"epoch": 3}, torch.zeros(3), None, {"weight": torch.zeros(2, 3).to_sparse(), "bias": torch.zeros(2)}],
    ids=["list", "numbers", "tensor", "none", "sparse"],
)
def test_a_torch_file_that_holds_no_state_dict_is_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "w.pt")
    assert "state" in unloadable(tmp_path / "w.pt").fix


class Evil:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return (open, (str(self.target), "w"))


def raw_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("save", [save_torch, raw_pickle])
def test_a_pickle_with_objects_is_refused_and_its_code_never_runs(
    tmp_path: Path, save: Callable[[Any, Path], None]
) -> None:
    marker, path = tmp_path / "ran", tmp_path / "w.pt"
    save({"weight": Evil(marker), "bias": torch.zeros(2)}, path)
    error = unloadable(path)
    assert "plain tensors" in error.expected
    assert not marker.exists()
    if save is save_torch:
        torch.load(path, weights_only=False)  # the proof that this file is armed
    else:
        pickle.loads(path.read_bytes())  # noqa: S301 - the same
    assert marker.exists()


def test_a_whole_pickled_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "w.pt")
    assert "state_dict()" in unloadable(tmp_path / "w.pt").fix


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"abc", b"hello world\n", b"\x80\x02X\x1b", b"PK\x03\x04cut", b"X\x1b\x86\xd3", bytes(100)]
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "cannot be read as a checkpoint" in unloadable(tmp_path / name).message


@SAVERS
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_a_truncated_checkpoint_is_refused(
    tmp_path: Path, save: Callable[[Any, Path], None], name: str, keep: float
) -> None:
    save(nn.Linear(3, 2).state_dict(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    assert "cannot be read as a checkpoint" in unloadable(tmp_path / name).message


@pytest.mark.parametrize("checkpoint", ["none.safetensors", "folder"])
def test_a_missing_checkpoint_is_refused_before_and_while_building(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "folder").mkdir()
    spec = own(tmp_path, checkpoint=checkpoint)
    assert str(tmp_path / checkpoint) in refused(spec, tmp_path).where
    with pytest.raises(ModelError, match="there is no checkpoint"):
        model_key(spec, tmp_path)


def project(folder: Path) -> ImportedModel:
    """A model in a package that imports its siblings in every way, and files that have nothing to do with it."""
    files = {
        "pack/__init__.py": "",
        "pack/model.py": "import helper\nfrom . import near\nfrom .deep.down import f\nfrom other import g\n",
        "pack/near.py": "",
        "pack/deep/__init__.py": "",
        "pack/deep/down.py": "from ..uncle import f\n",
        "pack/uncle.py": "f = 1\n",
        "pack/unrelated.py": "",
        "helper.py": "def late():\n    import lazy\n",
        "lazy.py": "",
        "other.py": "g = 1\n",
        "unrelated.py": "",
        "notes.txt": "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return ImportedModel(model="pack.model:build", arguments={"a": 1})


@pytest.mark.parametrize(
    "file",
    [
        "pack/model.py",
        "pack/__init__.py",
        "pack/near.py",
        "pack/deep/__init__.py",
        "pack/deep/down.py",
        "pack/uncle.py",
        "helper.py",
        "lazy.py",
        "other.py",
    ],
)
def test_the_key_of_a_model_changes_with_its_module_and_all_that_it_imports(tmp_path: Path, file: str) -> None:
    spec = project(tmp_path)
    before = model_key(spec, tmp_path)
    (tmp_path / file).write_text((tmp_path / file).read_text() + "# changed\n", encoding="utf-8")
    assert model_key(spec, tmp_path) != before


@pytest.mark.parametrize("file", ["unrelated.py", "pack/unrelated.py", "notes.txt", "new.py"])
def test_the_key_of_a_model_does_not_change_with_an_unrelated_file(tmp_path: Path, file: str) -> None:
    spec = project(tmp_path)
    before = model_key(spec, tmp_path)
    (tmp_path / file).write_text("changed = 1\n", encoding="utf-8")
    assert model_key(spec, tmp_path) == before


def test_the_key_of_a_model_is_the_same_in_another_folder(tmp_path: Path) -> None:
    one, two = project(tmp_path / "one"), project(tmp_path / "two")
    assert model_key(one, tmp_path / "one") == model_key(two, tmp_path / "two")


def test_the_key_of_a_model_changes_with_arguments_and_with_the_bytes_of_its_checkpoint(tmp_path: Path) -> None:
    spec = project(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"one")
    loaded = spec.model_copy(update={"checkpoint": "w.pt"})
    keys = [model_key(spec, tmp_path), model_key(spec.model_copy(update={"arguments": {"a": 2}}), tmp_path)]
    keys.append(model_key(loaded, tmp_path))
    (tmp_path / "w.pt").write_bytes(b"two")
    keys.append(model_key(loaded, tmp_path))
    assert all(keys.count(key) == 1 for key in keys)


def test_the_key_of_a_model_does_not_change_with_the_name_of_its_checkpoint(tmp_path: Path) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"same")
    specs = [ConvnetModel(family="convnet", width=2, checkpoint=name) for name in ("a.pt", "b.pt")]
    assert model_key(specs[0], tmp_path) == model_key(specs[1], tmp_path)


def test_the_digest_of_an_installed_package_is_its_version(tmp_path: Path) -> None:
    assert source_digest("torch.nn:Linear", tmp_path) == f"torch=={torch.__version__}"


def test_the_digest_is_taken_of_a_module_with_a_syntax_error_without_importing_it(tmp_path: Path) -> None:
    reference = f"{module(tmp_path, 'def f(:')}:f"
    assert len(source_digest(reference, tmp_path)) == 64
    assert reference.partition(":")[0] not in sys.modules


@pytest.mark.parametrize(
    ("sample", "name", "layout"), [((3, 9, 7), "image", "NCHW"), ((12,), "input", ""), ((4, 12), "input", "")]
)
def test_the_signature_names_shapes_layout_normalisation_and_labels(
    sample: tuple[int, ...], name: str, layout: str
) -> None:
    inputs, labels = torch.zeros(2, *sample).numpy(), torch.zeros(2, dtype=torch.int64).numpy()
    norm = Normalization((1.0,), (2.0,), "pixel")
    found = signature(Data(inputs, labels, inputs, labels, ("a", "b", "c"), norm))
    (tensor,) = found.inputs
    assert (tensor.name, tensor.shape, tensor.dtype, tensor.layout) == (name, ("batch", *sample), "float32", layout)
    assert found.outputs[0].shape == ("batch", 3)
    assert (found.normalization, found.labels) == (norm, ("a", "b", "c"))
