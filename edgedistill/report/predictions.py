"""Predictions in the terminal: never without their interval, their error and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from edgedistill.release.gate import UNVALIDATED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from edgedistill.documents.answers import SimulatedDevice
    from edgedistill.documents.measurements import Prediction, Refusal
    from edgedistill.types import Json

_COMMON = "memory is modelled after x86-64 measurements"
_BAR = 40
_STYLES = {"calibrated": "green", "few-shot": "cyan", "transferred": "yellow", "no evidence": "red", "spec-only": "red"}


def show_predictions(found: Sequence[Prediction], console: Console, refused: Sequence[Refusal] = ()) -> None:
    """A table, the fastest first; then who refused, and why."""
    if found:
        table = Table(title="predicted, batch 1", title_justify="left", header_style="bold")
        words = ("artifact", "device", "runtime", "by", "evidence")
        for heading in (
            *words[:4],
            "threads",
            "p50, ms",
            "80% interval, ms",
            "error",
            "memory, MB",
            "fits",
            *words[4:],
        ):
            table.add_column(heading, justify="left" if heading in words else "right", no_wrap=heading == "device")
        for one in found:
            table.add_row(*_row(one))
        console.print(table)
        for one in found:
            flags = [flag for flag in one["flags"] if flag != _COMMON]
            if flags:
                console.print(Text(f"{one['device']}: {'; '.join(flags)}"))
        if any(_COMMON in one["flags"] for one in found):
            console.print(f"{_COMMON}; error: median of held-out anchors", highlight=False)
    if len(found) == 1:
        show_parts(found[0], console)
    alike: dict[tuple[str, str], list[str]] = {}
    for refusal in refused:
        name = refusal["device"].removeprefix("sim:")
        alike.setdefault((refusal["reason"].replace(name, "it"), refusal["fix"]), []).append(name)
    for (reason, fix), names in alike.items():
        console.print(Text(f"refused ({reason}): {', '.join(names)}\n  fix: {fix}"))


def _row(one: Prediction) -> list[str | Text]:
    low, high = one["interval80_ms"]
    standing = one["calibration"]
    unvalidated = "UNVALIDATED " if standing in UNVALIDATED else ""
    fits = {True: "yes", False: "NO", None: "?"}[one["memory_budget"]["fits"]]
    if "meets_budget" in one:
        fits += ", in budget" if one["meets_budget"] else ", OVER"
    return [
        Text(one["artifact"]),
        Text(one["device"]),
        f"{one['runtime']} {one['arithmetic']}",
        one["predictor"],
        f"{one['threads']} {one['affinity']}",
        f"{unvalidated}{_short(one['latency_ms']['p50'])}",
        f"{_short(low)} to {_short(high)}",
        f"{one['mdape']:.0%}" if one["mdape"] is not None else "?",
        f"{one['predicted_memory_bytes']['total'] / 1e6:.1f}",
        fits,
        Text(standing, style=_STYLES.get(standing, "")),
    ]


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"  # three digits say enough


def show_parts(one: Prediction, console: Console) -> None:
    """Where a prediction's time goes: per operator class or kind of instruction, and the costliest layers."""
    total, mark = one["latency_ms"]["p50"], ", UNVALIDATED" if one["calibration"] in UNVALIDATED else ""
    _bars(f"where the time goes{mark}", one["parts_ms"], total, console)
    if one["layers_ms"]:
        layers = {f"{row['name']} ({row['class']})": row["ms"] for row in one["layers_ms"]}
        _bars(f"costliest layers{mark}", layers, total, console)
    memory, budget = one["predicted_memory_bytes"], one["memory_budget"]
    if "sram_bytes" in budget and "flash_bytes" in budget:
        sram = _of(budget["sram_bytes"], budget.get("sram_limit_bytes", 0))
        flash = _of(budget["flash_bytes"], budget.get("flash_limit_bytes", 0))
        console.print(f"KiB: sram {sram}, flash {flash}", highlight=False)
    parts = (
        ("weights", memory["weights"]),
        ("arena", memory["arena"]),
        ("workspace", memory["workspace"]),
        ("runtime", memory["runtime"]),
    )
    told = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in parts)
    console.print(f"memory, MB: {told}", highlight=False)


def _of(size: int, limit: int) -> str:
    return f"{size / 1024:.1f} of {limit / 1024:g}"


def _bars(title: str, parts: dict[str, float], total: float, console: Console) -> None:
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading, side in (("part", "left"), ("ms", "right"), ("share", "left")):
        table.add_column(heading, justify="right" if side == "right" else "left")
    for name, value in sorted(parts.items(), key=lambda part: -part[1]):
        bar = "\u2588" * round(_BAR * value / total)
        table.add_row(Text(name), f"{value:.4g}", f"{bar} {value / total:.0%}")
    console.print(table)


def show_catalogue(found: Sequence[SimulatedDevice], console: Console) -> None:
    """Simulated devices with their status and the error of their first block."""
    table = Table(title="simulated", title_justify="left", header_style="bold")
    for heading in ("device", "name", "class", "status", "median error, held out"):
        table.add_column(heading, no_wrap=heading == "device")
    for one in found:
        errors = [b for b in one["blocks"] if b["mdape"] is not None][:2]
        told = "; ".join(
            f"{b['runtime']} {b['precision']} {b['threads']}T {b['predictor']} {b['mdape']:.0%}" for b in errors
        )
        status = one["status"] + (" UNVALIDATED" if one["status"] in UNVALIDATED else "")
        table.add_row(one["id"], one["name"], one["class"], Text(status, style=_STYLES.get(one["status"], "")), told)
    console.print(table)


def show_profile(found: Json, console: Console) -> None:
    """One simulated device: what it is, what is known of each block's error, where the facts come from."""
    status = found["status"] + (" UNVALIDATED" if found["status"] in UNVALIDATED else "")
    clusters = ", ".join(
        f"{c['count']} x {c['core']}" + (f" at {c['ghz']} GHz" if c["ghz"] else "") for c in found["clusters"]
    )
    for key, value in (
        ("id", found["id"]),
        ("name", found["name"]),
        ("class", found["class"]),
        ("status", status),
        ("soc", found["soc"]),
        ("cores", clusters),
        ("memory", _told(found["memory"])),
        ("throttling", "not modelled"),
    ):
        console.print(Text(f"{key:<11} {value}"))
    for field, origin in found["provenance"].items():
        mark = "" if origin["verified"] else " (NOT VERIFIED)"
        console.print(Text(f"  {field}: {origin['source']}, {origin['licence']}{mark}"))
    table = Table(title="evidence", title_justify="left", header_style="bold")
    for heading in (
        "runtime",
        "threads",
        "precision",
        "predictor",
        "status",
        "anchors",
        "families",
        "error",
        "within 20%",
        "80% interval",
    ):
        table.add_column(heading)
    for block in found["runtimes"]:
        for kind in ("counts", "graph"):
            one = block[kind]
            if one is not None:
                table.add_row(
                    block["runtime"],
                    f"{block['threads']} {block['affinity']}",
                    block["precision"],
                    kind,
                    block["status"],
                    str(one["anchors"]),
                    str(one["families"]),
                    _percent(one["mdape"]),
                    _percent(one["within20"]),
                    f"x/÷ {2.718281828459045 ** one['spread']:.2f}",
                )
    console.print(table)


def _told(memory: Json) -> str:
    return ", ".join(f"{key} {value}" for key, value in memory.items() if value is not None)


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{value:.0%}"
