"""What each stage does. A method writes its files into the folder it is given and reads those of earlier stages.

Heavy libraries are imported inside, so that a run that reuses everything imports none of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgedistill import bundle as release
from edgedistill.errors import DataError
from edgedistill.gate import judge, verdict_json
from edgedistill.plugins import load_device, load_exporter
from edgedistill.recipe import Recipe, recipe_sha256
from edgedistill.report.build import build, package_versions
from edgedistill.runs import Run, Stage, require_space
from edgedistill.stored import (
    Files,
    artifact_json,
    keep,
    load_data,
    model_json,
    read_artifacts,
    read_json,
    write_artifacts,
    write_json,
)
from edgedistill.types import Array, Json, Precision

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn

    from edgedistill.data.splits import Data
    from edgedistill.distillation.trainer import Epoch, Loss
    from edgedistill.recipe import Train

_MARGIN_BYTES = 2**20
"""What a converter may write besides the weights: graph, scratch files, its log."""


class Watch(Protocol):
    """Where progress goes."""

    def stage(self, name: str, state: str) -> None:
        """A stage is `running`, `ran`, `reused`."""
        ...

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        """An epoch of a training ended."""
        ...

    def step(self, title: str, done: int, total: int) -> None:
        """A step of a longer stage begins."""
        ...

    def captured(self, log: Path) -> AbstractContextManager[None]:
        """What third-party libraries print goes into the log."""
        ...


class Silent:
    """No progress at all."""

    def stage(self, name: str, state: str) -> None:
        """Say nothing."""

    def epoch(self, title: str, epoch: Epoch, epochs: int) -> None:
        """Say nothing."""

    def step(self, title: str, done: int, total: int) -> None:
        """Say nothing."""

    def captured(self, log: Path) -> AbstractContextManager[None]:  # noqa: ARG002 - the protocol's name
        """Let libraries print."""
        return nullcontext()


class Stages:
    """The stages of one run, in the order in which they happen."""

    def __init__(self, recipe: Recipe, beside: Path, run: Run, watch: Watch) -> None:
        self.recipe = recipe
        self.beside = beside
        self.run = run
        self.watch = watch

    def data(self, out: Path) -> None:
        """The splits, checked and normalised."""
        from edgedistill.data.sources import load_source
        from edgedistill.data.splits import prepare, save

        source = self.recipe.data
        raw = load_source(source, self.beside)
        save(prepare(raw, source.normalize, source.evaluation_fraction, self.recipe.seed), out)

    def teacher(self, data_stage: Stage, out: Path) -> None:
        """Built, its checkpoint loaded, trained if the recipe says so; run once over both splits."""
        import torch

        from edgedistill.teachers.module import signals

        data, spec = load_data(data_stage), self.recipe.teacher
        module = self._built(spec, data)
        if spec.train is not None:
            cross_entropy = torch.nn.functional.cross_entropy
            labels = torch.tensor(np.asarray(data.train_labels))
            self._fit("teacher", module, data, lambda logits, rows: cross_entropy(logits, labels[rows]), spec.train)
        keep(module, "teacher", data, out)
        np.save(out / "train_logits.npy", signals(module, data.train_inputs).logits.numpy())

    def student(self, data_stage: Stage, out: Path) -> None:
        """The student as it starts: seeded initial weights, or its checkpoint."""
        from edgedistill.students.build import facts, save_facts, save_weights

        data = load_data(data_stage)
        module = self._built(self.recipe.student, data)
        save_weights(module, out / "initial.safetensors")
        save_facts(facts(module, data.sample_shape), out / "facts.json")

    def distill(self, data_stage: Stage, teacher: Stage, student: Stage, out: Path) -> None:
        """The student on soft targets and labels; the baseline on labels alone, same start and budget."""
        import torch

        from edgedistill.distillation.losses.response import distillation_loss

        data, settings = load_data(data_stage), self.recipe.distill
        soft = torch.tensor(np.load(teacher.path / "train_logits.npy", allow_pickle=False))
        labels = torch.tensor(np.asarray(data.train_labels))

        def learn_both(logits: Tensor, rows: Tensor) -> Tensor:
            return distillation_loss(
                logits, soft[rows], labels[rows], temperature=settings.temperature, alpha=settings.alpha
            )

        def learn_labels(logits: Tensor, rows: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(logits, labels[rows])

        losses = {"student": learn_both} | ({"student-labels-only": learn_labels} if settings.baseline else {})
        for name, loss in losses.items():
            module = self._restored(self.recipe.student, data, student.path / "initial.safetensors")
            self._fit(name, module, data, loss, settings)
            keep(module, name, data, out)

    def export(self, data_stage: Stage, teacher: Stage, distilled: Stage, out: Path) -> None:
        """fp32, every format: the student, and the teacher beside it."""
        from edgedistill.students.build import signature

        data = load_data(data_stage)
        models = {
            "teacher": self._restored(self.recipe.teacher, data, teacher.path / "teacher.safetensors"),
            "student": self._restored(self.recipe.student, data, distilled.path / "student.safetensors"),
        }
        artifacts = []
        for name, module, fmt in self._steps(
            [(n, m, f) for n, m in models.items() for f in self.recipe.export.formats], "export {0} to {2}"
        ):
            folder = out / fmt
            folder.mkdir(exist_ok=True)
            weights = sum(tensor.nbytes for tensor in module.state_dict().values())
            require_space(out, 2 * weights + _MARGIN_BYTES)
            artifacts.append(load_exporter(fmt).export(module, name, signature(data), folder))
        write_artifacts(artifacts, out)

    def quantize(self, data_stage: Stage, exported: Stage, out: Path) -> None:
        """int8 copies of the student's fp32 artifacts, calibrated on training samples."""
        data = load_data(data_stage)
        students = [a for a in read_artifacts(exported) if a.model == "student"]
        wanted = [Precision.parse(w) for w in self.recipe.export.precisions if w != "fp32"]
        jobs = [(artifact, precision) for artifact in students for precision in wanted]
        calibration = {students[0].signature.inputs[0].name: self._calibration(data)} if jobs else {}
        artifacts = []
        for artifact, precision in self._steps(jobs, "quantize {0.id} to {1}"):
            folder = out / artifact.format
            folder.mkdir(exist_ok=True)
            require_space(out, 2 * artifact.size_bytes + _MARGIN_BYTES)
            artifacts.append(load_exporter(artifact.format).quantize(artifact, precision, calibration, folder))
        write_artifacts(artifacts, out)

    def parity(self, data_stage: Stage, teacher: Stage, distilled: Stage, files: Files, out: Path) -> None:
        """Every artifact in every runtime over the whole evaluation split: departure, quality, difference."""
        from edgedistill.benchmarking import compute, subjects
        from edgedistill.parity import compare
        from edgedistill.statistics import paired_difference
        from edgedistill.tasks.classification import correct, quality

        data = load_data(data_stage)
        references = {
            "teacher": np.load(teacher.path / "teacher.eval_logits.npy", allow_pickle=False),
            "student": np.load(distilled.path / "student.eval_logits.npy", allow_pickle=False),
        }
        labels = np.asarray(data.eval_labels)
        teacher_right = correct(references["teacher"], labels)
        artifacts = files.artifacts()
        inputs = out / ".inputs.npz"
        np.savez(inputs, **{artifacts[0].signature.inputs[0].name: data.eval_inputs})
        answers = []
        for subject in self._steps(subjects(artifacts), "check {0.artifact.id} in {0.runtime}", unpack=False):
            artifact = subject.artifact
            logits = compute(subject, inputs, out / f"{artifact.id}.{subject.runtime}.npz")
            parity = compare(
                references[artifact.model], logits, artifact.precision, self.recipe.parity,
                name=artifact.model, runtime=subject.runtime,
            )  # fmt: skip
            versus = paired_difference(correct(logits, labels), teacher_right)
            answers.append(
                {
                    "artifact": artifact.id,
                    "runtime": subject.runtime,
                    "parity": parity.to_json(),
                    "quality": {**quality(logits, labels), "runtime": subject.runtime},
                    "versus_teacher": {
                        "difference": versus.value,
                        "ci95": [versus.low, versus.high],
                        "n": versus.n,
                        "method": "paired, Newcombe's hybrid score interval",
                    },
                }
            )
        inputs.unlink()
        write_json(answers, out / "parity.json")

    def benchmark(self, data_stage: Stage, files: Files, out: Path) -> None:
        """Latency and memory of every artifact in every runtime, the teacher's among them."""
        from edgedistill.benchmarking import measure, subjects

        artifacts = files.artifacts()
        inputs = out / ".inputs.npz"
        np.savez(inputs, **{artifacts[0].signature.inputs[0].name: load_data(data_stage).eval_inputs[:32]})
        found = subjects(artifacts)
        measurements = measure(
            found, self.recipe.benchmark, inputs,
            lambda done, total, text: self.watch.step(f"measure {text}", done, total),
        )  # fmt: skip
        inputs.unlink()
        write_json(measurements, out / "measurements.json")

    def report(
        self, data_stage: Stage, teacher: Stage, student: Stage, distilled: Stage, files: Files,
        proved: Stage, measured: Stage, out: Path,
    ) -> None:  # fmt: skip
        """The report without its verdict, and its chart."""
        from edgedistill.report.plots import quality_against_latency

        data = load_data(data_stage)
        artifacts = files.artifacts()
        models = [
            model_json("teacher", "teacher", teacher, teacher),
            model_json("student", "student", distilled, student),
        ]
        if self.recipe.distill.baseline:
            models.append(model_json("student-labels-only", "baseline", distilled, student))
        report = build(
            name=self.recipe.name,
            seed=self.recipe.seed,
            device=load_device(self.recipe.benchmark.device).describe(self.recipe.benchmark.device),
            models=models,
            artifacts=[artifact_json(a, read_json(proved.path / "parity.json"), self.run.root) for a in artifacts],
            measurements=read_json(measured.path / "measurements.json"),
            eval_samples=len(data.eval_labels),
        )
        write_json(report, out / "report.json")
        (out / "chart.svg").write_text(quality_against_latency(report), encoding="utf-8")

    def gate(self, reported: Stage, policy_sha256: str, out: Path) -> None:
        """The verdict, and the report that people read."""
        from edgedistill.report.html import render

        report = read_json(reported.path / "report.json")
        digest = recipe_sha256(self.recipe)  # of the whole recipe, its gate included
        report["recipe_sha256"] = digest
        for artifact in report["artifacts"]:
            artifact["producer"]["recipe_sha256"] = digest
        report["gate"] = verdict_json(judge(report, self.recipe.gate), policy_sha256)
        write_json(report, out / "report.json")
        chart = (reported.path / "chart.svg").read_text(encoding="utf-8")
        (out / "report.html").write_text(render(report, chart), encoding="utf-8")

    def bundle(self, data_stage: Stage, distilled: Stage, files: Files, report: Json, out: Path) -> None:
        """The release. One that failed its gate is written too, marked `release: false`."""
        data = load_data(data_stage)
        artifacts = files.artifacts()
        release.write(
            [a for a in artifacts if a.model == "student"],
            report,
            data.normalization,
            np.asarray(data.eval_inputs[: release.EXAMPLES]),
            np.load(distilled.path / "student.eval_logits.npy", allow_pickle=False)[: release.EXAMPLES],
            out,
        )

    # What the stages above share.

    def model_key(self, spec: Any) -> Json:
        """What a model depends on."""
        from edgedistill.students.key import model_key

        return model_key(spec, self.beside)

    def _built(self, spec: Any, data: Data) -> nn.Module:
        from edgedistill.students.build import build as build_model

        return build_model(spec, data.sample_shape, data.classes, self.beside, self.recipe.seed)

    def _restored(self, spec: Any, data: Data, weights: Path) -> nn.Module:
        from edgedistill.students.build import load_checkpoint

        module = self._built(spec.model_copy(update={"checkpoint": None}), data)
        load_checkpoint(module, weights)
        return module.eval()

    def _fit(self, name: str, module: nn.Module, data: Data, loss: Loss, settings: Train) -> None:
        import torch

        from edgedistill.distillation.trainer import deterministic, fit

        inputs, labels = (
            torch.tensor(np.asarray(data.train_inputs)),
            torch.tensor(np.asarray(data.train_labels)),
        )
        with deterministic(self.recipe.seed, self.recipe.threads):
            fit(
                module, inputs, labels, loss, settings, self.recipe.seed,
                lambda epoch: self.watch.epoch(name, epoch, settings.epochs),
            )  # fmt: skip

    def _steps(self, items: list[Any], text: str, *, unpack: bool = True) -> Any:
        for number, item in enumerate(items):
            self.watch.step(text.format(*item) if unpack else text.format(item), number, len(items))
            yield item

    def _calibration(self, data: Data) -> Array:
        """Model-ready calibration samples: training samples, or the file that the recipe names."""
        settings = self.recipe.quantize
        if settings.calibration is None:
            rows = np.random.default_rng(self.recipe.seed).permutation(len(data.train_labels))[: settings.samples]
            return np.asarray(data.train_inputs[np.sort(rows)])
        from edgedistill.data.sources import as_images, read_npz_array
        from edgedistill.data.splits import apply

        path = self.beside / settings.calibration
        layout = getattr(self.recipe.data, "layout", "auto")
        raw = as_images(read_npz_array(path, "x"), layout, str(path))
        if raw.shape[1:] != data.sample_shape or len(raw) == 0 or not np.isfinite(raw).all():
            raise DataError(
                "the calibration samples do not fit the model",
                where=f"{path}, array x",
                expected=f"finite samples of shape {data.sample_shape}, as the training data",
                got=f"{len(raw)} samples of shape {raw.shape[1:]}",
                fix="calibrate on data of the same shape, or drop quantize.calibration",
            )
        return apply(data.normalization, raw)

    def tools(self) -> Json:
        """Versions of what writes each format."""
        return {fmt: package_versions(load_exporter(fmt).TOOLS) for fmt in self.recipe.export.formats}

    def runtimes(self) -> Json:
        """Versions of what opens the files."""
        names = sorted(
            {
                m.split(".")[0].replace("_", "-")
                for f in self.recipe.export.formats
                for m in load_exporter(f).RUNTIMES.values()
            }
        )
        return package_versions(names)
