"""Doubtful measurements are told as such: every flag by a fault that is really there."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedistill.artifacts.running import subjects
from edgedistill.measurement.measure import measurement_of
from edgedistill.plugins import load_benchmark, load_device
from edgedistill.recipe.document import Benchmark
from edgedistill.types import AgentAnswer, Artifact, Normalization, Precision, Signature
from tests.helpers.calls import call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgedistill.types import Json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix product of about 0.1 ms."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [64, 256]) for n in "xy"]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [256, 256], np.ones(256 * 256, np.float32))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    path = tmp_path_factory.mktemp("validity") / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@contextmanager
def busy(core: int) -> Iterator[None]:
    """A loop that wants the core for itself; entered when it runs."""
    script = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def timed(model: Path, core: int, seconds: float = 0.3) -> AgentAnswer:
    job = call(model, "onnxruntime", min_queries=100, min_duration_s=seconds, affinity=(core,))
    return load_device("cpu").run("cpu", job)


def test_a_busy_loop_on_the_same_core_is_told_as_contention(model: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with busy(core):
        result = timed(model, core)
    disturbance = result.document["disturbance"]
    queued = disturbance.get("queued_s", disturbance["wall_s"] - disturbance["cpu_s"])  # not every kernel tells
    assert queued > 0.2 * disturbance["wall_s"], "an even share would be half"
    assert disturbance["involuntary_switches"] > 0
    assert any("contended: the stream waited" in flag for flag in flags_of(result.document))


def flags_of(document: Json) -> list[str]:
    return list(load_benchmark("latency").measure([AgentAnswer("cpu", document)])["flags"])


def quiet(**disturbance: float) -> Json:
    """A document of an undisturbed stream, but for what is given."""
    rng = np.random.default_rng(0)
    undisturbed = {"involuntary_switches": 1.0, "cpu_s": 0.99, "queued_s": 0.001, "steal_s": 0.0, "wall_s": 1.0}
    return {
        "runtime_version": "1",
        "facts": {},
        "latency_ns": rng.gamma(900.0, 1e3, 300).astype(int).tolist(),
        "import_ms": 1.0,
        "load_cold_ms": 1.0,
        "load_warm_ms": 1.0,
        "first_inference_ms": 1.0,
        "page_cache": "kept",
        "involuntary_switches": 1,
        "memory_bytes": {"baseline": 1, "after_import": 1, "after_load": 1, "peak": 1},
        "disturbance": {**undisturbed, "run_queue": 1.0, "host_cores": 2.0, **disturbance},
    }


@pytest.mark.parametrize(
    ("disturbance", "told"),
    [
        ({"queued_s": 0.3}, "waited 30% of the time for a core, others threw it off 1 times"),
        ({"steal_s": 0.1}, "the host stole 10% of a core"),
        ({"run_queue": 5.0}, "5 threads were ready to run on 2 cores"),
    ],
)
def test_each_sign_of_contention_is_told_alone(disturbance: dict[str, float], told: str) -> None:
    (flag,) = flags_of(quiet(**disturbance))
    assert flag.startswith("contended: ")
    assert told in flag


def test_an_undisturbed_stream_has_no_flag() -> None:
    assert flags_of(quiet()) == []
    two_threads = quiet(cpu_s=1.9)
    assert flags_of(two_threads) == []


def test_two_threads_that_queue_are_told_though_their_cpu_time_exceeds_the_wall() -> None:
    (flag,) = flags_of(quiet(cpu_s=1.6, queued_s=0.4))
    assert "waited 40%" in flag


def test_without_queueing_times_the_time_off_the_core_counts() -> None:
    document = quiet(cpu_s=0.6)
    del document["disturbance"]["queued_s"]
    (flag,) = flags_of(document)
    assert "waited 40%" in flag


def test_a_core_that_gets_slower_is_told_and_one_slow_query_is_not() -> None:
    slowing, burst = quiet(), quiet()
    slowing["latency_ns"] = [int(ns * (1 + n / 1000)) for n, ns in enumerate(slowing["latency_ns"])]
    burst["latency_ns"][200] *= 50
    assert flags_of(slowing)[0].startswith("throttled: the last third")
    assert flags_of(burst) == []


def test_throttling_is_seen_in_a_real_stream(model: Path) -> None:
    """The samples of a real run, as a core would give them whose clock falls by a third."""
    document = timed(model, min(os.sched_getaffinity(0)), 0.1).document
    steady = np.full(len(document["latency_ns"]), np.median(document["latency_ns"]))
    document["latency_ns"] = (steady * np.linspace(1, 1.5, steady.size)).astype(int).tolist()
    assert any(flag.startswith("throttled") for flag in flags_of(document))


def measured(settings: dict[str, Any], model: Path, document: Json) -> Any:
    signature = Signature((), (), Normalization((0.0,), (1.0,)), ())
    artifact = Artifact.of_files(model, model="m", fmt="onnx", precision=Precision.FP32, signature=signature)
    subject = subjects([artifact])[0]
    return measurement_of(subject, [AgentAnswer("cpu", document)], Benchmark.model_validate(settings))


def test_a_round_shorter_than_asked_for_is_invalid(model: Path) -> None:
    assert measured({"min_queries": 300, "min_duration_s": 1.0}, model, quiet())["valid"]
    for asked in ({"min_queries": 301}, {"min_duration_s": 1.5}):
        found = measured(asked, model, quiet())
        assert not found["valid"]
        assert found["flags"][0].startswith("too few queries: a round had 300 in 1 s")


def test_an_official_figure_has_no_flag(model: Path) -> None:
    """What may be published must be undisturbed; elsewhere a flag is a warning."""
    short = {"min_queries": 100, "min_duration_s": 0.1}
    assert measured({"preset": "official", **short}, model, quiet())["valid"]
    assert measured({"preset": "normal", **short}, model, quiet(queued_s=0.3))["valid"]
    assert not measured({"preset": "official", **short}, model, quiet(queued_s=0.3))["valid"]
