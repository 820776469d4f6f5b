"""Latency and memory of every artifact in every runtime that computes it right, the teacher's among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.documents.measurements import RecipePredictions
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Array, Artifact, Json

NAME = "benchmark"
READS = ("benchmark", "export.fold")
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ("exporters", "devices", "benchmarks")
_ROWS = 32
"""Evaluation samples that are cycled through."""


def check(work: Work) -> None:
    """The device is one that measures recipes' files, and is there; simulated ones are known.

    Raises:
        UsageError: it is simulated, emulated, or runs no agent.
    """
    from edgedistill.errors import UsageError
    from edgedistill.plugins import traits_of
    from edgedistill.types import Source

    name = work.recipe.benchmark.device
    traits = traits_of(name)
    if traits.source is Source.PREDICTED:
        raise UsageError(
            f"nothing runs on {name}: it is simulated",
            where="benchmark.device",
            expected="a device that computes",
            got=name,
            fix=f"benchmark.simulated: [{name.partition(':')[2]}] predicts beside measuring",
        )
    if not traits.computes or traits.source is not Source.MEASURED:
        raise UsageError(
            f"{name} cannot measure a recipe's files",
            where="benchmark.device",
            expected="a device that the agent runs on: cpu or ssh:NAME",
            got=name,
            fix=f"measure the finished files with `edgedistill benchmark --device {name}`",
        )


def key(work: Work) -> Json:
    """The device with its runtimes, what is measured there, and the profiles of simulated devices."""
    from edgedistill.contracts import Predicts
    from edgedistill.plugins import device_runtimes, find_plugin, load_device, plugin_names, plugins_that, traits_of
    from edgedistill.prediction.predict import profile_of
    from edgedistill.stages.code import code_digest
    from edgedistill.stages.keys import runtimes_tools

    name, simulated = work.recipe.benchmark.device, work.recipe.benchmark.simulated
    predicting = [find_plugin("devices", one) for one in plugins_that("devices", Predicts)] if simulated else []
    return {
        "device": load_device(name).describe(name).to_json(traits_of(name).source),
        "there": device_runtimes(name),
        "shelf": plugin_names("benchmarks"),
        "runtimes": runtimes_tools(work),
        "simulated": [profile_of(one) for one in simulated],
        "predictor": code_digest(predicting),
    }


def make(
    work: Work, data: Stage, exported: Stage, quantized: Stage, requantized: Stage, proved: Stage, *, out: Path
) -> None:
    """Measure, and predict on simulated devices. Of the stage `parity` only who refuses which file is read."""
    import numpy as np

    from edgedistill.conversion.measuring import measure_proven
    from edgedistill.stages.files import all_artifacts, load_data
    from edgedistill.stages.samples import fed
    from edgedistill.storage import read_json, write_json

    splits, settings = load_data(data), work.recipe.benchmark
    artifacts = all_artifacts(exported, quantized, requantized)
    inputs = {artifacts[0].signature.inputs[0].name: fed(work, splits, splits.eval_inputs[:_ROWS])}
    refused: dict[str, dict[str, str]] = read_json(proved.path / "refused.json")
    samples: dict[str, Array] = {}
    measurements = measure_proven(artifacts, refused, inputs, settings, out, work.events, samples)
    np.savez_compressed(out / "samples_ns.npz", **samples)
    write_json(measurements, out / "measurements.json")
    write_json(_predictions(artifacts, settings.simulated), out / "predictions.json")


def _predictions(artifacts: Sequence[Artifact], devices: Sequence[str]) -> RecipePredictions:
    """Every student artifact on every simulated device: `predictions`, and `refused` with artifact and reason."""
    from edgedistill.errors import DeviceError
    from edgedistill.prediction.predict import predict

    found: RecipePredictions = {"predictions": [], "refused": []}
    for artifact in [one for one in artifacts if one.model == "student" and devices]:
        for name in devices:
            try:
                made = predict(artifact.path, [name])["predictions"]
            except DeviceError as error:
                found["refused"].append({"artifact": artifact.id, "device": name, "reason": error.message})
            else:
                for one in made:
                    one["artifact"] = artifact.id
                found["predictions"] += made
    return found
