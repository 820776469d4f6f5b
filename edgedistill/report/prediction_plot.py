"""Predictions with their intervals, and predicted against published: SVGs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.report.plots import svg_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgedistill.documents.measurements import Prediction
    from edgedistill.types import Json

_COLOURS = {"calibrated": "#2563eb", "few-shot": "#0891b2", "transferred": "#d97706"}
_UNVALIDATED = "#dc2626"


def prediction_picture(predictions: Sequence[Prediction]) -> str:
    """A hatched bar per device up to the predicted latency, with its 80% interval; the fastest on top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + 0.26 * max(1, len(predictions))), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(predictions):
        p50, (low, high) = one["latency_ms"]["p50"], one["interval80_ms"]
        colour = _COLOURS.get(one["calibration"], _UNVALIDATED)
        axes.barh(place, p50, color="white", edgecolor=colour, hatch="////", height=0.7)
        axes.errorbar(p50, place, xerr=[[p50 - low], [high - p50]], color="#111827", capsize=3, linewidth=1)
        told = "" if one["calibration"] in _COLOURS else " UNVALIDATED"
        axes.text(high, place, f"  {one['calibration']}{told}, {one['threads']} threads", va="center", fontsize=7)
    axes.set_yticks(range(len(predictions)), [f"{one['device']}" for one in predictions], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("predicted latency, ms, with its 80% interval (nothing here was measured)")
    return svg_of(figure)


def anchors_picture(profile: Json) -> str:
    """Held-out prediction against published latency, for each block of a profile that has anchors."""
    from matplotlib.figure import Figure

    blocks = [
        (f"{block['runtime']} {block['precision']} {block['threads']} threads, {kind}", block[kind])
        for block in profile["runtimes"]
        for kind in ("counts", "graph")
        if block[kind] and block[kind]["held_out"]
    ]
    columns = min(4, max(1, len(blocks)))
    height = -(-len(blocks) // columns) or 1
    figure = Figure(figsize=(3.2 * columns, 3.2 * height), layout="constrained")
    for axes, (title, one) in zip(figure.subplots(height, columns, squeeze=False).flat, blocks, strict=False):
        measured, predicted = [row[1] for row in one["held_out"]], [row[2] for row in one["held_out"]]
        ends = [min(measured + predicted), max(measured + predicted)]
        factor = 2.718281828459045 ** one["spread"]
        axes.fill_between(ends, [e / factor for e in ends], [e * factor for e in ends], color="#dbeafe")
        axes.plot(ends, ends, color="#6b7280", linewidth=0.8)
        axes.scatter(measured, predicted, s=10, color="#2563eb")
        axes.set(xscale="log", yscale="log", xlabel="published, ms", ylabel="predicted, family held out, ms")
        axes.set_title(f"{title}: {one['mdape']:.0%}", fontsize=8)
    return svg_of(figure)
