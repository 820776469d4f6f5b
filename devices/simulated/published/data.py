"""The published timings that profiles rest on, as anchors with features."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import counts
from ..fit import Anchors
from ..graphs import graph as graphs
from ..graphs.graph import Graph, Layer
from .networks import mobilenet_v1, mobilenet_v3, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgedistill.types import Array, Json

DATA = Path(__file__).parents[2] / "data"
CLUSTERS = {"all": "0", "little": "1", "big": "2"}
"""Where a run was bound to -> ncnn's `powersave`."""
_FAMILIES = {
    "mobilenet": "mobilenet-v1",
    "mobilenet_ssd": "mobilenet-v1",
    "mobilenet_yolo": "mobilenet-v1",
    "mobilenet_v2": "mobilenet-v2",
    "mobilenetv2_yolov3": "mobilenet-v2",
    "mnasnet": "mnasnet",
    "proxylessnasnet": "mnasnet",
    "efficientnet_b0": "efficientnet",
    "efficientnetv2_b0": "efficientnet",
    "shufflenet_v2": "shufflenet-v2",
    "nanodet_m": "shufflenet-v2",
    "yolo-fastestv2": "shufflenet-v2",
    "FastestDet": "shufflenet-v2",
    "MobileNetV1": "mobilenet-v1",
    "MobileNetV2": "mobilenet-v2",
    "ResNet50": "resnet50",
    "MobileNetV3_large_x1_0": "mobilenet-v3",
    "MobileNetV3_small_x1_0": "mobilenet-v3",
}
"""By backbone; a network that is not named is a family of its own."""
_CLASSES = {
    "stem": "stem",
    "c3": "conv3x3",
    "ck": "convkxk",
    "c1": "conv1x1",
    "dw": "depthwise",
    "gc": "grouped",
    "mm": "matmul",
    "fc": "dense",
    "mem": "memory",
}


@cache
def rows(name: str) -> tuple[Json, ...]:
    """A table of the data folder; its first line is a comment that tells source and licence."""
    with (DATA / name).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(line for line in stream if not line.startswith("#")))


def source(name: str) -> str:
    """The first line of a table: where it comes from, and under which licence."""
    return (DATA / name).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def family(name: str) -> str:
    """The architecture family of a network of the tables."""
    return _FAMILIES.get(name, name)


@cache
def ncnn_graph(model: str) -> Graph:
    """A network of ncnn's benchmark, layer by layer; inputs and outputs are known by size alone."""
    layers: list[Layer] = []
    sizes: dict[str, int] = {}
    for number, row in enumerate(rows("ncnn_layers.csv")):
        if row["model"] != model:
            continue
        before, after = f"{number}-in", f"{number}-out"
        sizes |= {before: int(row["in_elems"]), after: int(row["out_elems"])}
        kind = _CLASSES[row["class"]]
        convolution = kind not in ("matmul", "dense", "memory")
        kernel, stride = int(row["kernel"] or 1), int(row["stride"] or 1)
        channels = (int(row["cin"] or 0), int(row["cout"] or 0))
        groups = min(channels) if kind == "depthwise" else 2 if kind == "grouped" else 1
        layers.append(
            Layer(
                "conv" if convolution else kind,
                f"{row['type']} {number}",
                (before,),
                (after,),
                int(row["macs"]),
                int(row["weight_elems"]),
                (kernel, kernel),
                stride,
                groups,
                channels,
                int(row["out_w"] or 1) * int(row["out_h"] or 1),
            )
        )
    weights = 4 * sum(layer.weights for layer in layers)
    return Graph(tuple(layers), sizes, (), (), weights)


@cache
def ncnn_counts(model: str, core: str) -> Array | None:
    """Count features of a network of ncnn's benchmark on a core; None: it was not counted there."""
    return _counts("ncnn", model, core)


def litert_counts(model: str, core: str) -> Array | None:
    """The same in LiteRT."""
    return _counts("ai-edge-litert", model, core)


def _counts(runtime: str, model: str, core: str) -> Array | None:
    for row in rows("counts.csv"):
        if row["runtime"].startswith(runtime) and row["core"] == core and row["model"] == model:
            numeric = {key: float(value) for key, value in row.items() if key not in ("runtime", "core", "model")}
            return counts.features_of_totals(numeric)
    return None


def ncnn_times(board: str, threads: int, cluster: str, precision: str) -> dict[str, float]:
    """Network -> milliseconds (least of the loops); precision `float` or `int8`."""
    wanted = (board, str(threads), CLUSTERS[cluster], precision)
    return {
        row["model"]: float(row["min_ms"])
        for row in rows("ncnn_timings.csv")
        if (row["board"], row["threads"], row["powersave"], row["precision"]) == wanted
    }


def graph_anchors(times: dict[str, float]) -> Anchors:
    """Anchors of the operator-class predictor from timings of ncnn's benchmark."""
    return anchors(times, _graph_features)


def count_anchors(times: dict[str, float], core: str, suffix: str = "") -> Anchors:
    """Anchors of the counts predictor; networks without counts are left out. `suffix`: of the files' names."""
    return anchors(times, lambda name: ncnn_counts(name + suffix, core))


def _graph_features(name: str) -> Array | None:
    graph = ncnn_graph(name)
    return graphs.features(graph) if graph.layers else None


def anchors(times: dict[str, float], features_of: Callable[[str], Array | None]) -> Anchors:
    """Anchors of those networks whose features are known."""
    found = {name: features_of(name) for name in times}
    names = [name for name, features in found.items() if features is not None]
    return Anchors(
        tuple(names),
        tuple(map(family, names)),
        np.array([found[name] for name in names], float),
        np.array([times[name] for name in names]),
    )


def pixel_anchors(precision: str, device: str = "Pixel 3 (Android 10)") -> Anchors:
    """MobileNetV1 by width and resolution in TFLite, 4 threads; a family is a width, since that is held out."""
    times = {
        row["model"]: float(row["ms"])
        for row in rows("tflite_pixel3.csv")
        if row["device"] == device and row["precision"] == precision and row["model"].startswith("mobilenet_v1_")
    }
    settings = {name: name.split("_")[2:] for name in times}
    features = {name: graphs.features(mobilenet_v1(float(w), int(r))) for name, (w, r) in settings.items()}
    return Anchors(
        tuple(times),
        tuple(f"mobilenet-v1 {width}" for width, _ in settings.values()),
        np.array(list(features.values())),
        np.array(list(times.values())),
    )


def paddle_times(soc: str, precision: str) -> dict[str, float]:
    """Paddle-Lite's dense rows, 1 thread on a big core, aarch64."""
    wanted = (soc, "cpu", "ARMV8", precision, "dense")
    return {
        row["model"].removesuffix("_quant"): float(row["ms"])
        for row in rows("paddlelite.csv")
        if (row["soc"], row["unit"], row["isa"], row["precision"], row["sparsity"]) == wanted
    }


def paddle_graph(name: str) -> Graph | None:
    """The graph of a network of Paddle-Lite's table, where it is known for sure."""
    same = {"MobileNetV1": "mobilenet", "MobileNetV2": "mobilenet_v2", "ResNet50": "resnet50"}
    if name in same:
        return ncnn_graph(same[name])
    v3 = {"MobileNetV3_large_x1_0": False, "MobileNetV3_small_x1_0": True}
    return mobilenet_v3(small=v3[name]) if name in v3 else None


def paddle_anchors(soc: str, precision: str) -> Anchors:
    """Anchors of Paddle-Lite's table."""

    def features_of(name: str) -> Array | None:
        graph = paddle_graph(name)
        return graphs.features(graph) if graph is not None else None

    return anchors(paddle_times(soc, precision), features_of)


def tiny_anchors(system: str) -> Anchors:
    """MLPerf Tiny's four networks on a board: milliseconds from inferences per second."""
    times = {
        row["MlperfModel"]: 1000 / float(row["Result"])
        for row in rows("mlperf_tiny.csv")
        if row["SystemDesc"] == system and row["ResultUnit"].startswith("inf")
    }
    return anchors(times, lambda name: graphs.features(tiny(name)))


def host_times(board: str = "AMD EPYC 7742") -> dict[str, float]:
    """A server's one-thread rows of the same table: what a clean measurement on a host is in the validation."""
    return {
        row["model"]: float(row["min_ms"])
        for row in rows("ncnn_timings.csv")
        if row["board"].startswith(board) and row["threads"] == "1" and row["precision"] == "float"
    }


def ncnn_names() -> Iterable[str]:
    """Networks whose layers are known."""
    return dict.fromkeys(row["model"] for row in rows("ncnn_layers.csv"))
