"""The contract suite: every benchmark plug-in."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edgedistill.plugins import load_benchmark, plugin_names
from edgedistill.types import AgentAnswer, Json


def document(scale: float = 1.0, queries: int = 200) -> Json:
    rng = np.random.default_rng(0)
    return {
        "latency_ns": (scale * rng.gamma(9.0, 1e5, queries)).astype(int).tolist(),
        "import_ms": 10.0,
        "load_cold_ms": 3.0,
        "load_warm_ms": 2.0,
        "first_inference_ms": 1.0,
        "page_cache": "kept",
        "involuntary_switches": 2,
        "instructions": {"total": 9, "dot": 1, "matrix": 0, "sve": 0, "spread": 0.0},
        "blocks": "counts.npz",
        "reused": False,
        "emulation_flags": [],
        "disturbance": {"involuntary_switches": 2.0, "cpu_s": 0.99, "wall_s": 1.0, "steal_s": 0.0},
        "microcontroller": {
            "arena_bytes": 9,
            "sram_bytes": 10,
            "flash_bytes": 8,
            "flash_size_bytes": 7,
            "model_bytes": 5,
            "fits": False,
            "reasons": ["flash: 8 of 7"],
            "board_source": "a test",
            "note": "a note",
        },
        "minutes_ms": [{"count": 9, "min": 1.0, "p50": p50, "p90": 3.0, "p99": 4.0} for p50 in (1.0, 1.0 + scale / 2)],
        "profile": {
            "inferences": 3,
            "operators": [
                {"name": "a", "type": "Conv", "ms": 3.0 * scale, "least_ms": 2.0 * scale, "share": 0.75},
                {"name": "b", "type": "Relu", "ms": 1.0 * scale, "least_ms": 0.5 * scale, "share": 0.25},
            ],
        },
        "memory_bytes": {"baseline": 10, "after_import": 20, "after_load": 30, "peak": int(40 * scale)},
    }


def results(*documents: Json) -> list[AgentAnswer]:
    return [AgentAnswer("cpu", one) for one in documents]


@pytest.mark.parametrize("name", plugin_names("benchmarks"))
def test_gives_plain_json(name: str) -> None:
    fields = load_benchmark(name).measure(results(document(), document()))
    json.dumps(fields, allow_nan=False)
    assert fields


def test_latency_pools_all_rounds_and_keeps_their_medians() -> None:
    fields = load_benchmark("latency").measure(results(document(), document(1.1)))
    first, second = (np.array(document(s)["latency_ns"]) / 1e6 for s in (1.0, 1.1))
    pooled = np.concatenate([first, second])
    assert fields["latency_ms"]["count"] == 400
    assert fields["latency_ms"]["p50"] == pytest.approx(np.median(pooled))
    assert fields["round_p50_ms"] == pytest.approx([np.median(first), np.median(second)])
    assert fields["p90_early_stopping_ms"] >= fields["latency_ms"]["p90"]
    assert fields["valid"]
    assert fields["flags"] == []


def test_latency_says_when_rounds_disagree_and_when_queries_are_too_few() -> None:
    unstable = load_benchmark("latency").measure(results(document(), document(2.0)))
    assert "unstable" in unstable["flags"][0]
    few = load_benchmark("latency").measure(results(document(queries=20)))
    assert not few["valid"]
    assert "too few queries" in few["flags"][0]


def test_memory_is_the_median_over_rounds() -> None:
    fields = load_benchmark("memory").measure(results(document(1), document(2), document(10)))
    assert fields["memory_bytes"] == {"baseline": 10, "after_import": 20, "after_load": 30, "peak": 80}


def test_a_model_that_does_not_fit_its_microcontroller_is_no_valid_measurement() -> None:
    fields = load_benchmark("microcontroller").measure(results(document()))
    assert (fields["fits"], fields["valid"]) == (False, False)
    assert fields["flags"] == ["does not fit: flash: 8 of 7"]
    fitting = document()
    fitting["microcontroller"] |= {"fits": True}
    assert load_benchmark("microcontroller").measure(results(fitting))["flags"] == []
    del fitting["microcontroller"]
    assert load_benchmark("microcontroller").measure(results(fitting)) == {}


def test_latency_tells_throttling_and_contention_apart_from_noise() -> None:
    slowing = document()
    slowing["latency_ns"] = [1_000_000 + 1_000 * i for i in range(300)]
    waiting = document()
    waiting["disturbance"] |= {"cpu_s": 0.7}
    stolen = document()
    stolen["disturbance"] |= {"steal_s": 0.2}
    for given, says in ((slowing, "throttled"), (waiting, "waited 30%"), (stolen, "stole 20%")):
        flags = load_benchmark("latency").measure(results(given, given, given))["flags"]
        assert [says in flag for flag in flags] == [True]


def test_operators_are_medians_with_shares_and_say_when_there_is_no_profiler() -> None:
    fields = load_benchmark("operators").measure(results(document(1), document(2), document(10)))
    assert [(row["name"], row["ms"], row["least_ms"], row["share"]) for row in fields["operators"]] == [
        ("a", 6.0, 2.0, 0.75),
        ("b", 2.0, 0.5, 0.25),
    ]
    nothing = document()
    nothing["profile"] = {"operators": None, "reason": "no profiler"}
    assert load_benchmark("operators").measure(results(nothing)) == {
        "operators": None,
        "operators_reason": "no profiler",
    }
    del nothing["profile"]
    assert load_benchmark("operators").measure(results(nothing)) == {}


def test_a_sustained_stream_is_told_by_the_minute_and_flagged_when_it_slows() -> None:
    fields = load_benchmark("sustained").measure(results(document()))
    assert [m["p50"] for m in fields["sustained"]["minutes_ms"]] == [1.0, 1.5]
    assert "1.50 x" in fields["flags"][0]
    assert load_benchmark("sustained").measure(results(document(0.1)))["flags"] == []
    nothing = document()
    del nothing["minutes_ms"]
    assert load_benchmark("sustained").measure(results(nothing)) == {}
