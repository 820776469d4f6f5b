"""The runtimes' own benchmark programs: how each is called, and what its output says.

A reading is `latency_summary_ms` with the figures that the program tells, among count, min, max, mean, std, p50, p90,
p95, p99; `latency_ns` where it tells every single one; `first_inference_ms`, `init_ms`, `peak_bytes`, `version` where
it tells them. Nothing else is filled in. Formats are those of the programs' sources: TensorFlow's
lite/tools/benchmark/benchmark_model.cc and core/util/stats_calculator.h, onnxruntime's
test/perftest/performance_runner.cc, ncnn's benchmark/benchncnn.cpp, OpenVINO's samples/cpp/benchmark_app/main.cpp.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._param import input_shapes, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.types import AgentCall, Json

FIGURES = ("count", "min", "p50", "p90", "p95", "p99", "max", "mean", "std")
RESULTS = "results.csv"
"""Where onnxruntime_perf_test writes single latencies, in the folder that it runs in."""
_MIB = 1024 * 1024
_NUMBER = r"([-+0-9.eE]+)"


@dataclass(frozen=True)
class Tool:
    """A benchmark program.

    Attributes:
        key: of devices.toml, which names the binary.
        runtime: the agent's name for its runtime.
        arguments: of a job and the model's file name, in the folder where the model lies.
        read: its output, and what it wrote to RESULTS, as a reading; ValueError when there is none in it.
        notes: what a reader of its figures must know.
    """

    key: str
    runtime: str
    arguments: Callable[[AgentCall, str], list[str]]
    read: Callable[[str, str], Json]
    notes: tuple[str, ...] = ()


def _number(pattern: str, text: str, scale: float = 1.0) -> float | None:
    """The last number behind a pattern."""
    found = re.findall(pattern + _NUMBER, text)
    return float(found[-1]) * scale if found else None


def _told(**figures: float | None) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


def _finite(summary: Json, program: str) -> Json:
    """A summary without its count or a mean is none."""
    if not {"count", "mean"} <= set(summary) or not all(math.isfinite(value) for value in summary.values()):
        raise ValueError(f"no figures of {program} in its output")
    return {name: int(summary[name]) if name == "count" else summary[name] for name in FIGURES if name in summary}


def read_tflite(text: str, results: str = "") -> Json:
    """benchmark_model: microseconds. The last `count=` line is of the timed runs; newer ones tell median and p95."""
    del results
    lines = [line for line in text.splitlines() if re.search(r"\bcount=\d+ ", line)]
    if not lines or "Inference timings in us" not in text:
        raise ValueError("no figures of benchmark_model in its output")
    pairs = dict(re.findall(rf"(\w+)={_NUMBER}", lines[-1]))
    names = {"min": "min", "max": "max", "mean": "avg", "std": "std", "p50": "median", "p95": "p95"}
    summary = {own: float(pairs[its]) / 1e3 for own, its in names.items() if its in pairs}
    if "mean" not in summary and "curr" in pairs:  # of one run, or of runs that are all alike, only this is told
        summary |= dict.fromkeys(("min", "max", "mean"), float(pairs["curr"]) / 1e3)
    return {
        "latency_summary_ms": _finite({"count": float(pairs["count"]), **summary}, "benchmark_model"),
        **_told(
            init_ms=_number(r"timings in us: Init: ", text, 1e-3),
            first_inference_ms=_number(r"First inference: ", text, 1e-3),
            peak_bytes=_number(r"Overall peak memory footprint \(MB\) via periodic monitoring: ", text, _MIB),
        ),
    }


def read_onnxruntime(text: str, results: str = "") -> Json:
    """onnxruntime_perf_test: seconds; single latencies stand in its result file, second column of rows of five."""
    rows = [line.split(",") for line in results.splitlines() if re.fullmatch(r".*,[^,]+,\d+,-?\d+,\d+", line.strip())]
    samples = [round(float(row[-4]) * 1e9) for row in rows]

    def latency(name: str) -> float | None:
        return _number(rf"{name} Latency(?::| is) *", text, 1e3)

    counted = _number(r"Total inference requests: ", text)
    summary = _told(
        count=counted,
        min=latency("Min"),
        max=latency("Max"),
        mean=_number(r"Average inference time cost(?: total)?: ", text),
        p50=latency("P50"),
        p90=latency("P90"),
        p95=latency("P95"),
        p99=latency("P99"),
    )
    summary = _finite(summary, "onnxruntime_perf_test")
    peak = _number(r"Peak working set size: ?", text)
    return {
        **({"latency_ns": samples} if samples else {}),
        "latency_summary_ms": summary,
        **_told(
            init_ms=_number(r"Session creation time cost: ", text, 1e3),
            first_inference_ms=_number(r"First inference time cost: ", text),
            peak_bytes=peak,
        ),
    }


def read_ncnn(text: str, results: str = "") -> Json:
    """benchncnn: milliseconds with two digits; how many runs it made stands above."""
    del results
    found = re.findall(rf"min = +{_NUMBER} +max = +{_NUMBER} +avg = +{_NUMBER}", text)
    count = _number(r"loop_count = ", text)
    if not found or count is None:
        raise ValueError("no figures of benchncnn in its output")
    low, high, mean = (float(value) for value in found[-1])
    return {"latency_summary_ms": _finite({"count": count, "min": low, "max": high, "mean": mean}, "benchncnn")}


def read_openvino(text: str, results: str = "") -> Json:
    """benchmark_app: milliseconds, or microseconds where it says so."""
    del results
    version = re.search(r"Build \.+ (\S+)", text)

    def latency(name: str) -> float | None:
        found = re.findall(rf"\b{name}: +{_NUMBER} (ms|us)", text)
        return float(found[-1][0]) * (1e-3 if found[-1][1] == "us" else 1.0) if found else None

    summary = _told(
        count=_number(r"Count: +", text),
        min=latency("Min"),
        p50=latency("Median"),
        max=latency("Max"),
        mean=latency("Average"),
    )
    return {
        "latency_summary_ms": _finite(summary, "benchmark_app"),
        **_told(
            init_ms=_number(r"Compile model took ", text), first_inference_ms=_number(r"First inference took ", text)
        ),
        **({"version": version.group(1)} if version else {}),
    }


def _tflite(job: AgentCall, model: str) -> list[str]:
    return [
        f"--graph={model}",
        f"--num_threads={job.threads}",
        f"--num_runs={job.min_queries}",
        f"--min_secs={job.min_duration_s:g}",
        f"--max_secs={job.timeout_s:g}",
        f"--warmup_min_secs={job.warmup_s:g}",
        "--report_peak_memory_footprint=true",
    ]


def _onnxruntime(job: AgentCall, model: str) -> list[str]:
    counts = ["-m", "times", "-r", str(job.min_queries)]
    return ["-e", "cpu", "-I", "-s", *counts, "-x", str(job.threads), "-y", "1", model, RESULTS]


def _ncnn(job: AgentCall, model: str) -> list[str]:
    cooling, gpu, all_cores = "0", "-1", "0"
    shape = ncnn_shape(job.artifact)
    return [str(job.min_queries), str(job.threads), all_cores, gpu, cooling, f"param={model}", f"shape={shape}"]


def _openvino(job: AgentCall, model: str) -> list[str]:
    return [
        "-m",
        model,
        "-d",
        "CPU",
        "-api",
        "sync",
        "-hint",
        "none",
        "-nstreams",
        "1",
        "-nthreads",
        str(job.threads),
        "-infer_precision",
        "f32",
        "-niter",
        str(job.min_queries),
        "-t",
        str(math.ceil(job.min_duration_s)),
    ]


def ncnn_shape(param: Path) -> str:
    """The inputs of a .param file as benchncnn takes them: [w,h,c] each.

    Raises:
        ValueError: an Input layer does not tell its shape, or this is no whole .param file.
    """
    shapes = []
    for name, shape in input_shapes(layers_of(param)).items():
        if shape is None:
            raise ValueError(f"{param} does not tell the shape of its input {name}")
        shapes.append(f"[{','.join(map(str, reversed(shape)))}]")
    return ",".join(shapes)


_FAKE_WEIGHTS = "benchncnn runs the layers with weights of its own: shapes count, values do not"
TOOLS = (
    Tool("tflite_benchmark", "litert", _tflite, read_tflite),
    Tool("onnxruntime_perf_test", "onnxruntime", _onnxruntime, read_onnxruntime),
    Tool("benchncnn", "ncnn", _ncnn, read_ncnn, (_FAKE_WEIGHTS,)),
    Tool("benchmark_app", "openvino", _openvino, read_openvino),
)


def command_of(tool: Tool, job: AgentCall, binary: str, model: str) -> str:
    """For the device's shell: the program, on the cores asked for."""
    words = [binary, *tool.arguments(job, model)]
    mask = sum(1 << core for core in job.affinity)
    return shlex.join(["taskset", f"{mask:x}", *words] if job.affinity else words)
