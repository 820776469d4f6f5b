"""The main path, top to bottom: recipe in, released artifacts out.

What a stage does stands in its module; what it depends on is what it is handed here, and what it names there.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgedistill.errors import UsageError, nearest
from edgedistill.events import QUIET
from edgedistill.plugins import find_plugin, plugin_names, plugin_of
from edgedistill.recipe.document import canonical
from edgedistill.release.gate import judge
from edgedistill.runs import open_run, publish
from edgedistill.stages import (
    NAMES,
    benchmark,
    bundle,
    cache,
    data,
    distill,
    export,
    gate,
    parity,
    quantize,
    report,
    requantize,
    retrain,
    student,
    teacher,
)
from edgedistill.stages.code import code_digest
from edgedistill.stages.need import needed
from edgedistill.stages.work import Work
from edgedistill.storage import read_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from edgedistill.contracts import Shelf
    from edgedistill.documents.report import Report
    from edgedistill.events import Events
    from edgedistill.recipe.document import Recipe
    from edgedistill.runs import Run, Stage
    from edgedistill.stages.work import StageModule
    from edgedistill.types import Json, Verdict

HOST = "cpu"
"""Where outputs are computed, wherever the files are measured."""
STAGES: tuple[StageModule, ...] = (
    data,
    teacher,
    student,
    cache,
    distill,
    export,
    quantize,
    retrain,
    requantize,
    parity,
    benchmark,
    report,
    gate,
    bundle,
)


def walk(do: Do, recipe: Recipe) -> None:
    """Every stage in turn, handed what it depends on."""
    splits = do(data)
    taught_by = do(teacher, splits)
    initial = do(student, splits)
    answers = do(cache, splits, taught_by)
    distilled = do(distill, splits, taught_by, initial, answers)
    exported = do(export, splits, taught_by, distilled)
    quantized = do(quantize, splits, exported)
    need = needed(recipe, quantized)
    retrained = do(retrain, splits, taught_by, distilled, answers, wanted=bool(need))
    requantized = do(requantize, splits, distilled, exported, quantized, retrained, need=need)
    proved = do(parity, splits, taught_by, distilled, exported, quantized, retrained, requantized)
    measured = do(benchmark, splits, exported, quantized, requantized, proved.only("refused.json"))
    made = (taught_by, initial, distilled, exported, quantized, retrained, requantized)
    gated = do(gate, do(report, splits, *made, proved, measured))
    do(bundle, splits, distilled, exported, quantized, requantized, gated)


@dataclass(frozen=True)
class Outcome:
    """What a command on the main path came to. Report and verdict are None when it stopped before."""

    run: Path
    stages: list[Json]
    report: Report | None
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
    if until not in NAMES:
        raise UsageError(
            f"unknown stage {until!r}",
            where=f"--until {until}",
            expected=nearest(until, NAMES),
            got=repr(until),
            fix="use a known stage",
        )
    work = Work(recipe, beside, run_dir, events, {})
    keys = checked(work)
    with _connected(), open_run(run_dir, events.stage) as run:
        do = Do(work, keys, run, until)
        with suppress(_Reached):
            walk(do, recipe)
    if "gate" not in do.done:
        return Outcome(run_dir, run.stages_json(), None, None)
    found: Report = read_json(do.done["gate"].path / "report.json")
    return Outcome(run_dir, run.stages_json(), found, judge(found, recipe.gate))


def checked(work: Work) -> dict[str, Json]:
    """What would fail in an hour is refused now: unknown plug-ins, missing extras, files that are not there.

    Returns:
        For each stage what its key depends on besides earlier stages.

    Raises:
        EdgeDistillError: of the kind that the run would have met.
    """
    for stage in STAGES:
        stage.check(work)
    return {stage.NAME: stage.key(work) for stage in STAGES}


def check(recipe: Recipe, beside: Path) -> None:
    """A recipe is refused as `compress` would refuse it before its first stage; raises as `checked`."""
    checked(Work(recipe, beside, beside, QUIET, {}))


@dataclass
class Do:
    """Runs or reuses a stage. Its key is made of all that it is handed: nothing else reaches it."""

    work: Work
    keys: dict[str, Json]
    run: Run
    until: str
    done: dict[str, Stage] = field(default_factory=dict)

    def __call__(self, stage: StageModule, *earlier: Stage, **given: Any) -> Stage:
        """The finished stage; what libraries print while it is made goes to RUN/logs.

        Raises:
            _Reached: the stage that the command named is done.
        """
        if NAMES.index(stage.NAME) > NAMES.index(self.until):
            raise _Reached
        known = self.keys[stage.NAME]
        depends = {
            "code": code_digest([stage, *_plugins(stage, self.work.recipe)]),
            "earlier": [one.digest for one in earlier],
            "given": given,
            "recipe": self.work.read_by(stage),
            "known": known,
        }
        handed = self.work.handed_to(stage, known)

        def make(out: Path) -> None:
            with self.work.events.captured(self.run.root / "logs" / f"{stage.NAME}.log"):
                stage.make(handed, *earlier, out=out, **given)

        found = self.run.stage(stage.NAME, json.loads(canonical(depends)), make)
        self.done[stage.NAME] = found
        self._publish(found)
        return found

    def _publish(self, found: Stage) -> None:
        """Put what people look for where they look for it."""
        if found.name == "gate":
            for name in ("report.json", "report.html"):
                publish(found.path / name, self.run.root / name)
        if found.name == "bundle":
            publish(found.path, self.run.root / "bundle")


def _plugins(stage: StageModule, recipe: Recipe) -> list[ModuleType]:
    """The plug-ins of the recipe that a stage calls."""
    wanted: dict[Shelf, list[str]] = {
        "exporters": recipe.export.formats,
        "devices": sorted({plugin_of(recipe.benchmark.device), plugin_of(HOST)}),
        "benchmarks": plugin_names("benchmarks"),
    }
    return [find_plugin(shelf, name) for shelf in stage.USES for name in wanted[shelf]]


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
