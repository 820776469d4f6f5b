"""How far predictions are from published timings: the table of docs/prediction.md.

    python -m benchmarks.studies.accuracy.prediction            print the table, and write it into docs/prediction.md
    python -m benchmarks.studies.accuracy.prediction --remake   write the profiles and fitted files anew, then the table

It takes about 20 seconds on one core (half a minute with --remake) and needs nothing but the product: no emulator, no
network.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.plugins import find_plugin

if TYPE_CHECKING:
    from edgedistill.types import Json

PAGE = Path("docs/prediction.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
RASPBERRIES = ("raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4b", "raspberry-pi-5")


def main() -> int:
    """Make the table; exit code 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--remake", action="store_true", help="write profiles and fitted files anew first")
    parser.add_argument("--json", action="store_true", help="print the figures instead")
    arguments = parser.parse_args()
    simulated = find_plugin("devices", "simulated")
    if arguments.remake:
        simulated.remake()
    found = simulated.validation()
    text = "\n".join([*bounds_table(found), "", *boards_table(found), "", *other_tables(found)])
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if arguments.json else text + "\n")
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0 if all(held for *_, held in bounds(found)) else 1


def bounds(found: Json) -> list[tuple[str, str, str, bool]]:
    """What was asked, the figure, the bound, and whether it holds."""
    total, boards = found["summary"], {row["device"]: row for row in found["boards"]}
    most = [
        ("counts, one thread, median board", total["counts"]["mdape"], 0.08),
        *((f"counts, one thread, {name}", boards[name]["counts"]["mdape"], 0.07) for name in RASPBERRIES),
        ("counts, four threads, median board", total["counts_4_threads"]["mdape"], 0.11),
        ("operator classes, one thread, median board", total["graph"]["mdape"], 0.14),
        ("operator classes with a host measurement", total["graph_with_host"], 0.11),
        ("counts, three anchors on a board left out", total["few_shot"], 0.13),
        ("Pixel 3 TFLite, MobileNetV1 of another width, float", found["pixel_3"]["float"], 0.05),
        ("Pixel 3 TFLite, MobileNetV1 of another width, int8", found["pixel_3"]["int8"], 0.10),
        *((f"peak memory in {name} on x86-64", one["mdape"], 0.10) for name, one in found["memory"].items()),
    ]
    rows = [(name, f"{value:.1%}", f"at most {limit:.0%}", value <= limit) for name, value, limit in most]
    for name in ("counts", "graph", "counts_4_threads"):
        share = total[name]["coverage"]
        rows.append((f"80% intervals hold the truth: {name}", f"{share:.1%}", "75% to 85%", 0.75 <= share <= 0.85))
    rank = total["counts"]["rank"]
    rows.append(("rank correlation, counts, median board", f"{rank:.3f}", "at least 0.97", rank >= 0.97))
    return rows


def bounds_table(found: Json) -> list[str]:
    """The first table."""
    head = ["| Held out | Median error | Bound | |", "|---|---|---|---|"]
    return head + [
        f"| {name} | {value} | {limit} | {'holds' if held else '**missed**'} |"
        for name, value, limit, held in bounds(found)
    ]


def boards_table(found: Json) -> list[str]:
    """Every ARM board with one-thread rows."""
    heads = (
        "Board",
        "Networks",
        "Counts: median error, within 10% / 20%",
        "Rank",
        "In the 80% interval",
        "4 threads",
        "3 anchors",
        "Operator classes",
        "with host: median error, in the 80% interval",
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in found["boards"]:
        one, four = row["counts"], row["counts_4_threads"]
        cells = (
            row["device"],
            row["networks"],
            f"{one['mdape']:.1%}, {one['within10']:.0%} / {one['within20']:.0%}",
            f"{one['rank']:.3f}",
            f"{one['coverage']:.0%}",
            f"{four:.1%}" if four is not None else "-",
            f"{row['few_shot']:.1%}",
            f"{row['graph']['mdape']:.1%}",
            f"{row['graph_with_host']:.1%}, {row['coverage_with_host']:.0%}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    alone = ", ".join(f"{name} {value:.1%}" for name, value in found["four_threads_alone"].items())
    worse = sum(row["graph_with_host"] > row["graph"]["mdape"] for row in found["boards"])
    host = (
        f"With a host measurement the intervals, whose width stays, hold {found['summary']['coverage_with_host']:.1%} "
        f"of the networks; {worse} of the {len(found['boards'])} boards get worse by it."
    )
    return [*lines, "", f"Boards with four-thread rows alone (counts): {alone}.", "", host]


def other_tables(found: Json) -> list[str]:
    """Transfer to other runtimes, and int8."""
    lines = [
        "| Transfer | Network | Runtime | By | Published, ms | Predicted, ms | Error |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["transfer"]["rows"]:
        error = row["predicted_ms"] / row["published_ms"] - 1
        lines.append(
            f"| {row['device']} | {row['network']} | {row['runtime']} | {row['predictor']} | {row['published_ms']:g} "
            f"| {row['predicted_ms']:.0f} | {error:+.0%} |"
        )
    lines += ["", "| int8 in ncnn, one thread | Counts (4 networks) | Operator classes (5 or 6) |", "|---|---|---|"]
    for name, kinds in found["int8"].items():
        told = [f"{kinds[kind]:.1%}" if kind in kinds else "-" for kind in ("counts", "graph")]
        lines.append(f"| {name} | {told[0]} | {told[1]} |")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
