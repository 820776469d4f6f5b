"""Every tensor of a TFLite file: all made outputs, computed without delegates, integers dequantised.

The interpreters' own way (`experimental_preserve_all_tensors`) is not enough: tflite-runtime 2.14 still writes a sum
over one of its terms. What is an output it leaves alone.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import TracedTensor

from .._shared.tensors import Trace, feed, serve, traced
from . import runtime as opener
from .flatbuffer import packed, read

if TYPE_CHECKING:
    from edgedistill.types import Array, Artifact

    from .interpreter import Details


def tensors(artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
    """Every tensor for the first sample of an .npz, in the order of execution."""
    return traced(__name__, artifact, runtime, inputs)


def _trace(path: str, runtime: str, inputs: str) -> list[TracedTensor]:
    session, sample = feed(opener, path, runtime, inputs)
    content = _all_outputs(path)
    interpreter = opener.interpreter(runtime, "BUILTIN_WITHOUT_DEFAULT_DELEGATES", model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    trace = Trace()
    for told, array in zip(interpreter.get_input_details(), sample, strict=True):
        interpreter.set_tensor(told["index"], array)
        value = _dequantized(array, told)
        trace.keep(told["index"], [], TracedTensor(told["name"], "input", "", value, origin=told["name"]))
    interpreter.invoke()
    details = {told["index"]: told for told in interpreter.get_tensor_details()}
    outputs = {told["index"]: told["name"] for told in interpreter.get_output_details()[: len(session.outputs)]}
    for operator in opener.steps_of(interpreter):
        sources = [int(index) for index in operator["inputs"] if index >= 0]
        if operator["op_name"] == "SHAPE" or not any(trace.depends_on_inputs(index) for index in sources):
            continue
        constants = [details[i] for i in sources if not trace.depends_on_inputs(i)]
        weighted = any(_is_real(told) and np.prod(told["shape"]) > 1 for told in constants)
        for index in map(int, operator["outputs"]):
            told = details[index]
            if not _is_real(told) and index not in outputs:
                trace.skip(index, sources)
                continue
            value = _dequantized(np.array(interpreter.get_tensor(index)), told)
            name = told["name"]
            trace.keep(
                index,
                sources,
                TracedTensor(
                    name, operator["op_name"], _module(name), value, (), _origin(name), weighted, outputs.get(index, "")
                ),
            )
    return trace.tensors


def _all_outputs(path: str) -> bytes:
    """The file with every tensor among its outputs, its own ones first."""
    model = read(Path(path))
    graph = model.subgraphs[0]
    own = list(graph.outputs)
    made = [index for operator in graph.operators for index in operator.outputs if index not in own]
    graph.outputs = [*own, *made]
    return packed(model)


def _is_real(told: Details) -> bool:
    """A float, or an integer with a scale."""
    return bool(np.dtype(told["dtype"]).kind == "f" or len(told["quantization_parameters"]["scales"]))


def _dequantized(array: Array, told: Details) -> Array:
    scale, zero_point = told["quantization"]
    values = array.astype(np.float32)
    return (values - zero_point) * np.float32(scale) if scale else values


def _origin(name: str) -> str:
    """Its name in the float file: ai-edge-quantizer appends to it."""
    return re.sub(r"(_(de)?quant(ized)?)+$", "", name)


def _module(name: str) -> str:
    """`a.conv` of `pkg.Net/pkg.Block_a/torch.nn.Conv2d_conv;1`, as litert-torch names tensors.

    A fused operator has the names of all its parts, the first computed last: the innermost of these.
    """
    paths = [part.split("/")[1:] for part in reversed(name.split(";")) if "/" in part]
    attributes = [step.rpartition(".")[2].partition("_")[2] for step in max(paths, key=len, default=[])]
    inner = attributes[1:] if attributes[:1] == ["module"] else attributes  # of the wrapper that gives names
    return ".".join(filter(None, inner))


if __name__ == "__main__":
    sys.exit(serve(_trace))
