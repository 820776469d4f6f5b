"""Channels of very different ranges brought to one: what one layer gives larger, the next one takes smaller.

Rounding to 8 bits has one range for all channels of a tensor. Between two layers of weights with nothing but scale-free
operators between them, channel i may be divided by s_i and the next layer's weights for it multiplied: the function
stays what it is.

Source: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019;
G. Xiao et al., "SmoothQuant", ICML 2023 (the largest activation against the largest weight).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx

from edgedistill.distillation.rounding.graph import node_name, tensor_of
from edgedistill.models.graph import Recording

if TYPE_CHECKING:
    from jaxtyping import Float

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_WEIGHTED = _CONVOLUTIONS | {"linear"}
_SCALE_FREE = {
    "relu",
    "leaky_relu",
    "max_pool1d",
    "max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "mean",
    "clone",
    "detach",
    "alias",
    "view",
    "reshape",
    "flatten",
    "squeeze",
}
"""f(s x) = s f(x) for s > 0, channel by channel, as long as axis 1 stays the channels."""
_MOST = 1e3
"""Largest scale against the middle one: a channel that is nearly dead is no measure."""
_TINY = 1e-12
_BATCH = 16


@dataclass(frozen=True)
class _Pair:
    """Two layers of weights; `given` is the node that the second reads."""

    first: fx.Node
    second: fx.Node
    given: fx.Node


@torch.no_grad()
def equalize(graph: fx.GraphModule, samples: Float[Tensor, "n ..."]) -> int:
    """Equalise every pair of layers in place, by the largest activations over the samples; how many pairs there are."""
    pairs = [pair for node in graph.graph.nodes if (pair := _pair(node)) is not None]
    largest: dict[str, Tensor] = {}
    wanted = {pair.given.name for pair in pairs}

    def see(name: str, value: Tensor) -> None:
        if name in wanted:
            top = value.abs().transpose(0, 1).flatten(1).amax(1)
            largest[name] = torch.maximum(largest[name], top) if name in largest else top

    for batch in torch.split(samples, _BATCH) if pairs else ():
        Recording(graph, see).run(batch)
    for pair in pairs:
        _balance(graph, pair, largest[pair.given.name])
    return len(pairs)


def _pair(second: fx.Node) -> _Pair | None:
    """The layer before this one, if there is nothing but scale-free operators between them and no other reader."""
    if node_name(second) not in _WEIGHTED or not _owns_weights(second):
        return None
    given = cast("fx.Node", second.args[0])  # a layer reads a tensor
    node, channels = given, given.meta["val"].shape[1] if given.meta["val"].ndim > 1 else 0
    if node_name(second) == "linear" and given.meta["val"].ndim != 2:  # its channels are the last axis
        return None
    while True:
        if len(node.users) > 1 or node.meta["val"].ndim < 2 or node.meta["val"].shape[1] != channels:  # batch, channels
            return None
        if node_name(node) in _WEIGHTED:
            fits = node_name(node) in _CONVOLUTIONS or node.meta["val"].ndim == 2  # rows of features
            return _Pair(node, second, given) if fits and _owns_weights(node) else None
        if node_name(node) not in _SCALE_FREE:
            return None
        node = cast("fx.Node", node.args[0])


def _owns_weights(node: fx.Node) -> bool:
    """Whether its weights are parameters that nothing else reads."""
    own = [a for a in node.args[1:3] if isinstance(a, fx.Node)]
    shared = [other for other in node.graph.nodes for a in own if other.op == "get_attr" and other.target == a.target]
    return all(a.op == "get_attr" and len(a.users) == 1 for a in own) and len(shared) == len(own) > 0


def _balance(graph: fx.GraphModule, pair: _Pair, activations: Float[Tensor, " channels"]) -> None:
    """Scale channels between two layers.

    By the root of activation over weight, the weights relative to the largest of their output channel; where the second
    layer is depthwise, each of its channels has weights of its own range, and activations alone count.
    """
    weights, groups = tensor_of(graph, pair.second.args[1]), _groups(pair.second)
    columns = len(activations) // groups  # input channels that one output channel reads
    own_range = weights.abs().flatten(1).amax(1).clamp(min=_TINY).reshape(-1, *[1] * (weights.ndim - 1))
    grouped = (weights / own_range).reshape(groups, -1, columns, *weights.shape[2:])
    by_input = grouped.transpose(1, 2).flatten(2).abs().amax(2).flatten()
    alive = (activations > 0) & (by_input > 0)
    if not alive.any():
        return
    ratio = activations if columns == 1 else (activations / by_input.clamp(min=_TINY)).sqrt()
    scales = torch.where(alive, ratio, torch.ones_like(ratio))
    middle = scales[alive].median()
    scales = torch.where(alive, (scales / middle).clamp(1 / _MOST, _MOST), torch.ones_like(scales))
    before = tensor_of(graph, pair.first.args[1])
    before.div_(scales.reshape(-1, *[1] * (before.ndim - 1)))
    if len(pair.first.args) > 2 and pair.first.args[2] is not None:  # input, weights, bias
        tensor_of(graph, pair.first.args[2]).div_(scales)
    own = weights.view(groups, -1, columns, *weights.shape[2:])
    own.mul_(scales.reshape(groups, 1, columns, *[1] * (weights.ndim - 2)))


def _groups(node: fx.Node) -> int:
    """Of a convolution: input, weights, bias, stride, padding, dilation, groups."""
    place = 6
    return cast("int", node.args[place]) if len(node.args) > place else 1
