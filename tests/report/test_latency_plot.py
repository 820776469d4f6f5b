"""The picture of latencies shows every measurement, and what it cannot show it says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from edgedistill.report.latency_plot import latency_pictures


def measurement(artifact: str, **more: Any) -> Any:
    return {
        "artifact": artifact,
        "runtime": "onnxruntime",
        "device": "cpu",
        "latency_ms": {"p50": 1.5, "p90": 1.9},
        "percentiles_ms": [1 + n / 100 for n in range(101)],
        "timeline_ms": [[1.0, 1.2], [1.1]],
        **more,
    }


def test_every_measurement_has_a_row_with_its_costliest_operators() -> None:
    operators = [{"name": f"node{n}", "type": "Conv", "ms": float(n), "share": n / 36} for n in range(9)]
    svg = latency_pictures([measurement("teacher-onnx-fp32", operators=operators), measurement("student-onnx-int8")])
    ET.fromstring(svg)  # noqa: S314 - our own text
    for text in ("teacher-onnx-fp32", "student-onnx-int8", "node8", "not profiled"):
        assert text in svg
    assert "node2" not in svg, "only the six costliest"


def test_the_same_measurements_give_the_same_bytes() -> None:
    assert latency_pictures([measurement("a")]) == latency_pictures([measurement("a")])


@pytest.mark.parametrize("given", [[], [{"artifact": "a", "runtime": "r", "device": "sim:x", "source": "predicted"}]])
def test_nothing_measured_is_no_picture(given: Any) -> None:
    assert latency_pictures(given) == ""
