"""Samples on disk behave as arrays do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.data.on_disk import of_mapped, open_npz, save_npz, some

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array


@pytest.fixture(scope="module")
def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {"image": rng.standard_normal((130, 2, 3)).astype(np.float32), "ids": rng.integers(0, 9, (130, 4))}


@pytest.fixture(scope="module", params=["stored", "compressed", "ours"])
def opened(
    request: pytest.FixtureRequest, arrays: dict[str, Array], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Array]:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    writers: dict[str, Any] = {"stored": np.savez, "compressed": np.savez_compressed}
    if request.param == "ours":
        save_npz(path, arrays)
    else:
        writers[request.param](path, **arrays)
    return open_npz(path)


def test_rows_are_those_of_the_array(opened: dict[str, Array], arrays: dict[str, Array]) -> None:
    for name, array in arrays.items():
        streamed = opened[name]
        assert streamed.shape == array.shape
        assert streamed.dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(streamed), array)
        np.testing.assert_array_equal(streamed[-1], array[-1])
        np.testing.assert_array_equal(streamed[[5, 3, 5]], array[[5, 3, 5]])
        np.testing.assert_array_equal(some(streamed, slice(7, None))[1:3], array[8:10])
        np.testing.assert_array_equal(np.resize(streamed, (2, *array.shape[1:])), array[:2])


@given(st.slices(130))
def test_every_slice_is_that_of_the_array(part: slice) -> None:
    array = np.arange(130 * 6).reshape(130, 2, 3)
    np.testing.assert_array_equal(some(array, part), array[part])


def test_a_part_outlives_its_whole(arrays: dict[str, Array], tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    part = some(open_npz(tmp_path / "a.npz")["image"], slice(3))
    np.testing.assert_array_equal(part[:], arrays["image"][:3])


def test_rows_of_a_mapped_array_stay_on_disk(arrays: dict[str, Array], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", arrays["image"])
    rows = np.array([9, 2, 100])
    found = of_mapped(np.load(tmp_path / "a.npy", mmap_mode="r"), rows)
    assert not isinstance(found, np.ndarray)
    np.testing.assert_array_equal(np.asarray(found), arrays["image"][rows])
    np.testing.assert_array_equal(of_mapped(arrays["image"], rows), arrays["image"][rows])


def test_what_we_write_numpy_reads(arrays: dict[str, Array], tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", arrays)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        for name, array in arrays.items():
            np.testing.assert_array_equal(archive[name], array)
    save_npz(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_odd_arrays_are_read_whole_and_objects_never(tmp_path: Path) -> None:
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    np.savez(tmp_path / "a.npz", turned=turned, one=np.float32(3))
    found = open_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["turned"], turned)
    assert float(found["one"]) == 3
    np.savez(tmp_path / "b.npz", bad=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="never unpickled"):
        open_npz(tmp_path / "b.npz")
