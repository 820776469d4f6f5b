"""`edgedistill compress`, and what recipes are: `edgedistill recipe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, Overrides, command, console, emit, say
from edgedistill.stages import NAMES

if TYPE_CHECKING:
    from edgedistill.pipeline import Outcome
    from edgedistill.types import Json


@command
def compress(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory. Default: runs/<recipe's file name>.")
    ] = None,
    overrides: Overrides = None,
    until: Annotated[str, typer.Option("--until", help=f"Last stage to do: {' '.join(NAMES)}.")] = "bundle",
) -> Answer:
    """Take a recipe from its data to a gated bundle. The same command again resumes, and redoes only what changed."""
    from edgedistill import pipeline
    from edgedistill.cli.progress import TerminalEvents
    from edgedistill.recipe.document import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    run_dir = run or Path("runs") / recipe.stem
    outcome = pipeline.compress(loaded, recipe.parent, run_dir, until=until, events=TerminalEvents())
    document: Json = {
        "run": str(run_dir),
        "stages": [{key: stage[key] for key in ("name", "state", "seconds")} for stage in outcome.stages],
        "report": outcome.report,
    }
    code = outcome.verdict.exit_code if outcome.verdict is not None else 0
    return Answer(document, lambda: _show(outcome, bundled=until == "bundle"), code)


def _show(outcome: Outcome, *, bundled: bool) -> None:
    """The report and where it lies, if the run came so far."""
    from edgedistill.release.gate import gate_of
    from edgedistill.report.terminal import show

    if outcome.report is None:
        return
    show(outcome.report, console())
    say(f"report: {outcome.run / 'report.html'}")
    if bundled:
        verdict = gate_of(outcome.report)["verdict"]
        caution = "" if verdict == "pass" else f" (not for release: gate {verdict})"
        say(f"bundle: {outcome.run / 'bundle'}{caution}")


@command
def recipe_schema() -> Answer:
    """Print the JSON Schema of recipes: every key, its type, default and meaning."""
    from edgedistill.recipe.document import Recipe

    schema = Recipe.model_json_schema()
    return Answer(schema, lambda: emit(schema))


@command
def recipe_check(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")], overrides: Overrides = None
) -> Answer:
    """Check a recipe without running it: its keys, its plug-ins, the files that it names."""
    from edgedistill import pipeline
    from edgedistill.recipe.document import load_recipe, recipe_sha256

    loaded = load_recipe(recipe, overrides or [])
    pipeline.check(loaded, recipe.parent)
    digest = recipe_sha256(loaded)
    document: Json = {"recipe": loaded.model_dump(mode="json"), "sha256": digest}
    return Answer(document, lambda: say(f"{recipe}: a valid recipe ({digest[:16]})"))
