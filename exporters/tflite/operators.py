"""Operators of a TFLite file against the versions that tflite-runtime 2.14 and LiteRT register.

Beside versions: tflite-runtime 2.14 opens files whose dense layers and convolutions read int8 weights beside float
activations, and computes something else without a word (11 to 14 dB against 50 to 60 dB in LiteRT, on three students of
the zoo): its hybrid kernels know one scale per tensor only. It has no 4-bit weights either.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from edgedistill.types import Inventory, Operator

from .._shared.replacements import replacement
from .flatbuffer import read
from .runtime import RUNTIMES
from .versions import LITERT_VERSION, NEWEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Artifact

    from .schema import Graph
    from .schema import Operator as Node

_SCHEMA = 3
_HYBRID = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
_OWN_CUSTOM = ("TFLite_Detection_PostProcess", "NumericVerify", "Mfcc", "AudioSpectrogram")
"""Custom codes that both runtimes register themselves (register.cc, `AddCustom`)."""


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file; empty where nothing is known against it."""
    return inventory(artifact).refusals


def inventory(artifact: Artifact) -> Inventory:
    """Operators and versions of the file.

    Raises:
        Exception: of the flatbuffers library, when this is no TFLite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = read(artifact.path)
    words = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    types = vars(schema.TensorType)
    found: dict[tuple[str, str, int, str], list[str]] = {}
    counts: dict[tuple[str, str, int, str], int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            custom = _text(code.customCode) if code.customCode else ""
            taken = [graph.tensors[i].type for i in operator.inputs if i >= 0]
            word = custom or words.get(number, f"BUILTIN_{number}")
            key = ("custom" if custom else "tflite", word, int(code.version), _wrong(word, taken, types))
            counts[key] = counts.get(key, 0) + 1
            where = _where(graph, operator)
            if where not in found.setdefault(key, []):
                found[key].append(where)
    rows = tuple(_operator(*key, counts[key], tuple(places)) for key, places in found.items())
    facts = {"schema": str(model.version), "description": _text(model.description or "")}
    told = f"its schema version is {model.version}, TFLite runtimes read {_SCHEMA}"
    return Inventory(facts, rows, {} if model.version == _SCHEMA else dict.fromkeys(RUNTIMES, told))


def _operator(domain: str, word: str, number: int, wrong: str, count: int, places: tuple[str, ...]) -> Operator:
    if domain == "custom":
        refused = {} if word in _OWN_CUSTOM else dict.fromkeys(RUNTIMES, _foreign(word))
    else:
        refused = _unregistered(word, number)
    if wrong:
        refused.setdefault("tflite-runtime", wrong)
    instead = replacement(word.removeprefix("Flex"), custom=domain == "custom" and not word.startswith("Flex"))
    return Operator(domain, word, number, count, places, refused, instead if refused and not wrong else "")


def _foreign(word: str) -> str:
    if word.startswith("Flex"):
        return f"a TensorFlow operator ({word}), which needs the Flex delegate"
    return f"a custom operator ({word}), for which the runtime has no kernel"


def _unregistered(word: str, number: int) -> dict[str, str]:
    """Runtimes whose newest version of the operator is older than the file's."""
    newest = dict(zip(RUNTIMES, NEWEST.get(word, (0, 0)), strict=True))
    names = {"tflite-runtime": "tflite-runtime 2.14", "litert": f"LiteRT {LITERT_VERSION}"}
    if _newer_litert():
        newest.pop("litert")
    return {
        runtime: f"version {number}, {names[runtime]} has up to {known}" if known else f"{names[runtime]} has no kernel"
        for runtime, known in newest.items()
        if number > known
    }


def _newer_litert() -> bool:
    """Whether the LiteRT here is newer than the table: then it is for opening to tell."""
    try:
        return _numbers(version("ai-edge-litert")) > _numbers(LITERT_VERSION)
    except PackageNotFoundError:
        return False


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)]


def _wrong(word: str, taken: list[int], types: Mapping[str, int]) -> str:
    """What tflite-runtime 2.14 computes wrong or lacks, by the types of the inputs."""
    if word in _HYBRID and taken[0] == types["FLOAT32"] and taken[1] in (types["INT8"], types["INT4"]):
        return "it gets float activations with integer weights wrong; take int8 or int8-weights there"
    if types["INT4"] in taken:
        return "it lacks 4-bit weights; take int8 or int8-weights there"
    return ""


def _where(graph: Graph, operator: Node) -> str:
    """The module of the student, told by the output's name in files that litert-torch wrote; else that name.

    Such a name is a path of `package.Class_attribute`, a semicolon and a number; the first part is our wrapper.
    """
    name = _text(graph.tensors[operator.outputs[0]].name) if len(operator.outputs) else ""
    path = name.split(";", 1)[0]
    parts = [re.fullmatch(r"[\w.]*\._*[A-Za-z0-9]+_(.+)", part) for part in path.split("/")]
    if "/" not in path or not all(parts[1:]):
        return name.rsplit("/", 1)[-1]
    attributes = [part[1] for part in parts[1:] if part]
    return ".".join(attributes[1:] if attributes[:1] == ["module"] else attributes) or "(the model itself)"


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
