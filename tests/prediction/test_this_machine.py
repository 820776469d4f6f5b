"""Predictions corrected by a measurement on this machine."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgedistill.errors import DeviceError, UsageError
from edgedistill.events import QUIET
from edgedistill.plugins import load_device
from edgedistill.prediction import networks as suite
from edgedistill.prediction import published
from edgedistill.prediction import this_machine as hosting
from edgedistill.prediction.own_board import written
from edgedistill.prediction.predict import predict
from edgedistill.types import AgentAnswer, AgentCall
from tests.helpers.calls import call
from tests.helpers.listening import Listening
from tests.helpers.predicting import convolutions, module

if TYPE_CHECKING:
    from pathlib import Path

answers, data, host, profiles, read = (
    module(name) for name in ("answer", "published.data", "host", "profiles", "graphs.read")
)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder for own profiles, and no emulator."""
    monkeypatch.setenv("EDGEDISTILL_PROFILES", str(tmp_path / "own"))
    monkeypatch.setenv("EDGEDISTILL_ARM", str(tmp_path / "no-emulator"))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "net.onnx", 64, size=112)


HEAVY = ("resnet50", "googlenet")
"""Seconds each; the others are built in the same way."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in published.NETWORKS]
)
def test_a_published_network_is_built_as_its_table_tells(name: str, tmp_path: Path) -> None:
    """Against the layers of ncnn's own files, by the features that predict: it is the network that was timed."""
    shape = (3, published.SIDE, published.SIDE)
    file = written(published.NETWORKS[name]().eval(), shape, name, "ncnn", tmp_path)
    found, table = (module("graphs.graph").features(graph) for graph in (read.read_graph(file), data.ncnn_graph(name)))
    costs = host.fit(data.graph_anchors(data.host_times()), module("graphs.graph").PRIOR)
    assert float(found @ costs) == pytest.approx(float(table @ costs), rel=0.02)
    named = dict(zip(module("graphs.graph").FEATURES, zip(found, table, strict=True), strict=True))
    for feature, (ours, theirs) in named.items():
        if feature.endswith("_macs"):
            assert ours == pytest.approx(theirs, rel=0.03), feature


def test_an_architecture_without_published_timings_is_refused() -> None:
    with pytest.raises(DeviceError, match="no published timings tell what networks take on riscv64"):
        host.expectation("riscv64")
    assert all(len(data.host_times(board)) > 15 for board in host.MACHINES.values())


def test_a_residual_corrects_operator_classes_of_the_same_runtime_and_nothing_else(network: Path) -> None:
    graph = read.read_graph(network)
    board, phone = profiles.find("raspberry-pi-4b"), profiles.find("snapdragon-855")
    choice = answers.choose(board, "ncnn", 1, "float")
    plain, slower = (answers.answer(board, choice, graph, None, residual) for residual in (None, 2.0))
    assert slower["latency_ms"]["p50"] == pytest.approx(2**0.5 * plain["latency_ms"]["p50"])
    assert slower["interval80_ms"] == pytest.approx([2**0.5 * end for end in plain["interval80_ms"]])
    assert sum(slower["parts_ms"].values()) == pytest.approx(slower["latency_ms"]["p50"])
    assert "corrected by a measurement on this machine: x 1.41" in slower["flags"]
    counted = np.array([5e7, 1e8, 3e7, 1e6, 2e6, 1e6])
    others = [
        (board, choice, counted),
        (board, answers.choose(board, "ncnn", 1, "int8"), None),
        (phone, answers.choose(phone, "paddle-lite", 1, "float"), None),
    ]
    for profile, chosen, counts in others:
        alone, given = (answers.answer(profile, chosen, graph, counts, residual) for residual in (None, 2.0))
        assert alone["latency_ms"] == given["latency_ms"]
        assert any("not corrected" in flag for flag in given["flags"])


def test_a_time_is_the_sum_of_the_layers_fastest_and_repeats_must_agree() -> None:
    processes = [{"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 4.1}, {"a": 9.0, "b": 4.0}, {"a": 1.0, "b": 9.0}]
    assert hosting._agreed("net", processes) == (5.0, [5.0, 5.1])
    busy = [{layer: 1.2 * ms for layer, ms in one.items()} if n % 2 else one for n, one in enumerate(processes)]
    with pytest.raises(DeviceError, match="two measurements of net on this machine disagree") as told:
        hosting._agreed("net", busy)
    assert "5 ms and 6.12 ms" in told.value.got
    assert told.value.exit_code == 3


def test_what_disagrees_is_measured_again_before_it_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that is busy at first: one network's layers take twice as long in every other process."""
    ran: list[str] = []

    class Busy:
        def __init__(self, runs: int) -> None:
            self.runs = runs

        def run(self, _device: str, job: AgentCall) -> AgentAnswer:
            ran.append(job.artifact.name)
            number = ran.count("b")
            slow = job.artifact.name == "b" and number <= self.runs and number % 2 == 1
            rows = [{"name": "layer", "type": "Conv", "ms": 9.0, "least_ms": 2.0 if slow else 1.0}]
            return AgentAnswer("cpu", {"profile": {"operators": rows}})

    calls = {name: call(tmp_path / name, "ncnn") for name in "ab"}
    monkeypatch.setattr(hosting, "load_device", lambda _: Busy(4))
    found = hosting._timed(calls, QUIET)
    assert found == {"a": (1.0, [1.0, 1.0]), "b": (1.0, [1.0, 1.0])}
    assert (ran.count("a"), ran.count("b")) == (4, 8)
    ran.clear()
    monkeypatch.setattr(hosting, "load_device", lambda _: Busy(99))
    with pytest.raises(DeviceError, match="two measurements of b"):
        hosting._timed(calls, QUIET)
    assert (ran.count("a"), ran.count("b")) == (4, 12)


def test_what_is_not_measured_here_is_refused_before_anything_runs(network: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="counts are not corrected"):
        predict(network, ["rpi-4b"], predictor="counts", host=hosting.measured_here)
    with pytest.raises(UsageError, match="raspberry-pi-4"):
        predict(network, ["raspberry-pi-4"], host=hosting.measured_here)
    with pytest.raises(UsageError, match="unknown runtime 'ncn'"):
        predict(network, ["rpi-4b"], runtime="ncn", host=hosting.measured_here)
    (tmp_path / "net.tflite").write_bytes(b"")
    with pytest.raises(UsageError, match=r"net\.tflite cannot be measured here"):
        predict(tmp_path / "net.tflite", ["rpi-4b"], host=hosting.measured_here)


def test_a_file_is_measured_beside_the_suite_and_corrects_all_boards(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosting, "NETWORKS", {"mobilenet": published.mobilenet, "small": lambda: suite.depthwise(16)})
    monkeypatch.setattr(hosting, "PROCESSES", 2)
    monkeypatch.setattr(hosting, "DISAGREE", float("inf"))  # the tests' machine is busy
    steps: list[str] = []
    found = predict(network, ["rpi-4b", "rpi-5"], host=hosting.measured_here, events=Listening(steps.append))
    assert [step for step in steps if step.startswith("measure")] == [
        f"measure {name} here" for name in ("net.onnx", "mobilenet", "small")
    ] * 2
    assert "host" in found
    told = found["host"]
    assert told["residual"] == pytest.approx(told["ms"] / told["expected_ms"])
    scale = np.median([*told["references"].values()])
    assert told["expected_ms"] == pytest.approx(scale * host.expectation(platform.machine())(network))
    assert 0 < told["ms"] <= min(told["repeats_ms"])
    plain = {one["device"]: one for one in predict(network, ["rpi-4b", "rpi-5"], predictor="graph")["predictions"]}
    for one in found["predictions"]:
        assert one["predictor"] == "graph"
        ratio = one["latency_ms"]["p50"] / plain[one["device"]]["latency_ms"]["p50"]
        assert ratio == pytest.approx(told["residual"] ** 0.5)


def test_layers_of_ncnn_are_timed_one_by_one(network: Path, tmp_path: Path) -> None:
    (file, _), shapes = read.runnable((network,), "ncnn")
    job = call(file, "ncnn", inputs=hosting._ones(shapes, tmp_path / "ones.npz"), profile=3)
    document = load_device("cpu").run("cpu", job).document
    rows = document["profile"]["operators"]
    kinds = [line.split()[0] for line in file.read_text(encoding="ascii").splitlines()[2:]]
    assert [row["type"] for row in rows] == [kind for kind in kinds if kind != "Input"]
    assert all(row["ms"] >= row["least_ms"] > 0 for row in rows)
    assert max(rows, key=lambda row: row["least_ms"])["type"] == "Convolution"
