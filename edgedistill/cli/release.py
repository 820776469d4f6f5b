"""What is made of a run: `edgedistill gate`, `report`, `bundle`, `verify`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, command, console, say, write
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from edgedistill.documents.report import GateDocument


@command
def gate(
    report: Annotated[Path, typer.Argument(help="A report.json.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="The policy: a recipe's `gate` section in a YAML file of its own.")
    ],
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML, a test case per check.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Also write a Markdown summary.")] = None,
) -> Answer:
    """Judge a report by a policy: exit code 0 pass, 1 fail, 3 inconclusive or invalid."""
    from edgedistill.documents.reading import needing, read_report
    from edgedistill.recipe.document import canonical, load_policy
    from edgedistill.release.gate import judge, verdict_json
    from edgedistill.report import ci

    loaded, judged = load_policy(policy), read_report(report)
    with needing(judged, report):
        verdict = judge(judged, loaded)
    document = verdict_json(verdict, hashlib.sha256(canonical(loaded).encode()).hexdigest())
    for path, drawn in ((junit, ci.junit), (summary, ci.markdown)):
        if path is not None:
            write(path, drawn(document, judged.get("name", "")))
    return Answer({"gate": document}, lambda: _show_gate(document), verdict.exit_code)


def _show_gate(document: GateDocument) -> None:
    from edgedistill.report.terminal import show_gate

    show_gate(document, console())


@command
def report(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> Answer:
    """Write report.html from a run's report.json."""
    from edgedistill.documents.reading import needing, read_report
    from edgedistill.report.html import render
    from edgedistill.report.plots import quality_against_latency

    document, page = read_report(run / "report.json"), run / "report.html"
    with needing(document, run / "report.json"):
        write(page, render(document, quality_against_latency(document)))
    return Answer({"html": str(page), "report": document}, lambda: say(str(page)))


@command
def bundle(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Where the release goes.")],
) -> Answer:
    """Copy a run's verified bundle out of the run directory. Refuses one that did not pass its gate."""
    from edgedistill.release.bundle import verify as check
    from edgedistill.runs import publish

    found = check(run / "bundle")
    if out.exists():
        raise UsageError(
            f"{out} exists already",
            where=str(out),
            expected="a path that is free",
            got="a file or folder",
            fix="give another path, or remove it",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    publish(run / "bundle", out)
    told = f"{out}: {len(found['files'])} files, gate {found['gate']}"
    return Answer({**found, "bundle": str(out)}, lambda: say(told))


@command
def verify(folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")]) -> Answer:
    """Check every file of a bundle against its metadata, and that its gate passed."""
    from edgedistill.release.bundle import verify as check

    found = check(folder)
    return Answer(found, lambda: say(f"{folder}: {len(found['files'])} files intact, gate {found['gate']}"))
