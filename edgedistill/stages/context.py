"""What each stage does. A method writes its files into the folder it is given and reads those of earlier stages.

Heavy libraries are imported inside, so that a run that reuses everything imports none of them.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.artifacts.metadata import Origin
from edgedistill.conversion.operators import require_convertible
from edgedistill.data.on_disk import of_mapped
from edgedistill.errors import DataError, DeviceError
from edgedistill.events import Part
from edgedistill.plugins import load_device, load_exporter
from edgedistill.recipe.document import Assistants, EnsembleTeacher, FileTeacher, Recipe, files_recipe, recipe_sha256
from edgedistill.release import bundle as release
from edgedistill.release.gate import judge, verdict_json
from edgedistill.report.build import build, package_versions
from edgedistill.runs import RESUME, Run, Stage
from edgedistill.stages.files import (
    Files,
    apart_from_reference,
    artifact_json,
    keep,
    load_data,
    model_json,
    read_artifacts,
    read_json,
    write_artifacts,
    write_json,
)
from edgedistill.storage import require_space
from edgedistill.types import Array, Json, Precision, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import nn

    from edgedistill.conversion.candidates import CandidateSamples
    from edgedistill.data.splits import Data
    from edgedistill.distillation.rounding.training import QatJob
    from edgedistill.distillation.trainings import Job
    from edgedistill.events import Events
    from edgedistill.teachers.build import Teacher
    from edgedistill.types import Artifact

_MARGIN_BYTES = 2**20
"""What a converter may write besides the weights: graph, scratch files, its log."""


class Stages:
    """The stages of one run, in the order in which they happen."""

    def __init__(self, recipe: Recipe, beside: Path, run: Run, events: Events) -> None:
        self.recipe = recipe
        self.beside = beside
        self.run = run
        self.events = events

    def data(self, out: Path) -> None:
        """The splits, checked and normalised."""
        from edgedistill.data.sources import load_source, load_unlabelled
        from edgedistill.data.splits import prepare, save

        source = self.recipe.data
        raw, more = load_source(source, self.beside), load_unlabelled(source, self.beside)
        save(prepare(raw, source.normalize, source.evaluation_fraction, self.recipe.seed, more), out)

    def teacher(self, data_stage: Stage, out: Path) -> None:
        """Built, its checkpoint loaded, trained if the recipe says so; run once over the evaluation split."""
        from edgedistill.distillation.trainings import train_teacher
        from edgedistill.teachers.build import build_teacher

        data = load_data(data_stage)
        build_teacher(self.recipe.teacher, data, self.beside, self.recipe.seed, out)  # writes what black boxes need
        self._train(train_teacher, self._job(data_stage, out, out), lambda module: keep(module, "teacher", data, out))

    def student(self, data_stage: Stage, out: Path) -> None:
        """The student as it starts: seeded initial weights, or its checkpoint."""
        from edgedistill.models.facts import facts, save_facts
        from edgedistill.models.weights import save_weights
        from edgedistill.tasks.classification import signature

        data = load_data(data_stage)
        module = self._built(self.recipe.student, data)
        save_weights(module, out / "initial.safetensors")
        save_facts(facts(module, data.sample_shape), out / "facts.json")
        # before hours of training: what no format takes is no student
        require_convertible(module.eval(), "student", signature(data), self.recipe.export.formats)

    def cache(self, data_stage: Stage, teacher: Stage, out: Path) -> None:
        """The teacher's answers, where keeping them pays."""
        from edgedistill.distillation.trainings import build_cache

        found = build_cache(self._job(data_stage, teacher.path, out), out, self.events)
        write_json(asdict(found), out / "plan.json")

    def distill(self, data_stage: Stage, teacher: Stage, student: Stage, cache: Stage, out: Path) -> None:
        """The students by the recipe's scheme; the baselines on labels alone, same starts and budget."""
        from edgedistill.distillation.trainings import train_students

        data = load_data(data_stage)
        job = self._job(data_stage, teacher.path, out)
        kept = cache.path if read_json(cache.path / "plan.json")["use"] else None
        unchanged = self._train(
            train_students,
            replace(job, student=student.path, cache=kept),
            lambda module, name: keep(module, name, data, out),
        )
        write_json({"teacher_sha256_before_and_after": unchanged}, out / "teacher.json")

    def export(self, data_stage: Stage, teacher: Stage, distilled: Stage, out: Path) -> None:
        """fp32, every format: the student, and the teacher beside it."""
        from edgedistill.models.folding import Folded
        from edgedistill.teachers.build import black_boxes

        data = load_data(data_stage)
        taught_by = self._teacher(data, teacher)
        hidden = black_boxes(taught_by)
        if hidden:
            self.events.note(f"the teacher is not exported: {', '.join(hidden)} is a black box")
        models = ({} if hidden else {"teacher": taught_by}) | {
            "student": self._restored(self.recipe.student, data, distilled.path / "student.safetensors"),
        }
        signature = self._signature(data, distilled)
        folds = self.recipe.export.fold
        if folds:
            models = {name: Folded(module, data.normalization, folds).eval() for name, module in models.items()}
        for name, module in models.items():
            require_convertible(module, name, signature, self.recipe.export.formats)
        artifacts = []
        for name, module, fmt in self._steps(
            [(n, m, f) for n, m in models.items() for f in self.recipe.export.formats], "export {0} to {2}"
        ):
            folder = out / fmt
            folder.mkdir(exist_ok=True)
            weights = sum(tensor.nbytes for tensor in module.state_dict().values())
            require_space(out, 2 * weights + _MARGIN_BYTES)
            artifacts.append(load_exporter(fmt).export(module, name, signature, folder))
        write_artifacts(artifacts, out, self.origin(quantized=False))

    def quantize(self, data_stage: Stage, exported: Stage, out: Path) -> None:
        """int8 copies of the student's fp32 artifacts: candidates calibrated on training samples, the best shipped."""
        from edgedistill.conversion.candidates import choose

        students = [a for a in read_artifacts(exported) if a.model == "student"]
        wanted = [Precision.parse(w) for w in self.recipe.export.precisions if w not in ("fp32", "int8-qat")]
        jobs = [(a, p) for a in students for p in wanted if p in load_exporter(a.format).PRECISIONS]
        for artifact, precision in ((a, p) for a in students for p in wanted if (a, p) not in jobs):
            self.events.note(f"{artifact.format} has no {precision.short}: left in fp32")
        data = load_data(data_stage)
        rows = self._validation_rows(data, self.recipe.quantize.validation_samples)
        samples = self._samples(data, students[0].signature.inputs[0].name, out, rows)
        artifacts, candidates = [], []
        for number, (artifact, precision) in enumerate(jobs):
            folder = out / artifact.format
            folder.mkdir(exist_ok=True)
            require_space(out, 4 * artifact.size_bytes + _MARGIN_BYTES)
            text = f"quantize {artifact.id} to {precision}"
            choice = choose(
                artifact,
                precision,
                samples,
                self.recipe.quantize,
                self.recipe.benchmark,
                folder,
                Part(self.events, text, number, len(jobs)),
            )
            artifacts.append(choice.artifact)
            candidates.append(
                {"artifact": choice.artifact.id, "met": choice.met, "candidates": choice.rows, "notes": choice.notes}
            )
        samples.validation.unlink()
        write_json(candidates, out / "candidates.json")
        write_artifacts(artifacts, out, self.origin(quantized=True))

    def parity(self, data_stage: Stage, teacher: Stage, distilled: Stage, files: Files, out: Path) -> None:
        """Every artifact in every runtime over the whole evaluation split: departure, quality, difference."""
        from edgedistill.artifacts.running import compute, subjects
        from edgedistill.models.folding import given_by
        from edgedistill.parity.compare import compare, keep_sample
        from edgedistill.statistics.intervals import paired_difference
        from edgedistill.tasks.classification import correct, quality

        data = load_data(data_stage)
        references = {
            "teacher": np.load(teacher.path / "teacher.eval_logits.npy", allow_pickle=False),
            "student": np.load(distilled.path / "student.eval_logits.npy", allow_pickle=False),
        }
        labels = np.asarray(data.eval_labels)
        teacher_right = correct(references["teacher"], labels)
        if files.trained:
            kept = files.retrained.path / "student-qat.eval_logits.npy"
            references["student-qat"] = np.load(kept, allow_pickle=False)
        references = {name: given_by(self.recipe.export.fold, logits) for name, logits in references.items()}
        artifacts = files.artifacts()
        inputs = out / ".inputs.npz"
        np.savez(inputs, **{artifacts[0].signature.inputs[0].name: self._fed(data, data.eval_inputs)})
        answers = []
        for subject in self._steps(subjects(artifacts), "check {0.artifact.id} in {0.runtime}", unpack=False):
            artifact = subject.artifact
            logits = compute(subject, inputs, out / f"{artifact.id}.{subject.runtime}.npz")
            reference = artifact.producer.get("reference", artifact.model)
            parity = compare(
                references[reference],
                logits,
                artifact.precision,
                self.recipe.parity,
                name=reference,
                runtime=subject.runtime,
            )
            file = f"worst/{artifact.id}.{subject.runtime}.npz"
            keep_sample(
                out / file,
                parity.worst_sample,
                {artifact.signature.inputs[0].name: data.eval_inputs},
                {"logits": references[reference]},
                {"logits": logits},
            )
            versus = paired_difference(correct(logits, labels), teacher_right)
            answers.append(
                {
                    "artifact": artifact.id,
                    "runtime": subject.runtime,
                    "parity": replace(parity, worst_sample_file=file).to_json(),
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
        apart = apart_from_reference(artifacts, out)
        write_json(apart, out / "refused.json")
        write_json([a for a in answers if a["runtime"] not in apart.get(a["artifact"], {})], out / "parity.json")

    def benchmark(self, data_stage: Stage, files: Files, proved: Stage, out: Path) -> None:
        """Latency and memory of every artifact in every runtime that computes it right, the teacher's among them."""
        from edgedistill.artifacts.running import subjects_on
        from edgedistill.measurement.measure import Samples, measure

        artifacts = files.artifacts()
        inputs = out / ".inputs.npz"
        data = load_data(data_stage)
        np.savez(inputs, **{artifacts[0].signature.inputs[0].name: self._fed(data, data.eval_inputs[:32])})
        refused = read_json(proved.path / "refused.json")
        found = subjects_on(self.recipe.benchmark.device, artifacts)
        found = [s for s in found if s.runtime not in refused.get(s.artifact.id, {})]
        samples: Samples = {}
        measurements = measure(
            found,
            self.recipe.benchmark,
            inputs,
            self.events,
            samples,
        )
        inputs.unlink()
        np.savez_compressed(out / "samples_ns.npz", **samples)
        write_json(measurements, out / "measurements.json")
        write_json(self._predictions(artifacts), out / "predictions.json")

    def _predictions(self, artifacts: Sequence[Artifact]) -> Json:
        """Every student artifact on every simulated device: `predictions`, and `refused` with artifact and reason."""
        from edgedistill.prediction.predict import predict

        found: Json = {"predictions": [], "refused": []}
        for artifact in [a for a in artifacts if a.model == "student" and self.recipe.benchmark.simulated]:
            for name in self.recipe.benchmark.simulated:
                try:
                    made = predict(artifact.path, [name])["predictions"]
                except DeviceError as error:
                    found["refused"].append({"artifact": artifact.id, "device": name, "reason": error.message})
                else:
                    found["predictions"] += [{**one, "artifact": artifact.id} for one in made]
        return found

    def report(
        self,
        data_stage: Stage,
        teacher: Stage,
        student: Stage,
        distilled: Stage,
        files: Files,
        proved: Stage,
        measured: Stage,
        out: Path,
    ) -> None:
        """The report without its verdict, and its chart."""
        from edgedistill.report.plots import quality_against_latency

        data = load_data(data_stage)
        artifacts, answers = files.artifacts(), _located(proved, self.run.root)
        models = [
            model_json("teacher", "teacher", teacher, teacher),
            model_json("student", "student", distilled, student),
        ]
        if self.recipe.distill.baseline:
            models.append(model_json("student-labels-only", "baseline", distilled, student))
        if files.trained:
            models.append(model_json("student-qat", "student", files.retrained, student))
        report = build(
            name=self.recipe.name,
            seed=self.recipe.seed,
            device=load_device(self.recipe.benchmark.device).describe(self.recipe.benchmark.device),
            models=models,
            artifacts=[
                artifact_json(a, answers, read_json(proved.path / "refused.json").get(a.id, {}), self.run.root)
                for a in artifacts
            ],
            choices=files.choices(),
            measurements=read_json(measured.path / "measurements.json"),
            predictions=read_json(measured.path / "predictions.json"),
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
        from edgedistill.models.folding import given_by

        data = load_data(data_stage)
        artifacts = [a for a in files.artifacts() if a.model == "student"]
        logits = np.load(distilled.path / "student.eval_logits.npy", allow_pickle=False)[: release.EXAMPLES]
        release.write(
            artifacts,
            report,
            artifacts[0].signature.normalization,
            self._fed(data, data.eval_inputs[: release.EXAMPLES]),
            given_by(self.recipe.export.fold, logits),
            out,
        )

    # What the stages above share.

    def origin(self, *, quantized: bool) -> Origin:
        """What files say of where they come from."""
        return Origin(self.recipe.export.licence, files_recipe(self.recipe, quantized=quantized))

    def model_key(self, spec: Any) -> Json:
        """What a model depends on."""
        from edgedistill.models.key import model_key

        return model_key(spec, self.beside)

    def assistant_keys(self) -> list[Json]:
        """What the models between teacher and student depend on."""
        scheme = self.recipe.distill.scheme
        return [self.model_key(spec) for spec in scheme.chain] if isinstance(scheme, Assistants) else []

    def _built(self, spec: Any, data: Data) -> nn.Module:
        from edgedistill.students.build import build as build_model

        return build_model(spec, data.sample_shape, data.classes, self.beside, self.recipe.seed)

    def _restored(self, spec: Any, data: Data, weights: Path) -> nn.Module:
        from edgedistill.models.weights import load_checkpoint

        module = self._built(spec.model_copy(update={"checkpoint": None}), data)
        load_checkpoint(module, weights)
        return module.eval()

    def _teacher(self, data: Data, teacher: Stage) -> Teacher:
        from edgedistill.models.weights import load_checkpoint
        from edgedistill.teachers.build import build_teacher

        spec, seed = self.recipe.teacher, self.recipe.seed
        module = build_teacher(spec, data, self.beside, seed, teacher.path, restored=True)
        load_checkpoint(module, teacher.path / "teacher.safetensors")
        return module

    def _job(self, data_stage: Stage, teacher: Path, out: Path) -> Job:
        from edgedistill.distillation.trainings import Job

        return Job(self.recipe, self.beside.resolve(), data_stage.path, teacher, out / RESUME)

    def _train(self, work: Callable[..., Any], job: Job | QatJob, keep_trained: Callable[..., None]) -> Any:
        """Do a job here, and in the other processes if the recipe or torchrun wants several; what it returns."""
        from edgedistill.distillation.training.distributed import share, together

        with together(devices_of(self.recipe)):
            share((work, (job,)))
            result = work(job, keep_trained, self.events)
        for logs in sorted(job.resume.glob("*/logs")):
            target = self.run.root / "logs" / "training" / logs.parent.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(logs, target)
        return result

    def _steps(self, items: list[Any], text: str, *, unpack: bool = True) -> Any:
        for number, item in enumerate(items):
            self.events.step(text.format(*item) if unpack else text.format(item), number, len(items))
            yield item

    def _signature(self, data: Data, distilled: Stage) -> Signature:
        """Of the files: what the recipe folds into their graphs is no longer the application's."""
        from edgedistill.models.folding import folded_signature
        from edgedistill.tasks.classification import signature

        if not self.recipe.export.fold:
            return signature(data)
        logits = np.load(distilled.path / "student.eval_logits.npy", allow_pickle=False)
        return folded_signature(signature(data), self.recipe.export.fold, logits, "export.fold")

    def _fed(self, data: Data, samples: Array) -> Array:
        """What the files take for these model-ready samples."""
        from edgedistill.models.folding import taken_by

        return taken_by(self.recipe.export.fold, data.normalization, samples)

    def _validation_rows(self, data: Data, most: int) -> Array:
        """Labelled training samples that are not among those of calibration, unless all are."""
        settings = self.recipe.quantize
        order = np.random.default_rng(self.recipe.seed).permutation(len(data.train_labels))
        rest = order if settings.calibration else order[settings.samples :]
        labelled = rest[np.asarray(data.train_labels)[rest] >= 0]
        rows: Array = np.sort((labelled if len(labelled) else order)[:most])
        return rows

    def _samples(self, data: Data, name: str, out: Path, rows: Array) -> CandidateSamples:
        """Calibration samples, and some of the training split to judge with."""
        from edgedistill.conversion.candidates import CandidateSamples
        from edgedistill.tasks.classification import correct

        labels = np.asarray(data.train_labels)[rows]
        validation = out / ".validation.npz"
        np.savez(validation, **{name: self._fed(data, data.train_inputs[rows])})
        calibration = {name: self._fed(data, self._calibration(data))}
        return CandidateSamples(
            calibration,
            validation,
            len(rows),
            lambda outputs, _: float(np.mean(correct(next(iter(outputs.values())), labels))),
        )

    def _calibration(self, data: Data) -> Array:
        """Model-ready calibration samples: training samples, or the file that the recipe names."""
        settings = self.recipe.quantize
        if settings.calibration is None:
            rows = np.random.default_rng(self.recipe.seed).permutation(len(data.train_labels))[: settings.samples]
            return of_mapped(data.train_inputs, np.sort(rows))
        from edgedistill.data.npz import as_images, read_npz_array
        from edgedistill.data.preparation import apply

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
        brought = [load_exporter(fmt).RUNTIMES.values() for fmt in self.recipe.export.formats]
        return package_versions(sorted({distribution for each in brought for _, distribution in each}))


def _located(proved: Stage, root: Path) -> list[Json]:
    """The answers of the stage `parity`, the files of worst samples by their path in the run."""
    answers: list[Json] = read_json(proved.path / "parity.json")
    for answer in answers:
        file = proved.path / answer["parity"]["worst_sample_file"]
        answer["parity"]["worst_sample_file"] = file.relative_to(root).as_posix()
    return answers


def devices_of(recipe: Recipe) -> int:
    """Most processes that any training of the recipe asks for."""
    teachers = recipe.teacher.ensemble if isinstance(recipe.teacher, EnsembleTeacher) else [recipe.teacher]
    trains = [t.train for t in teachers if not isinstance(t, FileTeacher) and t.train is not None]
    return max(train.devices for train in [recipe.distill, *trains])
