"""TFLite in tflite-runtime and LiteRT, for the agent: stand-alone, Python 3.8, numpy and one of the two."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Dict, List, Optional, cast

import numpy as np

if TYPE_CHECKING:
    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent
    from edgedistill.types import Array, Json

    from .interpreter import Details, Interpreter, Step

RUNTIMES = {
    "tflite-runtime": ("tflite_runtime.interpreter", "tflite-runtime"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
}


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """With optimised kernels, and XNNPACK's where it takes operators."""
    return _opened(agent, runtime, path, threads, given, "BUILTIN")


def open_reference(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """With plain kernels."""
    return _opened(agent, runtime, path, threads, given, "BUILTIN_REF")


def _opened(
    agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]], kernels: str
) -> Session:
    opened = interpreter(runtime, kernels, model_path=path, num_threads=threads)
    unsized = _resize(agent, opened, given)
    opened.allocate_tensors()
    taken, given_back = opened.get_input_details(), opened.get_output_details()
    inputs = [{**_spec(t), **({"unsized": unsized[t["index"]]} if t["index"] in unsized else {})} for t in taken]
    in_index, out_index = [t["index"] for t in taken], [t["index"] for t in given_back]

    def run(feed: List[Array]) -> List[Array]:
        for index, value in zip(in_index, feed):
            opened.set_tensor(index, value)
        opened.invoke()
        return [opened.get_tensor(index) for index in out_index]

    told = {"BUILTIN": "optimised", "BUILTIN_REF": "reference"}[kernels]
    facts = {"in_force": {"num_threads": threads, "kernels": told, **_delegate(opened)}}
    return agent.Session(inputs, [_spec(t) for t in given_back], run, facts)


def interpreter(runtime: str, kernels: str, **given: object) -> Interpreter:
    """An interpreter of a runtime's, with kernels of its OpResolverType; `given`: what else it takes."""
    module = import_module(RUNTIMES[runtime][0])
    opened = module.Interpreter(experimental_op_resolver_type=module.OpResolverType[kernels], **given)
    return cast("Interpreter", opened)


def steps_of(interpreter: Interpreter) -> List[Step]:
    """What it executes, in order."""
    return interpreter._get_ops_details()  # noqa: SLF001 - no public way to the graph


def _spec(tensor: Details) -> Json:
    spec: Json = {
        "name": tensor["name"],
        "shape": [int(d) for d in tensor["shape"]],
        "dtype": np.dtype(tensor["dtype"]).name,
    }
    scale, zero_point = tensor["quantization"]
    return {**spec, "quantization": {"scale": float(scale), "zero_point": int(zero_point)}} if scale else spec


def _resize(agent: Agent, interpreter: Interpreter, given: Optional[Dict[str, Given]]) -> Dict[int, List[int]]:
    """Give axes without a size those of the samples; the axes that are left without one, by the tensor's index."""
    details = interpreter.get_input_details()
    unsized: Dict[int, List[int]] = {}
    for t, sample in zip(details, agent.samples_of([t["name"] for t in details], given)):
        signature = [int(d) for d in t.get("shape_signature", t["shape"])]
        spec = agent.sized(t["name"], signature or [int(d) for d in t["shape"]], "", sample)
        if spec["shape"] != [int(d) for d in t["shape"]]:
            interpreter.resize_tensor_input(t["index"], spec["shape"])
        if "unsized" in spec:
            unsized[t["index"]] = spec["unsized"]
    return unsized


def _delegate(interpreter: Interpreter) -> Json:
    """Whether XNNPACK, the one delegate of these packages, took operators: it leaves a DELEGATE node for each part."""
    try:
        names = [node["op_name"] for node in steps_of(interpreter)]
    except Exception as error:  # a release without that call is not refused for it
        return {"delegate": "unknown: %s" % error}
    parts = names.count("DELEGATE")
    return {"delegate": "XNNPACK" if parts else "none", "delegated_parts": parts, "operators": len(names) - parts}
