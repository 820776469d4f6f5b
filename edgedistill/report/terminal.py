"""The report in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from edgedistill.report.predictions import show_predictions
from edgedistill.report.rows import HEADINGS, counted, percent, rows, spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgedistill.documents.answers import LayersDocument
    from edgedistill.documents.measurements import AnyMeasurement, ComparedRatio, Emulated, InstructionClass, Timed
    from edgedistill.documents.report import GateDocument, ModelDocument, Report

_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "yellow",
    "invalid": "yellow",
    "skipped": "dim",
}
_SHOWN = (
    "artifact",
    "runtime",
    "quality",
    "versus_teacher",
    "size_kb",
    "p50_ms",
    "ratio",
    "peak_mb",
    "parity",
)


def show(report: Report, console: Console) -> None:
    """Models, the table of artifacts, and the gate with every check that is not a pass."""
    for model in report["models"]:
        console.print(
            f"{model['id']}: {counted(model['parameters'])} parameters, {counted(model['macs'])} MACs, "
            f"{report['task']['metric']} {percent(model['quality'])} % (n = {model['quality']['n']}){_spread(model)}",
            highlight=False,
        )
    table = Table(title="measured on this host, batch 1", title_justify="left", header_style="bold")
    for field in _SHOWN:
        left = field in ("artifact", "runtime", "parity")
        table.add_column(
            HEADINGS[field], justify="left" if left else "right", no_wrap=field == "artifact", overflow="fold"
        )
    for row in rows(report):
        cells = [Text(getattr(row, field)) for field in _SHOWN]
        cells[-1].stylize(_STYLES.get(row.parity, ""))
        table.add_row(*cells, style="bold" if row.role == "teacher" else "")
    console.print(table)
    show_predictions([m for m in report["measurements"] if m["source"] == "predicted"], console)
    for artifact in report["artifacts"]:
        for note in artifact["notes"]:
            console.print(Text(f"note: {artifact['id']}: {note}", style="yellow"))
    for one in report.get("recommendations", []):  # reports made before there were any
        console.print(Text(f"ship in {one['runtime']} on {one['device']}: {one['artifact']} ({one['why']})"))
    if report["gate"] is not None:
        show_gate(report["gate"], console)


def show_measurements(measurements: Sequence[AnyMeasurement], console: Console) -> None:
    """A table of measurements without a report; what was emulated or predicted has one of its own."""
    emulated = [m for m in measurements if m["source"] == "emulated"]
    small = [m for m in emulated if m["device"].startswith("micro:")]
    show_microcontrollers(small, console)
    show_emulated([m for m in emulated if m not in small], console)
    show_predictions([m for m in measurements if m["source"] == "predicted"], console)
    _show_timed([m for m in measurements if m["source"] == "measured"], console)


def _show_timed(measurements: Sequence[Timed], console: Console) -> None:
    if not measurements:
        return
    table = Table(title="measured", title_justify="left", header_style="bold")
    for heading in (
        "artifact",
        "device",
        "runtime",
        "n",
        "p50, ms",
        "p90, ms",
        "load, ms",
        "peak memory, MB",
        "ratio",
        "batch",
        "flags",
    ):
        table.add_column(heading, justify="left" if heading in ("artifact", "device", "runtime", "flags") else "right")
    for m in measurements:
        latency = m["latency_ms"]
        ratio = m.get("ratio_to_reference")
        table.add_row(
            Text(m["artifact"]),
            Text(m["device"]),
            f"{m['runtime']} {m['runtime_version']}",
            str(latency["count"]),
            _figure(latency.get("p50"), 4),
            _figure(latency.get("p90"), 4),
            _figure(m.get("load_cold_ms"), 1),
            _figure(m["memory_bytes"]["peak"] if "memory_bytes" in m else None, 1, 1e6),
            _answer(ratio) if ratio else "",
            str(m["batch"]),
            _standing(m),
        )
    console.print(table)
    for m in measurements:
        if m.get("operators"):
            _show_operators(m, console)


def _standing(measurement: Timed) -> Text:
    """The flags; in front whether they leave nothing to rely on."""
    flags = "; ".join(measurement["flags"])
    return Text(flags) if measurement["valid"] else Text(f"INVALID: {flags}", style="bold red")


def _figure(value: float | None, digits: int, unit: float = 1.0) -> str:
    """A figure, or a dash where it was not told."""
    return "-" if value is None else f"{value / unit:.{digits}f}"


def show_emulated(measurements: Sequence[Emulated], console: Console) -> None:
    """Instructions of one inference by class, parity and memory; no times."""
    if not measurements:
        return
    title = "emulated, batch 1: instructions of one inference in thousands"
    table = Table(title=title, title_justify="left", header_style="bold")
    words = ("artifact", "device", "runtime", "runs")
    classes: tuple[InstructionClass, ...] = ("total", "load_store", "fma", "dot", "multiply_long", "sve")
    for heading in (*words, *classes, "max abs", "memory, MB", "flags"):
        table.add_column(heading.replace("_", " "), justify="left" if heading in (*words, "flags") else "right")
    for m in measurements:
        counted = [f"{m['instructions'][name] / 1e3:.1f}" for name in classes] if "instructions" in m else ["-"] * 6
        far = m.get("parity", {}).get("max_abs")
        table.add_row(
            Text(m["artifact"]),
            Text(m["device"]),
            f"{m['runtime']} {m.get('runtime_version', '')}",
            m["runs"]["state"],
            *counted,
            "-" if far is None else f"{far:.1e}",
            f"{m['memory_bytes']['peak'] / 1e6:.1f}" if "memory_bytes" in m else "-",
            Text("; ".join([*m["flags"], *(["kept from an earlier run"] if m.get("reused") else [])])),
        )
    console.print(table)


def show_microcontrollers(measurements: Sequence[Emulated], console: Console) -> None:
    """Whether each file runs, fits, and computes the same; no times."""
    if not measurements:
        return
    title = "in tflite-micro on this host, batch 1: what fits"
    table = Table(title=title, title_justify="left", header_style="bold")
    words = ("artifact", "device", "runs", "fits")
    for heading in (*words, "arena, KB", "of SRAM", "flash, KB", "of flash", "max abs", "flags"):
        table.add_column(heading, justify="left" if heading in (*words, "flags") else "right")
    for m in measurements:
        told = (m.get("arena_bytes"), m.get("sram_bytes"), m.get("flash_bytes"), m.get("flash_size_bytes"))
        far = m.get("parity", {}).get("max_abs")
        fits = "-" if "fits" not in m else "yes" if m["fits"] else "no"
        table.add_row(
            Text(m["artifact"]),
            Text(m["device"]),
            m["runs"]["state"],
            fits,
            *(_figure(size, 1, 1024) for size in told),
            "-" if far is None else f"{far:.1e}",
            Text("; ".join(m["flags"])),
        )
    console.print(table)
    for note in dict.fromkeys(m["note"] for m in measurements if "note" in m):
        console.print(Text(f"note: {note}"))


_BAR = 40


def _show_operators(measurement: Timed, console: Console) -> None:
    """The ten costliest operators as bars."""
    title = f"{measurement['artifact']} in {measurement['runtime']}: time by operator"
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading, side in (("operator", "left"), ("type", "left"), ("ms", "right"), ("share", "left")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    for row in sorted(measurement.get("operators") or [], key=lambda one: -one["ms"])[:10]:
        bar = "\u2588" * round(_BAR * row["share"])
        table.add_row(Text(row["name"]), Text(row["type"]), f"{row['ms']:.4f}", f"{bar} {100 * row['share']:.0f}%")
    console.print(table)


def _answer(ratio: ComparedRatio) -> str:
    """How a file stands to the reference: the ratio, its interval, the verdict."""
    if "p50_interval99" not in ratio:
        return f"{ratio['p50']:.3f}"
    low, high = ratio["p50_interval99"]
    more = f", {ratio['needed_rounds']} rounds needed" if ratio["needed_rounds"] else ""
    return f"{ratio['p50']:.3f} [{low:.3f}, {high:.3f}] {ratio['answer']}{more}"


def _spread(model: ModelDocument) -> str:
    """Mean and deviation over the seeds, where several students were trained."""
    return f"; {spread(model['seeds'])}" if "seeds" in model else ""


def show_layers(listing: LayersDocument, console: Console) -> None:
    """A model's layers, one a line."""
    table = Table(title=listing["model"], title_justify="left", header_style="bold")
    for heading, side in (
        ("layer", "left"),
        ("kind", "left"),
        ("output", "left"),
        ("parameters", "right"),
        ("calls", "right"),
    ):
        table.add_column(heading, justify="right" if side == "right" else "left", overflow="fold")
    for layer in listing["layers"]:
        shape = layer["output_shape"]
        told = "x".join(map(str, shape)) if shape is not None else ("no tensor" if layer["calls"] else "never called")
        table.add_row(layer["name"], layer["kind"], told, f"{layer['parameters']:,}", str(layer["calls"]))
    console.print(table)
    if listing["note"]:
        console.print(listing["note"])


def show_gate(gate: GateDocument, console: Console) -> None:
    """The verdict, and each check that did not pass."""
    console.print(Text(f"gate: {gate['verdict']}", style=_STYLES.get(gate["verdict"], "")))
    for check in gate["checks"]:
        if check["state"] != "pass":
            console.print(Text(f"  {check['state']}  {check['id']}: {check['reason']}", style=_STYLES[check["state"]]))
    passed = sum(check["state"] == "pass" for check in gate["checks"])
    console.print(f"  {passed} of {len(gate['checks'])} checks pass", highlight=False)
