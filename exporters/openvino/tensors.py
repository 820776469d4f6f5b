"""Every float tensor of an OpenVINO IR file: all made outputs, computed in float32."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import TracedTensor

from .._shared.tensors import Trace, feed, serve, traced
from . import runtime as opener

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from openvino import Core, Model, Node, Output

    from edgedistill.types import Array, Artifact

_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}


def tensors(artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
    """Every tensor for the first sample of an .npz, in the order of the graph."""
    return traced(__name__, artifact, runtime, inputs)


def _trace(path: str, runtime: str, inputs: str) -> list[TracedTensor]:
    import openvino

    session, sample = feed(opener, path, runtime, inputs)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({port: list(array.shape) for port, array in zip(model.inputs, sample, strict=True)})
    outputs = {_key(port.get_node().input_value(0)): port.get_any_name() for port in model.outputs}
    trace = Trace()
    for port, spec, array in zip(model.inputs, session.inputs, sample, strict=True):
        trace.keep(_key(port), [], TracedTensor(spec["name"], "input", "", array, origin=spec["name"]))
    inner = _inner(model)
    ports = [port for node in inner for port in node.outputs()]
    names = {
        _key(port): sorted(port.get_names()) for port in ports
    }  # asked before they are made outputs, which names them
    values = _values(core, model, ports, sample)
    for node in inner:
        sources = [_key(port.get_source_output()) for port in node.inputs()]
        read = [port.get_source_output() for port in node.inputs()]
        weights = [port for port in read if not trace.depends_on_inputs(_key(port)) and _is_weight(port)]
        kind = node.get_type_name()
        for port in node.outputs():
            key = _key(port)
            if key not in values:
                trace.skip(key, sources)
                continue
            name = (names[key] or [""])[0]
            origin = trace.origin(sources) if kind == "FakeQuantize" else name
            weighted = bool(weights) and kind != "FakeQuantize"
            trace.keep(
                key,
                sources,
                TracedTensor(
                    name or node.get_friendly_name(),
                    kind,
                    _module(weights),
                    values[key],
                    (),
                    origin,
                    weighted,
                    outputs.get(key, ""),
                ),
            )
    return trace.tensors


def _key(port: Output) -> tuple[str, int]:
    return port.get_node().get_friendly_name(), port.get_index()


def _inner(model: Model) -> list[Node]:
    """Nodes between inputs and outputs; what depends on constants alone is left out."""
    reached = {_key(port) for port in model.inputs}
    nodes = []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Parameter", "Result", "Constant", "ShapeOf"):
            continue
        if any(_key(port.get_source_output()) in reached for port in node.inputs()):
            reached |= {_key(port) for port in node.outputs()}
            nodes.append(node)
    return nodes


def _values(core: Core, model: Model, ports: Sequence[Output], sample: Sequence[Array]) -> dict[tuple[str, int], Array]:
    already = {_key(port.get_node().input_value(0)) for port in model.outputs}
    model.add_outputs([port for port in ports if _is_float(port) and _key(port) not in already])
    keys = [_key(port.get_node().input_value(0)) for port in model.outputs]
    found = core.compile_model(model, "CPU", _SETTINGS)(dict(enumerate(sample)))
    return {key: np.array(found[number]) for number, key in enumerate(keys)}


def _is_float(port: Output) -> bool:
    return bool(port.get_element_type().is_real())


def _is_weight(port: Output) -> bool:
    return _is_float(port) and bool(np.prod(list(port.get_shape())) > 1)


def _module(weights: Sequence[Output]) -> str:
    """Of the weights' names, which come from the module's parameters where they were kept."""
    names = [name for port in weights for name in sorted(port.get_names()) if "." in name]
    return names[0].rpartition(".")[0].removeprefix("module.") if names else ""


if __name__ == "__main__":
    sys.exit(serve(_trace))
