"""`edgedistill export`: a model of one's own to every runtime, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli_shared import AsJson, Debug, console, emit, say
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.types import Array, Json


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A .pt2 program, an .onnx file, or package.module:function.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files and export.json.")],
    to: Annotated[str, typer.Option("--to", help="Formats (`edgedistill plugins`).")] = "onnx,tflite,openvino",
    precision: Annotated[
        str, typer.Option("--precision", help="fp32 is always written; int8 needs --calibration.")
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Model-ready samples, an .npz with an array for each input.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--inputs", help="Samples to prove the files with (.npz). Default: seeded ones.")
    ] = None,
    shapes: Annotated[
        list[str] | None,
        typer.Option("--input", help="For an import path: NAME:SHAPE[:DTYPE] of one sample, such as image:3,32,32."),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Option("--arg", help="For an import path: NAME=VALUE for the function, the value in YAML."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Of the files. Default: after the model.")] = "",
    mean: Annotated[str, typer.Option("--mean", help="What an application subtracts, per channel: 0.5,0.5,0.5.")] = "",
    std: Annotated[str, typer.Option("--std", help="What it divides by.")] = "",
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names, a line each.")] = None,
    opset: Annotated[int | None, typer.Option("--opset", min=7, help="Of ONNX files.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read in main
) -> int:
    """Export a model to several runtimes and prove every file. Exit code 1 if a file departs from the model."""
    from edgedistill.exporting import write
    from edgedistill.progress import TerminalWatch
    from edgedistill.sources import Options, load

    options = Options(
        name,
        tuple(shapes or ()),
        tuple(arguments or ()),
        _numbers(mean, "--mean"),
        _numbers(std, "--std"),
        _lines(labels),
    )
    watch, log = TerminalWatch(), out.with_name(f".{out.name}.log")
    with watch.bar, watch.captured(log):  # converters are talkative
        source = load(model, options, _arrays(inputs, "--inputs"))
        document = write(
            source, out, _words(to, "--to"), _words(precision, "--precision"), _arrays(calibration, "--calibration"),
            opset, watch.step,
        )  # fmt: skip
    log.replace(out / "export.log")
    if as_json:
        emit({"output": str(out), "artifacts": document["artifacts"]})
    else:
        _show(document, out)
    return 0 if all(artifact["parity"]["state"] == "pass" for artifact in document["artifacts"]) else 1


def _show(document: Json, out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{document['name']} in {out}", title_justify="left", header_style="bold")
    for heading in ("artifact", "size, kB", "parity", "max relative", "runtimes", "notes"):
        table.add_column(heading, justify="right" if heading in ("size, kB", "max relative") else "left")
    for artifact in document["artifacts"]:
        parity = artifact["parity"]
        relative = f"{parity['max_relative']:.1e}" if parity["max_relative"] is not None else "infinite"
        table.add_row(
            Text(artifact["path"]), f"{artifact['size_bytes'] / 1e3:.1f}", f"{parity['state']}: {parity['reason']}",
            relative, ", ".join(p["runtime"] for p in artifact["parity_by_runtime"]), Text("; ".join(artifact["notes"])),
        )  # fmt: skip
    console().print(table)
    say(f"n = {document['artifacts'][0]['parity']['n']} samples, measured here")


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option} is empty", where=option, expected="words with commas between them", fix="name one")
    return words


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} are no numbers", where=option, expected="0.5,0.5,0.5", got=repr(text), fix="use commas"
        ) from None


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", where="--labels", expected="a text file", fix="correct the path"
        ) from error


def _arrays(path: Path | None, option: str) -> Mapping[str, Array] | None:
    """The arrays of an .npz."""
    if path is None:
        return None
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except Exception as error:  # missing, damaged, no archive: OSError, ValueError, BadZipFile, ...
        raise UsageError(
            f"{path} cannot be read: {error}",
            where=option,
            expected="an .npz with an array for each input, first axis: samples",
            got=type(error).__name__,
            fix="write it with numpy.savez(path, NAME=array)",
        ) from error
    for key, array in found.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) == 0:
            raise UsageError(
                f"the array {key} holds no samples of numbers",
                where=f"{option} {path}, array {key}",
                expected="numbers, first axis: samples, at least one",
                got=f"{array.dtype} of shape {array.shape}",
                fix="write it with numpy.savez(path, NAME=array)",
            )
    return found
