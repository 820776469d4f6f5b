"""ONNX in onnxruntime, for the agent: stand-alone, Python 3.8, numpy and onnxruntime. Other formats prove by it too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

if TYPE_CHECKING:
    import onnxruntime

    from edgedistill.agent import Given, Session
    from edgedistill.contracts import Agent
    from edgedistill.types import Array, Json

RUNTIMES = {"onnxruntime": ("onnxruntime", "onnxruntime")}
_DTYPES = {"float": "float32", "double": "float64"}


def open(agent: Agent, runtime: str, path: str, threads: int, given: Optional[Dict[str, Given]]) -> Session:
    """On the CPU provider, with all graph optimisations."""
    import onnxruntime as ort

    options = _options(threads)
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = []
    names = [i.name for i in session.get_inputs()]
    for i, sample in zip(session.get_inputs(), agent.samples_of(names, given)):
        dtype = str(i.type)[len("tensor(") : -1]
        inputs.append(agent.sized(i.name, i.shape, _DTYPES.get(dtype, dtype), sample))
    wanted = [o.name for o in session.get_outputs()]
    told = session.get_session_options()
    in_force = {
        "intra_op_num_threads": told.intra_op_num_threads,
        "execution_mode": told.execution_mode.name,
        "graph_optimization_level": told.graph_optimization_level.name,
        "enable_cpu_mem_arena": told.enable_cpu_mem_arena,
    }
    facts = {"providers": session.get_providers(), "in_force": in_force}
    outputs = [{"name": name} for name in wanted]
    return agent.Session(inputs, outputs, lambda feed: list(session.run(wanted, dict(zip(names, feed)))), facts)


def profile(agent: Agent, runtime: str, path: str, threads: int, samples: List[List[Array]], count: int) -> List[Json]:
    """Kernel times of onnxruntime's own profiler."""
    import shutil  # here: memory is told of processes that do not profile
    import tempfile

    import onnxruntime as ort

    folder = tempfile.mkdtemp()
    try:
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        for number in range(count):
            session.run(None, dict(zip(names, samples[number % len(samples)])))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder)
    taken: List[Tuple[str, str, float]] = []
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            kind = event["args"].get("op_name", "")
            taken.append((name[: -len("_kernel_time")], kind, event["dur"] / 1e3))
    return agent.operators(taken, count)


def _options(threads: int) -> onnxruntime.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
