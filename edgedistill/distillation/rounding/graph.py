"""A trained student as the graph that integer files are made of: batch norms folded, stored tensors known by name."""

from __future__ import annotations

import operator
from typing import cast

import torch
from torch import Tensor, fx, nn

from edgedistill.errors import ModelError
from edgedistill.models.graph import operator_name

WEIGHT_AXIS = {
    "conv1d": 0,
    "conv2d": 0,
    "conv3d": 0,
    "linear": 0,
    "conv_transpose1d": 1,
    "conv_transpose2d": 1,
    "matmul": -1,
    "mm": -1,
}
"""Operators with weights as their second argument -> axis of the output channels."""
_COMPUTES = {
    *WEIGHT_AXIS,
    "addmm",
    "bmm",
    "baddbmm",
    "scaled_dot_product_attention",
    "add",
    "sub",
    "mul",
    "div",
    "relu",
    "relu6",
    "hardtanh",
    "clamp",
    "hardswish",
    "hardsigmoid",
    "silu",
    "sigmoid",
    "tanh",
    "gelu",
    "leaky_relu",
    "elu",
    "prelu",
    "mean",
    "sum",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "layer_norm",
    "group_norm",
    "softmax",
    "cat",
    "stack",
    "upsample_bilinear2d",
    "embedding",
}
"""Operators whose results integer files store in 8 bits."""
_CLAMPS = {"relu", "relu6", "hardtanh", "clamp"}
"""Fused into the operator before them: only the result is ever stored."""
_MOVES = {
    "view",
    "reshape",
    "permute",
    "transpose",
    "t",
    "flatten",
    "squeeze",
    "unsqueeze",
    "expand",
    "clone",
    "contiguous",
    "max_pool1d",
    "max_pool2d",
    "slice",
    "select",
    "alias",
    "pixel_shuffle",
    "detach",
    "adaptive_max_pool2d",
    "upsample_nearest2d",
    "constant_pad_nd",
    "pad",
}
"""Operators that hand values on: their results share the range of their input."""
_BATCH_NORM = "_native_batch_norm_legit_no_training"


def graph_of(student: nn.Module, example: Tensor) -> fx.GraphModule:
    """A functional graph of aten operators with a free batch axis; its weights are copies.

    Args:
        student: one tensor in, one out; left as it is.
        example: some samples.

    Raises:
        ModelError: torch.export refuses the student.
    """
    batch = torch.export.Dim("batch", min=1, max=1024)
    was_training = student.training
    try:
        several = torch.cat([example, example])[:2]  # a batch of one would be taken for a constant
        program = torch.export.export(student.eval(), (several,), dynamic_shapes=({0: batch},))
        module = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:
        raise ModelError(
            f"no graph can be made of the student: {(str(error).splitlines() or [''])[0][:300]}",
            where="quantize.qat",
            expected="a student that torch.export can trace with a free batch axis",
            got=type(error).__name__,
            fix="set quantize.qat.when to never, or remove from forward what depends on the data",
        ) from error
    finally:
        student.train(was_training)
    graph = fx.GraphModule(module, module.graph)  # a plain one: the exported one forbids train()
    for name, tensor in [*graph.named_parameters(), *graph.named_buffers()]:
        _put(graph, name, tensor)
    _fold_batch_norms(graph)
    _drop_unused_tensors(graph)
    graph.recompile()
    _check_ends(graph.graph)
    return graph


def _check_ends(graph: fx.Graph) -> None:
    """Refuse what is not one float tensor in and one out.

    Raises:
        ModelError: the student has other ends.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    (returned,) = (node.args[0] for node in graph.nodes if node.op == "output")
    outputs = list(returned) if isinstance(returned, tuple | list) else [returned]
    given = [node.meta["val"] for node in inputs]
    floats = all(isinstance(value, Tensor) and value.is_floating_point() for value in given)
    if len(inputs) != 1 or not floats or len(outputs) != 1 or not isinstance(outputs[0], fx.Node):
        raise ModelError(
            "quantisation-aware training takes students of one float input and one output",
            where="quantize.qat",
            expected="forward(samples) that returns one tensor",
            got=f"{len(inputs)} inputs{'' if floats else ', not all of floats'}, {len(outputs)} outputs",
            fix="set quantize.qat.when to never and drop int8-qat from export.precisions, or wrap the student",
        )


def shared_ranges(graph: fx.Graph) -> dict[str, str]:
    """Every stored float tensor -> the one whose range it has: itself, unless it only hands values on."""
    shares: dict[str, str] = {}
    for node in graph.nodes:
        source = next((a for a in node.args if isinstance(a, fx.Node)), None)
        if not _is_float(node):
            continue
        if _computes(node) and not _is_clamped(node):
            shares[node.name] = node.name
        elif source is not None and node_name(node) in _MOVES and source.name in shares:
            shares[node.name] = shares[source.name]
    return shares


def _computes(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return node_name(node.args[0]) == _BATCH_NORM and node.args[1:] == (0,)
    return node.op == "placeholder" or node_name(node) in _COMPUTES


def _is_clamped(node: fx.Node) -> bool:
    """Whether clamps are all that reads it."""
    return bool(node.users) and all(node_name(user) in _CLAMPS for user in node.users)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def node_name(node: object) -> str:
    """`conv2d` of a node that calls it; empty for inputs, weights and what is no node."""
    return operator_name(node.target) if isinstance(node, fx.Node) and node.op == "call_function" else ""


def _fold_batch_norms(graph: fx.GraphModule) -> None:
    """Put each batch norm that follows a convolution into its weights; its statistics are thereby frozen."""
    for norm in [n for n in graph.graph.nodes if node_name(n) == _BATCH_NORM]:
        conv = norm.args[0]
        if node_name(conv) not in ("conv1d", "conv2d", "conv3d") or len(conv.users) > 1:
            continue
        weight, bias = _folded(graph, conv, norm)
        with graph.graph.inserting_before(conv):
            nodes = []
            for part, values in (("weight", weight), ("bias", bias)):
                name = f"folded_{conv.name}_{part}"
                graph.register_parameter(name, nn.Parameter(values.detach().clone()))
                nodes.append(graph.graph.get_attr(name))
        conv.args = (conv.args[0], *nodes, *conv.args[3:])
        for user in [u for u in norm.users if u.args[1] == 0]:
            user.replace_all_uses_with(conv)
    graph.graph.eliminate_dead_code()


def _folded(graph: fx.GraphModule, conv: fx.Node, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that does both."""
    gamma, beta = (_tensor_if_any(graph, argument) for argument in norm.args[1:3])
    mean, variance = (tensor_of(graph, argument) for argument in norm.args[3:5])
    weight, bias = tensor_of(graph, conv.args[1]), _tensor_if_any(graph, conv.args[2] if len(conv.args) > 2 else None)
    gain = torch.rsqrt(variance + cast("float", norm.args[6])) * (1.0 if gamma is None else gamma)
    shift = (0.0 if bias is None else bias) - mean
    return weight * gain.reshape(-1, *[1] * (weight.ndim - 1)), shift * gain + (0.0 if beta is None else beta)


def tensor_of(graph: fx.GraphModule, argument: object) -> Tensor:
    """What an argument reads from the module.

    Raises:
        TypeError: it is no node.
    """
    if not isinstance(argument, fx.Node):
        raise TypeError(f"a node that reads a tensor was expected, got {argument!r}")
    holder, _, name = str(argument.target).rpartition(".")
    tensor: Tensor = getattr(graph.get_submodule(holder), name)
    return tensor


def _tensor_if_any(graph: fx.GraphModule, argument: object) -> Tensor | None:
    return None if argument is None else tensor_of(graph, argument)


def _put(graph: fx.GraphModule, name: str, tensor: Tensor) -> None:
    """Replace a tensor by a copy of its own."""
    holder, _, attribute = name.rpartition(".")
    copy = tensor.detach().clone()
    kept = nn.Parameter(copy) if isinstance(tensor, nn.Parameter) else copy
    setattr(graph.get_submodule(holder), attribute, kept)


def _drop_unused_tensors(graph: fx.GraphModule) -> None:
    """Parameters that no node reads would be trained by weight decay alone."""
    used = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in used:
            holder, _, attribute = name.rpartition(".")
            delattr(graph.get_submodule(holder), attribute)
