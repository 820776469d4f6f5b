"""Two studies of the harness itself; every figure is of this host, as one JSON document on stdout.

python -m benchmarks.honesty harness   our p50 beside a bare loop's, interleaved in one run
python -m benchmarks.honesty alarms    false alarms of a file against itself, and calls of a tenth more work
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.honesty.models import SIZES, artifact
from edgedistill.benchmarking import measure_files
from edgedistill.plugins import load_device, load_exporter
from edgedistill.recipe import Benchmark
from edgedistill.types import Artifact, BenchmarkJob

if TYPE_CHECKING:
    from collections.abc import Iterator

BARE = Path(__file__).with_name("bare.py")
FORMATS = ("onnx", "tflite", "openvino")


def main() -> int:
    """Run one of the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["harness", "alarms"])
    parser.add_argument("--rounds", type=int, default=9, help="of the harness study")
    parser.add_argument("--seconds", type=float, default=1.0, help="a measurement of the harness study")
    parser.add_argument("--same", type=int, default=200, help="comparisons of a file with itself")
    parser.add_argument("--slower", type=int, default=20, help="comparisons with a tenth more work")
    parser.add_argument("--quiet", action="store_true", help="without the busy loop on one core")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = (
            harness(Path(folder), options.rounds, options.seconds)
            if options.study == "harness"
            else alarms(Path(folder), options.same, options.slower, quiet=options.quiet)
        )
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


def harness(folder: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """A row per model and runtime: median over rounds of our p50 over the bare loop's, and over benchmark_app's."""
    rows = []
    for size, (channels, side, layers) in SIZES.items():
        for fmt in FORMATS:
            file = artifact(fmt, "stack", channels, side, layers, folder / size)
            for runtime in load_exporter(fmt).RUNTIMES:
                rows.append({"model": size, "runtime": runtime, **_beside(file, runtime, rounds, seconds)})
                sys.stderr.write(f"{rows[-1]}\n")
    return rows


def _beside(file: Artifact, runtime: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Bare, ours, ours, bare in every round, so that drift within a round cancels."""
    bare, ours, apps = [], [], []
    for _ in range(rounds):
        first = _bare(file, runtime, seconds)
        pair = [_ours(file, runtime, seconds), _ours(file, runtime, seconds)]
        bare.append((first * _bare(file, runtime, seconds)) ** 0.5)
        ours.append((pair[0] * pair[1]) ** 0.5)
        if runtime == "openvino" and shutil.which("benchmark_app", path=str(Path(sys.executable).parent)):
            apps.append(_benchmark_app(file, seconds))
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    told = {
        "rounds": rounds,
        "p50_ms": median(ours),
        "bare_p50_ms": median(bare),
        "ratio": median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }
    if apps:
        told["ratio_to_benchmark_app"] = median(a / b for a, b in zip(ours, apps, strict=True))
    return told


def _bare(file: Artifact, runtime: str, seconds: float) -> float:
    command = [sys.executable, str(BARE), runtime, str(file.path), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _ours(file: Artifact, runtime: str, seconds: float) -> float:
    job = BenchmarkJob(file.path, runtime, min_queries=10, min_duration_s=seconds)
    return float(median(load_device("cpu").run("cpu", job).document["latency_ns"])) / 1e6


def _benchmark_app(file: Artifact, seconds: float) -> float:
    """OpenVINO's own tool; it wants whole seconds."""
    shape = ",".join(["1", *(str(d) for d in file.signature.inputs[0].shape[1:])])
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", str(file.path), "-shape", f"[{shape}]", "-d", "CPU",
        "-api", "sync", "-hint", "none", "-nthreads", "1", "-infer_precision", "f32", "-t", str(max(1, round(seconds))),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Median:\s+([\d.]+) ms", done.stdout)
    if found is None:
        raise RuntimeError(f"benchmark_app tells no median:\n{done.stdout}")
    return float(found.group(1))


def alarms(folder: Path, same: int, slower: int, *, quiet: bool) -> dict[str, Any]:
    """How often `--against` calls a difference, at its default settings, beside a busy loop on one core."""
    channels, side, layers = SIZES["1 ms"]
    one = artifact("onnx", "stack", channels, side, layers, folder)
    copy = artifact("onnx", "copy", channels, side, layers, folder)
    more = artifact("onnx", "more", channels, side, round(1.1 * layers), folder)
    with _nothing() if quiet else _busy():
        itself = [_answer(copy, one, n, same, "same") for n in range(same)]
        worse = [_answer(more, one, n, slower, "slower") for n in range(slower)]
    needed = [a["needed_rounds"] for a in worse if a["answer"] == "inconclusive"]
    return {
        "host": "quiet" if quiet else "a busy loop on one core",
        "against itself": Counter(a["answer"] for a in itself),
        "a tenth more work": Counter(a["answer"] for a in worse),
        "rounds needed where inconclusive": needed,
        "median ratio of a tenth more work": median(a["p50"] for a in worse) if worse else None,
    }


def _answer(candidate: Artifact, reference: Artifact, number: int, of: int, what: str) -> dict[str, Any]:
    first, *_ = measure_files([candidate], reference, Benchmark(rounds=12), lambda *_: None)
    told: dict[str, Any] = first["ratio_to_reference"]
    figures = f"{told['p50']:.3f} {told['p50_interval99']} floor {told['noise_floor']:.3f} p {told['p_value']:.4f}"
    sys.stderr.write(f"{what} {number + 1} of {of}: {told['answer']} {figures}\n")
    return told


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    sys.exit(main())
