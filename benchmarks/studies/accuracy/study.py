"""Train one student under several objectives, with several seeds, and write the table into the docs.

    python benchmarks/studies/accuracy/study.py benchmarks/studies/cifar10.yaml

A study names a recipe, what all variants change in it, and the variants. Everything runs through the command line, as
a user would run it; a study that is started again goes on where it was. Nothing is chosen by the evaluation split:
every variant is shown, with the mean and the standard deviation over its seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
LABELS = "labels only"


@dataclass(frozen=True)
class Outcome:
    """Top-1 of a variant's students on the evaluation split, one a seed."""

    name: str
    values: tuple[float, ...]

    @property
    def cell(self) -> str:
        """Mean and standard deviation in percent."""
        spread = f" +- {100 * stdev(self.values):.2f}" if len(self.values) > 1 else ""
        return f"{100 * mean(self.values):.2f}{spread}"


def main() -> int:
    """Run the study that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("study", type=Path)
    parser.add_argument("--run", type=Path, help="run directory; default: runs/study-<name>")
    parser.add_argument("--set", action="append", default=[], help="a further a.b=c for every variant")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "studies")
    arguments = parser.parse_args()
    study = yaml.safe_load(arguments.study.read_text(encoding="utf-8"))
    run = arguments.run or Path("runs") / f"study-{arguments.study.stem}"
    common = [*study.get("set", []), *arguments.set]
    outcomes: list[Outcome] = []
    for variant in study["variants"]:
        sys.stderr.write(f"{arguments.study.stem}: {variant['name']}\n")
        folder = _distilled(ROOT / study["recipe"], run, [*common, *variant.get("set", [])])
        baseline = _values(folder, "student-labels-only")
        if baseline and not any(outcome.name == LABELS for outcome in outcomes):
            outcomes.append(Outcome(LABELS, baseline))
        outcomes.append(Outcome(variant["name"], _values(folder, "student")))
    arguments.docs.mkdir(parents=True, exist_ok=True)
    page = arguments.docs / f"{arguments.study.stem}.md"
    page.write_text(_page(study, arguments.study, outcomes, _models(run)), encoding="utf-8")
    sys.stdout.write(f"{page}\n")
    return 0


def _distilled(recipe: Path, run: Path, overrides: list[str]) -> Path:
    """Distil, and give the folder of the stage."""
    command = [sys.executable, "-m", "edgedistill.cli.main", "compress", str(recipe), "--run", str(run)]
    command += ["--until", "distill", "--json"]
    for override in overrides:
        command += ["--set", override]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}")
    return _stage(run, "distill")


def _stage(run: Path, name: str) -> Path:
    """The folder of a stage of the last command."""
    stages = _read(run / "manifest.json")["stages"]
    key = next(stage["key"] for stage in stages if stage["name"] == name)
    return run / "stages" / name / str(key)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _values(folder: Path, name: str) -> tuple[float, ...]:
    files = [folder / f"{name}.quality.json", *sorted(folder.glob(f"{name}.seed-*.quality.json"))]
    return tuple(_read(file)["value"] for file in files if file.is_file())


def _models(run: Path) -> dict[str, Any]:
    """Size and quality of the teacher, size of the student."""
    teacher = _stage(run, "teacher")
    facts = {**_read(teacher / "facts.json"), **_read(teacher / "teacher.quality.json")}
    return {**facts, "student_parameters": _read(_stage(run, "student") / "facts.json")["parameters"]}


def _page(study: dict[str, Any], path: Path, outcomes: list[Outcome], models: dict[str, Any]) -> str:
    reference = _reference(study, outcomes)
    teacher = f"{models['parameters']:,} parameters, top-1 {100 * models['value']:.2f} %"
    student = f"{models['student_parameters']:,} parameters"
    lines = [
        f"# {study['title']}",
        "",
        study["text"].strip(),
        "",
        f"Teacher: {teacher}. Student: {student}. Evaluation: n = {models['n']:,}, never used to choose.",
        "",
        f"| objective | seeds | top-1, % (mean +- standard deviation) | against {reference.name}, points |",
        "|---|---|---|---|",
    ]
    for outcome in outcomes:
        gained = 100 * (mean(outcome.values) - mean(reference.values))
        against = "" if outcome is reference else f"{gained:+.2f}"
        lines.append(f"| {outcome.name} | {len(outcome.values)} | {outcome.cell} | {against} |")
    found = study.get("found", "").strip()
    lines += [
        "",
        *([found, ""] if found else []),
        f"Made by `python benchmarks/studies/accuracy/study.py {path.as_posix()}`.",
        "",
    ]
    return "\n".join(lines)


def _reference(study: dict[str, Any], outcomes: list[Outcome]) -> Outcome:
    """What the others are compared with: the best of those whose names begin as the study says."""
    chosen = [outcome for outcome in outcomes if outcome.name.startswith(study.get("reference", LABELS))]
    return max(chosen or outcomes[:1], key=lambda outcome: mean(outcome.values))


if __name__ == "__main__":
    raise SystemExit(main())
