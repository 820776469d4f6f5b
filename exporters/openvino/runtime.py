"""OpenVINO IR on its CPU plug-in, for the agent: stand-alone, Python 3.8, numpy and openvino."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import numpy as np

if TYPE_CHECKING:
    from openvino import Model

    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent
    from edgedistill.types import Array, Json

RUNTIMES = {"openvino": ("openvino", "openvino")}
_TOLD = (
    "INFERENCE_PRECISION_HINT",
    "INFERENCE_NUM_THREADS",
    "NUM_STREAMS",
    "PERFORMANCE_HINT",
    "ENABLE_CPU_PINNING",
)


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """Static shapes, float32 hint (its default may be bf16)."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    inputs = _inputs(agent, model, given)
    reshaped = any(port.get_partial_shape().is_dynamic for port in model.inputs)
    if reshaped:
        model.reshape({port: spec["shape"] for port, spec in zip(model.inputs, inputs)})
    compiled = core.compile_model(model, "CPU", {**_settings(threads), "PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()
    outputs = [{"name": p.get_any_name()} for p in compiled.outputs]
    slots = [request.get_input_tensor(i).data for i in range(len(inputs))]
    results = [request.get_output_tensor(i).data for i in range(len(outputs))]

    def run(feed: List[Array]) -> List[Array]:
        for slot, value in zip(slots, feed):
            np.copyto(slot, value)
        request.infer()
        return results

    in_force = {key: str(compiled.get_property(key)) for key in _TOLD}
    facts = {"in_force": in_force, "reshaped_to_static": reshaped}
    return agent.Session(inputs, outputs, run, facts, lambda: float(request.latency))


def _settings(threads: int) -> Json:
    return {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}


def _inputs(agent: Agent, model: Model, given: Optional[Dict[str, Given]]) -> List[Json]:
    found = []
    names = [port.get_any_name() for port in model.inputs]
    for port, name, sample in zip(model.inputs, names, agent.samples_of(names, given)):
        partial = port.get_partial_shape()
        rank = len(partial) if partial.rank.is_static else len(sample or ()) + 1
        known = partial if partial.rank.is_static else [None] * rank
        shape = [None if d is None or d.is_dynamic else d.get_length() for d in known]
        found.append(agent.sized(name, shape, port.get_element_type().to_dtype().name, sample))
    return found


def profile(agent: Agent, runtime: str, path: str, threads: int, samples: List[List[Array]], count: int) -> List[Json]:
    """Layer times of OpenVINO's performance counters."""
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    model.reshape({port: list(value.shape) for port, value in zip(model.inputs, samples[0])})
    request = core.compile_model(model, "CPU", {**_settings(threads), "PERF_COUNT": True}).create_infer_request()
    taken: List[Tuple[str, str, float]] = []
    for number in range(count):
        request.infer(dict(enumerate(samples[number % len(samples)])))
        for info in request.profiling_info:
            if "NOT_RUN" not in str(info.status):
                kind = "%s (%s)" % (info.node_type, info.exec_type)
                taken.append((info.node_name, kind, info.real_time.total_seconds() * 1e3))
    return agent.operators(taken, count)
