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
from edgedistill.errors import DeviceError, UsageError
from edgedistill.types import AgentAnswer, DeviceInfo, Source, Traits

from ._agent import arguments_of, hung, raise_refusal, time_limit_s

if TYPE_CHECKING:
    from edgedistill.types import AgentCall, Json

REQUIRES = ("psutil",)
SCHEME = "cpu"
TRAITS = Traits(Source.MEASURED)


def describe(device_id: str) -> DeviceInfo:
    """The processor's name, its cores as this process may use them, and the memory."""
    import psutil

    _require(device_id)
    return DeviceInfo(
        id=device_id,
        name=_cpu_name(),
        machine=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=int(psutil.virtual_memory().total),
    )


def _require(device_id: str) -> None:
    """This machine has no parts: cores are chosen by affinity.

    Raises:
        UsageError: the id names one.
    """
    if device_id != SCHEME:
        raise UsageError(
            f"unknown device {device_id!r}",
            where=f"device: {device_id}",
            expected=SCHEME,
            got=repr(device_id),
            fix="use cpu; --affinity chooses its cores",
        )


def run(device_id: str, job: AgentCall) -> AgentAnswer:
    """Run the agent on a job.

    Raises:
        UsageError: cores that this process may not use.
        ArtifactError: the runtime refuses the file or the inputs.
        DeviceError: the agent crashed, hung, or said nothing that can be read.
    """
    _require(device_id)
    return AgentAnswer(device_id, run_agent(job))


def run_agent(job: AgentCall) -> Json:
    """The agent's document, of a fresh process; raises as `run`."""
    command = [sys.executable, "-P", edgedistill.agent.__file__, *arguments_of(job, str)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=time_limit_s(job), env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise hung(job) from error
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
    raise_refusal(document, job, sorted(os.sched_getaffinity(0)))
    return document


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
