"""docs/zoo.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.types import Json


def page(rows: list[Json], version: str) -> str:
    """The table of the zoo, and beneath it each refusal in full."""
    lines = [
        "# The zoo",
        "",
        "Students of many kinds, random weights, exported in fp32 and run in each runtime of the format.",
        "Departure: the largest difference over the largest magnitude of torch's output, the worst of all outputs,",
        f"measured on 7 samples. Written by `python -m benchmarks.studies.zoo` (EdgeDistill {version}).",
        "",
        "| student | format | runtime | state | departure | bytes |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        departure = "-" if row["relative"] is None else f"{row['relative']:.1e}"
        cells = (row["student"], row["format"], row["runtime"], row["state"], departure, row["size_bytes"] or "-")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    told = [f"- **{r['student']} to {r['format']}**: {r['told']}" for r in rows if r["state"] != "pass"]
    return "\n".join([*lines, *(["", "## Refused or failed", "", *told] if told else []), ""])
