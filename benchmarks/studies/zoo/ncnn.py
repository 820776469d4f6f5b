"""The table of docs/ncnn.md: what every student of the zoo loses in ncnn's precisions, and how small its files are."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.studies.zoo.models import ZOO, built
from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.errors import EdgeDistillError
from edgedistill.models.reference import of_module
from edgedistill.models.signature import parameters_of
from edgedistill.plugins import load_exporter
from edgedistill.types import Array, Precision


def main() -> int:
    """Print the rows, each as soon as it is there; students by name, or all."""
    exporter = load_exporter("ncnn")
    columns = [(p, s) for p in exporter.PRECISIONS if p is not Precision.FP32 for s in exporter.schemes(p)[:3]]
    names = [scheme.name if precision is Precision.INT8_STATIC else precision.short for precision, scheme in columns]
    sys.stdout.write(f"| student | {' | '.join(names)} | int8 MACs |\n|---|{'---|' * len(columns)}---|\n")
    for name in sys.argv[1:] or ZOO:
        with tempfile.TemporaryDirectory() as folder:
            sys.stdout.write(f"| {name} | {_row(name, Path(folder))} |\n")
            sys.stdout.flush()
    return 0


def _row(name: str, folder: Path) -> str:
    """For each way of rounding the SNR in dB of the worst output, and the size over that of fp32."""
    exporter = load_exporter("ncnn")
    module, samples = built(ZOO[name])
    given = {key: x.numpy() for key, x in zip(parameters_of(module, len(samples)), samples, strict=True)}
    source = of_module(module, given, name)
    base = exporter.export(source.model, name, source.signature, folder, given)
    np.savez(folder / "in.npz", **given)
    cells, share = [], "-"
    for precision in exporter.PRECISIONS[1:]:
        for scheme in exporter.schemes(precision)[:3]:
            try:
                made = exporter.quantize(base, precision, given, folder, scheme)
            except EdgeDistillError:
                cells.append("-")
                continue
            found = compute_all(subjects([made])[0], folder / "in.npz", folder / "out.npz")
            worst = min(_signal_db(exact, found[key]) for key, exact in source.expected.items())
            cells.append(f"{worst:.0f} dB, {made.size_bytes / base.size_bytes:.2f}")
            macs = exporter.count_macs(made)
            share = f"{macs.integer_share:.0%}" if precision is Precision.INT8_STATIC and macs.total else share
    return " | ".join([*cells, share])


def _signal_db(exact: Array, found: Array) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(exact**2)) / np.sqrt(np.mean((exact - found) ** 2))))


if __name__ == "__main__":
    sys.exit(main())
