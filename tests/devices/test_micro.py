"""Microcontroller fit: files written by hand, whose arithmetic, arenas and missing operators are known."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.cli.main import main
from edgedistill.errors import ArtifactError, PluginError, UsageError
from edgedistill.plugins import find_plugin, load_device
from tests.conftest import documents, edgedistill
from tests.helpers.calls import call
from tests.helpers.tflite_files import write

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("tflite_micro")
pytest.importorskip("tflite_runtime")
BOARD = "micro:nucleo-l4r5zi"


def part(name: str) -> Any:
    """A module beside the plug-in; nobody imports a shelf by name."""
    return importlib.import_module(f".{name}", find_plugin("devices", "micro").__package__)


boards, runtime = part("boards"), part("runtime")


def chain(path: Path, operators: list[str], size: int) -> Path:
    """Operators of one float input and output, one after the other."""
    tensors = [((1, size), np.float32, 0.0, 0, None)] * (len(operators) + 1)
    return write(path, tensors, operators, [([n], n + 1) for n in range(len(operators))], [0, len(operators)])


WEIGHTS = np.random.default_rng(0).integers(-127, 128, (4, 6)).astype(np.int8)
BIAS = np.array([100, -900, 0, 3000], np.int32)


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    """An int8 dense layer: output scale 0.5, zero point -3; input scale 0.1, zero point 5; weights' scale 0.02."""
    tensors = [
        ((1, 6), np.int8, 0.1, 5, None),
        ((4, 6), np.int8, 0.02, 0, WEIGHTS),
        ((4,), np.int32, 0.002, 0, BIAS),
        ((1, 4), np.int8, 0.5, -3, None),
    ]
    return write(tmp_path / "dense.tflite", tensors, ["FULLY_CONNECTED"], [([0, 1, 2], 3)], [0, 3])


def test_an_int8_layer_computes_what_its_integers_say(dense: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(0, 3, (20, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    job = call(dense, "tflite-micro", inputs=tmp_path / "x.npz", outputs=tmp_path / "y.npz")
    document = load_device(BOARD).run(BOARD, job).document
    quantised = np.clip(np.round(x / np.float32(0.1)) + 5, -128, 127).astype(np.int64)
    sums = (quantised - 5) @ WEIGHTS.T.astype(np.int64) + BIAS
    expected = np.clip(np.round(sums * 0.002 / 0.5) - 3, -128, 127)
    with np.load(tmp_path / "y.npz") as archive:
        given = archive["t3"] / 0.5 - 3
    assert np.abs(given - expected).max() <= 1
    assert len(np.unique(expected)) > 20, "the layer says something"
    assert document["microcontroller"]["model_bytes"] == dense.stat().st_size
    assert not [key for key in document if "latency" in key or key.endswith("_ms")], "never a time"
    assert document["source"] == "emulated"


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Eight int8 dense layers of 32 whose activations fill their range: roundings add up."""
    rng = np.random.default_rng(3)
    tensors: list[Any] = [((1, 32), np.int8, 0.03, 0, None)]
    wires = []
    for layer in range(8):
        weights = rng.integers(-127, 128, (32, 32)).astype(np.int8)
        tensors += [((32, 32), np.int8, 0.0024, 0, weights), ((32,), np.int32, 0.0024 * 0.03, 0, np.zeros(32))]
        tensors += [((1, 32), np.int8, 0.03, layer % 5, None)]
        wires.append(([3 * layer, 3 * layer + 1, 3 * layer + 2], 3 * layer + 3))
    return write(tmp_path / "deep.tflite", tensors, ["FULLY_CONNECTED"] * 8, wires, [0, 24])


def test_roundings_that_add_up_are_compared_with_kernels_that_round_alike(deep: Path) -> None:
    (measured,) = documents(edgedistill("benchmark", deep, "--device", BOARD, "--json"))["measurements"]
    assert measured["parity"]["state"] == "pass"
    assert measured["parity"]["max_lsb"] == 0
    assert measured["parity"]["runtime"] == "tflite-runtime"


def test_the_arena_grows_by_exactly_what_its_tensors_grow(tmp_path: Path) -> None:
    """Input and output of one operator live at the same time: 8 bytes for each float more."""
    needs = [arena(chain(tmp_path / f"{size}.tflite", ["LOGISTIC"], size)) for size in (64, 1064, 5064)]
    assert needs[1] - needs[0] == 8 * 1000
    assert needs[2] - needs[1] == 8 * 4000
    assert 0 < needs[0] - 8 * 64 < 1024


def arena(file: Path) -> int:
    found = load_device(BOARD).run(BOARD, call(file, "tflite-micro")).document["microcontroller"]
    return int(found["arena_bytes"])


def test_the_arena_is_the_smallest(dense: Path) -> None:
    content, needed = dense.read_bytes(), arena(dense)
    assert runtime.trial(partial(runtime._infer, content, needed)) is None
    assert runtime.trial(partial(runtime._infer, content, needed - 2 * runtime.STEP)) is not None


@given(st.integers(1, 50_000))
def test_the_search_finds_the_least_multiple_of_16_that_works(limit: int) -> None:
    assert runtime.smallest(lambda size: size >= limit) == -(-limit // 16) * 16


def test_what_goes_wrong_in_a_child_is_told_and_harms_nobody() -> None:
    assert runtime.trial(lambda: None) is None
    assert "ZeroDivisionError" in str(runtime.trial(lambda: 1 / 0))

    def talk_and_die() -> None:
        os.write(2, b"first\n" * 20_000)
        os.kill(os.getpid(), signal.SIGKILL)

    said = runtime.trial(talk_and_die)
    assert str(said).startswith("first")
    assert str(said).endswith("signal 9")


def test_every_operator_that_is_missing_is_named(tmp_path: Path) -> None:
    file = chain(tmp_path / "modern.tflite", ["GELU", "LOGISTIC", "SIGN", "GELU"], 8)
    with pytest.raises(ArtifactError, match=r"tflite-micro has no GELU, SIGN\n") as caught:
        load_device(BOARD).run(BOARD, call(file, "tflite-micro"))
    assert caught.value.exit_code == 3
    assert "other operators" in caught.value.fix


def test_without_its_extra_it_is_neither_listed_nor_loaded(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    absent = "tflite_micro"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else real(name, *a))
    assert main(["devices", "list", "--json"]) == 0
    listed = {one["id"] for one in json.loads(capfd.readouterr().out)["devices"]}
    assert "cpu" in listed
    assert "micro" not in listed
    with pytest.raises(PluginError, match=absent) as caught:
        load_device(BOARD)
    assert caught.value.fix == "pip install 'edgedistill[micro]'"


def test_a_board_is_found_by_name_or_given_by_sizes() -> None:
    assert all(board.sram_bytes < board.flash_bytes and board.source for board in boards.BOARDS.values())
    given = boards.read_board("micro:sram=2k,flash=1m")
    assert (given.sram_bytes, given.flash_bytes) == (2048, 1024**2)
    for wrong in ("micro:nucleo-l4r5z", "micro", "micro:", "micro:sram=2k", "micro:sram=2g,flash=1m"):
        with pytest.raises(UsageError) as caught:
            boards.read_board(wrong)
        assert "nucleo-l4r5zi" in caught.value.expected
        assert "sram=" in caught.value.fix


@pytest.mark.parametrize(("job", "got"), [({"threads": 2}, "2 threads"), ({"runtime": "litert"}, "litert")])
def test_it_has_one_thread_and_one_runtime(dense: Path, job: dict[str, Any], got: str) -> None:
    asked = call(dense, **{"runtime": "tflite-micro", **job})
    with pytest.raises(UsageError) as caught:
        load_device(BOARD).run(BOARD, asked)
    assert got in caught.value.got


def test_what_fits_one_board_need_not_fit_another(dense: Path) -> None:
    command: list[str | Path] = [
        "benchmark",
        dense,
        "--device",
        BOARD,
        "--device",
        "micro:sram=1k,flash=1m",
        "--device",
    ]
    done = edgedistill(*command, "micro:sram=1m,flash=16k", "--json")
    assert done.returncode == 3, done.stderr
    large, little, short = documents(done)["measurements"]
    assert (large["fits"], little["fits"], short["fits"]) == (True, False, False)
    assert (large["valid"], little["valid"]) == (True, False)
    assert "SRAM" in little["flags"][0]
    assert short["flash_bytes"] == dense.stat().st_size + 16 * 1024 > short["flash_size_bytes"]
    assert large["parity"]["state"] == "pass"
    assert large["parity"]["max_lsb"] <= 1
    assert large["source"] == "emulated"
    assert "latency_ms" not in large
    assert "memory_bytes" not in large


def test_people_read_a_table(dense: Path) -> None:
    done = edgedistill("benchmark", dense, "--device", BOARD)
    assert done.returncode == 0, done.stderr
    assert "yes" in done.stdout
    assert "64-bit host" in done.stdout


def test_a_wrong_file_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("no model", encoding="utf-8")
    assert edgedistill("benchmark", tmp_path / "text.tflite", "--device", BOARD).returncode == 3
    with pytest.raises(ArtifactError, match="no TFL3"):
        load_device(BOARD).run(BOARD, call(tmp_path / "text.tflite", "tflite-micro"))
    (tmp_path / "model.onnx").write_bytes(b"whatever")
    with pytest.raises(ArtifactError, match="no TFL3"):
        load_device(BOARD).run(BOARD, call(tmp_path / "model.onnx", "tflite-micro"))
