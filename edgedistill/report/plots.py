"""Charts as self-contained SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from edgedistill.documents.report import Report

_COLOURS = {"teacher": "#6b7280", "fp32": "#2563eb", "int8-static": "#d97706"}
_MARKERS = {"onnxruntime": "o", "tflite-runtime": "s", "litert": "D", "openvino": "^"}


def quality_against_latency(report: Report) -> str:
    """Quality with its 95% interval against p50 latency (log scale); lighter bars span the rounds' medians."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # without pyplot: nothing of the caller's process is changed

    by_id = {artifact["id"]: artifact for artifact in report["artifacts"]}
    with mpl.rc_context({"svg.hashsalt": "edgedistill", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8.2, 4.4))
        axes = figure.subplots()
        for measurement in (m for m in report["measurements"] if m["source"] == "measured"):
            artifact = by_id[measurement["artifact"]]
            quality = artifact["quality_by_runtime"].get(measurement["runtime"], artifact["quality"])
            kind = "teacher" if artifact["model"] == "teacher" else artifact["precision"]
            medians = measurement["round_p50_ms"]
            p50 = measurement["latency_ms"]["p50"]
            low, high = quality["ci95"]
            axes.errorbar(
                p50,
                100 * quality["value"],
                xerr=[[max(0.0, p50 - min(medians))], [max(0.0, max(medians) - p50)]],
                yerr=[[100 * (quality["value"] - low)], [100 * (high - quality["value"])]],
                fmt=_MARKERS.get(measurement["runtime"], "x"),
                color=_COLOURS.get(kind, "#111827"),
                ecolor=_COLOURS.get(kind, "#111827") + "66",
                markersize=8,
                capsize=2,
            )
        _dress(axes, report)
        return svg_of(figure)


def svg_of(figure: Figure) -> str:
    """A figure as SVG that depends on what it shows alone, fit to stand inside a page."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "edgedistill", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(
            stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")), bbox_inches="tight"
        )
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _dress(axes: Axes, report: Report) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("latency p50, ms (measured, batch 1, log scale)")
    axes.set_ylabel(f"{report['task']['metric']}, % (n = {report['task']['eval_samples']}, bars: 95% interval)")
    axes.grid(visible=True, which="both", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    shown = {m["runtime"] for m in report["measurements"] if m["source"] == "measured"}
    precisions = {a["precision"] for a in report["artifacts"] if a["model"] != "teacher"}
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            marker="o",
            linestyle="",
            label=f"student {kind}" if kind != "teacher" else "teacher fp32",
        )
        for kind, colour in _COLOURS.items()
        if kind == "teacher" or kind in precisions
    ]
    handles += [
        Line2D(
            [],
            [],
            color="#111827",
            marker=_MARKERS.get(runtime, "x"),
            linestyle="",
            fillstyle="none",
            label=runtime,
        )
        for runtime in sorted(shown)
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
