"""Peak memory of generated networks on this machine: devices/data/RUNTIME_host_memory.csv.

    python -m benchmarks.studies.accuracy.host_memory [ncnn|onnxruntime|tflite|openvino]

What the memory model of a runtime is fitted to, by `python -m benchmarks.studies.accuracy.prediction --remake`.
Growth: the process's highest resident set less what it had with the runtime imported. A family is a kind of network.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.artifacts.identify import described
from edgedistill.artifacts.running import Subject, call_for
from edgedistill.plugins import find_plugin, load_device
from edgedistill.prediction import networks as suite
from edgedistill.prediction.own_board import exported

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from edgedistill.types import Json

DATA = Path("devices/data")
RUNTIMES = {"ncnn": "ncnn", "onnxruntime": "onnxruntime", "tflite": "litert", "openvino": "openvino"}
"""As the profiles know it -> as the agent does."""
LARGER: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain-224": (lambda: suite.plain((64, 128, 128, 256, 256)), 224),
    "plain-320": (lambda: suite.plain((32, 64, 128, 256, 512)), 320),
    "depthwise-320": (lambda: suite.depthwise(48), 320),
    "depthwise-448": (lambda: suite.depthwise(32), 448),
    "inverted-320": (lambda: suite.inverted(32, 6), 320),
    "residual-224": (lambda: suite.residual(96), 224),
    "residual-384": (lambda: suite.residual(64), 384),
    "bottleneck-320": (lambda: suite.residual(128, bottleneck=True), 320),
    "fire-320": (lambda: suite.fire(128), 320),
    "gated-320": (lambda: suite.depthwise(48, 5, gate=True), 320),
    "dense-wide": (lambda: suite.dense(6144), 16),
    "dense-middle": (lambda: suite.dense(3072), 16),
}


def main() -> None:
    """Export, run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runtime", choices=RUNTIMES, nargs="?", default="onnxruntime")
    name = parser.parse_args().runtime
    rows, version = measured(RUNTIMES[name])
    with (DATA / f"{name}_host_memory.csv").open("w", encoding="utf-8", newline="") as stream:
        stream.write("# measured by `python -m benchmarks.studies.accuracy.host_memory` on x86-64; ")
        stream.write(f"{RUNTIMES[name]} {version}, 1 thread; networks of edgedistill.suite; Apache-2.0\n")
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measured(runtime: str) -> tuple[list[Json], str]:
    """A row for each network, and the runtime's version."""
    suite.UNSEEN.update(LARGER)
    simulated = find_plugin("devices", "simulated")
    rows, version = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for name in (*suite.SUITE, *suite.UNSEEN):
            path = exported(name, runtime, Path(folder))
            call = replace(call_for(Subject(described(path), runtime)), min_queries=5)
            document = load_device("cpu").run("cpu", call).document
            memory, version = document["memory_bytes"], document["runtime_version"]
            facts = {"network": name, "family": name.split("-", maxsplit=1)[0], "base_bytes": memory["after_import"]}
            facts["growth_bytes"] = memory["peak"] - memory["after_import"]
            rows.append(facts | {key: round(value) for key, value in simulated.memory_features(path).items()})
            sys.stdout.write(f"{name}: {facts['growth_bytes'] / 1e6:.1f} MB\n")
    return rows, version


if __name__ == "__main__":
    main()
