"""Run artifacts in their runtimes and compare what they compute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgedistill.agent import load_opener
from edgedistill.artifacts.agreement import against_reference
from edgedistill.contracts import HasReference, HasRuntimes, Installs, TellsOperators
from edgedistill.errors import ArtifactError, UsageError
from edgedistill.plugins import device_runtimes, installed, load_device, load_exporter, offers, traits_of
from edgedistill.types import AgentCall, Array

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from edgedistill.types import Artifact, Json


_T = TypeVar("_T")
_TWO = 2


@dataclass(frozen=True)
class Subject:
    """An artifact in one of the runtimes that open it."""

    artifact: Artifact
    runtime: str


def subjects(artifacts: Sequence[Artifact], runtimes: Collection[str] | None = None) -> list[Subject]:
    """Every artifact in every runtime of its format that is installed here, or in those `runtimes`.

    A runtime that is known to get a file wrong is left out (`refusals`).

    Raises:
        ArtifactError: no runtime is left for an artifact.

    What will be compared, the artifacts of one runtime, stands side by side, so that it is measured so.
    """
    found = [
        Subject(artifact, runtime)
        for artifact in artifacts
        for runtime, (module, _) in load_exporter(artifact.format).RUNTIMES.items()
        if (installed(module) if runtimes is None else runtime in runtimes) and runtime not in refusals(artifact)
    ]
    for artifact in artifacts:
        if refusals(artifact) and all(subject.artifact is not artifact for subject in found):
            told = "; ".join(f"{runtime}: {why}" for runtime, why in refusals(artifact).items())
            raise ArtifactError(
                f"no runtime here computes {artifact.path.name}",
                where=str(artifact.path),
                expected="a file that one of its runtimes computes right",
                got=told,
                fix="export the model again, in another precision or format",
            )
    return sorted(found, key=lambda subject: subject.runtime)


def refusals(artifact: Artifact) -> dict[str, str]:
    """Runtime -> why it must not be given this file, as far as its operators tell; empty for a file nobody can read."""
    teller = offers(load_exporter(artifact.format), TellsOperators)
    try:
        return teller.inventory(artifact).refusals if teller is not None else {}
    except Exception:  # noqa: BLE001 - damaged files: each library has errors of its own, and opening tells better
        return {}


def disagreements(artifact: Artifact, outputs: Mapping[str, Mapping[str, Array]]) -> dict[str, str]:
    """Runtime -> how its outputs depart from those of the format's reference runtime; see agreeing.py.

    `outputs`: runtime -> output name -> (samples, ...). Empty for formats that one runtime opens.
    """
    judge = offers(load_exporter(artifact.format), HasReference)
    if judge is None or len(outputs) < _TWO:
        return {}
    return against_reference(outputs, judge.REFERENCE, judge.output_steps(artifact.path), artifact.precision)


def subjects_on(device: str, artifacts: Sequence[Artifact]) -> list[Subject]:
    """The artifacts in the runtimes that a device has.

    Those are its own (`device_runtimes`), else those installed here, as far as its plug-in's traits allow.

    Raises:
        UsageError: the device has none for an artifact.
    """
    traits, there = traits_of(device), device_runtimes(device)
    known: Sequence[str] | None = list(there) if there is not None else traits.runtimes
    own = {fmt: load_opener(str(file)).RUNTIMES for fmt, file in traits.own_openers.items()}
    if own:
        every = [Subject(artifact, runtime) for artifact in artifacts for runtime in own.get(artifact.format, ())]
    else:
        every = subjects(artifacts, there)
    found = [one for one in every if known is None or one.runtime in known]
    for artifact in artifacts:
        if known is not None and all(subject.artifact is not artifact for subject in found):
            raise _no_runtime(device, artifact, known)
    return found


def _no_runtime(device: str, artifact: Artifact, known: Sequence[str]) -> UsageError:
    plugin = load_device(device)
    here = "" if offers(plugin, HasRuntimes) else ", which must be installed here too"
    wanted = next(iter(load_exporter(artifact.format).RUNTIMES))
    install = f"edgedistill devices bootstrap {device} --runtime {wanted}"
    return UsageError(
        f"{device} has no runtime for {artifact.path.name}",
        where=str(artifact.path),
        expected=f"a file for one of {', '.join(known)}{here}" if known else f"a device with {wanted}",
        got=artifact.format,
        fix=install if offers(plugin, Installs) else "export another format, or choose another device",
    )


def call_for(subject: Subject, device: str = "cpu") -> AgentCall:
    """The call that opens an artifact on a device, with all that must be there for it: `replace` asks for more."""
    artifact = subject.artifact
    opener = traits_of(device).own_openers.get(artifact.format) or load_exporter(artifact.format).OPENER
    return AgentCall(artifact.path, subject.runtime, opener, artifact.files[1:])


def compute_all(
    subject: Subject, inputs: Path, outputs: Path, device: str = "cpu", *, reference_kernels: bool = False
) -> dict[str, Array]:
    """All outputs of the artifact for every sample of an .npz, by the file's names, in the file's order."""
    plain = call_for(subject, device)
    job = replace(plain, inputs=inputs, outputs=outputs, timeout_s=3600, reference_kernels=reference_kernels)
    document = load_device(device).run(device, job).document
    with np.load(outputs, allow_pickle=False) as archive:
        return {one["name"]: np.asarray(archive[one["name"]]) for one in document["outputs"]}


def matched(found: Mapping[str, _T], names: Sequence[str]) -> dict[str, _T]:
    """Outputs under the names of the model: by name where the file kept them, else by their order."""
    if set(names) <= set(found):
        return {name: found[name] for name in names}
    inside = [[key for key in found if name in key] for name in names]  # "serving_default_logits_output"
    unique = [keys[0] for keys in inside if len(keys) == 1]
    keys = unique if len(set(unique)) == len(names) else list(found)
    return {name: found[key] for name, key in zip(names, keys, strict=False)}


def generated(artifact: Artifact, path: Path, count: int = 32) -> Path:
    """Write `count` seeded samples of the artifact's input shapes as .npz: standard normal, integers 0 and 1.

    Raises:
        UsageError: the file leaves sizes open.
    """
    specs = load_device("cpu").run("cpu", call_for(subjects([artifact])[0])).document["inputs"]
    rng = np.random.default_rng(0)
    np.savez(path, **{spec["name"]: _drawn(spec, count, rng) for spec in specs})
    return path


def _drawn(spec: Json, count: int, rng: np.random.Generator) -> Array:
    """Samples for one input; an integer one that stands for no real numbers takes ids, which 0 and 1 always are."""
    whole = len(spec["shape"]) == 1 and spec["shape"] != [1]  # a vector has no batch
    shape = (count, *spec["shape"][0 if whole else 1 :])
    if "quantization" not in spec and np.dtype(spec["dtype"]).kind in "iub":
        return rng.integers(0, 2, shape).astype(spec["dtype"])
    return rng.standard_normal(shape).astype(np.float32)
