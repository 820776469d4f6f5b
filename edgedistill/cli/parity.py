"""`edgedistill parity`: does a file compute what its reference computes, and if not, from which tensor on?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgedistill.artifacts.identify import artifact_of
from edgedistill.cli.common import Answer, command, console, say
from edgedistill.cli.export import arrays_of
from edgedistill.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgedistill.documents.answers import FirstDeparture, NotedWay, TracedRow
    from edgedistill.models.reference import Reference
    from edgedistill.parity.compare import Parity
    from edgedistill.types import Array, Artifact


@command
def parity(
    reference: Annotated[Path, typer.Argument(help="What is right: a .pt2 program, .onnx, .tflite, .xml or .param.")],
    artifact: Annotated[Path, typer.Argument(help="A file, perhaps of another format.")],
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            help="Model-ready samples (.npz, first axis: samples). Default: 32 seeded normal ones.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", help="Where the second file is computed, such as arm:cortex-a53.")
    ] = "cpu",
    layers: Annotated[
        bool, typer.Option("--layers", help="Follow the worst sample through both: which tensor departs first?")
    ] = False,
    min_snr: Annotated[
        float | None,
        typer.Option("--min-snr", help="With --layers: a tensor below so many dB departs. Default: by precision."),
    ] = None,
    worst: Annotated[
        Path | None, typer.Option("--worst", help="Keep the worst sample, with both files' outputs: an .npz.")
    ] = None,
) -> Answer:
    """Do two files compute the same thing? Compared in every runtime installed; exit code 1 if not."""
    from edgedistill.parity.proof import prove, read_samples
    from edgedistill.recipe.document import ParitySettings
    from edgedistill.storage import storage_errors

    if layers and device != "cpu":
        raise UsageError(
            f"--layers cannot look into {device}",
            where="--layers",
            expected="--device cpu",
            got=device,
            fix="compare there without --layers, or here with it",
        )
    if min_snr is not None and not layers:
        raise UsageError(
            "--min-snr is for --layers",
            where="--min-snr",
            expected="--layers beside it",
            got="none",
            fix="add --layers",
        )
    arrays = arrays_of(inputs, "--inputs")
    samples = None if arrays is None else read_samples(arrays, str(inputs))
    proof = prove(_reference(reference, samples), artifact_of(artifact), samples, ParitySettings(), device)
    if worst is not None:
        with storage_errors(worst.parent):
            proof = proof.kept(worst)
    found = proof.parity
    path = proof.layers(ParitySettings(), min_snr) if layers else None
    return Answer(
        {"parity": {**found.to_json(), **(path or {})}}, lambda: _show(found, path), 0 if found.state == "pass" else 1
    )


def _reference(path: Path, samples: Mapping[str, Array] | None) -> Reference | Artifact:
    from edgedistill.conversion.loading import Options, load

    return load(str(path), Options(), samples) if path.suffix == ".pt2" else artifact_of(path)


def _show(found: Parity, path: NotedWay | None) -> None:
    if path is not None:
        _show_way(path)
    say(f"{found.state.value}: {found.reason} (n = {found.n}, {found.runtime}, max abs {found.max_abs:.3e})")


def _show_way(path: NotedWay) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="the worst sample's way, in the reference's order", title_justify="left", header_style="bold")
    for heading in ("tensor", "operator", "module", "artifact's tensor", "SNR, dB", "max relative", ""):
        table.add_column(heading, justify="right" if heading in ("SNR, dB", "max relative") else "left")
    for row in path["layers"]:
        if row["state"] != "absent":
            there = row["artifact"]["tensor"] if row["artifact"] else "-"
            table.add_row(
                *map(Text, (_short(row["tensor"]), row["operator"], row["module"], _short(there), *_figures(row))),
                Text(row["state"], style="bold red" if row["state"] == "departs" else "green"),
            )
    console().print(table)
    if path["layers_absent"]:
        say(
            f"{path['layers_absent']} more tensors of the reference have no counterpart: fused away, or after a departure"
        )
    say(_told(path["first_departure"]))
    if path["layers_note"]:
        say(f"note: {path['layers_note']}")


def _told(first: FirstDeparture | None) -> str:
    """The first departure in one sentence."""
    if first is None:
        return "no tensor departs"
    layer = first["layer"]
    steps = " -> ".join(f"{_short(step['tensor'])} ({step['operator']})" for step in first["path"])
    before = ", ".join(_short(row["tensor"]) for row in first["preceded_by"]) or "nothing"
    module = f" of module {layer['module']}" if layer["module"] else ""
    also = f"; also {', '.join(_short(one['tensor']) for one in first['also'])}" if first["also"] else ""
    return f"departs first at {_short(layer['tensor'])}, {layer['operator']}{module}: {steps}; before it {before} agrees{also}"


def _figures(row: TracedRow) -> tuple[str, str]:
    if row["state"] == "agrees" and row["snr_db"] is None:
        return "exact", "0"
    snr, relative = row["snr_db"], row["max_relative"]
    return f"{snr:.1f}" if snr is not None else "none", f"{relative:.1e}" if relative is not None else "infinite"


def _short(name: str, most: int = 32) -> str:
    """The end of a long name tells most."""
    return name if len(name) <= most else f"...{name[-most:]}"
