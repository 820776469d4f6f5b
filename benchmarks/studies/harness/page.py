"""The studies as a page of the documentation: every figure with its n and its host, every promise with its verdict."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.studies.harness.kept import read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedistill.types import Json

NEAR = 0.03
"""How far our p50 may be from another's."""
FALSE_ALARMS = 2
"""Most calls of 200 comparisons of a file with itself."""
HITS = 19
"""Least good answers of 20 comparisons with a tenth more work: `slower`, or undecided with the rounds it would take."""


def page(folder: Path) -> str:
    """Markdown, from the rows that lie in a folder; a study that was not run says so."""
    parts = [
        "# Is the harness honest?\n",
        "Everything here was measured and written by `python -m benchmarks.studies.harness`.\n",
    ]
    harness, alarms = read(folder / "harness.jsonl"), read(folder / "alarms.jsonl")
    parts.append("## Against a bare loop\n\n" + (_harness(harness) if harness[1:] else "Not measured yet.\n"))
    parts.append("## False alarms and hits\n\n" + (_alarms(alarms) if alarms[1:] else "Not measured yet.\n"))
    return "\n".join(parts)


def _harness(found: Sequence[Json]) -> str:
    head, rows = found[0], found[1:]
    each: dict[tuple[str, str], list[Json]] = {(row["model"], row["runtime"]): [] for row in rows}
    for row in rows:
        each[row["model"], row["runtime"]].append(row)
    table = [_row(*key, "a bare loop", own, ("ours_ms", "bare_ms", "ratio")) for key, own in each.items()]
    table += [
        _row(*key, "benchmark_app", own, ("ours_beside_app_ms", "benchmark_app_ms", "ratio_to_benchmark_app"))
        for key, own in each.items()
        if "benchmark_app_ms" in own[0]
    ]
    return f"""The median of the agent's latencies over that of another loop around the same file, in the same runtime,
with one thread, in processes of {head["settings"]["seconds"]:g} s. A round runs the other, ours, ours, the other; all
models and runtimes meet in every round. benchmark_app tells OpenVINO's own time of an inference, without the call from
Python; beside it ours is by the same clock.

| model | runtime | beside | rounds | ours, ms | theirs, ms | ratio | quartiles | range | within {100 * NEAR:g}% |
|---|---|---|---:|---:|---:|---:|---|---|---|
{chr(10).join(table)}

{_where(found)}"""


def _row(model: str, runtime: str, other: str, rows: Sequence[Json], keys: tuple[str, str, str]) -> str:
    ours, theirs, key = keys
    ratios = sorted(row[key] for row in rows)
    middle = median(ratios)
    low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
    holds = "yes" if abs(middle - 1) <= NEAR else "**no**"
    return (
        f"| {model} | {runtime} | {other} | {len(rows)} | {median(row[ours] for row in rows):.4f} "
        f"| {median(row[theirs] for row in rows):.4f} | **{middle:.3f}** | {low:.3f} to {high:.3f} "
        f"| {ratios[0]:.3f} to {ratios[-1]:.3f} | {holds} |"
    )


def _alarms(found: Sequence[Json]) -> str:
    head, rows = found[0], found[1:]
    itself = [row for row in rows if row["kind"] == "itself"]
    more = [row for row in rows if row["kind"] == "more"]
    lines = [_counts("with itself", itself), _counts("with a tenth more work", more)]
    calls = sum(row["answer"] in ("slower", "faster") for row in itself)
    good = [
        row for row in more if row["answer"] == "slower" or (row["answer"] == "inconclusive" and row["needed_rounds"])
    ]
    promises = []
    if itself:
        allowed = FALSE_ALARMS * len(itself) / 200
        promises.append(
            f"| false alarms: at most {FALSE_ALARMS} of 200 | {calls} of {len(itself)} | {_verdict(calls <= allowed)} |"
        )
    if more:
        enough = HITS * len(more) / 20
        promises.append(
            f"| a tenth more work: called slower, or undecided with the rounds it takes, at least {HITS} of 20 "
            f"| {len(good)} of {len(more)} | {_verdict(len(good) >= enough)} |"
        )
    asked = sorted(row["needed_rounds"] for row in more if row["answer"] == "inconclusive")
    told = f" The undecided asked for {asked[0]} to {asked[-1]} rounds (median {median(asked):g})." if asked else ""
    ratio = f" Median ratio of a tenth more work: {median(row['p50'] for row in more):.3f}." if more else ""
    seconds = median(row["seconds"] for row in rows)
    return f"""`edgedistill benchmark FILE --against FILE` at its default settings, on {head["settings"]["host"]}:
{head["settings"]["rounds"]} rounds a comparison, {seconds:.0f} s each in the median.

| comparison | n | same | inconclusive | slower | faster |
|---|---:|---:|---:|---:|---:|
{chr(10).join(lines)}

| promise | measured | holds |
|---|---|---|
{chr(10).join(promises)}

{(told + ratio).strip()}

{_where(found)}"""


def _counts(title: str, rows: Sequence[Json]) -> str:
    counts = Counter(row["answer"] for row in rows)
    told = " | ".join(str(counts[answer]) for answer in ("same", "inconclusive", "slower", "faster"))
    return f"| {title} | {len(rows)} | {told} |"


def _verdict(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _where(found: Sequence[Json]) -> str:
    host, loads = found[0]["host"], [row["load_average"] for row in found[1:]]
    tools = ", ".join(f"{name} {number}" for name, number in host["tools"].items() if number)
    return (
        f"Host: {host['cpu']}, {host['cores']} cores, {host['system']}, Python {host['python']}; {tools}. "
        f"Load average {min(loads):.1f} to {max(loads):.1f}.\n"
    )
