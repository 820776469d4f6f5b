"""What the candidates of quantisation came to, and which file to ship for each runtime."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, TypeVar

from edgedistill.measurement.measure import by_round, ratio_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard

    from edgedistill.documents.artifacts import Candidate, ChoiceDocument, MadeCandidate, ProvenFile
    from edgedistill.documents.measurements import Timed, TimedRounds
    from edgedistill.documents.report import Recommendation

File = TypeVar("File", bound="ProvenFile")


def with_choice(artifact: File, choices: Sequence[ChoiceDocument]) -> File:
    """An artifact with its candidates, and notes on a loss beyond the margin, on layers in float and on training."""
    choice = next((c for c in choices if c["artifact"] == artifact["id"]), None)
    if choice is None:
        return artifact
    made = [row for row in choice["candidates"] if _made(row)]
    shipped = next(row for row in made if row["state"] == "shipped")
    notes = [*artifact["notes"], *choice.get("notes", [])]
    if shipped["keep_float"]:
        notes.append(f"{len(shipped['keep_float'])} layers stay in float: {', '.join(shipped['keep_float'])}")
    if not choice["met"]:
        notes.append(
            f"loses {100 * shipped['drop']:.2f} points of quality against fp32, beyond quantize.max_drop "
            f"(n = {shipped['n']} validation samples)"
        )
    notes += [_trained(row, ships=row is shipped) for row in made if row["scheme"] == "qat"]
    if "untrained" in choice:
        notes.append(f"quantisation-aware training is needed and not possible: {choice['untrained']}")
    found = copy(artifact)
    found["candidates"], found["within_margin"], found["notes"] = choice["candidates"], choice["met"], notes
    return found


def _made(row: Candidate) -> TypeGuard[MadeCandidate]:
    return row["quality"] is not None


def _trained(row: MadeCandidate, *, ships: bool) -> str:
    """What quantisation-aware training came to."""
    told = f"quantisation-aware training {'made this file' if ships else 'was tried and is not shipped'}: "
    told += f"{100 * row['quality']:.1f} % against {100 * row['quality_fp32']:.1f} % of fp32"
    calibrated = row.get("quality_calibrated")
    if calibrated is not None:
        gain = 100 * (row["quality"] - calibrated)
        told += f" and {100 * calibrated:.1f} % of the best calibrated file ({gain:+.1f} points)"
    return f"{told}, on n = {row['n']} training samples that it did not learn"


def recommend(
    artifacts: Sequence[ProvenFile], measurements: Sequence[Timed], model: str = "student"
) -> list[Recommendation]:
    """For each runtime and device of a model's files: the one to ship, and why.

    Of the files within the margin of quality the fastest by its median over interleaved rounds, unless it is not
    faster than fp32 in every round: then fp32.
    """
    by_id = {a["id"]: a for a in artifacts if a["model"] == model}
    own = [m for m in measurements if m["artifact"] in by_id and by_round(m)]
    rows: list[Recommendation] = []
    for base in (m for m in own if by_id[m["artifact"]]["precision"] == "fp32"):
        rivals = [m for m in own if m["runtime"] == base["runtime"] and m is not base]
        fits = [m for m in rivals if _good(by_id[m["artifact"]])]
        faster = [m for m in fits if max(ratio_of(m, base)["rounds"]) <= 1]
        chosen = min(faster, key=lambda m: ratio_of(m, base)["p50"], default=base)
        rows.append(
            {
                "runtime": base["runtime"],
                "device": base["device"],
                "artifact": chosen["artifact"],
                "why": _why(chosen, base, rivals, fits),
            }
        )
    return rows


def _good(artifact: ProvenFile) -> bool:
    """Whether a file is within the margin of quality, and computes what it was made of."""
    return artifact["parity"]["state"] == "pass" and artifact.get("within_margin", True)


def _why(chosen: TimedRounds, base: TimedRounds, rivals: list[TimedRounds], fits: list[TimedRounds]) -> str:
    if chosen is not base:
        found = ratio_of(chosen, base)
        return f"{found['p50']:.2f} x the latency of fp32 over {len(found['rounds'])} rounds, quality within the margin"
    if not rivals:
        return "the only precision"
    if not fits:
        return "the quantised file loses more quality than quantize.max_drop, or departs too far from the model"
    return "the quantised file is not faster than fp32 in every round here"
