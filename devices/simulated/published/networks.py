"""Networks of published timings whose files are not at hand: their graphs from the papers' tables."""

from __future__ import annotations

import math

from ..graphs.graph import Graph, Layer

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_V3_LARGE = (  # kernel, expanded, out, squeeze-excite, stride
    (3, 16, 16, 0, 1),
    (3, 64, 24, 0, 2),
    (3, 72, 24, 0, 1),
    (5, 72, 40, 1, 2),
    (5, 120, 40, 1, 1),
    (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1),
    (5, 672, 160, 1, 2),
    (5, 960, 160, 1, 1),
    (5, 960, 160, 1, 1),
)
_V3_SMALL = (
    (3, 16, 16, 1, 2),
    (3, 72, 24, 0, 2),
    (3, 88, 24, 0, 1),
    (5, 96, 40, 1, 2),
    (5, 240, 40, 1, 1),
    (5, 240, 40, 1, 1),
    (5, 120, 48, 1, 1),
    (5, 144, 48, 1, 1),
    (5, 288, 96, 1, 2),
    (5, 576, 96, 1, 1),
    (5, 576, 96, 1, 1),
)


class Builder:
    """Writes layers one after the other; `at` is (channels, height, width) of the last output."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        self.at = (channels, height, width)
        self.layers: list[Layer] = []
        self.sizes = {"0": channels * height * width}
        self.last = "0"

    def _add(self, layer: Layer, shape: tuple[int, int, int]) -> None:
        self.layers.append(layer)
        self.last = layer.outputs[0]
        self.sizes[self.last] = math.prod(shape)
        self.at = shape

    def conv(self, out: int, kernel: tuple[int, int], stride: int = 1, *, depthwise: bool = False) -> None:
        """A convolution with `same` padding, its activation fused."""
        channels, height, width = self.at
        groups = channels if depthwise else 1
        after = (out, -(-height // stride), -(-width // stride))
        size = out * channels // groups * math.prod(kernel)
        positions = after[1] * after[2]
        name = str(len(self.sizes))
        self._add(
            Layer(
                "conv",
                name,
                (self.last,),
                (name,),
                size * positions,
                size,
                kernel,
                stride,
                groups,
                (channels, out),
                positions,
            ),
            after,
        )

    def dense(self, out: int) -> None:
        """A dense layer over all that there is."""
        size, name = out * math.prod(self.at), str(len(self.sizes))
        self._add(Layer("dense", name, (self.last,), (name,), size, size), (out, 1, 1))

    def memory(self, *, pool: bool = False, other: str | None = None) -> None:
        """An elementwise layer (with a second input, if given), or a global pooling."""
        name = str(len(self.sizes))
        inputs = (self.last, other) if other is not None else (self.last,)
        self._add(Layer("memory", name, inputs, (name,)), (self.at[0], 1, 1) if pool else self.at)

    def graph(self) -> Graph:
        """What was written."""
        weights = 4 * sum(layer.weights for layer in self.layers)
        return Graph(tuple(self.layers), self.sizes, ("0",), (self.last,), weights)


def mobilenet_v1(width: float, resolution: int, classes: int = 1001) -> Graph:
    """A. G. Howard et al., "MobileNets", 2017, table 1."""
    net = Builder(3, resolution, resolution)
    net.conv(int(32 * width), (3, 3), 2)
    for out, stride in _V1:
        net.conv(net.at[0], (3, 3), stride, depthwise=True)
        net.conv(int(out * width), (1, 1))
    net.memory(pool=True)
    net.dense(classes)
    return net.graph()


def mobilenet_v3(*, small: bool) -> Graph:
    """A. Howard et al., "Searching for MobileNetV3", 2019, tables 1 and 2; width 1.0, 224 x 224, 1000 classes."""
    net = Builder(3, 224, 224)
    net.conv(16, (3, 3), 2)
    for kernel, expanded, out, squeezed, stride in _V3_SMALL if small else _V3_LARGE:
        before, start = net.last, net.at
        if expanded != start[0]:
            net.conv(expanded, (1, 1))
        net.conv(expanded, (kernel, kernel), stride, depthwise=True)
        if squeezed:
            _squeeze_excite(net, expanded)
        net.conv(out, (1, 1))
        if net.at == start:
            net.memory(other=before)
    net.conv(576 if small else 960, (1, 1))
    net.memory(pool=True)
    net.dense(1024 if small else 1280)
    net.dense(1000)
    return net.graph()


def _squeeze_excite(net: Builder, channels: int) -> None:
    body, shape = net.last, net.at
    net.memory(pool=True)
    net.dense(-(-channels // 4 // 8) * 8)
    net.dense(channels)
    net.last, net.at, gate = body, shape, net.last
    net.memory(other=gate)


def tiny(name: str) -> Graph:
    """A network of MLPerf Tiny: ad (dense autoencoder), ic (ResNet-8), kws (DS-CNN), vww (MobileNetV1 0.25).

    C. Banbury et al., "MLPerf Tiny Benchmark", 2021, section 4.
    """
    if name == "vww":
        return mobilenet_v1(0.25, 96, 2)
    if name == "ad":
        net = Builder(640, 1, 1)
        for width in (*[128] * 4, 8, *[128] * 4, 640):
            net.dense(width)
        return net.graph()
    if name == "kws":
        net = Builder(1, 49, 10)
        net.conv(64, (10, 4), 2)
        for _ in range(4):
            net.conv(64, (3, 3), depthwise=True)
            net.conv(64, (1, 1))
        net.memory(pool=True)
        net.dense(12)
        return net.graph()
    net = Builder(3, 32, 32)
    net.conv(16, (3, 3))
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        _residual(net, width, stride)
    net.memory(pool=True)
    net.dense(10)
    return net.graph()


def _residual(net: Builder, width: int, stride: int) -> None:
    before, start = net.last, net.at
    net.conv(width, (3, 3), stride)
    net.conv(width, (3, 3))
    if stride > 1:
        body, shape = net.last, net.at
        net.last, net.at = before, start
        net.conv(width, (1, 1), stride)
        net.last, net.at, before = body, shape, net.last
    net.memory(other=before)
