"""Artifacts on emulated devices: do they run there, do they compute the same, what do they cost in instructions.

No time is taken: an emulator's says nothing of a device's.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgedistill.artifacts.running import call_for, compute_all, generated, subjects, subjects_on
from edgedistill.errors import ArtifactError, CoreError
from edgedistill.measurement.measure import figures
from edgedistill.parity.compare import compare
from edgedistill.plugins import load_device, traits_of
from edgedistill.recipe.document import ParitySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.artifacts.running import Subject
    from edgedistill.documents.artifacts import ParityDocument
    from edgedistill.documents.measurements import Emulated
    from edgedistill.events import Events
    from edgedistill.recipe.document import Benchmark
    from edgedistill.types import AgentAnswer, Array, Artifact, Json

SAMPLES = 8
"""Generated where none are given; emulation is 100 to 400 times slower than this machine."""
_MEASURED_ONLY = ("preset", "rounds", "cores")


def emulate_files(
    artifacts: Sequence[Artifact],
    against: Artifact | None,
    settings: Benchmark,
    inputs: Path | None,
    events: Events,
) -> list[Emulated]:
    """One measurement (source `emulated`) per artifact and runtime that the device has.

    Each is compared with the same file on this machine, over `inputs` (.npz, first axis: samples) or 8 seeded normal
    samples: in the same runtime, or, where the device has one of its own, in that which its plug-in names first in
    its traits, by reference kernels. With `against`, `instructions_to_reference` is the ratio of the totals. What does
    not run there is a measurement too: `runs` says why, and `valid` is false.

    Raises:
        UsageError: the device has no runtime for an artifact, an unknown core, no installation.
    """
    load_device(settings.device).describe(settings.device)  # an unknown core is told before a runtime that it lacks
    every = subjects_on(settings.device, artifacts)
    references = subjects_on(settings.device, [against]) if against else []
    found = []
    for number, subject in enumerate([*every, *references]):
        events.step(f"measure {subject.artifact.id} in {subject.runtime}", number, len(every) + len(references))
        found.append(_emulate(subject, settings, inputs))
    own, others = found[: len(every)], found[len(every) :]
    for measurement in own:
        _relate(measurement, others)
    return found


def _emulate(subject: Subject, settings: Benchmark, inputs: Path | None) -> Emulated:
    with tempfile.TemporaryDirectory() as folder:
        samples = inputs or generated(subject.artifact, Path(folder) / "inputs.npz", SAMPLES)
        outputs = Path(folder) / "emulated.npz"
        plain = call_for(subject, settings.device)
        job = replace(plain, threads=settings.threads, inputs=samples, outputs=outputs)
        try:
            result = load_device(settings.device).run(settings.device, job)
        except (ArtifactError, CoreError) as error:
            return _refused(subject, settings, error)
        reference = _reference(settings.device, subject)
        other = reference.runtime != subject.runtime  # then roundings differ, but for kernels of the same kind
        here = compute_all(reference, samples, Path(folder) / "here.npz", reference_kernels=other)
        with np.load(outputs, allow_pickle=False) as archive:
            there = [np.asarray(archive[output["name"]]) for output in result.document["outputs"]]
    parity = _parity(reference, list(here.values()), there, result.document["outputs"])
    measurement = _counted(subject, result, settings)
    flags = [] if parity["state"] == "pass" else [f"differs from this machine: {parity['reason']}"]
    return {
        **measurement,
        "runs": {"state": "pass", "reason": "it ran"},
        "parity": parity,
        "valid": measurement["valid"] and not flags,
        "flags": measurement["flags"] + flags,
    }


def _counted(subject: Subject, result: AgentAnswer, settings: Benchmark) -> Emulated:
    """What the shelf's benchmarks make of it; what only times have is left out."""
    found = {key: value for key, value in figures(subject, [result], settings).items() if key not in _MEASURED_ONLY}
    return cast("Emulated", found)  # plug-ins are taken at their word


def _reference(device: str, subject: Subject) -> Subject:
    """The same file here: in the same runtime, or in the best of the plug-in's references that opens it."""
    here = {one.runtime: one for one in subjects([subject.artifact])}
    wanted = (subject.runtime, *traits_of(device).references, *here)
    return next(here[runtime] for runtime in wanted if runtime in here)


def _parity(subject: Subject, here: Sequence[Array], there: Sequence[Array], outputs: Sequence[Json]) -> ParityDocument:
    """Against the same file on this machine; of several outputs a failed one, else the farthest, speaks for all."""
    each = [_parity_of(subject, *parts) for parts in zip(here, there, outputs, strict=True)]
    speaks = max(each, key=lambda one: (one["state"] == "fail", one["max_relative"] or 0.0))
    return {**speaks, "outputs": each} if len(each) > 1 else speaks


def _parity_of(subject: Subject, here: Array, there: Array, output: Json) -> ParityDocument:
    """Of one output; where it is quantised, one step of it may differ."""
    exact, given = (array.reshape(len(array), -1) for array in (here, there))
    name = f"{subject.artifact.path.name} on this machine"
    precision, tolerance = subject.artifact.precision, ParitySettings()
    found = compare(exact, given, precision, tolerance, name=name, runtime=subject.runtime).to_json()
    found["output"] = output["name"]
    scale = output.get("quantization", {}).get("scale")
    if scale and found["max_abs"] is not None:
        steps = round(found["max_abs"] / scale, 3)
        reason = f"{steps:g} steps of the quantised output, at most 1 allowed"
        found["max_lsb"], found["state"], found["reason"] = steps, "pass" if steps <= 1 else "fail", reason
    return found


def _refused(subject: Subject, settings: Benchmark, error: ArtifactError | CoreError) -> Emulated:
    """What is known of an artifact that does not run there."""
    return {
        "artifact": subject.artifact.id,
        "artifact_sha256": subject.artifact.sha256,
        "device": settings.device,
        "source": "emulated",
        "runtime": subject.runtime,
        "threads": settings.threads,
        "runs": {"state": "fail", "reason": error.message, "got": error.got, "fix": error.fix},
        "valid": False,
        "flags": [error.message],
    }


def _relate(measurement: Emulated, references: Sequence[Emulated]) -> None:
    """Instructions over the reference's: in the same runtime, else in its first."""
    same = [one for one in references if one["runtime"] == measurement["runtime"]] or references
    if same and "instructions" in measurement and "instructions" in same[0]:
        ratio = measurement["instructions"]["total"] / same[0]["instructions"]["total"]
        measurement["instructions_to_reference"] = {
            "reference": same[0]["artifact"],
            "runtime": same[0]["runtime"],
            "ratio": ratio,
        }
