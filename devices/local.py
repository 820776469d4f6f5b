"""This machine: the agent in a fresh process of this Python."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import edgedistill.agent
from edgedistill.errors import ArtifactError, DeviceError, UsageError
from edgedistill.types import BenchmarkResult, DeviceInfo

if TYPE_CHECKING:
    from edgedistill.types import BenchmarkJob, Json

REQUIRES = ("psutil",)
SCHEME = "cpu"


def describe(device_id: str) -> DeviceInfo:
    """The processor's name, its cores as this process may use them, and the memory."""
    import psutil

    return DeviceInfo(
        id=device_id,
        name=_cpu_name(),
        machine=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(psutil.virtual_memory().total),
    )


def run(device_id: str, job: BenchmarkJob) -> BenchmarkResult:
    """Run the agent on a job.

    Raises:
        ArtifactError: the runtime refuses the file or the inputs.
        DeviceError: the agent crashed, hung, or said nothing that can be read.
    """
    return BenchmarkResult(device_id, run_agent(Path(edgedistill.agent.__file__), job))


def run_agent(agent: Path, job: BenchmarkJob) -> Json:
    """The document of an agent's file, run in a fresh process; raises as `run`."""
    command = [sys.executable, "-P", str(agent), str(job.artifact)]
    command += ["--runtime", job.runtime, "--threads", str(job.threads), "--warmup", str(job.warmup_s)]
    command += ["--queries", str(job.min_queries), "--duration", str(job.min_duration_s)]
    command += ["--affinity", ",".join(map(str, job.affinity))] if job.affinity else []
    command += ["--reference-kernels"] if job.reference_kernels else []
    command += ["--profile", str(job.profile)] if job.profile else []
    command += ["--sustained", str(job.sustained_min)] if job.sustained_min else []
    for option, path in (("--inputs", job.inputs), ("--outputs", job.outputs)):
        command += [option, str(path)] if path is not None else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    try:
        done = subprocess.run(  # noqa: PLW1510 - the exit code is read below
            command, capture_output=True, text=True, timeout=job.timeout_s + 60 * job.sustained_min, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{job.artifact.name} did not finish in {job.runtime}",
            where=str(job.artifact),
            expected=f"an answer within {job.timeout_s + 60 * job.sustained_min:g} s",
            got="none",
            fix="lower benchmark.min_queries or min_duration_s, or look whether the model hangs",
        ) from error
    try:
        document = dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, TypeError, ValueError) as error:
        told = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        end = f"exit code {done.returncode}" if done.returncode >= 0 else f"killed by signal {-done.returncode}"
        raise DeviceError(
            f"the agent died on {job.artifact.name} in {job.runtime}",
            where=str(job.artifact),
            expected="one JSON document",
            got=f"{end}, {told[0]}",
            fix=f"look whether memory ran out, or run it by hand: {' '.join(command)}",
        ) from error
    if "error" in document and document["error"]["code"] == "affinity":
        raise UsageError(
            document["error"]["message"],
            where="benchmark.affinity, --affinity",
            expected=f"cores that this process may use: {sorted(os.sched_getaffinity(0))}",
            got=",".join(map(str, job.affinity)),
            fix="name other cores, or leave affinity out",
        )
    if "error" in document and document["error"]["code"] == "inputs" and job.inputs is not None:
        raise UsageError(
            f"the samples do not fit {job.artifact.name}: {document['error']['message']}",
            where=f"{job.inputs} (--inputs)",
            expected="an .npz with an array of numbers for each input, first axis: samples",
            got=document["error"]["message"],
            fix=f"name the arrays after the inputs, in the shapes that {job.artifact.name} takes",
        )
    if "error" in document:
        raise ArtifactError(
            f"{job.runtime} refuses {job.artifact.name}: {document['error']['message']}",
            where=str(job.inputs if document["error"]["code"] == "inputs" and job.inputs else job.artifact),
            expected=f"a file and inputs that {job.runtime} takes",
            got=document["error"]["code"],
            fix="export the artifact again, or give inputs of its signature",
        )
    return document


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
