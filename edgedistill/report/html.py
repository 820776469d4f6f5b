"""report.html: one file, no scripts, nothing fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.release.gate import UNVALIDATED
from edgedistill.report.latency_plot import latency_pictures
from edgedistill.report.prediction_plot import prediction_picture
from edgedistill.report.rows import HEADINGS, counted, percent, rows, spread

if TYPE_CHECKING:
    from edgedistill.documents.report import CheckDocument, Report


def render(report: Report, chart_svg: str) -> str:
    """The page, all text escaped but the chart."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "counted": counted, "spread": spread}
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    predicted = [m for m in report["measurements"] if m["source"] == "predicted"]
    checks: list[CheckDocument] = report["gate"]["checks"] if report["gate"] is not None else []
    picture = prediction_picture(predicted) if predicted else ""
    return template.render(
        report=report,
        predicted=predicted,
        unvalidated=UNVALIDATED,
        predictions=Markup(picture),  # noqa: S704 - drawn by matplotlib, its texts escaped there
        rows=rows(report),
        headings=HEADINGS,
        chart=Markup(chart_svg),  # noqa: S704 - drawn by matplotlib from numbers, its texts escaped there
        latencies=Markup(latency_pictures(report["measurements"])),  # noqa: S704 - likewise
        unpassed=[c for c in checks if c["state"] != "pass"],
    )
