"""The command line: thin. Every command has --json (one document on stdout) and --debug (tracebacks)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill.cli.arm import app as arm_app
from edgedistill.cli.benchmark import benchmark
from edgedistill.cli.common import AsJson, Debug, Overrides, Stdout, complain, console, emit, require_folder, say
from edgedistill.cli.devices import bootstrap
from edgedistill.cli.export import export
from edgedistill.cli.operators import operators
from edgedistill.cli.parity import parity
from edgedistill.cli.predict import calibrate, predict
from edgedistill.errors import EdgeDistillError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.types import Json

app = typer.Typer(
    help="Distil a large model into a small one, export it to every edge runtime, prove it equal, measure it, and gate the release.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)
recipe_app = typer.Typer(help="Recipes: their schema, and a dry check.", no_args_is_help=True)
devices_app = typer.Typer(help="Devices where artifacts can run.", no_args_is_help=True)
devices_app.command()(bootstrap)
app.add_typer(recipe_app, name="recipe")
app.add_typer(devices_app, name="devices")
app.add_typer(arm_app, name="arm")

_WrongUse: Any = typer.BadParameter.__mro__[2]  # click's ClickException, or that of the copy newer typer carries


@app.command()
def compress(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    run: Annotated[
        Path | None, typer.Option("--run", help="Run directory. Default: runs/<recipe's file name>.")
    ] = None,
    overrides: Overrides = None,
    until: Annotated[
        str,
        typer.Option(
            "--until",
            help="Last stage to do: data teacher student cache distill export quantize retrain requantize parity benchmark report gate bundle.",
        ),
    ] = "bundle",
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main, declared for the help
) -> int:
    """Take a recipe from its data to a gated bundle. The same command again resumes, and redoes only what changed."""
    from edgedistill import pipeline
    from edgedistill.cli.progress import TerminalEvents
    from edgedistill.recipe.document import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    run_dir = run or Path("runs") / recipe.stem
    outcome = pipeline.compress(loaded, recipe.parent, run_dir, until=until, events=TerminalEvents())
    document: Json = {
        "run": str(run_dir),
        "stages": [_stage(s) for s in outcome.stages],
        "report": outcome.report,
    }
    if as_json:
        emit(document)
    elif outcome.report is not None:
        from edgedistill.report.terminal import show

        show(outcome.report, console())
        say(f"report: {run_dir / 'report.html'}")
        if until == "bundle":
            say(f"bundle: {run_dir / 'bundle'}{_not_released(outcome.report)}")
    return outcome.verdict.exit_code if outcome.verdict is not None else 0


@app.command()
def gate(
    report: Annotated[Path, typer.Argument(help="A report.json.")],
    policy: Annotated[
        Path, typer.Option("--policy", help="The policy: a recipe's `gate` section in a YAML file of its own.")
    ],
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML, a test case per check.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Also write a Markdown summary.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Judge a report by a policy: exit code 0 pass, 1 fail, 3 inconclusive or invalid."""
    import hashlib

    from edgedistill.recipe.document import canonical, load_policy
    from edgedistill.release.gate import judge, verdict_json
    from edgedistill.report import ci
    from edgedistill.storage import storage_errors, write_atomically

    loaded, judged = load_policy(policy), _read_report(report)
    verdict = judge(judged, loaded)
    document = verdict_json(verdict, hashlib.sha256(canonical(loaded).encode()).hexdigest())
    for path, write in ((junit, ci.junit), (summary, ci.markdown)):
        if path is not None:
            with storage_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, write(document, judged["name"]))
    if as_json:
        emit({"gate": document})
    else:
        from edgedistill.report.terminal import show_gate

        show_gate(document, console())
    return verdict.exit_code


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Write report.html from a run's report.json."""
    from edgedistill.report.html import render
    from edgedistill.report.plots import quality_against_latency
    from edgedistill.storage import storage_errors, write_atomically

    document = _read_report(run / "report.json")
    page = run / "report.html"
    with storage_errors(run):
        write_atomically(page, render(document, quality_against_latency(document)))
    if as_json:
        emit({"html": str(page), "report": document})
    else:
        say(str(page))
    return 0


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Where the release goes.")],
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
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
    if as_json:
        emit({**found, "bundle": str(out)})
    else:
        say(f"{out}: {len(found['files'])} files, gate {found['gate']}")
    return 0


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle.")],
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Check every file of a bundle against its metadata, and that its gate passed."""
    from edgedistill.release.bundle import verify as check

    found = check(folder)
    if as_json:
        emit(found)
    else:
        say(f"{folder}: {len(found['files'])} files intact, gate {found['gate']}")
    return 0


app.command()(benchmark)
app.command()(export)
app.command()(parity)
app.command()(operators)


@app.command()
def layers(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A recipe (both its models), package.module:function, or a .pt2 file."),
    ],
    overrides: Overrides = None,
    shape: Annotated[
        str | None, typer.Option("--input", help="Shape of one sample where there is no recipe, such as 3,32,32.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Print a model's layers with their shapes: the names that an objective's terms listen to."""
    from edgedistill.cli.layers import list_layers

    try:
        input_shape = tuple(int(part) for part in shape.split(",")) if shape is not None else None
    except ValueError:
        raise UsageError(
            f"--input {shape!r} is no shape", where="--input", expected="whole numbers such as 3,32,32", got=repr(shape)
        ) from None
    found = list_layers(model, overrides or [], input_shape)
    if as_json:
        emit({"models": [listing.to_json() for listing in found]})
    else:
        from edgedistill.report.terminal import show_layers

        for listing in found:
            show_layers(listing.to_json(), console())
    return 0


@devices_app.command("list")
def devices_list(
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """List the devices: those here, the boards of devices.toml and the ssh config, the simulated with their error."""
    from edgedistill.plugins import find_devices, list_devices, missing_requirements
    from edgedistill.prediction.predict import catalogue
    from edgedistill.report.predictions import show_catalogue
    from edgedistill.types import Source

    ready = [plugin for plugin in find_devices().values() if not missing_requirements(plugin)]
    real = [plugin for plugin in ready if plugin.TRAITS.source is not Source.PREDICTED]
    found = [one.to_json(plugin.TRAITS.source) for plugin in real for one in list_devices(plugin)]
    simulated = catalogue()
    if as_json:
        emit({"devices": [*found, *simulated]})
    else:
        for one in found:
            size = f", {one['cores']} cores, {one['memory_bytes'] / 1e9:.1f} GB, {one['class']}" if one["cores"] else ""
            say(f"{one['id']:<8} {one['name']}{size}, {one['status']}")
        show_catalogue(simulated, console())
    return 0


@devices_app.command("show")
def devices_show(
    device: Annotated[str, typer.Argument(metavar="ID", help="A device, as `devices list` names it.")],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw a simulated device's anchors, predicted against published: an SVG."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Show one device."""
    from edgedistill.plugins import load_device, traits_of
    from edgedistill.prediction.predict import is_predicted, profile_of
    from edgedistill.report.predictions import show_profile

    if plot is not None:
        require_folder("--plot", plot)
    simulated = is_predicted(device) and ":" in device
    found = profile_of(device) if simulated else load_device(device).describe(device).to_json(traits_of(device).source)
    if plot is not None and simulated:
        from edgedistill.report.prediction_plot import anchors_picture
        from edgedistill.storage import storage_errors, write_atomically

        with storage_errors(plot.parent):
            write_atomically(plot, anchors_picture(found))
    if as_json:
        emit({"devices": [found]})
    elif simulated:
        show_profile(found, console())
    else:
        for key, value in found.items():
            say(f"{key:<13} {value}")
    return 0


devices_app.command()(predict)
devices_app.command()(calibrate)


@recipe_app.command("schema")
def recipe_schema(
    as_json: AsJson = False,  # noqa: ARG001 - it is JSON in any case
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Print the JSON Schema of recipes: every key, its type, default and meaning."""
    from edgedistill.recipe.document import Recipe

    emit(Recipe.model_json_schema())
    return 0


@recipe_app.command("check")
def recipe_check(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Check a recipe without running it: its keys, its plug-ins, the files that it names."""
    from edgedistill import pipeline
    from edgedistill.recipe.document import load_recipe, recipe_sha256

    loaded = load_recipe(recipe, overrides or [])
    pipeline.check(loaded, recipe.parent)
    if as_json:
        emit({"recipe": loaded.model_dump(mode="json"), "sha256": recipe_sha256(loaded)})
    else:
        say(f"{recipe}: a valid recipe ({recipe_sha256(loaded)[:16]})")
    return 0


@app.command()
def doctor(
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Say what is installed, what is missing, and the command that mends it. Exit code 2 if the core is broken."""
    from edgedistill.cli.doctor import examine, healthy

    findings = examine()
    if as_json:
        emit({"healthy": healthy(findings), "findings": [f.to_json() for f in findings]})
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "missing": "missing", "wrong version": "WRONG  "}[finding.state]
            say(
                f"{mark} {finding.group:<9} {finding.package:<20} {finding.installed or '-':<14} wanted {finding.wanted}"
            )
        for fix in dict.fromkeys(f.fix for f in findings if f.fix):
            say(f"to mend: {fix}")
    return 0 if healthy(findings) else 2


@app.command()
def plugins(
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """List the plug-ins of each shelf, and what each lacks."""
    from edgedistill.contracts import REQUIRED
    from edgedistill.plugins import capabilities, find_plugin, missing_requirements, plugin_names

    found: dict[str, list[Json]] = {}
    for shelf in REQUIRED:
        every = {name: find_plugin(shelf, name) for name in plugin_names(shelf)}
        found[shelf] = [
            {"name": name, "missing": missing_requirements(plugin), "offers": capabilities(shelf, plugin)}
            for name, plugin in every.items()
        ]
    if as_json:
        emit({"plugins": found})
    else:
        for place, rows in found.items():
            for row in rows:
                missing = ", ".join(row["missing"])
                lacks = f"missing {missing}: pip install 'edgedistill[{row['name']}]'" if missing else "ready"
                also = f"; offers {', '.join(row['offers'])}" if row["offers"] else ""
                say(f"{place:<11} {row['name']:<14} {lacks}{also}")
    return 0


def _follow() -> int:
    """One of torchrun's further processes: it trains when the first one says so."""
    from edgedistill.distillation.training.distributed import follow

    follow()
    return 0


def main(argv: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one return per kind of outcome
    """Run a command and turn every outcome into an exit code; the console script's entry."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in arguments, "--debug" in arguments
    if int(os.environ.get("RANK", "0")) > 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return _follow()
    with Stdout(as_json):
        try:
            return int(app(arguments, standalone_mode=False, prog_name="edgedistill") or 0)
        except EdgeDistillError as error:
            if debug:
                raise
            return _fail(error.to_json(), str(error), error.exit_code, as_json)
        except typer.Abort:
            return 130
        except _WrongUse as error:
            usage = UsageError(error.format_message(), where="command line", fix="edgedistill --help")
            return _fail(usage.to_json(), f"{usage}", 2, as_json)
        except KeyboardInterrupt:
            complain("interrupted; the same command goes on from the last finished stage")
            return 130
        except BrokenPipeError:
            return 0
        except Exception as error:
            if debug:
                raise
            told = f"internal error: {type(error).__name__}: {error}"
            document = {
                "code": "internal_error",
                "exit_code": 4,
                "message": told,
                "where": "",
                "expected": "",
                "got": "",
                "fix": "--debug shows the traceback; please report it",
            }
            return _fail(document, f"{told}\nfix: {document['fix']}", 4, as_json)


def _fail(document: dict[str, Any], text: str, code: int, as_json: bool) -> int:
    complain(f"error: {text}")
    if as_json:
        emit({"error": document})
    return code


def _stage(record: Json) -> Json:
    return {key: record[key] for key in ("name", "state", "seconds")}


def _not_released(report: Json) -> str:
    verdict = report["gate"]["verdict"]
    return "" if verdict == "pass" else f" (not for release: gate {verdict})"


def _read_report(path: Path) -> Json:
    from edgedistill.report.build import SCHEMA

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        schema = document["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a report: {error}",
            where=str(path),
            expected="a report.json of `edgedistill compress`",
            got=type(error).__name__,
            fix="give RUN/report.json",
        ) from error
    if schema != SCHEMA:
        raise UsageError(
            f"{path} is of another schema",
            where=f"{path}, key schema",
            expected=SCHEMA,
            got=repr(schema),
            fix="make the report again with this version of EdgeDistill",
        )
    return dict(document)


if __name__ == "__main__":
    sys.exit(main())
