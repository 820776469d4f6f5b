"""Every float tensor of an ONNX file: all made outputs, computed without graph optimisations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import TracedTensor

from .._shared import onnx_runtime as opener
from .._shared.tensors import Trace, feed, serve, traced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from onnx import GraphProto, NodeProto

    from edgedistill.types import Array, Artifact

_SIZES = ("Shape", "Size")
"""What these give is no computation with the input's values."""
_STORED = ("_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output")
"""What onnxruntime's quantiser puts behind a tensor's name."""


def tensors(artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
    """Every tensor for the first sample of an .npz, in the order of the graph."""
    return traced(__name__, artifact, runtime, inputs)


def _trace(path: str, runtime: str, inputs: str) -> list[TracedTensor]:
    import onnx

    session, sample = feed(opener, path, runtime, inputs)
    given = {spec["name"]: array for spec, array in zip(session.inputs, sample, strict=True)}
    graph = onnx.load(path).graph
    values = _values(path, given)
    weights = _weights(graph)
    outputs = {value.name for value in graph.output}
    trace = Trace()
    for name, array in given.items():
        trace.keep(
            name, [], TracedTensor(name, "input", "", array, origin=name, output=name if name in outputs else "")
        )
    for node in graph.node:
        sources = list(_read(node))
        if node.op_type in _SIZES or not any(trace.depends_on_inputs(name) for name in sources):
            read = next((weights[source] for source in sources if source in weights), "")
            weights |= {name: read for name in node.output if read}  # dequantised, transposed, ...
            continue
        own = [weights[name] for name in sources if name in weights]
        for name in filter(None, node.output):
            value = values.get(name)
            if value is None or (value.dtype.kind != "f" and name not in outputs):
                trace.skip(name, sources)
                continue
            module = own[0].rpartition(".")[0].removeprefix("module.") if own else ""
            output = name if name in outputs else ""
            trace.keep(
                name,
                sources,
                TracedTensor(name, node.op_type, module, value, (), _origin(name), bool(own), output),
            )
    return trace.tensors


def _values(path: str, given: Mapping[str, Array]) -> dict[str, Array]:
    """Every tensor that a node computes, by name."""
    import onnx
    import onnxruntime

    model = onnx.load(path)
    known = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(names, dict(given))
    return {name: value for name, value in zip(names, found, strict=True) if isinstance(value, np.ndarray)}


def _read(node: NodeProto) -> Iterator[str]:
    """Names of what a node reads, its subgraphs included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield from _read(inner)


def _weights(graph: GraphProto) -> dict[str, str]:
    """Constants that are weights, not shapes, axes or single scales: name -> name."""
    integers = (6, 7)  # TensorProto.INT32 (biases have a float scale and follow their weights), INT64
    stored = {tensor.name: tensor for tensor in graph.initializer}
    stored |= {
        n.output[0]: a.t for n in graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"
    }
    return {name: name for name, t in stored.items() if t.data_type not in integers and np.prod(t.dims) > 1}


def _origin(name: str) -> str:
    for ending in _STORED:
        name = name.removesuffix(ending)
    return name


if __name__ == "__main__":
    sys.exit(serve(_trace))
