"""The report's table, once: a row per artifact and runtime, the teacher on top. HTML and terminal draw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgedistill.documents.artifacts import ArtifactDocument, Quality
    from edgedistill.documents.measurements import Measured
    from edgedistill.documents.report import Report, Seeds


@dataclass(frozen=True)
class Row:
    """One artifact in one runtime, as text with units in the headings."""

    role: str
    artifact: str
    runtime: str
    quality: str
    versus_teacher: str
    size_kb: str
    count: str
    p50_ms: str
    p90_ms: str
    ratio: str
    peak_mb: str
    load_mb: str
    integer_share: str
    parity: str
    flags: str


HEADINGS = {
    "artifact": "artifact",
    "runtime": "runtime",
    "quality": "quality, % [95%]",
    "versus_teacher": "vs teacher, points",
    "size_kb": "size, kB",
    "count": "inferences, n",
    "p50_ms": "p50, ms",
    "p90_ms": "p90, ms",
    "ratio": "x teacher p50",
    "load_mb": "model memory, MB",
    "peak_mb": "peak memory, MB",
    "integer_share": "int8 MACs",
    "parity": "parity",
}


def rows(report: Report) -> list[Row]:
    """Rows sorted teacher first, then by format, precision and runtime."""
    by_id = {artifact["id"]: artifact for artifact in report["artifacts"]}
    found = [(m, by_id[m["artifact"]]) for m in report["measurements"] if m["source"] == "measured"]
    found.sort(key=lambda f: (f[1]["model"] != "teacher", f[1]["format"], f[1]["precision"], f[0]["runtime"]))
    return [_row(measurement, artifact) for measurement, artifact in found]


def percent(quality: Quality) -> str:
    """90.1 [88.0, 91.9]."""
    low, high = quality["ci95"]
    return f"{100 * quality['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def counted(number: int | None) -> str:
    """1,234; a black box does not tell."""
    return f"{number:,}" if number is not None else "unknown"


def spread(seeds: Seeds) -> str:
    """90.1 +- 0.5 over 3 seeds."""
    return f"{100 * seeds['mean']:.2f} +- {100 * seeds['std']:.2f} over {seeds['n']} seeds"


def _row(measurement: Measured, artifact: ArtifactDocument) -> Row:
    latency, memory = measurement["latency_ms"], measurement["memory_bytes"]
    versus = artifact.get("versus_teacher_by_runtime", {}).get(measurement["runtime"], artifact["versus_teacher"])
    ratio = measurement.get("ratio_to_teacher")
    by_runtime = {p["runtime"]: p for p in artifact["parity_by_runtime"]}
    own = by_runtime.get(measurement["runtime"], artifact["parity"])
    return Row(
        role=artifact["model"],
        artifact=artifact["id"],
        runtime=f"{measurement['runtime']} {measurement['runtime_version']}",
        quality=percent(artifact["quality_by_runtime"].get(measurement["runtime"], artifact["quality"])),
        versus_teacher=f"{100 * versus['difference']:+.1f}",
        size_kb=f"{artifact['size_bytes'] / 1000:.1f}",
        count=f"{latency['count']:,}",
        p50_ms=f"{latency['p50']:.4f}",
        p90_ms=f"{latency['p90']:.4f}",
        ratio=f"{ratio['p50']:.2f}" if ratio else "",
        peak_mb=f"{memory['peak'] / 1e6:.1f}",
        load_mb=f"{(memory['peak'] - memory['after_import']) / 1e6:.1f}",
        integer_share=f"{100 * artifact['integer_mac_share']:.1f}%",
        parity=own["state"],
        flags="; ".join(measurement["flags"]),
    )
