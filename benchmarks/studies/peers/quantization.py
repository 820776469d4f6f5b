"""One command: the same fp32 ONNX files through several quantisers; quality, size, latency, CPU time, memory.

    python -m benchmarks.studies.peers.quantization [--only STUDENT ...] [--rounds 9]

Students are trained on real data (benchmarks/studies/zoo/trained.py). All files of one student are measured
interleaved in onnxruntime, one thread; quality is top-1 on the evaluation split.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.peers.quantizers import TOOLS
from benchmarks.studies.zoo.trained import ROOT, STUDENTS, trained
from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.conversion.export import export
from edgedistill.events import QUIET
from edgedistill.measurement.measure import comparable, measure, ratio_of
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.types import Artifact, Normalization, Precision, Signature

if TYPE_CHECKING:
    from benchmarks.studies.zoo.trained import TrainedStudent
    from edgedistill.types import Json

OURS = "edgedistill"
CALIBRATION, VALIDATION = 300, 2000
SLOWER = 1.02
"""How much slower than the best peer at equal or better quality ours may be."""


def main() -> int:
    """Measure and write; 1 when ours is slower than the best peer of at least its quality."""
    arguments = _parser().parse_args()
    rows = []
    for name in arguments.only or STUDENTS:
        rows += compared(trained(name), arguments.rounds)
        sys.stderr.write(page(rows))
    text = page(rows)
    if not arguments.only:
        (arguments.docs / "peers-quantization.md").write_text(text, encoding="utf-8")
    sys.stdout.write(json.dumps({"quantization": rows}, indent=1) + "\n" if arguments.json else text)
    return 1 if any(row["tool"] == OURS and not row["holds"] for row in rows) else 0


def compared(student: TrainedStudent, rounds: int) -> list[Json]:
    """A row for fp32 and for each tool."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made: dict[str, Json] = {"fp32": {"path": str(_prepare(student, folder)), "cpu_s": 0.0, "peak_mb": 0.0}}
        for number, tool in enumerate(TOOLS):
            made[tool] = _made(tool, folder, folder / str(number))
        files = {tool: Path(found["path"]) for tool, found in made.items() if "path" in found}
        latencies = _latencies(files, folder / "test.npz", rounds)
        rows: list[Json] = [
            {
                "student": student.name,
                "tool": tool,
                **made[tool],
                **(
                    {
                        "top1": _top1(files[tool], folder),
                        "n": len(student.test[1]),
                        "size_bytes": files[tool].stat().st_size,
                        "ratios": latencies[tool],
                    }
                    if tool in files
                    else {}
                ),
            }
            for tool in made
        ]
    return _judged(rows)


def _judged(rows: list[Json]) -> list[Json]:
    """Ours against the fastest peer of at least its quality, both ratios over the same rounds."""
    ours = next(row for row in rows if row["tool"] == OURS)
    peers = [r for r in rows if r["tool"] not in (OURS, "fp32") and r.get("top1", -1.0) >= ours["top1"]]
    best = min(peers, key=lambda row: float(np.median(row["ratios"])), default=None)
    ours["best_peer"], ours["ratio_to_best_peer"], ours["holds"] = None, None, True
    if best is not None:
        ratio = float(np.median([own / other for own, other in zip(ours["ratios"], best["ratios"], strict=True)]))
        ours["best_peer"], ours["ratio_to_best_peer"], ours["holds"] = best["tool"], ratio, ratio <= SLOWER
    return rows


def _prepare(student: TrainedStudent, folder: Path) -> Path:
    """The fp32 file, and the samples as .npz."""
    inputs, labels = student.train
    order = np.random.default_rng(0).permutation(len(labels))
    for name, rows in (
        ("calibration", order[:CALIBRATION]),
        ("validation", order[CALIBRATION : CALIBRATION + VALIDATION]),
    ):
        arrays = {key: x[rows] for key, x in inputs.items()}
        np.savez(folder / f"{name}.npz", **(arrays | ({"labels": labels[rows]} if name == "validation" else {})))
    tests: dict[str, Any] = student.test[0]
    np.savez(folder / "test.npz", **tests)
    np.save(folder / "labels.npy", student.test[1])
    example = {key: x[:8] for key, x in inputs.items()}
    document = export(student.module, example, folder / "fp32", to=["onnx"], name="model")
    return folder / "fp32" / str(document["artifacts"][0]["path"])


def _made(tool: str, folder: Path, out: Path) -> Json:
    """The tool's file, made in a process of its own; or its last words."""
    (model,) = (folder / "fp32" / "onnx").glob("*.onnx")
    command = [sys.executable, "-m", "benchmarks.studies.peers.quantizers", tool, str(model)]
    command += [str(folder / "calibration.npz"), str(folder / "validation.npz"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        return {"refused": (done.stderr.strip().splitlines() or ["no word"])[-1][:200]}
    document: Json = json.loads(done.stdout.splitlines()[-1])
    return document


def _artifact(path: Path, tool: str) -> Artifact:
    blank = Signature((), (), Normalization((0.0,), (1.0,)), ())
    return Artifact.of_files(path, model=tool, fmt="onnx", precision=Precision.FP32, signature=blank)


def _latencies(files: dict[str, Path], inputs: Path, rounds: int) -> dict[str, list[float]]:
    """Latency over fp32's of each file in each interleaved round."""
    found = [subjects([_artifact(path, tool)])[0] for tool, path in files.items()]
    settings = Benchmark.model_validate({"preset": "normal", "rounds": rounds})
    reference, *others = map(comparable, measure(found, settings, inputs, QUIET))
    ratios = [ratio_of(one, reference)["rounds"] for one in (reference, *others)]
    return dict(zip(files, ratios, strict=True))


def _top1(path: Path, folder: Path) -> float:
    outputs = compute_all(subjects([_artifact(path, "any")])[0], folder / "test.npz", folder / "outputs.npz")
    labels = np.load(folder / "labels.npy", allow_pickle=False)
    return float(np.mean(next(iter(outputs.values())).argmax(axis=1) == labels))


def page(rows: list[Json]) -> str:
    """docs/peers-quantization.md."""
    lines = [
        "# Quantisers side by side",
        "",
        f"The same fp32 ONNX files, {CALIBRATION} calibration samples, onnxruntime, one thread, batch 1. Latency:",
        "median over interleaved rounds of fresh processes, over that of fp32; CPU and peak memory: of the process",
        "that made the file. edgedistill also chooses, by quality and latency, on validation samples; its time is that",
        "of the choice. Written by `python -m benchmarks.studies.peers.quantization`; measured on one x86 host.",
        "",
        "| student | tool | top-1 | n | bytes | x fp32 latency | rounds | CPU, s | peak, MB | over the best peer |",
        "|---|---|---:|---:|---:|---:|---|---:|---:|---|",
    ]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['student']} | {row['tool']} | failed: {row['refused']} | | | | | | | |")
            continue
        ratios, versus = row["ratios"], ""
        if row["tool"] == OURS:
            told = f"{row['ratio_to_best_peer']:.2f} x {row['best_peer']}" if row["best_peer"] else "no peer as good"
            versus = told if row["holds"] else f"**{told}**"
        cells = (
            row["student"],
            row["tool"],
            f"{100 * row['top1']:.2f}",
            row["n"],
            row["size_bytes"],
            f"{np.median(ratios):.2f}",
            f"{min(ratios):.2f} to {max(ratios):.2f} ({len(ratios)})",
            f"{row['cpu_s']:.0f}",
            f"{row['peak_mb']:.0f}",
            versus,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.peers.quantization", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(STUDENTS), help="this student; may be repeated")
    parser.add_argument("--rounds", type=int, default=9, help="fresh processes of each file (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
