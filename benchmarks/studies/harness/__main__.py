"""Two studies of the harness itself; each goes on where it was broken off, and writes docs/honesty.md.

python -m benchmarks.studies.harness harness   our p50 beside a bare loop's and benchmark_app's, interleaved in one run
python -m benchmarks.studies.harness alarms    false alarms of a file against itself, and calls of a tenth more work
python -m benchmarks.studies.harness page      the page alone, from what was measured
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies.harness.alarms import ROUNDS, alarms, busy
from benchmarks.studies.harness.harness import harness
from benchmarks.studies.harness.kept import Kept
from benchmarks.studies.harness.models import SIZES, artifact
from benchmarks.studies.harness.page import page
from edgedistill.plugins import installed, load_exporter

if TYPE_CHECKING:
    from edgedistill.types import Artifact

FORMATS = ("onnx", "tflite", "openvino")


def main() -> int:
    """Run one of the studies, or go on with it."""
    options = _parser().parse_args()
    if options.study == "harness":
        settings = {"seconds": options.seconds, "models": options.model or [*SIZES]}
        kept = Kept(options.folder / "harness.jsonl", settings)
        harness(kept, _by_runtime(options), options.rounds, options.seconds)
    elif options.study == "alarms":
        settings = {"host": "a quiet host" if options.quiet else "a host with a busy loop on one core"}
        kept = Kept(options.folder / "alarms.jsonl", {**settings, "rounds": options.comparison_rounds})
        files = _candidates(options.folder)
        with nullcontext() if options.quiet else busy():
            wanted = {"itself": options.same, "more": options.slower}
            alarms(kept, files, wanted, options.comparison_rounds)
    text = page(options.folder)
    options.docs.mkdir(parents=True, exist_ok=True)
    (options.docs / "honesty.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 1 if "**no**" in text else 0


def _by_runtime(options: argparse.Namespace) -> dict[tuple[str, str], Artifact]:
    """The models in every format, for each runtime that is installed."""
    found = {}
    for size in options.model or SIZES:
        for fmt in options.to or FORMATS:
            file = artifact(fmt, "stack", *SIZES[size], options.folder / "models" / size.replace(" ", ""))
            for runtime, (module, _) in load_exporter(fmt).RUNTIMES.items():
                if installed(module):
                    found[size, runtime] = file
    return found


def _candidates(folder: Path) -> dict[str, Artifact]:
    """A file, its copy, and one of the same kind with a tenth more layers."""
    channels, side, layers = SIZES["1 ms"]
    made = folder / "models"
    return {
        "reference": artifact("onnx", "reference", channels, side, layers, made),
        "itself": artifact("onnx", "copy", channels, side, layers, made),
        "more": artifact("onnx", "more", channels, side, round(1.1 * layers), made),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.harness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=["harness", "alarms", "page"])
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/honesty"), help="rows and models (default %(default)s)"
    )
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[3] / "docs", help="folder for honesty.md")
    parser.add_argument("--rounds", type=int, default=9, help="harness: rounds (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="harness: of a measurement (default %(default)s)")
    parser.add_argument("--model", action="append", choices=[*SIZES], help="harness: this model; may be repeated")
    parser.add_argument("--to", action="append", choices=FORMATS, help="harness: this format; may be repeated")
    parser.add_argument("--same", type=int, default=200, help="alarms: comparisons of a file with itself")
    parser.add_argument("--slower", type=int, default=20, help="alarms: comparisons with a tenth more work")
    parser.add_argument(
        "--comparison-rounds", type=int, default=ROUNDS, help="alarms: of a comparison (default %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="alarms: without the busy loop on one core")
    return parser


if __name__ == "__main__":
    sys.exit(main())
