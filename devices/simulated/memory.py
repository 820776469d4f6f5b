"""How much memory a network takes in a runtime: weights, activations, workspace and the runtime itself, each apart."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import yaml

from .fit import Anchors, Validation, fit, validate
from .graphs.graph import FLOAT_BYTES, arena_elements
from .published.data import DATA, rows

if TYPE_CHECKING:
    from edgedistill.types import Json

    from .graphs.graph import Graph, Layer
    from .profiles import Memory

FILE = DATA / "memory.yaml"
FEATURES = (
    "weights",
    "transformed_weights",
    "held_weights",
    "largest_weights",
    "patches",
    "largest_layer",
    "arena",
    "beside_arena",
    "constant",
    "layers",
)
"""Bytes of the weights; of 3x3 weights transformed for Winograd's algorithm; of the weights with those transformed in
place of the file's; of the largest layer's weights, which lie there twice while they are packed; of the largest
convolution's patches (im2col); of the largest layer's input and output; of the activations that live at once; what the
peak is above that when each convolution's unrolled or transformed input lies beside them; 1; layers."""
_USUAL = ("weights", "transformed_weights", "patches", "largest_layer", "arena", "constant", "layers")
_OF = {"ncnn": ("held_weights", "largest_weights", "arena", "beside_arena", "constant", "layers")}
"""Features of a runtime's model where they are not the usual ones: ncnn forgets the weights that it has packed."""
_PRIOR = {
    "weights": 1.0,
    "transformed_weights": 0.3,
    "held_weights": 1.0,
    "largest_weights": 1.0,
    "patches": 1.0,
    "largest_layer": 1.0,
    "arena": 1.5,
    "beside_arena": 1.0,
    "constant": 1.5e6,
    "layers": 5e3,
}
"""By hand: what each stands for in bytes."""
_PARTS = {
    "weights": ("weights", "transformed_weights", "held_weights", "largest_weights"),
    "arena": ("arena",),
    "workspace": ("patches", "largest_layer", "beside_arena", "constant", "layers"),
}
_TILE = 64 / 9
_NCNN_TILES = (4.0, 64 / 9)
_FEW_CHANNELS = 32
"""Up to so many channels ncnn transforms a 3x3 kernel to 8x8, beyond to 6x6."""
_STAGED = 36 / 16
"""Elements that Winograd's algorithm makes of one of the input: 6x6 tiles for 4x4 outputs."""
MEASURED = ("ncnn", "onnxruntime", "tflite", "openvino")
"""Runtimes with a table of measured peaks."""
_LEAST_CHANNELS = 16


def features_of(runtime: str) -> tuple[str, ...]:
    """Those of FEATURES that a runtime's model reads."""
    return _OF.get(runtime, _USUAL)


def features(graph: Graph) -> dict[str, float]:
    """Of a graph, by name."""
    convolutions = [layer for layer in graph.layers if layer.op == "conv"]
    item, weights = graph.item_bytes, float(graph.weight_bytes)
    arena = arena_elements(graph) * item
    steps = [layer for layer in graph.layers if layer.kind != "free"]
    return {
        "weights": weights,
        "transformed_weights": sum(layer.weights * FLOAT_BYTES * _TILE for layer in convolutions if _winograd(layer)),
        "held_weights": weights + sum(layer.weights * item * (_tile(layer) - 1) for layer in convolutions),
        "largest_weights": max((layer.weights for layer in graph.layers), default=0) * item,
        "patches": max((_patches(layer) for layer in convolutions), default=0) * item,
        "largest_layer": max((graph.io(layer) for layer in steps), default=0) * item,
        "arena": arena,
        "beside_arena": arena_elements(graph, _staged) * item - arena,
        "constant": 1,
        "layers": len(steps),
    }


def _winograd(layer: Layer) -> bool:
    return layer.kind == "conv3x3" and min(layer.channels) >= _LEAST_CHANNELS


def _tile(layer: Layer) -> float:
    """Elements that ncnn holds for one of a convolution's weights."""
    return _NCNN_TILES[max(layer.channels) <= _FEW_CHANNELS] if _winograd(layer) else 1


def _patches(layer: Layer) -> float:
    """Elements of a convolution's input unrolled; one by one kernels read it as it lies."""
    if layer.groups > 1 or layer.kernel == (1, 1):
        return 0
    return layer.kernel[0] * layer.kernel[1] * layer.channels[0] * layer.positions


def _staged(layer: Layer) -> float:
    """Elements that ncnn puts beside a convolution's input: that input unrolled (of 1x1 too), or transformed."""
    if layer.op != "conv" or layer.groups > 1:
        return 0
    each = _STAGED if _winograd(layer) else layer.kernel[0] * layer.kernel[1]
    return each * layer.channels[0] * layer.positions


def measured_anchors(runtime: str) -> Anchors:
    """Growth of the resident peak in bytes, measured by `python -m benchmarks.studies.accuracy.host_memory`."""
    table = rows(f"{runtime}_host_memory.csv")
    return Anchors(
        tuple(row["network"] for row in table),
        tuple(row["family"] for row in table),
        np.array([[float(row[name]) for name in features_of(runtime)] for row in table]),
        np.array([float(row["growth_bytes"]) for row in table]),
    )


def every_anchors() -> dict[str, Anchors]:
    """By runtime."""
    return {runtime: measured_anchors(runtime) for runtime in MEASURED}


def base_bytes(runtime: str) -> float:
    """Resident bytes of a process with the agent and the runtime loaded and nothing opened, Python included."""
    return float(rows(f"{runtime}_host_memory.csv")[0]["base_bytes"])


def fitted(runtime: str, anchors: Anchors) -> tuple[dict[str, float], Validation]:
    """Bytes per unit of each of the runtime's features, and the held-out error."""
    names = features_of(runtime)
    prior = np.array([_PRIOR[name] for name in names])
    return dict(zip(names, fit(anchors, prior).tolist(), strict=True)), validate(anchors, prior)


@cache
def _models() -> Json:
    document: Json = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return document


def predict(graph: Graph, runtime: str) -> Json:
    """Bytes of each part, `total`, and whether anything measured stands behind it.

    A runtime without a fit gets the plain sum: weights, and the activations that live at once.
    """
    row = features(graph)
    model = _models().get(runtime)
    if model is None:
        parts: Json = {"weights": row["weights"], "arena": row["arena"], "workspace": 0.0, "runtime": 0.0}
        return {
            **{name: round(value) for name, value in parts.items()},
            "total": round(sum(parts.values())),
            "mdape": None,
            "flags": [f"memory of {runtime}: UNVALIDATED, without workspace and runtime"],
        }
    costs = model["costs"]
    parts = {part: sum(costs.get(name, 0) * row[name] for name in names) for part, names in _PARTS.items()}
    parts["runtime"] = model["base_bytes"]
    return {
        **{name: round(value) for name, value in parts.items()},
        "total": round(sum(parts.values())),
        "mdape": model["mdape"],
        "flags": ["memory is modelled after x86-64 measurements"],
    }


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
            "sram_bytes": arena,
            "sram_limit_bytes": round(sram_kb * 1024),
            "flash_bytes": graph.weight_bytes,
            "flash_limit_bytes": round(flash_kb * 1024),
        }
    if budget_mb is None:
        return {"fits": None}
    return {"fits": memory["total"] <= budget_mb * 1e6, "limit_bytes": round(budget_mb * 1e6)}
