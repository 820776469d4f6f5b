"""Attention without tensors of five axes, which ncnn does not have."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import Graph, GraphModule, Node
    from torch.nn import Module

_FIVE_AXES = 5


def rewritten(model: Module, inputs: tuple[Tensor, ...]) -> GraphModule:
    """The model as a flat graph, in which parts of a fused projection are cut out before they are folded into heads.

    reshape(..., n, heads, width) -> permute -> unbind, or indexing, becomes for each part a slice of the last
    axis, a reshape and a permute of the four axes that are left.
    """
    import torch

    with torch.no_grad():
        graph = torch.export.export(model, inputs).module(check_guards=False)
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            _split_early(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _split_early(graph: Graph, node: Node) -> None:
    """Replace one unbind of a folded projection, or one part taken from it by index."""
    import operator

    import torch

    aten = torch.ops.aten
    if node.target not in (aten.unbind.int, aten.select.int):
        return
    chain = _folded(_taken(node), _number(node, 1) if len(node.args) > 1 else 0)
    if chain is None:
        return
    source, sizes, axis, order = chain
    if node.target == aten.select.int:
        parts = [(node, _number(node, 2))]
    else:
        parts = [(user, _number(user, 1)) for user in node.users if user.target is operator.getitem]
    width = math.prod(sizes[axis + 1 :])
    for part, index in parts:
        number = index % sizes[axis]
        with graph.inserting_before(part):
            cut = graph.call_function(aten.slice.Tensor, (source, -1, number * width, (number + 1) * width))
            heads = graph.call_function(aten.reshape.default, (cut, [*sizes[:axis], *sizes[axis + 1 :]]))
            moved = graph.call_function(aten.permute.default, (heads, order))
        part.replace_all_uses_with(moved)


def _taken(node: Node) -> Node:
    """The tensor that an operator takes."""
    return cast("Node", node.args[0])


def _number(node: Node, place: int) -> int:
    return cast("int", node.args[place])


def _folded(node: Node, taken: int) -> tuple[Node, list[int], int, list[int]] | None:
    """(projection, folded sizes, axis of the parts, order of the axes left); None for anything else."""
    import torch

    aten = torch.ops.aten
    value = node.meta.get("val")
    if value is None or value.ndim != _FIVE_AXES:
        return None
    order = list(range(_FIVE_AXES))
    if node.target == aten.permute.default:
        order, node = [axis % _FIVE_AXES for axis in cast("list[int]", node.args[1])], _taken(node)
    if node.target not in (aten.reshape.default, aten.view.default, aten.unflatten.int):
        return None
    source, sizes = _taken(node), [int(size) for size in node.meta["val"].shape]
    axis = order[taken % _FIVE_AXES]
    before = [int(size) for size in source.meta["val"].shape]
    if sizes[:axis] != before[:-1] or math.prod(sizes[axis:]) != before[-1]:
        return None  # the parts are not contiguous in the projection
    left = [a - (a > axis) for a in order if a != axis]
    return source, sizes, axis, left
