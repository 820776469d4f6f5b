"""What TFLite runtimes refuse or get wrong, told from the operators of a file.

tflite-runtime 2.14 opens files whose dense layers and convolutions read int8 weights beside float activations, and
computes something else without a word (11 to 14 dB against 50 to 60 dB in LiteRT, on three students of the zoo): its
hybrid kernels know one scale per tensor only. It has no 4-bit weights either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._flatbuffer import read

if TYPE_CHECKING:
    from edgedistill.types import Artifact

_HYBRID = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file; empty where nothing is known against it."""
    from ai_edge_litert import schema_py_generated as schema

    model = read(artifact.path)
    words = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    custom = sorted({_text(c.customCode) for c in model.operatorCodes if c.customCode})
    if custom:
        told = f"custom operators ({', '.join(custom)}): replace them by operators of TFLite's own"
        return {"tflite-runtime": told, "litert": told}
    types = vars(schema.TensorType)
    integers = {types["INT8"], types["INT4"]}
    wrong = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            word = words.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")
            taken = [graph.tensors[i].type for i in operator.inputs if i >= 0]
            if word in _HYBRID and taken[0] == types["FLOAT32"] and taken[1] in integers:
                wrong.append(f"{word} of float activations and integer weights ({_where(graph, operator)})")
            elif types["INT4"] in taken:
                wrong.append(f"{word} of 4-bit weights ({_where(graph, operator)})")
    if not wrong:
        return {}
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return {"tflite-runtime": f"it gets wrong or lacks {wrong[0]}{more}; take int8 or int8-weights there"}


def _where(graph: Any, operator: Any) -> str:
    """The end of the output's name: the module of the student, in files that we wrote."""
    return _text(graph.tensors[operator.outputs[0]].name).rsplit("/", 1)[-1]


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
