"""MACs of a TFLite file."""

from __future__ import annotations

import math

from edgedistill.types import Artifact, MacCount

from .._shared.conversion import weighted_macs
from .flatbuffer import read

_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}


def count_macs(artifact: Artifact) -> MacCount:
    """Convolutions, dense layers and matrix products, by the types of the tensors in the file."""
    from ai_edge_litert import schema_py_generated as schema

    model = read(artifact.path)
    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    total = integer = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            kind = names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            if kind not in _WEIGHTED and kind != "BATCH_MATMUL":
                continue
            left, right = (graph.tensors[i] for i in operator.inputs[:2])
            output = [int(d) for d in graph.tensors[operator.outputs[0]].shape]
            if kind in _WEIGHTED:
                macs = weighted_macs([int(d) for d in right.shape], output, -1)
            else:
                macs = math.prod(output) * int(left.shape[-1])
            total += macs
            if left.type == right.type == schema.TensorType.INT8:
                integer += macs
    return MacCount(total, integer)
