"""Operators, opsets and IR version of an ONNX file against the onnxruntime that is installed, by its own registry."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from edgedistill.types import Inventory, Operator

from .._shared.modules import module_of
from .._shared.replacements import replacement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from onnx import ModelProto, NodeProto

    from edgedistill.types import Artifact


# first onnxruntime release that takes an opset or an IR version: up to opset 18 as onnxruntime's docs/Versioning.md
# and compatibility page say, above asked of the releases 1.15 to 1.32 themselves with a file of one Identity
_ASKED_UP_TO = "1.32"
_FIRST_WITH_OPSET = {
    8: "0.1",
    9: "0.3",
    10: "0.4",
    11: "1.0",
    12: "1.3",
    13: "1.6",
    14: "1.8",
    15: "1.9",
    16: "1.11",
    17: "1.12",
    18: "1.14",
    19: "1.16",
    20: "1.17",
    21: "1.18",
    22: "1.21",
    23: "1.23",
    24: "1.24",
    25: "1.24",
    26: "1.25",
    27: "1.32",
    28: "1.32",
}
_FIRST_WITH_IR = {
    4: "0.4",
    5: "0.4",
    6: "1.0",
    7: "1.5",
    8: "1.10",
    9: "1.15",
    10: "1.18",
    11: "1.23",
    12: "1.24",
    13: "1.24",
    14: "1.32",
}
_WITHOUT_KERNEL = ("Constant",)  # executed by nobody: read when the file is


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file; empty where nothing is known against it."""
    return inventory(artifact).refusals


def inventory(artifact: Artifact) -> Inventory:
    """Operators and versions of the file; weights that stand beside it are not read.

    Raises:
        Exception: of the protobuf library, when this is no ONNX file.
    """
    import onnx

    model = onnx.load(str(artifact.path), load_external_data=False)
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise ValueError(f"{artifact.path.name} is not an ONNX model: it tells no versions or no graph")
    opsets = {_domain(entry.domain): int(entry.version) for entry in model.opset_import}
    own = {(_domain(function.domain), function.name) for function in model.functions}
    places: dict[tuple[str, str], list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for node in _nodes(model):
        key = (_domain(node.domain), node.op_type)
        if key in own:
            continue
        counts[key] = counts.get(key, 0) + 1
        where = _where(node)
        if where not in places.setdefault(key, []):
            places[key].append(where)
    rows = tuple(_operator(*key, opsets.get(key[0], 0), counts[key], tuple(found)) for key, found in places.items())
    told = _versions_refused(int(model.ir_version), opsets.get("ai.onnx", 0)) or _missing_weights(model, artifact)
    facts = {"ir_version": str(model.ir_version), "opset": ", ".join(f"{name} {n}" for name, n in opsets.items())}
    since = [_FIRST_WITH_IR.get(int(model.ir_version)), _FIRST_WITH_OPSET.get(opsets.get("ai.onnx", 0))]
    known = [release for release in since if release]
    facts |= {"onnxruntime since": max(known, key=_numbers)} if known else {}
    return Inventory(facts, rows, {"onnxruntime": told} if told else {})


def _where(node: NodeProto) -> str:
    return module_of(node) or node.name or next(iter(node.output), "")


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node, those of local functions and of the branches of If, Loop and Scan among them."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop(0)
        yield node
        graphs = [graph for a in node.attribute for graph in (*a.graphs, *([a.g] if a.HasField("g") else []))]
        waiting.extend(inner for graph in graphs for inner in graph.node)


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _operator(domain: str, kind: str, opset: int, count: int, modules: tuple[str, ...]) -> Operator:
    told = _refused(domain, kind, opset)
    custom = domain not in _registry()[0] if told else False
    instead = replacement(kind, custom=custom) if told else ""
    return Operator(domain, kind, opset, count, modules, {"onnxruntime": told} if told else {}, instead)


def _refused(domain: str, kind: str, opset: int) -> str:
    """Why the installed onnxruntime does not execute an operator of an opset on a CPU; empty if it does."""
    schemas, kernels = _registry()
    if not schemas:
        return ""  # this build does not tell
    installed = f"onnxruntime {version('onnxruntime')}"
    if domain not in schemas:
        return f"a custom operator of the domain {domain}, which {installed} does not have"
    since = max((number for number in schemas[domain].get(kind, ()) if number <= opset), default=0)
    if not since:
        later = min(schemas[domain].get(kind, ()), default=0)
        return f"{domain} has it from opset {later} on, the file is of {opset}" if later else f"not in {domain} {opset}"
    ranges = kernels.get((domain, kind), [])
    if any(low == since or low < since <= high for low, high in ranges) or kind in _WITHOUT_KERNEL:
        return ""
    return "" if _inlined(domain, kind, since) else f"{installed} has no kernel for it on CPUs"


@cache
def _registry() -> tuple[Mapping[str, Mapping[str, tuple[int, ...]]], Mapping[tuple[str, str], list[tuple[int, int]]]]:
    """What the installed onnxruntime has: domain -> operator -> versions; (domain, operator) -> kernels' versions."""
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    if not hasattr(state, "get_all_operator_schema") or not hasattr(state, "get_all_opkernel_def"):
        return {}, {}
    schemas: dict[str, dict[str, tuple[int, ...]]] = {}
    for schema in state.get_all_operator_schema():
        versions = schemas.setdefault(_domain(schema.domain), {})
        versions[schema.name] = (*versions.get(schema.name, ()), schema.since_version)
    kernels: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            kernels.setdefault((_domain(kernel.domain), kernel.op_name), []).append(kernel.version_range)
    return schemas, kernels


def _inlined(domain: str, kind: str, since: int) -> bool:
    """Whether ONNX defines the operator by others, which onnxruntime then executes."""
    import onnx

    try:
        schema = onnx.defs.get_schema(kind, since, "" if domain == "ai.onnx" else domain)
    except onnx.defs.SchemaError:
        return True  # unknown to onnx, known to onnxruntime: opening tells
    return any(getattr(schema, name) for name in ("has_function", "has_context_dependent_function"))  # not in its stubs


def _versions_refused(ir: int, opset: int) -> str:
    """Why the file's versions are too new for the onnxruntime that is installed, if they are known to be."""
    installed = version("onnxruntime")
    for what, number, table in (("IR version", ir, _FIRST_WITH_IR), ("opset", opset, _FIRST_WITH_OPSET)):
        first = table.get(number)
        if first is not None and _numbers(first) > _numbers(installed):
            return f"its {what} is {number}, which onnxruntime takes from {first} on; installed is {installed}"
        if number > max(table) and _numbers(installed) <= _numbers(_ASKED_UP_TO):
            return f"its {what} is {number}, onnxruntime {installed} takes up to {max(table)}"
    return ""


def _missing_weights(model: ModelProto, artifact: Artifact) -> str:
    """Which file with the model's weights is not beside it, if one is missing."""
    for tensor in model.graph.initializer:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        if location and (PurePosixPath(location).is_absolute() or not (artifact.path.parent / location).is_file()):
            return f"its weights stand in {location}, which is not beside it"
    return ""


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.split(".")[:2]]
