"""Calling the agent: its command line, what its refusals mean, and running it here. For device plug-ins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from edgedistill import agent
from edgedistill.errors import ArtifactError, DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgedistill.types import AgentCall, Json


def arguments_of(job: AgentCall, named: Callable[[Path], str]) -> list[str]:
    """The agent's arguments; `named` tells what each of the call's files is called where it runs."""
    artifact, *companions = job.files
    arguments = [named(artifact), "--opener", named(job.opener), "--runtime", job.runtime]
    arguments += [word for file in companions for word in ("--companion", named(file))]
    arguments += ["--threads", str(job.threads), "--warmup", str(job.warmup_s)]
    arguments += ["--queries", str(job.min_queries), "--duration", str(job.min_duration_s)]
    arguments += ["--affinity", ",".join(map(str, job.affinity))] if job.affinity else []
    arguments += ["--reference-kernels"] if job.reference_kernels else []
    arguments += ["--profile", str(job.profile)] if job.profile else []
    arguments += ["--sustained", str(job.sustained_min)] if job.sustained_min else []
    for option, path in (("--inputs", job.inputs), ("--outputs", job.outputs)):
        arguments += [option, named(path)] if path is not None else []
    return arguments


def time_limit_s(job: AgentCall) -> float:
    """Within which the agent must answer."""
    return job.timeout_s + 60 * job.sustained_min


def hung(job: AgentCall) -> DeviceError:
    """The error for an agent that did not."""
    return DeviceError(
        f"{job.artifact.name} did not finish in {job.runtime}",
        where=str(job.artifact),
        expected=f"an answer within {time_limit_s(job):g} s",
        got="none",
        fix="allow more (--timeout, benchmark.timeout_s), ask for less (--preset quick), or look whether it hangs",
    )


def raise_refusal(document: Json, job: AgentCall, cores: Sequence[int]) -> None:
    """Tell what the agent refused, if it did.

    Raises:
        UsageError: the cores asked for (`cores` are those that may be), samples that do not fit, or none given where
            sizes are open.
        DeviceError: outputs that cannot be kept one row a sample.
        ArtifactError: the runtime refuses the file.
    """
    if "error" not in document:
        return
    code, message = document["error"]["code"], document["error"]["message"]
    if code == "affinity":
        raise UsageError(
            message,
            where="benchmark.affinity, --affinity",
            expected=f"cores that this process may use: {list(cores)}",
            got=",".join(map(str, job.affinity)),
            fix="name other cores, or leave affinity out",
        )
    if code == "unsized":
        raise UsageError(
            f"{job.artifact.name}: {message}",
            where=f"{job.artifact}",
            expected="a size for every axis but the first: it decides how long an inference takes",
            got="an axis without a size, and no samples",
            fix="give --inputs FILE.npz, whose samples have the sizes that you use, or fix the axis when exporting",
        )
    if code == "outputs":
        raise DeviceError(
            f"the outputs of {job.artifact.name} cannot be compared: {message}",
            where=str(job.artifact),
            expected="outputs with one row a sample, of one shape",
            got=message,
            fix="leave operators whose output depends on what they find, such as NonMaxSuppression, out of the file",
        )
    if code in ("inputs", "run") and job.inputs is not None:
        raise UsageError(
            f"the samples do not fit {job.artifact.name}: {message}",
            where=f"{job.inputs} (--inputs)",
            expected="an .npz with an array of numbers for each input, first axis: samples",
            got=message,
            fix=f"name the arrays after the inputs, in the shapes that {job.artifact.name} takes",
        )
    raise ArtifactError(
        f"{job.runtime} refuses {job.artifact.name}: {message}",
        where=str(job.artifact),
        expected=f"a file and inputs that {job.runtime} takes",
        got=code,
        fix="export the artifact again, or give inputs of its signature",
    )


def run_agent(job: AgentCall, python: str = sys.executable) -> Json:
    """The document of the agent in a fresh process of this machine, or of another Python on it.

    Raises:
        UsageError: cores that this process may not use, or samples that do not fit.
        ArtifactError: the runtime refuses the file or the inputs.
        DeviceError: the agent crashed, hung, or said nothing that can be read.
    """
    command = [python, "-P", agent.__file__, *arguments_of(job, str)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=time_limit_s(job), env=environment, check=False
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
