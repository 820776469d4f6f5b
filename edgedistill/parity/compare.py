"""Does an artifact compute what the torch model does? Pure numpy over both models' outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.parity.departure import finite
from edgedistill.types import Array, Precision, State

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jaxtyping import Float, Int

    from edgedistill.documents.artifacts import ParityDocument
    from edgedistill.recipe.document import ParitySettings
    from edgedistill.recipe.export import Fp16Parity, Int8Parity


@dataclass(frozen=True)
class Parity:
    """Departure of an artifact's outputs from its reference's, over n samples.

    `outputs` holds each output's own, where a model has several; `output` is then the name of the one that speaks.
    `worst_sample` counts from 0; `worst_sample_file` is where it is kept, if it is.
    """

    reference: str
    runtime: str
    n: int
    max_abs: float
    max_relative: float
    psnr_db: float
    cosine: float
    top1_agreement: float
    snr_db: float
    worst_sample: int
    state: State
    reason: str
    outputs: tuple[Parity, ...] = ()
    output: str = ""
    worst_sample_file: str = ""

    def to_json(self) -> ParityDocument:
        """JSON form; what is infinite (PSNR of identical outputs, departure of broken ones) is written as null."""
        document: ParityDocument = {
            "reference": self.reference,
            "runtime": self.runtime,
            "n": self.n,
            "max_abs": finite(self.max_abs),
            "max_relative": finite(self.max_relative),
            "psnr_db": finite(self.psnr_db),
            "cosine": finite(self.cosine),
            "top1_agreement": finite(self.top1_agreement),
            "snr_db": finite(self.snr_db),
            "worst_sample": self.worst_sample,
            "state": self.state.value,
            "reason": self.reason,
            "outputs": [one.to_json() for one in self.outputs],
            "output": self.output,
        }
        if self.worst_sample_file:
            document["worst_sample_file"] = self.worst_sample_file
        return document


def compare(
    reference: Float[Array, "n ..."] | Int[Array, " n"],
    candidate: Float[Array, "n ..."],
    precision: Precision,
    tolerance: ParitySettings,
    *,
    name: str,
    runtime: str,
) -> Parity:
    """Measure the departure and judge it by the tolerance of its precision.

    max_relative is the largest difference over the largest magnitude of the reference; PSNR is
    20 log10(peak / rms error), the peak being the reference's range. Computed in float64. Class numbers (an integer
    reference) are the same or not: all must be in fp32, the least share of the precision else.
    """
    broken = [
        f"{whose} outputs hold NaN or infinity"
        for whose, outputs in (("the artifact's", candidate), ("the reference's", reference))
        if not np.isfinite(outputs).all()
    ]
    if reference.shape != candidate.shape or broken:
        reason = (
            f"outputs of shape {candidate.shape}, the reference has {reference.shape}"
            if reference.shape != candidate.shape
            else "; ".join(broken)
        )
        worst = float("inf")
        row = _first_broken(candidate, reference) if reference.shape == candidate.shape else 0
        return Parity(name, runtime, len(reference), worst, worst, -worst, 0.0, 0.0, -worst, row, State.FAIL, reason)
    exact, given = reference.astype(np.float64), candidate.astype(np.float64)
    difference = np.abs(exact - given)
    max_abs = float(difference.max())
    scale = float(np.abs(exact).max())
    rms = float(np.sqrt(np.mean((exact - given) ** 2)))
    peak = float(exact.max() - exact.min())
    psnr = float(20 * np.log10(peak / rms)) if rms > 0 and peak > 0 else float("inf") if rms == 0 else float("-inf")
    norms = float(np.linalg.norm(exact) * np.linalg.norm(given))
    cosine = float(np.sum(exact * given) / norms) if norms else float(rms == 0)
    power = float(np.sqrt(np.mean(exact**2)))
    snr = float(20 * np.log10(power / rms)) if rms > 0 and power > 0 else float("inf") if rms == 0 else float("-inf")
    classes = exact.ndim == 2 and exact.shape[1] > 1  # only rows of scores choose a class
    agreement = float(np.mean(exact.argmax(axis=1) == given.argmax(axis=1))) if classes else float("nan")
    numbers = reference.ndim == 1 and np.issubdtype(reference.dtype, np.integer)
    agreement = float(np.mean(exact == given)) if numbers else agreement
    relative = max_abs / scale if scale else (0.0 if max_abs == 0 else float("inf"))
    if numbers:
        share = 1.0 if precision is Precision.FP32 else _least(precision, tolerance).min_top1_agreement
        good, reason = agreement >= share, f"the same class in {agreement:.4f} of the samples (at least {share:g})"
    elif precision is Precision.FP32:
        limit = tolerance.fp32.max_relative
        good = relative <= limit
        reason = f"largest relative difference {relative:.2e}, at most {limit:.0e} allowed"
    else:
        least = _least(precision, tolerance)
        good = psnr >= least.min_psnr_db and not agreement < least.min_top1_agreement
        reason = f"PSNR {psnr:.1f} dB (at least {least.min_psnr_db:g})"
        if classes:
            reason += f", top-1 agreement {agreement:.4f} (at least {least.min_top1_agreement:g})"
    return Parity(
        name,
        runtime,
        len(exact),
        max_abs,
        relative,
        psnr,
        cosine,
        agreement,
        snr,
        int(difference.reshape(len(difference), -1).max(axis=1).argmax()),
        State.PASS if good else State.FAIL,
        reason,
    )


def _least(precision: Precision, tolerance: ParitySettings) -> Fp16Parity | Int8Parity:
    return tolerance.fp16 if precision is Precision.FP16 else tolerance.int8


def compare_outputs(
    reference: Mapping[str, Array],
    candidate: Mapping[str, Array],
    precision: Precision,
    tolerance: ParitySettings,
    *,
    name: str,
    runtime: str,
) -> Parity:
    """Compare every output of a model; a failed one, else the farthest by its relative difference, speaks for all.

    Integer outputs (class numbers) must be equal.
    """
    several = []
    for key, expected in reference.items():
        given = candidate.get(key, np.zeros((0,)))
        one = compare(expected, given, precision, tolerance, name=name, runtime=runtime)
        several.append(replace(one, output=key))
    speaks = max(several, key=lambda p: (p.state is State.FAIL, p.max_relative))
    return replace(speaks, outputs=tuple(several)) if len(several) > 1 else speaks


def _first_broken(candidate: Array, reference: Array) -> int:
    """The first sample whose outputs are no numbers, the artifact's before the reference's."""
    rows = [~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1) for outputs in (candidate, reference)]
    return int(next(broken for broken in rows if broken.any()).argmax())


REFERENCE, ARTIFACT = "reference/", "artifact/"
"""Before the names of outputs in a file that keeps a sample."""


def keep_sample(
    path: Path, row: int, inputs: Mapping[str, Array], reference: Mapping[str, Array], candidate: Mapping[str, Array]
) -> None:
    """Write one sample as .npz: its inputs under their names, both models' outputs under `reference/` and `artifact/`.

    The same sample gives the same bytes.
    """
    arrays = {name: np.asarray(values[row : row + 1]) for name, values in inputs.items()}
    for whose, outputs in ((REFERENCE, reference), (ARTIFACT, candidate)):
        arrays |= {whose + name: np.asarray(values[row : row + 1]) for name, values in outputs.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def worst(parities: list[Parity]) -> Parity:
    """The one that counts for an artifact that several runtimes open: a failed one, else the farthest."""
    return max(parities, key=lambda p: (p.state is State.FAIL, p.max_abs))
