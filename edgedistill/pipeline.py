"""The main path, top to bottom: recipe in, released artifacts out.

Each stage is a function that writes files into the folder it is given; its key is made of what it reads.
Heavy libraries are imported inside the stages, so that a run that reuses everything imports none of them.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import edgedistill
from edgedistill import bundle as release
from edgedistill.errors import ArtifactError, DataError, PluginError, UsageError, nearest
from edgedistill.gate import judge, verdict_json
from edgedistill.plugins import find_plugin, load_device, load_exporter, plugin_names
from edgedistill.recipe import Recipe, canonical, recipe_sha256
from edgedistill.report.build import build, package_versions
from edgedistill.runs import Run, Stage, open_run, publish, require_space
from edgedistill.types import Array, Artifact, Json, Precision, Verdict, file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from edgedistill.data.splits import Data
    from edgedistill.distillation.trainer import Epoch, Loss
    from edgedistill.recipe import Train

STAGES = (
    "data", "teacher", "student", "distill", "export", "quantize", "parity", "benchmark", "report", "gate",
    "bundle",
)  # fmt: skip


_MARGIN_BYTES = 2**20
"""What a converter may write besides the weights: graph, scratch files, its log."""


@dataclass(frozen=True)
class _Files:
    """All artifacts of a run: those exported and those quantised from them."""

    exported: Stage
    quantized: Stage

    @property
    def digests(self) -> list[str]:
        return [self.exported.digest, self.quantized.digest]

    def artifacts(self) -> list[Artifact]:
        return [*_read_artifacts(self.exported), *_read_artifacts(self.quantized)]


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


@dataclass(frozen=True)
class Outcome:
    """What a command on the main path came to. Report and verdict are None when it stopped before."""

    run: Path
    stages: list[Json]
    report: Json | None
    verdict: Verdict | None


def compress(
    recipe: Recipe, beside: Path, run_dir: Path, *, until: str = "bundle", watch: Watch | None = None
) -> Outcome:
    """Take a recipe from its data to a gated bundle, doing only what is not done yet.

    Args:
        recipe: what to do.
        beside: the recipe's folder: its relative paths and import paths start there.
        run_dir: where everything is kept.
        until: the last stage to do.
        watch: where progress goes.

    Raises:
        EdgeDistillError: see edgedistill/errors.py; finished stages are kept.
    """
    if until not in STAGES:
        raise UsageError(
            f"unknown stage {until!r}",
            where=f"--until {until}",
            expected=nearest(until, STAGES),
            got=repr(until),
            fix="use a known stage",
        )
    check(recipe, beside)
    watch = watch or Silent()
    with open_run(run_dir, watch.stage) as run:
        path = _Path(recipe, beside, run, watch, until)
        with suppress(_Reached):
            path.walk()
    return Outcome(run_dir, run.stages_json(), path.report, path.verdict)


class _Reached(Exception):  # noqa: N818 - not an error: the last wanted stage is done
    """The stage that the command named is done."""


def check(recipe: Recipe, beside: Path) -> None:
    """What would fail in an hour is refused now: unknown plug-ins, missing extras, files that are not there.

    Raises:
        UsageError: of the kind that the run would have met.
    """
    from edgedistill.data.sources import source_key
    from edgedistill.students.key import model_key

    for name in recipe.export.formats:
        exporter = load_exporter(name)
        for word in recipe.export.precisions:
            if Precision.parse(word) not in exporter.PRECISIONS:
                raise PluginError(
                    f"the exporter {name!r} cannot write {word}",
                    where="export.precisions",
                    expected=", ".join(p.short for p in exporter.PRECISIONS),
                    got=word,
                    fix="drop the precision or the format",
                )
    load_device(recipe.benchmark.device).describe(recipe.benchmark.device)
    source_key(recipe.data, beside)
    for model in (recipe.teacher, recipe.student):
        model_key(model, beside)
    calibration_digest(recipe, beside)


class _Path:
    """The stages of one run. Methods stand in the order in which they happen."""

    def __init__(self, recipe: Recipe, beside: Path, run: Run, watch: Watch, until: str) -> None:
        self.recipe = recipe
        self.beside = beside
        self.run = run
        self.watch = watch
        self.until = until
        self.code = _code_digest()
        self.report: Json | None = None
        self.verdict: Verdict | None = None

    def walk(self) -> None:
        """Every stage in turn.

        Raises:
            _Reached: before the first stage that is not wanted.
        """
        from edgedistill.data.sources import source_key

        recipe = self.recipe
        data = self._stage("data", self._data, source=source_key(recipe.data, self.beside), seed=recipe.seed)
        training: Json = {"data": data.digest, "seed": recipe.seed, "threads": recipe.threads}
        training["tools"] = package_versions(["torch"])
        models = {"teacher": self._model_key(recipe.teacher), "student": self._model_key(recipe.student)}
        teacher = self._stage(
            "teacher", lambda out: self._teacher(data, out), **training, model=models["teacher"],
            train=recipe.teacher.train,
        )  # fmt: skip
        student = self._stage("student", lambda out: self._student(data, out), **training, model=models["student"])
        distilled = self._stage(
            "distill", lambda out: self._distill(data, teacher, student, out), **training,
            teacher=teacher.digest, student=student.digest, model=models["student"], distill=recipe.distill,
        )  # fmt: skip
        exporting: Json = {"data": data.digest, "formats": recipe.export.formats, "tools": self._tools()}
        exported = self._stage(
            "export", lambda out: self._export(data, teacher, distilled, out), **exporting,
            teacher=teacher.digest, student=distilled.digest, models=models,
        )  # fmt: skip
        quantized = self._stage(
            "quantize", lambda out: self._quantize(data, exported, out), **exporting, exported=exported.digest,
            precisions=recipe.export.precisions, quantize=recipe.quantize, seed=recipe.seed,
            calibration=calibration_digest(recipe, self.beside),
        )  # fmt: skip
        files = _Files(exported, quantized)
        runs: Json = {"data": data.digest, "files": files.digests, "runtimes": self._runtimes()}
        proved = self._stage(
            "parity", lambda out: self._parity(data, teacher, distilled, files, out), **runs,
            teacher=teacher.digest, student=distilled.digest, parity=recipe.parity,
        )  # fmt: skip
        device = load_device(recipe.benchmark.device).describe(recipe.benchmark.device)
        measured = self._stage(
            "benchmark", lambda out: self._benchmark(data, files, out), **runs, benchmark=recipe.benchmark,
            device=device.to_json(), shelf=plugin_names("benchmarks"),
        )  # fmt: skip
        reported = self._stage(
            "report", lambda out: self._report(data, teacher, student, distilled, files, proved, measured, out),
            models=[teacher.digest, student.digest, distilled.digest], parity=proved.digest,
            measured=measured.digest, recipe=recipe.model_dump(mode="json", exclude={"gate"}),
        )  # fmt: skip
        policy = hashlib.sha256(canonical(recipe.gate).encode()).hexdigest()
        gated = self._stage(
            "gate", lambda out: self._gate(reported, policy, out), report=reported.digest, policy=policy
        )
        for name in ("report.json", "report.html"):
            publish(gated.path / name, self.run.root / name)
        self.report = report = _read_json(gated.path / "report.json")
        self.verdict = judge(report, recipe.gate)
        bundled = self._stage(
            "bundle", lambda out: self._bundle(data, distilled, files, report, out), gated=gated.digest
        )
        publish(bundled.path, self.run.root / "bundle")

    def _stage(self, name: str, make: Callable[[Path], None], **depends: Any) -> Stage:
        """Run or reuse; what libraries print while it runs goes to RUN/logs."""
        if STAGES.index(name) > STAGES.index(self.until):
            raise _Reached

        def work(out: Path) -> None:
            with self.watch.captured(self.run.root / "logs" / f"{name}.log"):
                make(out)

        return self.run.stage(name, json.loads(canonical({"code": self.code, **depends})), work)

    def _data(self, out: Path) -> None:
        from edgedistill.data.sources import load_source
        from edgedistill.data.splits import prepare, save

        source = self.recipe.data
        raw = load_source(source, self.beside)
        save(prepare(raw, source.normalize, source.evaluation_fraction, self.recipe.seed), out)

    def _teacher(self, data_stage: Stage, out: Path) -> None:
        """Built, its checkpoint loaded, trained if the recipe says so; run once over both splits."""
        import torch

        from edgedistill.teachers.module import signals

        data, spec = _load(data_stage), self.recipe.teacher
        module = self._built(spec, data)
        if spec.train is not None:
            cross_entropy = torch.nn.functional.cross_entropy
            labels = torch.tensor(np.asarray(data.train_labels))
            self._fit("teacher", module, data, lambda logits, rows: cross_entropy(logits, labels[rows]), spec.train)
        _keep(module, "teacher", data, out)
        np.save(out / "train_logits.npy", signals(module, data.train_inputs).logits.numpy())

    def _student(self, data_stage: Stage, out: Path) -> None:
        """The student as it starts: seeded initial weights, or its checkpoint."""
        from edgedistill.students.build import facts, save_facts, save_weights

        data = _load(data_stage)
        module = self._built(self.recipe.student, data)
        save_weights(module, out / "initial.safetensors")
        save_facts(facts(module, data.sample_shape), out / "facts.json")

    def _distill(self, data_stage: Stage, teacher: Stage, student: Stage, out: Path) -> None:
        """The student on soft targets and labels; the baseline on labels alone, same start and budget."""
        import torch

        from edgedistill.distillation.losses.response import distillation_loss

        data, settings = _load(data_stage), self.recipe.distill
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
            _keep(module, name, data, out)

    def _export(self, data_stage: Stage, teacher: Stage, distilled: Stage, out: Path) -> None:
        """fp32, every format: the student, and the teacher beside it."""
        from edgedistill.students.build import signature

        data = _load(data_stage)
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
        _write_artifacts(artifacts, out)

    def _quantize(self, data_stage: Stage, exported: Stage, out: Path) -> None:
        """int8 copies of the student's fp32 artifacts, calibrated on training samples."""
        data = _load(data_stage)
        students = [a for a in _read_artifacts(exported) if a.model == "student"]
        wanted = [Precision.parse(w) for w in self.recipe.export.precisions if w != "fp32"]
        jobs = [(artifact, precision) for artifact in students for precision in wanted]
        calibration = {students[0].signature.inputs[0].name: self._calibration(data)} if jobs else {}
        artifacts = []
        for artifact, precision in self._steps(jobs, "quantize {0.id} to {1}"):
            folder = out / artifact.format
            folder.mkdir(exist_ok=True)
            require_space(out, 2 * artifact.size_bytes + _MARGIN_BYTES)
            artifacts.append(load_exporter(artifact.format).quantize(artifact, precision, calibration, folder))
        _write_artifacts(artifacts, out)

    def _parity(self, data_stage: Stage, teacher: Stage, distilled: Stage, files: _Files, out: Path) -> None:
        """Every artifact in every runtime over the whole evaluation split: departure, quality, difference."""
        from edgedistill.benchmarking import compute, subjects
        from edgedistill.parity import compare
        from edgedistill.statistics import paired_difference
        from edgedistill.tasks.classification import correct, quality

        data = _load(data_stage)
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
        _write_json(answers, out / "parity.json")

    def _benchmark(self, data_stage: Stage, files: _Files, out: Path) -> None:
        """Latency and memory of every artifact in every runtime, the teacher's among them."""
        from edgedistill.benchmarking import measure, subjects

        artifacts = files.artifacts()
        inputs = out / ".inputs.npz"
        np.savez(inputs, **{artifacts[0].signature.inputs[0].name: _load(data_stage).eval_inputs[:32]})
        found = subjects(artifacts)
        measurements = measure(
            found, self.recipe.benchmark, inputs,
            lambda done, total, text: self.watch.step(f"measure {text}", done, total),
        )  # fmt: skip
        inputs.unlink()
        _write_json(measurements, out / "measurements.json")

    def _report(
        self, data_stage: Stage, teacher: Stage, student: Stage, distilled: Stage, files: _Files,
        proved: Stage, measured: Stage, out: Path,
    ) -> None:  # fmt: skip
        """The report without its verdict, and its chart."""
        from edgedistill.report.plots import quality_against_latency

        data = _load(data_stage)
        digest = recipe_sha256(self.recipe)
        artifacts = files.artifacts()
        models = [
            _model("teacher", "teacher", teacher, teacher),
            _model("student", "student", distilled, student),
        ]
        if self.recipe.distill.baseline:
            models.append(_model("student-labels-only", "baseline", distilled, student))
        report = build(
            name=self.recipe.name,
            recipe_sha256=digest,
            seed=self.recipe.seed,
            device=load_device(self.recipe.benchmark.device).describe(self.recipe.benchmark.device),
            models=models,
            artifacts=[
                _artifact_json(a, _read_json(proved.path / "parity.json"), digest, self.run.root) for a in artifacts
            ],
            measurements=_read_json(measured.path / "measurements.json"),
            eval_samples=len(data.eval_labels),
        )
        _write_json(report, out / "report.json")
        (out / "chart.svg").write_text(quality_against_latency(report), encoding="utf-8")

    def _gate(self, reported: Stage, policy_sha256: str, out: Path) -> None:
        """The verdict, and the report that people read."""
        from edgedistill.report.html import render

        report = _read_json(reported.path / "report.json")
        report["gate"] = verdict_json(judge(report, self.recipe.gate), policy_sha256)
        _write_json(report, out / "report.json")
        chart = (reported.path / "chart.svg").read_text(encoding="utf-8")
        (out / "report.html").write_text(render(report, chart), encoding="utf-8")

    def _bundle(self, data_stage: Stage, distilled: Stage, files: _Files, report: Json, out: Path) -> None:
        """The release. One that failed its gate is written too, marked `release: false`."""
        data = _load(data_stage)
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

    def _model_key(self, spec: Any) -> Json:
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

    def _tools(self) -> Json:
        return {fmt: package_versions(load_exporter(fmt).TOOLS) for fmt in self.recipe.export.formats}

    def _runtimes(self) -> Json:
        names = sorted(
            {
                m.split(".")[0].replace("_", "-")
                for f in self.recipe.export.formats
                for m in load_exporter(f).RUNTIMES.values()
            }
        )
        return package_versions(names)


def calibration_digest(recipe: Recipe, beside: Path) -> str | None:
    """Digest of the recipe's calibration file, if it names one.

    Raises:
        DataError: there is no such file.
    """
    name = recipe.quantize.calibration
    if name is None:
        return None
    if not (beside / name).is_file():
        raise DataError(
            f"there is no file at {beside / name}",
            where="quantize.calibration",
            expected="an .npz file with an array x",
            got="nothing",
            fix="correct the path",
        )
    return file_sha256(beside / name)


def _code_digest() -> str:
    """Digest of all our source, plug-ins included: a change anywhere makes every stage again."""
    folders = {Path(edgedistill.__file__).parent}
    for shelf in ("exporters", "devices", "benchmarks"):
        folders |= {Path(find_plugin(shelf, name).__file__).parent for name in plugin_names(shelf)}
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".html")):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _load(stage: Stage) -> Data:
    from edgedistill.data.splits import load

    return load(stage.path)


def _keep(module: nn.Module, name: str, data: Data, out: Path) -> None:
    """Weights, facts, and the logits and quality over the evaluation split."""
    from edgedistill.students.build import facts, save_facts, save_weights
    from edgedistill.tasks.classification import quality
    from edgedistill.teachers.module import signals

    save_weights(module, out / f"{name}.safetensors")
    save_facts(facts(module, data.sample_shape), out / "facts.json")
    logits = signals(module, data.eval_inputs).logits.numpy()
    np.save(out / f"{name}.eval_logits.npy", logits)
    _write_json(quality(logits, np.asarray(data.eval_labels)), out / f"{name}.quality.json")


def _model(name: str, role: str, trained: Stage, described: Stage) -> Json:
    facts = _read_json(described.path / "facts.json")
    return {"id": name, "role": role, **facts, "quality": _read_json(trained.path / f"{name}.quality.json")}


def _write_artifacts(artifacts: list[Artifact], out: Path) -> None:
    """List the artifacts, after opening each as its runtime would: half a file goes no further."""
    documents = []
    for artifact in artifacts:
        exporter = load_exporter(artifact.format)
        for check in exporter.check_support(artifact):
            if check.state != "pass":
                raise ArtifactError(
                    check.reason,
                    where=str(artifact.path),
                    expected=f"a file that its runtime opens ({check.id})",
                    got=check.reason,
                    fix="leave the format out of export.formats; --debug and RUN/logs show more",
                )
        macs = exporter.count_macs(artifact)
        documents.append({**artifact.to_json(out), "macs": macs.total, "integer_mac_share": macs.integer_share})
    _write_json(documents, out / "artifacts.json")


def _read_artifacts(stage: Stage) -> list[Artifact]:
    return [Artifact.from_json(document, stage.path) for document in _read_json(stage.path / "artifacts.json")]


def _artifact_json(artifact: Artifact, answers: list[Json], recipe_digest: str, root: Path) -> Json:
    """An artifact as the report lists it: the runtime that departs farthest speaks for it."""
    own = [answer for answer in answers if answer["artifact"] == artifact.id]

    def standing(answer: Json) -> tuple[bool, float, float]:
        departure = answer["parity"]["max_abs"]  # null: infinite
        far = float("inf") if departure is None else departure
        return answer["parity"]["state"] == "pass", answer["quality"]["value"], -far

    worst = min(own, key=standing)
    listed = _read_json(artifact.path.parents[1] / "artifacts.json")
    counted = next(document for document in listed if document["id"] == artifact.id)
    path = (
        f"bundle/{release.path_in_bundle(artifact)}"
        if artifact.model == "student"
        else artifact.path.relative_to(root).as_posix()
    )
    return {
        **artifact.to_json(artifact.path.parent),
        "path": path,
        "producer": {"recipe_sha256": recipe_digest, **artifact.producer},
        "macs": counted["macs"],
        "integer_mac_share": counted["integer_mac_share"],
        "quality": worst["quality"],
        "quality_by_runtime": {answer["runtime"]: answer["quality"] for answer in own},
        "versus_teacher": worst["versus_teacher"],
        "versus_teacher_by_runtime": {answer["runtime"]: answer["versus_teacher"] for answer in own},
        "parity": worst["parity"],
        "parity_by_runtime": [answer["parity"] for answer in own],
        "notes": [],
    }


def _write_json(document: Any, path: Path) -> None:
    path.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
