"""TFLite in tflite-runtime and LiteRT, for the agent: stand-alone, Python 3.8, numpy and one of the two."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import numpy as np

if TYPE_CHECKING:
    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent

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
    module: Any = import_module(RUNTIMES[runtime][0])
    resolver = module.OpResolverType[kernels]
    interpreter = module.Interpreter(model_path=path, num_threads=threads, experimental_op_resolver_type=resolver)
    unsized = _resize(agent, interpreter, given)
    interpreter.allocate_tensors()
    taken, given_back = interpreter.get_input_details(), interpreter.get_output_details()
    inputs = [{**_spec(t), **({"unsized": unsized[t["index"]]} if t["index"] in unsized else {})} for t in taken]
    in_index, out_index = [t["index"] for t in taken], [t["index"] for t in given_back]

    def run(feed: List[Any]) -> List[Any]:
        for index, value in zip(in_index, feed):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in out_index]

    told = {"BUILTIN": "optimised", "BUILTIN_REF": "reference"}[kernels]
    facts = {"in_force": {"num_threads": threads, "kernels": told, **_delegate(interpreter)}}
    return agent.Session(inputs, [_spec(t) for t in given_back], run, facts)


def _spec(tensor: Dict[str, Any]) -> Dict[str, Any]:
    spec: Dict[str, Any] = {
        "name": tensor["name"],
        "shape": [int(d) for d in tensor["shape"]],
        "dtype": np.dtype(tensor["dtype"]).name,
    }
    scale, zero_point = tensor["quantization"]
    return {**spec, "quantization": {"scale": float(scale), "zero_point": int(zero_point)}} if scale else spec


def _resize(agent: Agent, interpreter: Any, given: Optional[Dict[str, Given]]) -> Dict[int, List[int]]:
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


def _delegate(interpreter: Any) -> Dict[str, Any]:
    """Whether XNNPACK, the one delegate of these packages, took operators: it leaves a DELEGATE node for each part."""
    try:
        names = [node["op_name"] for node in interpreter._get_ops_details()]  # noqa: SLF001 - no public call tells
    except Exception as error:  # a release without that call is not refused for it
        return {"delegate": "unknown: %s" % error}
    parts = names.count("DELEGATE")
    return {"delegate": "XNNPACK" if parts else "none", "delegated_parts": parts, "operators": len(names) - parts}
