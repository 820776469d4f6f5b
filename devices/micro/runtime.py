"""TFLite in tflite-micro's interpreter of this host, for the agent: stand-alone, Python 3.8, numpy and tflite_micro.

tflite-micro answers a small arena, a missing operator or a bad file with a message on stderr, a false return, or the
death of the process. So whatever may fail is tried in a forked child first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, cast

import numpy as np

if TYPE_CHECKING:
    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent
    from edgedistill.types import Array, Json

    from .._tflite import Details, Graph, Model

RUNTIMES = {"tflite-micro": ("tflite_micro", "tflite_micro")}
LARGEST_ARENA = 1 << 30
"""Bytes; a file that does not run in this much does not lack memory."""
STEP = 16
"""Bytes: the arena's alignment, to which it is found."""
_LACKING = re.compile(r"Didn't find op for builtin opcode '(\w+)'")


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """The smallest arena in which the file runs, with reference kernels; it knows no dynamic shapes.

    Raises:
        ValueError: the file does not run there; the reason in tflite-micro's words, every missing operator named.
    """
    from tflite_micro.python.tflite_micro import runtime as library

    if threads != 1:
        raise ValueError(f"tflite-micro has one thread, not {threads}")
    content = _read(path)
    died = trial(lambda: _infer(content, LARGEST_ARENA))
    if died is not None:
        lacking = unsupported(content)
        raise ValueError(f"tflite-micro has no {', '.join(lacking)}" if lacking else died)
    arena = smallest(lambda size: trial(lambda: _infer(content, size)) is None)
    interpreter = library.Interpreter.from_bytes(content, arena_size=arena)
    graph = _graph(content)
    inputs = [_spec(graph, index, interpreter.get_input_details(n)) for n, index in enumerate(graph.inputs)]
    outputs = [_spec(graph, index, interpreter.get_output_details(n)) for n, index in enumerate(graph.outputs)]

    def run(feed: List[Array]) -> List[Array]:
        for number, value in enumerate(feed):
            interpreter.set_input(value, number)
        interpreter.invoke()
        return [interpreter.get_output(number) for number in range(len(outputs))]

    return agent.Session(inputs, outputs, run, {"arena_bytes": arena, "kernels": "tflite-micro's reference kernels"})


def _read(path: str) -> bytes:
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError("not a TFLite file: no TFL3 at byte 4")
    return content


def _graph(content: bytes) -> Graph:
    """The file's main graph, as the schema's object."""
    return _model(content).subgraphs[0]


def _model(content: bytes) -> Model:
    from tflite_micro.python.tflite_micro import runtime

    return cast("Model", runtime.convert_bytearray_to_object(content))


def _infer(content: bytes, arena: int) -> None:
    """One inference of zeros."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    for number in range(len(_graph(content).inputs)):
        told = interpreter.get_input_details(number)
        interpreter.set_input(np.zeros(told["shape"], told["dtype"]), number)
    interpreter.invoke()


def trial(attempt: Callable[[], object]) -> Optional[str]:
    """Do something in a child of this process: None when it went well, else what it said or how it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            attempt()
        except BaseException as error:  # the child must not go on as its parent
            os.write(2, f"\n{type(error).__name__}: {error}".encode())
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    if status == 0:
        return None
    killed = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
    return "; ".join([*(line.strip() for line in said.splitlines() if line.strip()), *([killed] if killed else [])])


def smallest(works: Callable[[int], bool]) -> int:
    """The least arena that works, to 16 bytes: doubled until one does, then halved between."""
    low, high = 0, 1024
    while not works(high):
        low, high = high, 2 * high
    while high - low > STEP:
        middle = (low + high) // (2 * STEP) * STEP
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def unsupported(content: bytes) -> List[str]:
    """Builtin operators of the file that tflite-micro has no kernel of.

    It stops at the first; so that one is made an operator that it has, and the file is opened again.
    """
    from tflite_micro.python.tflite_micro import runtime

    model = _model(content)
    operators = vars(runtime.schema_fb.BuiltinOperator)
    found: List[str] = []
    while True:
        said = trial(lambda: _open(_packed(model)))
        match = _LACKING.search(said or "")
        if match is None or match[1] in found:
            return found
        found.append(match[1])
        for code in model.operatorCodes:
            if runtime.get_builtin_code_from_operator_code(code) == operators[match[1]]:
                code.builtinCode = code.deprecatedBuiltinCode = operators["LOGISTIC"]


def _open(content: bytes) -> None:
    from tflite_micro.python.tflite_micro import runtime

    runtime.Interpreter.from_bytes(content, arena_size=LARGEST_ARENA)


def _packed(model: Model) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _spec(graph: Graph, index: int, told: Details) -> Json:
    """A tensor as the agent describes it; the interpreter knows no names."""
    name = graph.tensors[index].name
    dtype = np.dtype(told["dtype"])
    spec: Json = {
        "name": name.decode(errors="replace") if isinstance(name, bytes) else str(name),
        "shape": [int(d) for d in told["shape"]],
        "dtype": dtype.name,
    }
    parameters = told["quantization_parameters"]
    if dtype.kind in "iu" and len(parameters["scales"]) == 1:
        spec["quantization"] = {
            "scale": float(parameters["scales"][0]),
            "zero_point": int(parameters["zero_points"][0]),
        }
    return spec
