"""One command: trained students to int8 in every format; what is lost, how large the files are, what stays in float.

    python -m benchmarks.studies.accuracy.int8 [--only STUDENT ...] [--to FORMAT ...]

Candidates are made and chosen with training samples; the loss is that of the shipped file on the evaluation split.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies.zoo.trained import STUDENTS, trained
from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.conversion.export import export
from edgedistill.errors import EdgeDistillError
from edgedistill.statistics.intervals import paired_difference
from edgedistill.types import Artifact

if TYPE_CHECKING:
    from benchmarks.studies.zoo.trained import Split, TrainedStudent
    from edgedistill.types import Array, Json

FORMATS = ("onnx", "tflite", "openvino", "ncnn")
CALIBRATION = 300
VALIDATION = 2000


def main() -> int:
    """Export, evaluate, write; 1 when an int8 file loses more than a point and no layer stayed in float."""
    arguments = _parser().parse_args()
    rows = []
    for name in arguments.only or STUDENTS:
        student = trained(name)
        for fmt in arguments.to or FORMATS:
            rows += outcome(student, fmt)
            sys.stderr.write(f"{rows[-1]}\n")
    text = page(rows)
    if not arguments.only and not arguments.to:
        (arguments.docs / "int8.md").write_text(text, encoding="utf-8")
    sys.stdout.write(json.dumps({"int8": rows}, indent=1) + "\n" if arguments.json else text)
    return 0


def outcome(student: TrainedStudent, fmt: str) -> list[Json]:
    """A row for each runtime of the shipped file; one of the refusal where there is none."""
    (inputs, labels), _ = student.train, student.test
    order = np.random.default_rng(0).permutation(len(labels))
    ranges, judging = order[:CALIBRATION], order[CALIBRATION : CALIBRATION + VALIDATION]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        try:
            document = export(
                student.module,
                {name: x[ranges[:32]] for name, x in inputs.items()},
                out,
                to=[fmt],
                precisions=["int8"],
                name=student.name,
                calibration={name: x[ranges] for name, x in inputs.items()},
                validation={**{name: x[judging] for name, x in inputs.items()}, "labels": labels[judging]},
            )
        except EdgeDistillError as error:
            return [{"student": student.name, "format": fmt, "refused": error.message}]
        base, small = (Artifact.from_json(found, out) for found in document["artifacts"])
        shipped = next(row for row in document["artifacts"][1].get("candidates", []) if row["state"] == "shipped")
        said = {row["runtime"]: row["artifact"] for row in document.get("recommendations", [])}
        skipped = document["artifacts"][1]["not_for"]
        return [
            {
                "student": student.name,
                "parameters": sum(p.numel() for p in student.module.parameters()),
                "format": fmt,
                "runtime": subject.runtime,
                **_evaluated(base, small, subject.runtime, student.test, Path(scratch)),
                "size_ratio": small.size_bytes / base.size_bytes,
                "scheme": shipped["scheme"],
                "keep_float": shipped["keep_float"],
                "recommended": said[subject.runtime].rsplit("-", 1)[1],
            }
            for subject in subjects([small])
            if subject.runtime not in skipped
        ]


def _evaluated(base: Artifact, small: Artifact, runtime: str, test: Split, scratch: Path) -> Json:
    """Top-1 of both files on the evaluation split, and the paired difference."""
    inputs, labels = test
    np.savez(scratch / "test.npz", **{name: np.asarray(x) for name, x in inputs.items()})
    right = [_right(artifact, runtime, labels, scratch) for artifact in (base, small)]
    versus = paired_difference(right[1], right[0])
    return {
        "fp32": float(right[0].mean()),
        "int8": float(right[1].mean()),
        "difference": versus.value,
        "ci95": [versus.low, versus.high],
        "n": versus.n,
    }


def _right(artifact: Artifact, runtime: str, labels: Array, scratch: Path) -> Array:
    subject = next(s for s in subjects([artifact]) if s.runtime == runtime)
    outputs = compute_all(subject, scratch / "test.npz", scratch / "outputs.npz")
    right: Array = next(iter(outputs.values())).argmax(axis=1) == labels
    return right


def page(rows: list[Json]) -> str:
    """docs/studies/int8.md."""
    lines = [
        "# int8 on trained students",
        "",
        f"Post-training int8 by `edgedistill.export`, calibrated on {CALIBRATION} training samples, chosen on at most",
        f"{VALIDATION} others; the difference is that of the shipped file against fp32 in the same runtime on the",
        "evaluation split, paired, with Newcombe's 95% interval.",
        "Written by `python -m benchmarks.studies.accuracy.int8`.",
        "",
        "| student | weights | runtime | fp32, top-1 | int8, points | 95% | n | size | scheme | in float | to ship |",
        "|---|---:|---|---:|---:|---|---:|---:|---|---|---|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['student']} | | {row['format']} | refused: {row['refused']} | | | | | | | |")
            continue
        low, high = (100 * end for end in row["ci95"])
        cells = (
            row["student"],
            row["parameters"],
            row["runtime"],
            f"{100 * row['fp32']:.2f}",
            f"{100 * row['difference']:+.2f}",
            f"{low:+.2f} to {high:+.2f}",
            row["n"],
            f"{row['size_ratio']:.2f} x",
            row["scheme"],
            f"{len(row['keep_float'])} layers" if row["keep_float"] else "none",
            row["recommended"],
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.accuracy.int8", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(STUDENTS), help="this student; may be repeated")
    parser.add_argument("--to", action="append", choices=FORMATS, help="this format; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[3] / "docs" / "studies")
    return parser


if __name__ == "__main__":
    sys.exit(main())
