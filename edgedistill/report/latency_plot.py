"""How latencies are distributed, how they went over time, and which operators they are made of: one SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.report.plots import svg_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard

    from matplotlib.axes import Axes

    from edgedistill.documents.measurements import AnyMeasurement, OperatorRow, Pictured

_ROW_INCHES = 1.15
_OPERATORS = 6
_TEACHER, _OTHER = "#6b7280", "#2563eb"


def latency_pictures(measurements: Sequence[AnyMeasurement]) -> str:
    """A row a measurement: distribution (0th to 100th percentile), timeline of every round, costliest operators.

    Rows share the axis of latency within a runtime, so that a teacher stands beside its students. Empty when
    nothing was measured.
    """
    from matplotlib.figure import Figure

    shown = [m for m in measurements if _pictured(m)]
    if not shown:
        return ""
    figure = Figure(figsize=(12, 0.6 + _ROW_INCHES * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), 3, squeeze=False, width_ratios=(4, 4, 3))
    for axes, measurement in zip(grid, shown, strict=True):
        same = [m for m in shown if m["runtime"] == measurement["runtime"] and m["device"] == measurement["device"]]
        longest = max(m["percentiles_ms"][99] for m in same)
        _distribution(axes[0], measurement, longest)
        _timeline(axes[1], measurement)
        _operators(axes[2], measurement)
    for axes, title in zip(
        grid[0], ("latency, ms: share of inferences", "over each round, ms", "operators"), strict=True
    ):
        axes.set_title(title, fontsize=9, loc="left")
    return svg_of(figure)


def _pictured(measurement: AnyMeasurement) -> TypeGuard[Pictured]:
    """Whether single inferences were timed."""
    return bool(measurement.get("percentiles_ms"))


def _colour(measurement: Pictured) -> str:
    return _TEACHER if measurement["artifact"].startswith("teacher") else _OTHER


def _distribution(axes: Axes, measurement: Pictured, longest: float) -> None:
    values = measurement["percentiles_ms"]
    axes.fill_between(values, range(101), step="post", alpha=0.25, color=_colour(measurement))
    axes.plot(values, range(101), color=_colour(measurement), drawstyle="steps-post")
    for value in (measurement["latency_ms"]["p50"], measurement["latency_ms"]["p90"]):
        axes.axvline(value, color="#111827", linewidth=0.7, linestyle=":")
    axes.set_xlim(0, 1.05 * longest)
    axes.set_ylabel(f"{measurement['artifact']}\n{measurement['runtime']}", fontsize=7, rotation=0, ha="right")
    axes.set_yticks([0, 50, 100], ["0", "50", "100%"])
    axes.tick_params(labelsize=7)


def _timeline(axes: Axes, measurement: Pictured) -> None:
    start = 0
    for one in measurement["timeline_ms"]:
        axes.plot(range(start, start + len(one)), one, color=_colour(measurement), linewidth=1)
        start += len(one) + 2
    axes.set_ylim(bottom=0)
    axes.set_xticks([])
    axes.tick_params(labelsize=7)


def _operators(axes: Axes, measurement: Pictured) -> None:
    rows: list[OperatorRow] = sorted(measurement.get("operators") or [], key=lambda row: -row["ms"])[:_OPERATORS]
    axes.set_xticks([])
    axes.set_yticks([])
    if not rows:
        reason = measurement.get("operators_reason", "not profiled")
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=7, color=_TEACHER, transform=axes.transAxes)
        return
    axes.barh(range(len(rows)), [row["share"] for row in rows], color=_colour(measurement), alpha=0.35)
    for place, row in enumerate(rows):
        axes.text(0, place, f" {row['type']} {row['name'][:24]} {100 * row['share']:.0f}%", va="center", fontsize=6)
    axes.invert_yaxis()
