"""`edgedistill operators`: what a file or a model is made of, and who takes it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.artifacts.identify import described, inventory_of
from edgedistill.cli.common import Answer, command, console, progress, say
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.answers import OperatorDocument, OperatorsAnswer, Taker
    from edgedistill.types import Artifact

_FORMATS = "onnx,tflite,openvino"
_SHOWN = 3


@command
def operators(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An artifact (.onnx, .tflite, .xml, .param), a .pt2 program, or package.module:function.",
        ),
    ],
    to: Annotated[str, typer.Option("--to", help=f"For a model: formats that must take it. Default: {_FORMATS}.")] = "",
    shapes: Annotated[
        list[str] | None,
        typer.Option("--input", help="For an import path: NAME:SHAPE[:DTYPE] of one sample, such as image:3,32,32."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arg", help="For an import path: NAME=VALUE for the function, the value in YAML."),
    ] = None,
) -> Answer:
    """List operators, their versions and modules, and who takes them. Exit code 3 if a format of --to, or every runtime of the file, refuses."""
    path = Path(model)
    if ":" not in model and path.suffix != ".pt2":
        if to or shapes or arguments:
            raise UsageError(
                "--to, --input and --arg are for models",
                where="command line",
                expected="a file alone, or a .pt2 program or an import path with them",
                got=model,
                fix="leave them out: a file is asked of the runtimes of its own format",
            )
        document = _of_file(described(path))
    else:
        document = _of_model(
            model, [word.strip() for word in (to or _FORMATS).split(",")], tuple(shapes or ()), tuple(arguments or ())
        )
    return Answer(document, lambda: _show(document), 0 if document["taken"] else 3)


def _of_file(artifact: Artifact) -> OperatorsAnswer:
    """Operators by the file's own words; the runtimes by opening it, unless its operators tell already."""
    from edgedistill.plugins import load_exporter

    found = inventory_of(artifact)
    checks = load_exporter(artifact.format).check_support(artifact)
    takers: list[Taker] = [
        {"name": runtime, "takes": check.state == "pass", "reason": check.reason.removeprefix(f"not for {runtime}: ")}
        for check, runtime in ((check, check.id.rsplit(":", 1)[1]) for check in checks)
    ]
    return {
        "model": str(artifact.path),
        "format": artifact.format,
        "facts": dict(found.facts),
        "takers": takers,
        "taken": any(taker["takes"] for taker in takers),
        "operators": [operator.to_json() for operator in found.operators],
    }


def _of_model(
    target: str, formats: Sequence[str], shapes: tuple[str, ...], arguments: tuple[str, ...]
) -> OperatorsAnswer:
    """Operators as torch.export sees them, and which formats take them."""
    from edgedistill.conversion.loading import Options, load
    from edgedistill.conversion.operators import foreseen, reason_of

    with (
        tempfile.TemporaryDirectory() as folder,
        progress() as events,
        events.captured(Path(folder) / "log"),  # torch is talkative
    ):
        events.step("look at the operators", 0, 1)
        source = load(target, Options(shapes=shapes, arguments=arguments), None)
        rows, errors = foreseen(source.model, source.signature, formats, source.inputs)
    if errors and not rows:
        raise next(iter(errors.values()))
    merged: dict[tuple[str, str], OperatorDocument] = {}
    for found in rows.values():
        for operator in found:
            entry = merged.setdefault((operator.domain, operator.type), operator.to_json())
            entry["refused"] |= operator.refused
            entry["replacement"] = entry["replacement"] or operator.replacement
    reasons = {fmt: error.message for fmt, error in errors.items()}
    reasons |= {
        fmt: reason_of([row for row in found if row.refused], instead=True)
        for fmt, found in rows.items()
        if any(row.refused for row in found)
    }
    asked = {fmt: "nothing is known against it" if fmt in rows else "its exporter foresees nothing" for fmt in formats}
    takers: list[Taker] = [
        {"name": fmt, "takes": fmt not in reasons, "reason": reasons.get(fmt, asked[fmt])} for fmt in formats
    ]
    return {
        "model": target,
        "format": "torch",
        "facts": {},
        "takers": takers,
        "taken": not reasons,
        "operators": list(merged.values()),
    }


def _show(document: OperatorsAnswer) -> None:
    from rich.table import Table
    from rich.text import Text

    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in document["facts"].items())
    title = f"{document['model']}{f' ({facts})' if facts else ''}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in ("operator", "version", "count", "where", *(taker["name"] for taker in document["takers"])):
        table.add_column(heading, justify="right" if heading in ("version", "count") else "left")
    for row in document["operators"]:
        places = ", ".join(row["modules"][:_SHOWN]) + (", ..." if len(row["modules"]) > _SHOWN else "")
        marks = ["no" if taker["name"] in row["refused"] else "yes" for taker in document["takers"]]
        name = Text(row["type"] if document["format"] in ("tflite", "ncnn") else f"{row['domain']}.{row['type']}")
        table.add_row(name, str(row["version"] or "-"), str(row["count"]), Text(places), *marks)
    console().print(table)
    for taker in document["takers"]:
        say(f"{taker['name']}: {'takes it' if taker['takes'] else 'refuses it'} ({taker['reason']})")
