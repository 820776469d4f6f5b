"""Every source gives checked samples; splits are stratified, seeded and normalised by the training split."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from edgedistill.data.preparation import apply
from edgedistill.data.samples import Raw, Samples
from edgedistill.data.sources import load_source, source_key
from edgedistill.data.splits import load, prepare, save
from edgedistill.errors import DataError
from edgedistill.recipe.data import DigitsData, ImageFolderData, ImportData, NpzData
from edgedistill.recipe.document import Normalize
from edgedistill.types import Normalization

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.data.sources import DataSection
    from edgedistill.types import Array

RNG = np.random.default_rng(0)
LABELS = np.arange(6) % 2


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the import path is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def npz(folder: Path, *, name: str = "a.npz", settings: dict[str, Any] | None = None, **arrays: Any) -> NpzData:
    np.savez(folder / name, **arrays)
    return NpzData(source="npz", path="a.npz", **(settings or {}))


def refused(source: DataSection, beside: Path) -> DataError:
    """The error that loading and splitting gives; every such error has all its parts and exits with 2."""
    with pytest.raises(DataError) as raised:
        prepare(load_source(source, beside), "auto", 0.5, 0)
    error = raised.value
    assert error.exit_code == 2
    assert all((error.message, error.where, error.expected, error.got, error.fix))
    return error


def picture(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (4, 3)) -> None:
    """A plain image; `size` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def pictures(root: Path, *, per_class: int = 2) -> Path:
    for number in range(per_class):
        picture(root / "cat" / f"{number}.png", (255, 0, 51))
        picture(root / "dog" / f"{number}.png", (0, 102, 255))
    return root


def module(folder: Path, text: str) -> str:
    """A module of a name that no other test uses."""
    name = f"data_of_{folder.name}"
    head = "import torch\nfrom torch.utils.data import TensorDataset\nx, y = torch.rand(8, 3), torch.arange(8) % 2\n"
    (folder / f"{name}.py").write_text(head + text, encoding="utf-8")
    return name


def samples(labels: Array, shape: tuple[int, ...] = (1,)) -> Samples:
    """Samples that carry their own number, so that each can be found again."""
    count = np.arange(len(labels), dtype=np.float32)
    return Samples(np.broadcast_to(count.reshape(-1, *[1] * len(shape)), (len(labels), *shape)), labels, "here")


def test_digits_split_into_898_training_and_899_evaluation_samples() -> None:
    raw = load_source(DigitsData(source="digits"), beside=None)  # type: ignore[arg-type]  # reads no file
    data = prepare(raw, "auto", 0.5, 0)
    assert data.train_inputs.shape == (898, 1, 8, 8)
    assert data.eval_inputs.shape == (899, 1, 8, 8)
    assert data.class_names == tuple("0123456789")
    assert (raw.train.inputs.min(), raw.train.inputs.max()) == (0, 16)
    whole = np.bincount(raw.train.labels)
    assert np.abs(np.bincount(data.eval_labels) - whole / 2).max() <= 1


@pytest.mark.parametrize(
    ("given_shape", "layout", "expected"),
    [
        ((6, 5, 4), "auto", (1, 5, 4)),
        ((6, 5, 4, 3), "NHWC", (3, 5, 4)),
        ((6, 3, 5, 4), "auto", (3, 5, 4)),
        ((6, 7), "auto", (7,)),
        ((6, 5, 4), "as-is", (5, 4)),
        ((6, 5, 4, 3), "as-is", (5, 4, 3)),
    ],
)
def test_npz_arrays_of_every_layout_become_channels_first(
    tmp_path: Path, given_shape: tuple[int, ...], layout: str, expected: tuple[int, ...]
) -> None:
    x = RNG.random(given_shape)
    raw = load_source(npz(tmp_path, x=x, y=LABELS, settings={"layout": layout}), tmp_path)
    assert raw.train.inputs.shape == (6, *expected)
    assert raw.train.inputs.dtype == np.float32
    turned = np.moveaxis(x, -1, 1) if layout == "NHWC" else x
    np.testing.assert_array_equal(raw.train.inputs.ravel(), turned.astype(np.float32).ravel())


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool", "float16"])
def test_npz_arrays_of_every_number_type_become_floats(tmp_path: Path, dtype: str) -> None:
    raw = load_source(npz(tmp_path, x=np.eye(6).astype(dtype), y=LABELS), tmp_path)
    np.testing.assert_array_equal(raw.train.inputs, np.eye(6, dtype=np.float32))


def test_a_column_of_labels_and_whole_float_labels_are_class_numbers(tmp_path: Path) -> None:
    raw = load_source(npz(tmp_path, x=np.eye(6), y=LABELS[:, None].astype(float)), tmp_path)
    data = prepare(raw, "none", 0.5, 0)
    assert data.train_labels.dtype == np.int64
    assert sorted([*data.train_labels, *data.eval_labels]) == [0, 0, 0, 1, 1, 1]


def test_a_second_npz_is_the_evaluation_split(tmp_path: Path) -> None:
    npz(tmp_path, name="b.npz", images=np.ones((4, 3)), classes=LABELS[:4])
    settings = {"evaluation_path": "b.npz", "inputs": "images", "labels_key": "classes", "labels": ["no", "yes"]}
    source = npz(tmp_path, images=np.zeros((6, 3)), classes=LABELS, settings=settings)
    data = prepare(load_source(source, tmp_path), "none", 0.5, 0)
    assert (len(data.train_labels), len(data.eval_labels)) == (6, 4)
    assert (data.train_inputs.max(), data.eval_inputs.min()) == (0, 1)
    assert data.class_names == ("no", "yes")
    assert data.classes == 2
    assert data.sample_shape == (3,)


def test_an_image_folder_gives_channels_first_colours_from_0_to_1(tmp_path: Path) -> None:
    pictures(tmp_path)
    raw = load_source(ImageFolderData(source="image_folder", path="."), tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert raw.train.inputs.shape == (4, 3, 3, 4)
    np.testing.assert_allclose(raw.train.inputs[0, :, 0, 0], [1.0, 0.0, 0.2], rtol=1e-6)
    np.testing.assert_allclose(raw.train.inputs[3, :, 2, 3], [0.0, 0.4, 1.0], rtol=1e-6)
    assert raw.train.labels.tolist() == [0, 0, 1, 1]
    assert raw.evaluation is None


def test_grey_images_have_one_channel_and_size_resizes_to_height_width(tmp_path: Path) -> None:
    pictures(tmp_path)
    picture(tmp_path / "cat" / "large.png", (255, 255, 255), size=(40, 30))
    source = ImageFolderData(source="image_folder", path=".", mode="L", size=(5, 7))
    raw = load_source(source, tmp_path)
    assert raw.train.inputs.shape == (5, 1, 5, 7)
    assert raw.train.inputs[2].min() == 1.0, "white stays white"


@pytest.mark.parametrize("evaluation", ["val", "test", "eval", "Validation"])
def test_train_and_val_folders_are_the_two_splits(tmp_path: Path, evaluation: str) -> None:
    pictures(tmp_path / "train", per_class=3)
    pictures(tmp_path / evaluation, per_class=1)
    raw = load_source(ImageFolderData(source="image_folder", path="."), tmp_path)
    assert raw.class_names == ("cat", "dog")
    assert len(raw.train.labels) == 6
    assert raw.evaluation is not None
    assert raw.evaluation.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("body", "sizes"),
    [
        ("return TensorDataset(x, y)", (8, None)),
        ("return TensorDataset(x, y), TensorDataset(x[:4], y[:4])", (8, 4)),
        ("return TensorDataset(x[:n], y[:n])", (6, None)),
    ],
)
def test_an_imported_function_returns_a_dataset_or_a_pair(
    tmp_path: Path, body: str, sizes: tuple[int, int | None]
) -> None:
    name = module(tmp_path, f"def make(n=0):\n    {body}\n")
    raw = load_source(ImportData(source="import", function=f"{name}:make", arguments={"n": 6}), tmp_path)
    assert raw.train.inputs.shape == (sizes[0], 3)
    assert raw.train.labels.tolist()[:4] == [0, 1, 0, 1]
    assert (None if raw.evaluation is None else len(raw.evaluation.labels)) == sizes[1]


X = np.eye(6, 8)
NAN, INF = (np.where(np.arange(48).reshape(6, 8) == 20, bad, X) for bad in (np.nan, np.inf))


@pytest.mark.parametrize(
    ("arrays", "settings", "says"),
    [
        ({"x": NAN, "y": LABELS}, {}, "sample 2"),
        ({"x": INF, "y": LABELS}, {}, "1 samples hold NaN or infinite values"),
        ({"x": X * 1e300, "y": LABELS}, {}, "6 samples hold NaN or infinite values"),
        ({"x": X, "y": LABELS + 1}, {"labels": ["a", "b"]}, "0 to 1, the 2 classes"),
        ({"x": X, "y": LABELS - 1}, {}, "label -1"),
        ({"x": X, "y": LABELS + 0.5}, {}, "labels are not class numbers"),
        ({"x": X, "y": np.where(LABELS, np.nan, 0)}, {}, "labels are not class numbers"),
        ({"x": X, "y": np.where(LABELS, np.inf, 0)}, {}, "labels are not class numbers"),
        ({"x": X, "y": np.array(["cat", "dog"] * 3)}, {}, "labels are not class numbers"),
        ({"x": X, "y": LABELS * 0}, {}, "class"),
        ({"x": X, "y": LABELS[:5]}, {}, "labels of shape (5,)"),
        ({"x": X, "y": np.eye(6)}, {}, "labels of shape (6, 6)"),
        ({"x": X[:0], "y": LABELS[:0]}, {}, "samples and labels do not match"),
        ({"x": X[:, :0], "y": LABELS}, {}, "shape (6, 0)"),
        ({"x": np.array(["a"] * 6), "y": LABELS}, {}, "samples are not numbers"),
        ({"x": np.arange(6), "y": LABELS}, {}, "shape (6,)"),
        ({"x": np.ones((6, 5, 4)), "y": LABELS}, {"layout": "NHWC"}, "(N, H, W, C)"),
        ({"x": np.ones((6, 5, 4, 3)), "y": LABELS}, {}, "layout: NHWC"),
        ({"image": X, "label": LABELS}, {"inputs": "images"}, "did you mean 'image'?"),
        ({"x": X, "labels": LABELS}, {"labels_key": "label"}, "did you mean 'labels'?"),
        ({"x": X, "y": np.array([0, 0, 0, 1, 1, 2])}, {}, "class 2 has a single sample"),
        ({"x": X, "y": LABELS}, {"evaluation_path": "none.npz"}, "none.npz"),
        ({"x": np.array([{}] * 6), "y": LABELS}, {}, "no pickled objects"),
    ],
)
def test_wrong_arrays_are_told(tmp_path: Path, arrays: dict[str, Any], settings: dict[str, Any], says: str) -> None:
    error = refused(npz(tmp_path, settings=settings, **arrays), tmp_path)
    assert says in str(error)
    assert ".npz" in error.where


def test_fewer_samples_than_classes_for_evaluation_are_told(tmp_path: Path) -> None:
    raw = load_source(npz(tmp_path, x=X, y=np.arange(6) // 2), tmp_path)
    with pytest.raises(DataError, match="cannot be split by class"):
        prepare(raw, "auto", 0.1, 0)


def test_a_class_that_would_be_missing_in_the_evaluation_split_is_told() -> None:
    labels = np.repeat([0, 1], [100, 2])
    with pytest.raises(DataError, match="class 1") as raised:
        prepare(Raw(samples(labels), None, None, ""), "auto", 0.2, 0)
    assert "both splits" in f"{raised.value.message} {raised.value.expected}"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_a_file_that_is_no_npz_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    assert "an .npz file" in refused(NpzData(source="npz", path="a.npz"), tmp_path).expected


def test_a_truncated_npz_is_told(tmp_path: Path) -> None:
    source = npz(tmp_path, x=X, y=LABELS)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-100])
    assert "cannot be read" in refused(source, tmp_path).message


def test_an_npz_with_a_flipped_byte_is_told(tmp_path: Path) -> None:
    source = npz(tmp_path, x=X, y=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    assert "cannot be read" in refused(source, tmp_path).message


def test_a_single_npy_array_under_the_name_npz_is_told(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as stream:
        np.save(stream, X)
    assert "an .npz file" in refused(NpzData(source="npz", path="a.npz"), tmp_path).expected


@pytest.mark.parametrize(
    "source",
    [
        NpzData(source="npz", path="none"),
        ImageFolderData(source="image_folder", path="none"),
        ImportData(source="import", function="a:b", depends=["none"]),
    ],
)
def test_a_missing_file_or_folder_is_told_by_the_key_of_the_source(source: DataSection, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        source_key(source, tmp_path)
    assert str(tmp_path / "none") in raised.value.where
    assert raised.value.exit_code == 2


def test_a_folder_in_place_of_an_npz_is_told_by_the_key_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(DataError, match=r"a\.npz"):
        source_key(NpzData(source="npz", path="a.npz"), tmp_path)


def test_an_evaluation_split_of_another_shape_is_told(tmp_path: Path) -> None:
    npz(tmp_path, name="b.npz", x=np.ones((6, 9)), y=LABELS)
    error = refused(npz(tmp_path, x=X, y=LABELS, settings={"evaluation_path": "b.npz"}), tmp_path)
    assert "(8,)" in error.expected
    assert error.got == "(9,)"
    assert error.where.endswith("b.npz")


FOLDER = ImageFolderData(source="image_folder", path=".")


def test_an_empty_class_folder_is_told(tmp_path: Path) -> None:
    (pictures(tmp_path) / "bird").mkdir()
    error = refused(FOLDER, tmp_path)
    assert error.where == str(tmp_path / "bird")
    assert error.got == "an empty folder"


def test_a_class_folder_missing_in_the_evaluation_split_is_told(tmp_path: Path) -> None:
    pictures(tmp_path / "train")
    picture(tmp_path / "val" / "cat" / "0.png", (0, 0, 0))
    error = refused(FOLDER, tmp_path)
    assert error.where == str(tmp_path / "val" / "dog")
    assert error.got == "no such folder"


def test_a_single_class_folder_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "0.png", (0, 0, 0))
    assert "['cat']" in refused(FOLDER, tmp_path).got


def test_a_file_in_place_of_the_image_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    assert "is not a folder" in refused(ImageFolderData(source="image_folder", path="a.npz"), tmp_path).message


def test_images_of_different_size_are_told_with_the_way_out(tmp_path: Path) -> None:
    picture(pictures(tmp_path) / "dog" / "9.png", (0, 0, 0), size=(6, 5))
    error = refused(FOLDER, tmp_path)
    assert error.where == str(tmp_path / "dog" / "9.png")
    assert (error.got, error.expected[:5]) == ("5 x 6", "3 x 4")
    assert "data.size" in error.fix


@pytest.mark.parametrize("keep", [0, 10, 45])
def test_an_unreadable_image_is_told(tmp_path: Path, keep: int) -> None:
    whole = pictures(tmp_path) / "cat" / "0.png"
    (tmp_path / "dog" / "9.png").write_bytes(whole.read_bytes()[:keep])
    assert refused(FOLDER, tmp_path).where == str(tmp_path / "dog" / "9.png")


@pytest.mark.parametrize(
    "body",
    [
        "return None",
        "return TensorDataset(x[:0], y[:0])",
        "return TensorDataset(x, y), TensorDataset(x, y), TensorDataset(x, y)",
        "return TensorDataset(x)",
        "return TensorDataset(x[:, 0], y)",
        "return TensorDataset(x, y + 0.7)",
        "return TensorDataset(x, y * 0)",
        "return [(x[0], 'cat'), (x[0], 'dog')]",
        "return [(x[0], 0), (x[0, :2], 1)]",
        "return TensorDataset(x * float('nan'), y)",
        "return TensorDataset(x, y - 1)",
    ],
)
def test_an_imported_dataset_of_the_wrong_kind_is_told(tmp_path: Path, body: str) -> None:
    name = module(tmp_path, f"def make():\n    {body}\n")
    error = refused(ImportData(source="import", function=f"{name}:make"), tmp_path)
    assert f"{name}:make" in error.where


@pytest.mark.parametrize("raised", ["RuntimeError('boom')", "KeyError('boom')", "OSError('boom')"])
def test_a_dataset_that_raises_is_told(tmp_path: Path, raised: str) -> None:
    name = module(tmp_path, "class D:\n    def __len__(self): return 3\n    def __getitem__(self, i): raise R\n")
    (tmp_path / f"{name}.py").write_text((tmp_path / f"{name}.py").read_text().replace("raise R", f"raise {raised}"))
    error = refused(ImportData(source="import", function=f"{name}:D"), tmp_path)
    assert "boom" in error.got


def test_a_dataset_whose_samples_require_gradients_is_read(tmp_path: Path) -> None:
    name = module(tmp_path, "def make(): return TensorDataset(x.clone().requires_grad_(), y)\n")
    raw = load_source(ImportData(source="import", function=f"{name}:make"), tmp_path)
    assert raw.train.inputs.shape == (8, 3)


counts = st.lists(st.integers(2, 12), min_size=2, max_size=5)


@settings(deadline=None)
@given(counts=counts, fraction=st.floats(0.3, 0.7), seed=st.integers(0, 2**32 - 1))
def test_the_split_is_complete_disjoint_and_stratified(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    try:
        data = prepare(Raw(samples(labels), None, None, ""), "none", fraction, seed)
    except DataError:
        assert min(counts) * min(fraction, 1 - fraction) < 2, "refused although every class could stand in both"
        return
    train, evaluation = data.train_inputs[:, 0].astype(int), data.eval_inputs[:, 0].astype(int)
    assert sorted([*train, *evaluation]) == list(range(len(labels)))
    np.testing.assert_array_equal(data.train_labels, labels[train])
    np.testing.assert_array_equal(data.eval_labels, labels[evaluation])
    in_evaluation = np.bincount(data.eval_labels, minlength=len(counts))
    assert np.abs(in_evaluation - np.array(counts) * fraction).max() < 2
    assert min(in_evaluation) > 0
    assert min(np.array(counts) - in_evaluation) > 0


def test_the_seed_decides_the_split() -> None:
    raw = Raw(samples(np.arange(60) % 3), None, None, "")
    first, again, other = (prepare(raw, "none", 0.5, seed).train_inputs for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_evaluation_fraction_is_kept() -> None:
    data = prepare(Raw(samples(np.arange(100) % 2), None, None, ""), "none", 0.2, 0)
    assert (len(data.train_labels), len(data.eval_labels)) == (80, 20)


@settings(deadline=None)
@given(npst.arrays(np.float32, (8, 2, 3), elements=st.integers(-800, 800).map(lambda eighths: eighths / 8)))
def test_normalisation_is_that_of_the_training_split_and_inverts_to_raw(inputs: Array) -> None:
    labels = np.arange(8) % 2
    evaluation = Samples(inputs * 3 + 7, labels, "there")
    data = prepare(Raw(Samples(inputs, labels, "here"), evaluation, None, "unit"), "auto", 0.5, 0)
    norm = data.normalization
    exact = inputs.astype(np.float64)
    np.testing.assert_allclose(norm.mean, exact.mean(axis=(0, 2)), atol=1e-9)
    std = exact.std(axis=(0, 2))
    np.testing.assert_allclose(norm.std, np.where(std == 0, 1.0, std), rtol=1e-9)
    shape = (1, 2, 1)
    for model_ready, raw in ((data.train_inputs, inputs), (data.eval_inputs, evaluation.inputs)):
        assert model_ready.dtype == np.float32
        back = model_ready.astype(np.float64) * np.reshape(norm.std, shape) + np.reshape(norm.mean, shape)
        np.testing.assert_allclose(back, raw, atol=1e-3)
    assert norm.raw == "unit"


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    x = np.stack([np.full((6, 5), 0.1), RNG.random((6, 5))], axis=1)
    data = prepare(load_source(npz(tmp_path, x=x, y=LABELS, settings={"layout": "as-is"}), tmp_path), "auto", 0.5, 0)
    assert data.normalization.std[0] == 1.0
    assert not data.train_inputs[:, 0].any()
    assert np.isfinite(data.eval_inputs).all()


@pytest.mark.parametrize(("mean", "std"), [([1.0], [2.0]), ([1.0, 2.0], [4.0, 8.0])])
def test_fixed_normalisation_is_applied_as_given(mean: list[float], std: list[float]) -> None:
    raw = Raw(samples(np.arange(6) % 2, (2, 3)), None, None, "unit")
    data = prepare(raw, Normalize(mean=mean, std=std), 0.5, 0)
    assert (data.normalization.mean, data.normalization.std) == (tuple(mean), tuple(std))
    number = prepare(raw, "none", 0.5, 0).train_inputs
    np.testing.assert_array_equal(data.train_inputs[:, -1], (number[:, -1] - mean[-1]) / std[-1])


def test_fixed_normalisation_of_other_channels_is_told() -> None:
    with pytest.raises(DataError) as raised:
        prepare(Raw(samples(LABELS, (2, 3)), None, None, ""), Normalize(mean=[0] * 3, std=[1] * 3), 0.5, 0)
    assert raised.value.expected == "1 value or 2, one per channel"


def test_no_normalisation_leaves_the_samples_alone() -> None:
    raw = RNG.random((3, 2, 4)).astype(np.float32)
    np.testing.assert_array_equal(apply(Normalization((0.0,), (1.0,)), raw), raw)


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    raw = Raw(samples(np.arange(20) % 2, (1, 2, 2)), None, ("nö", "yes"), "pixel")
    data = prepare(raw, "auto", 0.5, 0)
    save(data, tmp_path)
    again = load(tmp_path)
    for name in ("train_inputs", "train_labels", "eval_inputs", "eval_labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
        assert getattr(again, name).dtype == getattr(data, name).dtype
    assert (again.class_names, again.normalization) == (data.class_names, data.normalization)


def _every_source(folder: Path) -> list[tuple[DataSection, Path]]:
    """Each source that reads files, with one file that it depends on."""
    npz(folder, name="b.npz", x=X, y=LABELS)
    pictures(folder / "images")
    (folder / "table.csv").write_text("1", encoding="utf-8")
    name = module(folder, "def make(): return TensorDataset(x, y)\n")
    imported = ImportData(source="import", function=f"{name}:make", depends=["table.csv"])
    return [
        (npz(folder, x=X, y=LABELS), folder / "a.npz"),
        (npz(folder, x=X, y=LABELS, settings={"evaluation_path": "b.npz"}), folder / "b.npz"),
        (ImageFolderData(source="image_folder", path="images"), folder / "images" / "cat" / "0.png"),
        (imported, folder / "table.csv"),
        (imported, folder / f"{name}.py"),
    ]


@pytest.mark.parametrize("which", range(5))
def test_the_key_of_a_source_changes_with_the_content_of_its_files_and_only_then(tmp_path: Path, which: int) -> None:
    source, file = _every_source(tmp_path)[which]
    before = source_key(source, tmp_path)
    (tmp_path / "unrelated.txt").write_text("x", encoding="utf-8")
    assert source_key(source, tmp_path) == before
    file.write_bytes(file.read_bytes() + b"\n")
    assert source_key(source, tmp_path) != before


@pytest.mark.parametrize("change", ["add", "remove", "rename", "same size"])
def test_the_key_of_an_image_folder_sees_every_change_of_its_files(tmp_path: Path, change: str) -> None:
    file = pictures(tmp_path) / "cat" / "0.png"
    before = source_key(FOLDER, tmp_path)
    match change:
        case "add":
            picture(tmp_path / "cat" / "new.png", (0, 0, 0))
        case "remove":
            file.unlink()
        case "rename":
            file.rename(tmp_path / "dog" / "moved.png")
        case _:
            stat = file.stat()
            file.write_bytes(bytes(reversed(file.read_bytes())))
            os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert source_key(FOLDER, tmp_path) != before


def test_the_key_of_a_source_changes_with_its_settings() -> None:
    one, other = (source_key(DigitsData(source="digits", evaluation_fraction=f), None) for f in (0.5, 0.4))  # type: ignore[arg-type]  # reads no file
    assert one != other
