"""`edgedistill export`: a model of one's own to every runtime, without a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.cli.common import Answer, command, console, progress, say
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.documents.artifacts import Candidate
    from edgedistill.documents.report import ExportDocument
    from edgedistill.recipe.export import Quantize
    from edgedistill.types import Array


@command
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A .pt2 program, an .onnx file, or package.module:function.")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder for the files and export.json.")],
    to: Annotated[str, typer.Option("--to", help="Formats (`edgedistill plugins`).")] = "onnx,tflite,openvino",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="fp32 (always written), fp16, int8 (needs --calibration), int8-dynamic, int8-weights, int4-weights.",
        ),
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Model-ready samples, an .npz with an array for each input.")
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            "--validation",
            help="Other samples that choose between candidates, class numbers under `labels` (.npz). Default: the last quarter of --calibration.",
        ),
    ] = None,
    candidates: Annotated[
        str,
        typer.Option("--candidates", help="auto: every scheme is measured; default: the first; or schemes by name."),
    ] = "auto",
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0.0,
            max=1.0,
            help="Quality that a file may lose against fp32; beyond, layers return to float.",
        ),
    ] = 0.01,
    device: Annotated[
        str, typer.Option("--device", help="Where latency is measured (`edgedistill devices list`).")
    ] = "cpu",
    licence: Annotated[
        str,
        typer.Option("--licence", help="Under which the files are given away, an SPDX name; it stands inside them."),
    ] = "",
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
    fold: Annotated[
        str,
        typer.Option("--fold", help="Into the graph: normalization (samples are raw then), and softmax or argmax."),
    ] = "",
    opset: Annotated[int | None, typer.Option("--opset", min=7, help="Of ONNX files.")] = None,
) -> Answer:
    """Export a model to several runtimes and prove every file. Exit code 1 if a file departs from the model."""
    from edgedistill.conversion.export import Settings, write
    from edgedistill.conversion.loading import Options, load
    from edgedistill.models.reference import folded, made_ready

    options = Options(
        name,
        tuple(shapes or ()),
        tuple(arguments or ()),
        _numbers(mean, "--mean"),
        _numbers(std, "--std"),
        _lines(labels),
    )
    log = out.with_name(f".{out.name}.log")
    with progress() as events, events.captured(log):  # converters are talkative
        folds = _words(fold, "--fold") if fold else []
        given = arrays_of(inputs, "--inputs")
        ready = made_ready(given, options.normalization, folds) if given is not None else None
        source = folded(load(model, options, ready), folds, "--fold")
        settings = Settings(
            _words(to, "--to"),
            _words(precision, "--precision"),
            arrays_of(calibration, "--calibration"),
            arrays_of(validation, "--validation"),
            _quantize(candidates, max_drop),
            Settings().benchmark.model_copy(update={"device": device}),
            opset,
            licence,
        )
        document = write(source, out, settings, events)
    log.replace(out / "export.log")
    proved = all(artifact["parity"]["state"] == "pass" for artifact in document["artifacts"])
    answer = {"output": str(out), **{key: value for key, value in document.items() if key != "schema"}}
    return Answer(answer, lambda: _show(document, out), 0 if proved else 1)


def _show(document: ExportDocument, out: Path) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{document['name']} in {out}", title_justify="left", header_style="bold")
    for heading in ("artifact", "size, kB", "parity", "max relative", "runtimes", "notes"):
        table.add_column(heading, justify="right" if heading in ("size, kB", "max relative") else "left")
    for artifact in document["artifacts"]:
        parity = artifact["parity"]
        relative = f"{parity['max_relative']:.1e}" if parity["max_relative"] is not None else "infinite"
        table.add_row(
            Text(artifact["path"]),
            f"{artifact['size_bytes'] / 1e3:.1f}",
            f"{parity['state']}: {parity['reason']}",
            relative,
            ", ".join(p["runtime"] for p in artifact["parity_by_runtime"]),
            Text("; ".join(artifact["notes"])),
        )
    console().print(table)
    say(f"n = {document['artifacts'][0]['parity']['n']} samples, measured here")
    for artifact in document["artifacts"]:
        for row in artifact.get("candidates", []):
            _say_candidate(artifact["id"], row)
    for one in document.get("recommendations", []):
        say(f"ship in {one['runtime']} on {one['device']}: {one['artifact']} ({one['why']})")


def _say_candidate(artifact: str, row: Candidate) -> None:
    if row["quality"] is None:
        say(f"{artifact}: {row['scheme']} {row['state']}")
        return
    ratio = row["latency_ratio_to_fp32"]
    latency = f", {ratio:.2f} x the latency of fp32 on {row['device']}" if ratio is not None else ""
    kept = f", {len(row['keep_float'])} layers in float" if row["keep_float"] else ""
    say(
        f"{artifact}: {row['scheme']}{kept}: {row['metric']} {row['quality']:.4f} (fp32 {row['quality_fp32']:.4f}, "
        f"n = {row['n']}){latency}, {row['size_bytes']} bytes: {row['state']}"
    )


def _quantize(candidates: str, max_drop: float) -> Quantize:
    from edgedistill.recipe.export import Quantize

    chosen = candidates if candidates in ("auto", "default") else _words(candidates, "--candidates")
    return Quantize(candidates=chosen, max_drop=max_drop)  # type: ignore[arg-type]  # one of two words, or a list


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


def arrays_of(path: Path | None, option: str) -> Mapping[str, Array] | None:
    """The arrays of an .npz, their rows on disk."""
    if path is None:
        return None
    from edgedistill.data.on_disk import open_npz

    try:
        found = open_npz(path)
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
