"""MACs of an OpenVINO file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgedistill.types import Artifact, MacCount

from .._shared.conversion import weighted_macs

if TYPE_CHECKING:
    from openvino import Node

_CHANNEL_AXIS = {"Convolution": 1, "GroupConvolution": 1}


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions and matrix products, integer where the CPU plug-in executes them on 8-bit tensors.

    The file only says where it is quantised; the compiled model says what is executed. Recurrent operators
    are not counted.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(artifact.path)
    model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    integer_names = [
        name
        for node in compiled.get_runtime_model().get_ops()
        if _info(node, "runtimePrecision") in ("u8", "i8")
        for name in _info(node, "originalLayersNames").split(",")
    ]
    total = integer = 0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind not in (*_CHANNEL_AXIS, "MatMul"):
            continue
        output, left, right = (
            [int(d) for d in shape]
            for shape in (node.get_output_shape(0), node.get_input_shape(0), node.get_input_shape(1))
        )
        if kind == "MatMul":
            macs = math.prod(output) * (left[-2] if node.get_attributes().get("transpose_a") else left[-1])
        else:
            macs = weighted_macs(right, output, _CHANNEL_AXIS[kind])
        total += macs
        name = node.get_friendly_name()
        if any(executed == name or executed.startswith(f"{name}/") for executed in integer_names):
            integer += macs
    return MacCount(total, integer)


def _info(node: Node, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""
