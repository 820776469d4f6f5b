"""The main path, top to bottom: recipe in, released artifacts out.

A stage's key is made of everything it reads; what it does stands in stages.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgedistill
from edgedistill.errors import DataError, PluginError, UsageError, nearest
from edgedistill.events import QUIET, Events
from edgedistill.plugins import device_runtimes, find_exporters, find_plugin, load_device, plugin_names, traits_of
from edgedistill.prediction.predict import is_predicted, profile_of
from edgedistill.recipe.document import Assistants, Distill, MultiStage, Recipe, canonical
from edgedistill.release.gate import judge
from edgedistill.report.build import package_versions
from edgedistill.runs import Run, Stage, open_run, publish
from edgedistill.stages.files import Files, read_json
from edgedistill.stages.requantize import Retraining, needed, writable
from edgedistill.types import Json, Precision, Source, Verdict, file_sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES = (
    "data",
    "teacher",
    "student",
    "cache",
    "distill",
    "export",
    "quantize",
    "retrain",
    "requantize",
    "parity",
    "benchmark",
    "report",
    "gate",
    "bundle",
)


@dataclass(frozen=True)
class Outcome:
    """What a command on the main path came to. Report and verdict are None when it stopped before."""

    run: Path
    stages: list[Json]
    report: Json | None
    verdict: Verdict | None


def compress(recipe: Recipe, beside: Path, run_dir: Path, *, until: str = "bundle", events: Events = QUIET) -> Outcome:
    """Take a recipe from its data to a gated bundle, doing only what is not done yet.

    Args:
        recipe: what to do.
        beside: the recipe's folder: its relative paths and import paths start there.
        run_dir: where everything is kept.
        until: the last stage to do.
        events: where progress goes.

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
    with _connected(), open_run(run_dir, events.stage) as run:
        path = _Path(recipe, beside, run, events, until)
        with suppress(_Reached):
            path.walk()
    return Outcome(run_dir, run.stages_json(), path.report, path.verdict)


@contextmanager
def _connected() -> Iterator[None]:
    """Where torchrun started several of us, the others train when this one says so."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    from edgedistill.distillation.training.distributed import together

    with together(1):
        yield


class _Reached(Exception):  # noqa: N818 - not an error: the last wanted stage is done
    """The stage that the command named is done."""


def check(recipe: Recipe, beside: Path) -> None:
    """What would fail in an hour is refused now: unknown plug-ins, missing extras, files that are not there.

    Raises:
        UsageError: of the kind that the run would have met.
    """
    from edgedistill.data.sources import source_key
    from edgedistill.models.key import model_key

    known_to = {name: writable(name) for name in recipe.export.formats}
    for word in recipe.export.precisions:
        if all(Precision.parse(word) not in precisions for precisions in known_to.values()):
            raise PluginError(
                f"none of the formats can be written in {word}",
                where="export.precisions",
                expected="; ".join(f"{name}: {', '.join(p.short for p in known)}" for name, known in known_to.items()),
                got=word,
                fix="drop the precision, or add a format that has it",
            )
    if is_predicted(recipe.benchmark.device):
        raise UsageError(
            f"nothing runs on {recipe.benchmark.device}: it is simulated",
            where="benchmark.device",
            expected="a device that computes",
            got=recipe.benchmark.device,
            fix=f"benchmark.simulated: [{recipe.benchmark.device.removeprefix('sim:')}] predicts beside measuring",
        )
    device = load_device(recipe.benchmark.device)
    if not device.TRAITS.computes or device.TRAITS.source is not Source.MEASURED:
        raise UsageError(
            f"{recipe.benchmark.device} cannot measure a recipe's files",
            where="benchmark.device",
            expected="a device that the agent runs on: cpu or ssh:NAME",
            got=recipe.benchmark.device,
            fix=f"measure the finished files with `edgedistill benchmark --device {recipe.benchmark.device}`",
        )
    device.describe(recipe.benchmark.device)
    for name in recipe.benchmark.simulated:
        profile_of(name)
    source_key(recipe.data, beside)
    scheme = recipe.distill.scheme
    for model in (recipe.teacher, recipe.student, *(scheme.chain if isinstance(scheme, Assistants) else [])):
        model_key(model, beside)
    calibration_digest(recipe, beside)


class _Path:
    """One walk along the stages: what each depends on, and which comes next."""

    def __init__(self, recipe: Recipe, beside: Path, run: Run, events: Events, until: str) -> None:
        self.recipe = recipe
        self.beside = beside
        self.run = run
        self.events = events
        self.until = until
        self.stages = Retraining(recipe, beside, run, events)
        self.code = _code_digest()
        self.report: Json | None = None
        self.verdict: Verdict | None = None

    def walk(self) -> None:
        """Every stage in turn.

        Raises:
            _Reached: before the first stage that is not wanted.
        """
        from edgedistill.data.sources import source_key

        recipe, do = self.recipe, self.stages
        data = self._stage("data", do.data, source=source_key(recipe.data, self.beside), seed=recipe.seed)
        training: Json = {"data": data.digest, "seed": recipe.seed, "threads": recipe.threads}
        training["tools"] = package_versions(["torch"])
        models = {"teacher": do.model_key(recipe.teacher), "student": do.model_key(recipe.student)}
        teacher = self._stage(
            "teacher",
            lambda out: do.teacher(data, out),
            **training,
            model=models["teacher"],
            teacher=recipe.teacher,
        )
        student = self._stage("student", lambda out: do.student(data, out), **training, model=models["student"])
        cache = self._stage(
            "cache",
            lambda out: do.cache(data, teacher, out),
            **training,
            teacher=teacher.digest,
            **cache_key(recipe.distill),
        )
        distilled = self._stage(
            "distill",
            lambda out: do.distill(data, teacher, student, cache, out),
            **training,
            teacher=teacher.digest,
            student=student.digest,
            model=models["student"],
            distill=recipe.distill,
            assistants=do.assistant_keys(),
            cache=cache.digest,
        )
        exporting: Json = {"data": data.digest, "formats": recipe.export.formats, "tools": do.tools()}
        exporting["fold"] = recipe.export.fold
        exported = self._stage(
            "export",
            lambda out: do.export(data, teacher, distilled, out),
            **exporting,
            teacher=teacher.digest,
            student=distilled.digest,
            models=models,
            origin=asdict(do.origin(quantized=False)),
        )
        quantized = self._stage(
            "quantize",
            lambda out: do.quantize(data, exported, out),
            **exporting,
            exported=exported.digest,
            precisions=recipe.export.precisions,
            quantize=recipe.quantize,
            seed=recipe.seed,
            calibration=calibration_digest(recipe, self.beside),
            benchmark=recipe.benchmark.device,
            origin=asdict(do.origin(quantized=True)),
        )
        need = needed(recipe, quantized)
        taught: Json = {
            **training,
            "teacher": teacher.digest,
            "student": distilled.digest,
            "model": models["student"],
            "distill": recipe.distill,
            "cache": cache.digest,
            **retraining_key(recipe, self.beside),
        }
        retrained = self._stage(
            "retrain",
            lambda out: do.retrain(data, teacher, distilled, cache, need, out),
            use=bool(need),
            **(taught if need else {}),
        )
        requantized = self._stage(
            "requantize",
            lambda out: do.requantize(data, distilled, (exported, quantized), retrained, need, out),
            **exporting,
            files=[exported.digest, quantized.digest],
            retrained=retrained.digest,
            need=asdict(need),
            quantize=recipe.quantize,
            benchmark=recipe.benchmark.device,
            origin=asdict(do.origin(quantized=True)),
        )
        files = Files(exported, quantized, retrained, requantized)
        runs: Json = {"data": data.digest, "files": files.digests, "runtimes": do.runtimes()}
        runs["fold"] = recipe.export.fold
        proved = self._stage(
            "parity",
            lambda out: do.parity(data, teacher, distilled, files, out),
            **runs,
            teacher=teacher.digest,
            student=distilled.digest,
            parity=recipe.parity,
        )
        device = load_device(recipe.benchmark.device).describe(recipe.benchmark.device)
        measured = self._stage(
            "benchmark",
            lambda out: do.benchmark(data, files, proved, out),
            **runs,
            benchmark=recipe.benchmark,
            device=device.to_json(traits_of(recipe.benchmark.device).source),
            shelf=plugin_names("benchmarks"),
            there=device_runtimes(recipe.benchmark.device),
            refused=read_json(proved.path / "refused.json"),
            simulated=[profile_of(name) for name in recipe.benchmark.simulated],
        )
        reported = self._stage(
            "report",
            lambda out: do.report(data, teacher, student, distilled, files, proved, measured, out),
            models=[teacher.digest, student.digest, distilled.digest],
            files=files.digests,
            parity=proved.digest,
            measured=measured.digest,
            recipe=recipe.model_dump(mode="json", exclude={"gate"}),
        )
        policy = hashlib.sha256(canonical(recipe.gate).encode()).hexdigest()
        gated = self._stage("gate", lambda out: do.gate(reported, policy, out), report=reported.digest, policy=policy)
        for name in ("report.json", "report.html"):
            publish(gated.path / name, self.run.root / name)
        self.report = report = read_json(gated.path / "report.json")
        self.verdict = judge(report, recipe.gate)
        bundled = self._stage("bundle", lambda out: do.bundle(data, distilled, files, report, out), gated=gated.digest)
        publish(bundled.path, self.run.root / "bundle")

    def _stage(self, name: str, make: Callable[[Path], None], **depends: Any) -> Stage:
        """Run or reuse; what libraries print while it runs goes to RUN/logs."""
        if STAGES.index(name) > STAGES.index(self.until):
            raise _Reached

        def work(out: Path) -> None:
            with self.events.captured(self.run.root / "logs" / f"{name}.log"):
                make(out)

        return self.run.stage(name, json.loads(canonical({"code": self.code, **depends})), work)


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


def retraining_key(recipe: Recipe, beside: Path) -> Json:
    """What quantisation-aware training depends on in the recipe's section about quantisation."""
    settings = recipe.quantize
    return {
        "calibration": calibration_digest(recipe, beside) or settings.samples,
        "validation_samples": settings.validation_samples,
        "qat": settings.qat.model_dump(exclude={"when", "max_float_macs"}),
    }


_TEACHERS_SIDE = {"teacher", "teacher_layers", "capture"}
"""What a term of an objective asks of the teacher; the rest is the loss's own."""


def cache_key(settings: Distill) -> Json:
    """What the teacher's kept answers depend on in the recipe's training section."""
    scheme = settings.scheme
    phases = scheme.phases if isinstance(scheme, MultiStage) else ()
    epochs = [phase.epochs for phase in phases] or [settings.epochs]
    objectives = [phase.objective for phase in phases] or [settings.terms]
    views = 1 if settings.augment is None else settings.augment.views or max(epochs)
    return {
        "signals": [
            [term.model_dump(mode="json", include=_TEACHERS_SIDE) for term in terms if term.loss != "cross_entropy"]
            for terms in objectives
        ],
        "scheme": scheme.kind,
        "cache": settings.cache,
        "augment": settings.augment,
        "batch_size": settings.batch_size,
        "views": min(views, max(epochs)),
        "pays": settings.seeds * sum(epochs) > min(views, max(epochs)),
    }


def _code_digest() -> str:
    """Digest of all our source, plug-ins included: a change anywhere makes every stage again."""
    core = Path(edgedistill.__file__).parent
    shelves = {
        Path(find_plugin(shelf, name).__file__).parent
        for shelf in ("exporters", "devices", "benchmarks")
        for name in plugin_names(shelf)
    }
    openers = {exporter.OPENER for exporter in find_exporters().values()}
    files = [(core, path) for path in core.rglob("*")] + [(shelf, p) for shelf in shelves for p in shelf.glob("*.py")]
    files += [(opener.parent, opener) for opener in openers]
    digest = hashlib.sha256()
    for folder, path in sorted(files):
        if path.suffix in (".py", ".html"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
