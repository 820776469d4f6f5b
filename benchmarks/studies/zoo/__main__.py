"""One command: every student of the zoo to every format, proved in every runtime; writes docs/zoo.md."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.studies.zoo.models import ZOO, built
from benchmarks.studies.zoo.table import page
from edgedistill.conversion.export import export
from edgedistill.errors import EdgeDistillError

if TYPE_CHECKING:
    from edgedistill.types import Json

FORMATS = ("onnx", "tflite", "openvino", "ncnn")


def main() -> int:
    """Export, prove, tell; 1 when a file that was written does not agree with torch."""
    arguments = _parser().parse_args()
    rows = []
    for name in arguments.only or ZOO:
        for fmt in arguments.to or FORMATS:
            rows += outcome(name, fmt)
            sys.stderr.write(f"{name} {fmt}: {rows[-1]['state']} {rows[-1]['told'][:200]}\n")
    text = page(rows, version("edgedistill"))
    if not arguments.only and not arguments.to:
        arguments.docs.mkdir(parents=True, exist_ok=True)
        (arguments.docs / "zoo.md").write_text(text, encoding="utf-8")
    sys.stdout.write(json.dumps({"zoo": rows}, indent=1) + "\n" if arguments.json else text)
    return 1 if any(row["state"] == "fail" for row in rows) else 0


def outcome(name: str, fmt: str) -> list[Json]:
    """A row for each runtime of the file, or one row of the refusal."""
    module, samples = built(ZOO[name])
    example: Any = samples if len(samples) > 1 else next(iter(samples))
    with tempfile.TemporaryDirectory() as folder:
        try:
            document = export(module, example, Path(folder) / "out", to=[fmt], name=name)
        except EdgeDistillError as error:
            told = f"{error.message} (operator, module: {error.where}); way out: {error.fix}"
            return [
                {
                    "student": name,
                    "format": fmt,
                    "runtime": "-",
                    "state": "refused",
                    "relative": None,
                    "size_bytes": None,
                    "told": told,
                }
            ]
        artifact = document["artifacts"][0]
    parities = artifact.get("parity_by_runtime") or [artifact["parity"]]
    return [
        {
            "student": name,
            "format": fmt,
            "runtime": p["runtime"],
            "state": p["state"],
            "relative": p["max_relative"],
            "size_bytes": artifact["size_bytes"],
            "told": p["reason"],
        }
        for p in parities
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.zoo", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(ZOO), help="this student; may be repeated")
    parser.add_argument("--to", action="append", choices=FORMATS, help="this format; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[3] / "docs", help="folder for zoo.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
