"""The verdict, and the report that people read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.contracts import Shelf
    from edgedistill.documents.report import Report
    from edgedistill.runs import Stage
    from edgedistill.stages.work import Work
    from edgedistill.types import Json

NAME = "gate"
READS = ("*",)  # the report names the digest of the whole recipe
SEES: tuple[str, ...] = ()
USES: tuple[Shelf, ...] = ()


def check(work: Work) -> None:
    """Nothing can be known before there is a report."""
    del work


def key(work: Work) -> Json:
    """What writes the page."""
    from edgedistill.tools import versions

    del work
    return {"tools": versions(["jinja2"])}


def make(work: Work, reported: Stage, *, out: Path) -> None:
    """Judge, and write report.json and report.html."""
    import hashlib

    from edgedistill.recipe.document import canonical, recipe_sha256
    from edgedistill.release.gate import judge, verdict_json
    from edgedistill.report.html import render
    from edgedistill.storage import read_json, write_json

    report: Report = read_json(reported.path / "report.json")
    digest = recipe_sha256(work.recipe)
    report["recipe_sha256"] = digest
    for artifact in report["artifacts"]:
        artifact["producer"]["recipe_sha256"] = digest
    policy = hashlib.sha256(canonical(work.recipe.gate).encode()).hexdigest()
    report["gate"] = verdict_json(judge(report, work.recipe.gate), policy)
    write_json(report, out / "report.json")
    chart = (reported.path / "chart.svg").read_text(encoding="utf-8")
    (out / "report.html").write_text(render(report, chart), encoding="utf-8")
