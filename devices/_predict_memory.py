"""How much memory a network takes in a runtime: weights, activations, workspace and the runtime itself, each apart."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import yaml

from ._predict_data import DATA, ncnn_graph, rows
from ._predict_fit import Anchors, Validation, fit, validate
from ._predict_graph import FLOAT_BYTES, arena_elements

if TYPE_CHECKING:
    from edgedistill.types import Array, Json

    from ._predict_graph import Graph, Layer
    from ._predict_profile import Memory

FILE = DATA / "memory.yaml"
FEATURES = ("weights", "transformed_weights", "patches", "largest_layer", "arena", "constant", "layers")
"""Bytes of the weights; of 3x3 weights transformed for Winograd's algorithm; of the largest convolution's patches
(im2col); of the largest layer's input and output; of the activations that live at once; 1; layers."""
PRIOR = np.array([1.0, 0.3, 1.0, 1.0, 1.5, 1.5e6, 5e3])
"""By hand: what each stands for in bytes."""
_PARTS = {
    "weights": ("weights", "transformed_weights"), "arena": ("arena",),
    "workspace": ("patches", "largest_layer", "constant", "layers"),
}  # fmt: skip
_TILE = 64 / 9
MEASURED = ("onnxruntime", "tflite", "openvino")
"""Runtimes with a table of measured peaks."""
_NCNN_BASE = 13.2e6
_LEAST_CHANNELS = 16


def features(graph: Graph, arena_bytes: float | None = None) -> Array:
    """Of a graph; `arena_bytes` where it is known from elsewhere."""
    convolutions = [layer for layer in graph.layers if layer.op == "conv"]
    weights = float(graph.weight_bytes)
    transformed = sum(layer.weights * FLOAT_BYTES * _TILE for layer in convolutions if _winograd(layer))
    patches = max((_patches(layer) for layer in convolutions), default=0) * graph.item_bytes
    largest = max((graph.io(layer) for layer in graph.layers if layer.kind != "free"), default=0) * graph.item_bytes
    arena = arena_elements(graph) * graph.item_bytes if arena_bytes is None else arena_bytes
    steps = sum(layer.kind != "free" for layer in graph.layers)
    return np.array([weights, transformed, patches, largest, arena, 1, steps], dtype=float)


def _winograd(layer: Layer) -> bool:
    return layer.kind == "conv3x3" and min(layer.channels) >= _LEAST_CHANNELS


def _patches(layer: Layer) -> float:
    """Elements of a convolution's input unrolled; one by one kernels read it as it lies."""
    if layer.groups > 1 or layer.kernel == (1, 1):
        return 0
    return layer.kernel[0] * layer.kernel[1] * layer.channels[0] * layer.positions


def ncnn_anchors() -> Anchors:
    """Growth of the resident peak in ncnn on x86-64, in bytes, float networks with Winograd's algorithm on."""
    from ._predict_data import family

    found = {
        row["model"]: (float(row["delta_peak_mb"]) * 1e6, float(row["arena_fp32_mb"]) * 1e6)
        for row in rows("ncnn_host_memory.csv")
        if row["winograd"] == "1" and not row["model"].endswith("_int8")
    }
    return Anchors(
        tuple(found), tuple(map(family, found)),
        np.array([features(ncnn_graph(name), arena) for name, (_, arena) in found.items()]),
        np.array([peak for peak, _ in found.values()]),
    )  # fmt: skip


def measured_anchors(runtime: str) -> Anchors:
    """The same in another runtime, measured by this product (`python -m benchmarks.studies.host_memory`)."""
    table = rows(f"{runtime}_host_memory.csv")
    return Anchors(
        tuple(row["network"] for row in table), tuple(row["family"] for row in table),
        np.array([[float(row[name]) for name in FEATURES] for row in table]),
        np.array([float(row["growth_bytes"]) for row in table]),
    )  # fmt: skip


def every_anchors() -> dict[str, Anchors]:
    """By runtime."""
    return {"ncnn": ncnn_anchors(), **{runtime: measured_anchors(runtime) for runtime in MEASURED}}


def base_bytes(runtime: str) -> float:
    """Resident bytes of a process with the runtime loaded and nothing opened, Python included."""
    return _NCNN_BASE if runtime == "ncnn" else float(rows(f"{runtime}_host_memory.csv")[0]["base_bytes"])


def fitted(anchors: Anchors) -> tuple[dict[str, float], Validation]:
    """Bytes per unit of each feature, and the held-out error."""
    return dict(zip(FEATURES, fit(anchors, PRIOR).tolist(), strict=True)), validate(anchors, PRIOR)


@cache
def _models() -> Json:
    document: Json = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def predict(graph: Graph, runtime: str) -> Json:
    """Bytes of each part, `total`, and whether anything measured stands behind it.

    A runtime without a fit gets the plain sum: weights, and the activations that live at once.
    """
    row = dict(zip(FEATURES, features(graph).tolist(), strict=True))
    model = _models().get(runtime)
    if model is None:
        parts: Json = {"weights": row["weights"], "arena": row["arena"], "workspace": 0.0, "runtime": 0.0}
        return {
            **{name: round(value) for name, value in parts.items()}, "total": round(sum(parts.values())),
            "mdape": None, "flags": [f"memory of {runtime}: UNVALIDATED, without workspace and runtime"],
        }  # fmt: skip
    costs = model["costs"]
    parts = {part: sum(costs[name] * row[name] for name in names) for part, names in _PARTS.items()}
    parts["runtime"] = model["base_bytes"]
    return {
        **{name: round(value) for name, value in parts.items()}, "total": round(sum(parts.values())),
        "mdape": model["mdape"], "flags": ["memory is modelled after x86-64 measurements"],
    }  # fmt: skip


def fits(graph: Graph, memory: Json, device: Memory) -> Json:
    """Does it fit: total against the budget; on a microcontroller arena against SRAM and weights against flash.

    Args:
        graph: the network.
        memory: of `predict`.
        device: what the profile knows of the device's memory.
    """
    sram_kb, flash_kb, budget_mb = device.sram_kb, device.flash_kb, device.app_budget_mb
    if sram_kb is not None and flash_kb is not None:
        arena = arena_elements(graph) * graph.item_bytes
        return {
            "fits": arena <= sram_kb * 1024 and graph.weight_bytes <= flash_kb * 1024,
            "sram_bytes": arena, "sram_limit_bytes": round(sram_kb * 1024),
            "flash_bytes": graph.weight_bytes, "flash_limit_bytes": round(flash_kb * 1024),
        }  # fmt: skip
    if budget_mb is None:
        return {"fits": None}
    return {"fits": memory["total"] <= budget_mb * 1e6, "limit_bytes": round(budget_mb * 1e6)}
