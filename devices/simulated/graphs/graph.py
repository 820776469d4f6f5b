"""A network as a predictor sees it: what each layer computes and moves, after the fusions that runtimes do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from edgedistill.types import Array

CLASSES = ("stem", "conv3x3", "convkxk", "conv1x1", "depthwise", "grouped", "matmul", "dense", "memory", "unknown")
"""What takes time; `free` layers (reshapes, constants, what is fused) do not."""
FEATURES = (
    "stem_macs",
    "conv3x3_macs",
    "convkxk_macs",
    "conv1x1_macs",
    "depthwise_macs",
    "grouped_macs",
    "matmul_macs",
    "dense_weight_bytes",
    "conv_io_bytes",
    "memory_io_bytes",
    "conv_weight_bytes",
    "layers",
)
"""Of the operator-class predictor; bytes are those of 32-bit floats whatever the file's precision."""
PRIOR = np.array([1, 0.6, 1, 1, 2, 2, 1.2, 1, 1, 1, 1, 20000.0])
"""Proportions of the features' costs where a board's own anchors say little: one layer as 20,000 MACs. By hand."""
_CONVOLUTIONS = CLASSES[:6]
_FUSED = ("relu", "clip", "leaky_relu", "sigmoid", "hard_sigmoid", "hard_swish", "tanh", "mish", "batch_norm", "bias")
FLOAT_BYTES = 4


class UnfitError(ValueError):
    """A sound file that no prediction can be made of; `fix` tells what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


def require_one_sample(name: str, axes: Sequence[int | None]) -> None:
    """Whether an input is of one sample, and its sizes are told. `axes`: their sizes; None: dynamic.

    Raises:
        UnfitError: it is not.
    """
    for place, size in enumerate(axes):
        if place and size is None:
            raise UnfitError(
                f"axis {place} of the input {name} has no size: it decides the latency", "fix the axis when exporting"
            )
    batch = axes[0] if len(axes) > 1 else None
    if batch is not None and batch > 1:
        raise UnfitError(
            f"the input {name} has a batch of {batch}: predictions are of one sample",
            "export it with a batch of 1 or a dynamic batch",
        )


@dataclass(frozen=True)
class Layer:
    """One layer, batch 1.

    Attributes:
        op: conv, dense, matmul, memory, free, unknown, or an activation's name (`_FUSED`).
        name: the file's own.
        inputs: activations it reads, by name.
        outputs: activations it writes.
        macs: multiply-accumulates.
        weights: elements of its constants that are weights.
        kernel: height x width of a convolution.
        stride: of a convolution.
        dilation: of a convolution, the larger of both axes.
        groups: of a convolution.
        channels: in and out.
        positions: output positions of a convolution (height x width).
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    weights: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    channels: tuple[int, int] = (0, 0)
    positions: int = 0
    dilation: int = 1

    @property
    def kind(self) -> str:
        """One of CLASSES, or `free`."""
        if self.op != "conv":
            return self.op if self.op in ("dense", "matmul", "free", "unknown") else "memory"
        if self.groups > 1:  # runtimes have depthwise kernels for dense windows alone
            return "depthwise" if self.groups == min(self.channels) and self.dilation == 1 else "grouped"
        if self.channels[0] <= 4:  # an image's channels: kernels for few channels differ
            return "stem"
        if self.kernel == (1, 1):
            return "conv1x1"
        dense = (self.stride, self.dilation) == (1, 1)  # what Winograd's algorithm asks for
        return "conv3x3" if self.kernel == (3, 3) and dense else "convkxk"


def unknown_layer(
    kind: str,
    name: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    told: dict[str, int],
    *,
    macs: int = 0,
    weights: int = 0,
) -> Layer:
    """A layer whose cost no profile tells; its operator is counted in `told`."""
    told[kind] = told.get(kind, 0) + 1
    return Layer("unknown", name, inputs, outputs, macs, weights)


@dataclass(frozen=True)
class Graph:
    """Layers in the order in which they run.

    Attributes:
        layers: fused layers are `free`.
        sizes: elements of each activation.
        inputs: names of the activations that come from outside.
        outputs: names of those that go outside.
        weight_bytes: of the constants, as the file stores them.
        item_bytes: of an activation's element: 4 (float) or 1.
        unknown: operators that no reader knows and convolutions that no class is for (transposed, of volumes), with how
            often they occur.
    """

    layers: tuple[Layer, ...]
    sizes: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int
    item_bytes: int = FLOAT_BYTES
    unknown: dict[str, int] = field(default_factory=dict)

    def io(self, layer: Layer) -> int:
        """Elements that a layer reads and writes."""
        return sum(self.sizes.get(name, 0) for name in (*layer.inputs, *layer.outputs))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    def macs_by_class(self) -> dict[str, int]:
        """Class -> multiply-accumulates."""
        found: Counter[str] = Counter()
        for layer in self.layers:
            found[layer.kind] += layer.macs
        return dict(found)

    def as_int8(self) -> Graph:
        """The same with 8-bit activations and weights, as far as sizes go."""
        if self.quantized:
            return self
        return replace(self, item_bytes=1, weight_bytes=self.weight_bytes // FLOAT_BYTES)

    @property
    def quantized(self) -> bool:
        """Whether activations are 8-bit integers."""
        return self.item_bytes == 1


def features(graph: Graph) -> Array:
    """The operator-class predictor's features of one inference, in the order of FEATURES."""
    every = [layer_features(graph, layer) for layer in graph.layers]
    return np.sum([np.zeros(len(FEATURES)), *every], axis=0, dtype=float)  # type: ignore[no-any-return]  # numpy's stub


def layer_features(graph: Graph, layer: Layer) -> Array:
    """What one layer adds to the features."""
    kind, io_bytes, weight_bytes = layer.kind, FLOAT_BYTES * graph.io(layer), FLOAT_BYTES * layer.weights
    row = dict.fromkeys(FEATURES, 0.0)
    if kind != "free":
        row["layers"] = 1
    if kind in _CONVOLUTIONS:
        row |= {f"{kind}_macs": layer.macs, "conv_io_bytes": io_bytes, "conv_weight_bytes": weight_bytes}
    elif kind in ("matmul", "unknown"):
        row["matmul_macs"] = layer.macs
    elif kind == "dense":
        row["dense_weight_bytes"] = weight_bytes
    elif kind == "memory":
        row["memory_io_bytes"] = io_bytes
    return np.array([row[name] for name in FEATURES], dtype=float)


def fused(layers: Sequence[Layer], outputs: Iterable[str]) -> tuple[Layer, ...]:
    """The layers after a runtime's fusions.

    An activation or a normalisation that alone reads what a convolution or dense layer wrote is free, and
    x * sigmoid(x) is one layer. The fused layer's output takes the place of what it read.
    """
    layers = _swish(layers)
    readers = Counter(name for layer in layers for name in layer.inputs) + Counter(outputs)
    writers = {name: number for number, layer in enumerate(layers) for name in layer.outputs}
    result = list(layers)
    for number, layer in enumerate(layers):
        if layer.op not in _FUSED or len(layer.inputs) != 1 or readers[layer.inputs[0]] != 1:
            continue
        source = writers.get(layer.inputs[0])
        if source is not None and result[source].op in ("conv", "dense") and result[source].outputs == layer.inputs:
            result[source] = replace(result[source], outputs=layer.outputs)
            result[number] = replace(layer, op="free", inputs=(), outputs=())
            writers[layer.outputs[0]] = source
    return tuple(result)


def _swish(layers: Sequence[Layer]) -> list[Layer]:
    """X * sigmoid(x), written as two layers, as one."""
    result = list(layers)
    writers = {name: number for number, layer in enumerate(layers) for name in layer.outputs}
    for number, layer in enumerate(layers):
        gates = [writers.get(name, -1) for name in layer.inputs]
        for gate, other in zip(gates, reversed(layer.inputs), strict=True) if len(gates) == 2 else ():
            if gate >= 0 and layers[gate].op in ("sigmoid", "hard_sigmoid") and layers[gate].inputs == (other,):
                result[gate] = replace(layers[gate], op="free", inputs=(), outputs=())
                result[number] = replace(layer, inputs=(other,))
    return result


def arena_elements(graph: Graph, beside: Callable[[Layer], float] = lambda _: 0) -> int:
    """The most activation elements that live at once: from when they are written until they are last read.

    What a free layer passes on lies in the same place as what it reads. `beside`: what a layer needs more as it runs.
    """
    place = {name: name for name in graph.sizes}
    for layer in graph.layers:
        if layer.op == "free" and len(layer.inputs) == 1:
            place |= {name: place.get(layer.inputs[0], layer.inputs[0]) for name in layer.outputs}
    steps = [layer for layer in graph.layers if layer.op != "free"]
    last: dict[str, int] = {}
    for number, layer in enumerate(steps):
        for name in (*layer.inputs, *layer.outputs):
            last[place.get(name, name)] = number
    last |= dict.fromkeys((place.get(name, name) for name in graph.outputs), len(steps))
    alive = {place.get(name, name) for name in graph.inputs}
    most = sum(graph.sizes.get(name, 0) for name in alive)
    for number, layer in enumerate(steps):
        alive |= {place.get(name, name) for name in layer.outputs}
        most = max(most, sum(graph.sizes.get(name, 0) for name in alive) + round(beside(layer)))
        alive = {name for name in alive if last.get(name, -1) > number}
    return most
