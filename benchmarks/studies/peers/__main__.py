"""One command: make the peers' environment, measure all subjects in turn, write docs/peers.md and docs/peers.svg."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.studies.peers import environment, measure, report
from benchmarks.studies.peers.figures import complaints, figures
from benchmarks.studies.peers.subjects import SUBJECTS


def main() -> int:
    """Measure and write; 1 when a promise does not hold or a subject trained another student."""
    arguments = _parser().parse_args()
    setting = measure.Setting(arguments.rounds, arguments.steps, arguments.batch)
    python = environment.interpreter()
    before = os.getloadavg()[0]
    samples = []
    for number, key in measure.schedule([s.key for s in SUBJECTS], setting.rounds):
        samples.append(measure.in_fresh_process(python, key, number, setting))
        sys.stderr.write(f"round {number + 1} of {setting.rounds}: {key} {samples[-1].cpu_ms:.1f} ms\n")
    found = figures(samples)
    command = " ".join(["python -m benchmarks.studies.peers", *sys.argv[1:]])
    text = report.page(found, setting, command, (before, os.getloadavg()[0]))
    arguments.docs.mkdir(parents=True, exist_ok=True)
    (arguments.docs / "peers.md").write_text(text, encoding="utf-8")
    (arguments.docs / "peers.svg").write_text(report.chart(found), encoding="utf-8")
    wrong = complaints(found)
    sys.stdout.write(text)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that every subject runs (default %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="training steps per run (default %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples per step (default %(default)s)")
    parser.add_argument("--docs", type=Path, default=environment.ROOT / "docs", help="folder for table and chart")
    return parser


if __name__ == "__main__":
    sys.exit(main())
