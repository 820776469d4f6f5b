"""May it ship? Pure: (report, policy) -> verdict. Every check says why, in words and in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgedistill.types import Check, State, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgedistill.documents.artifacts import ArtifactDocument
    from edgedistill.documents.report import GateDocument, Report
    from edgedistill.recipe.document import Gate, LatencyGate, PredictedGate, QualityGate, SizeGate


UNVALIDATED = ("no evidence", "spec-only")
"""Standings of a prediction that no timing stands behind."""


def judge(report: Report, policy: Gate) -> Verdict:
    """Hold every student artifact of a report against the policy.

    A report without student artifacts, or with a measurement that its own rules call invalid, cannot pass.
    """
    students = [artifact for artifact in report["artifacts"] if artifact["model"] == "student"]
    checks: list[Check] = []
    if not students:
        checks.append(Check("artifacts", State.INVALID, "the report holds no artifact of the student"))
    for artifact in students:
        if policy.quality is not None:
            checks.append(_quality(artifact, report, policy.quality))
        if policy.size is not None:
            checks += _size(artifact, report, policy.size)
        if policy.latency is not None:
            checks += _latency(artifact, report, policy.latency)
        if policy.predicted is not None:
            checks += _predicted(artifact, report, policy.predicted)
    if policy.parity:
        checks += [_parity(artifact) for artifact in report["artifacts"]]
    return Verdict(tuple(checks))


def verdict_json(verdict: Verdict, policy_sha256: str) -> GateDocument:
    """The report's gate object."""
    return {
        "verdict": verdict.state.value,
        "policy_sha256": policy_sha256,
        "checks": [check.to_json() for check in verdict.checks],
    }


def gate_of(report: Report) -> GateDocument:
    """The gate object of a report that was judged.

    Raises:
        ValueError: it was not.
    """
    if report["gate"] is None:
        raise ValueError("the report was not judged")
    return report["gate"]


def _quality(artifact: ArtifactDocument, report: Report, policy: QualityGate) -> Check:
    """Non-inferiority: the whole 95% interval of the paired difference must lie above -max_drop."""
    name = f"quality:{artifact['id']}"
    teacher = next((m for m in report["models"] if m["role"] == "teacher"), None)
    versus = artifact.get("versus_teacher")
    if teacher is None or versus is None:
        return Check(name, State.INVALID, "the report does not compare this artifact with a teacher")
    limit = teacher["quality"]["value"] - policy.max_drop
    low, high = versus["ci95"]
    state = State.PASS if low > -policy.max_drop else State.FAIL if high < -policy.max_drop else State.INCONCLUSIVE
    value = artifact["quality"]["value"]
    metric = report["task"]["metric"]
    reason = (
        f"{metric} {value:.4f} against the teacher's {teacher['quality']['value']:.4f}: difference "
        f"{versus['difference']:+.4f}, 95% interval [{low:+.4f}, {high:+.4f}], n = {versus['n']}; "
        f"a drop of at most {policy.max_drop:g} is allowed"
    )
    if state is State.INCONCLUSIVE:
        reason += "; the samples cannot decide: evaluate on more, or allow a larger drop"
    return Check(name, state, reason, value, limit)


def _size(artifact: ArtifactDocument, report: Report, policy: SizeGate) -> Iterator[Check]:
    size = artifact["size_bytes"]
    if policy.max_bytes is not None:
        state = State.PASS if size <= policy.max_bytes else State.FAIL
        reason = f"{size} bytes, at most {policy.max_bytes} allowed"
        yield Check(f"size:{artifact['id']}", state, reason, size, policy.max_bytes)
    if policy.max_ratio is not None:
        name = f"size-ratio:{artifact['id']}"
        teacher = _teacher_artifact(artifact, report)
        if teacher is None:
            yield Check(name, State.INVALID, f"no fp32 {artifact['format']} artifact of the teacher to compare with")
            return
        ratio = size / teacher["size_bytes"]
        state = State.PASS if ratio <= policy.max_ratio else State.FAIL
        reason = f"{size} bytes, {ratio:.3f} x the teacher's {teacher['size_bytes']}; at most {policy.max_ratio:g} x"
        yield Check(name, state, reason, ratio, policy.max_ratio)


def _latency(artifact: ArtifactDocument, report: Report, policy: LatencyGate) -> Iterator[Check]:
    """Every round's ratio must be on the same side of the limit."""
    found = [m for m in report["measurements"] if m["artifact"] == artifact["id"] and m["source"] == "measured"]
    if not found:
        yield Check(f"latency:{artifact['id']}", State.INVALID, "the report holds no measurement of this artifact")
    for measurement in found:
        name = f"latency:{artifact['id']}:{measurement['runtime']}"
        ratio = measurement.get("ratio_to_teacher")
        if ratio is None:
            yield Check(name, State.INVALID, f"the teacher was not measured in {measurement['runtime']}")
            continue
        involved = (artifact["id"], ratio["reference"])
        broken = [
            m
            for m in report["measurements"]
            if m["artifact"] in involved and m["runtime"] == measurement["runtime"] and not m["valid"]
        ]
        if broken:
            told = "; ".join(f"{m['artifact']}: {', '.join(m['flags'])}" for m in broken)
            yield Check(name, State.INVALID, f"a measurement is invalid: {told}")
            continue
        low, high = min(ratio["rounds"]), max(ratio["rounds"])
        state = State.PASS if high <= policy.max_ratio else State.FAIL if low > policy.max_ratio else State.INCONCLUSIVE
        reason = (
            f"p50 is {ratio['p50']:.3f} x the teacher's in {measurement['runtime']} "
            f"({len(ratio['rounds'])} rounds, {low:.3f} to {high:.3f}); at most {policy.max_ratio:g} x"
        )
        if state is State.INCONCLUSIVE:
            reason += "; the rounds disagree: measure on a quieter machine, or raise benchmark.rounds"
        yield Check(name, state, reason, ratio["p50"], policy.max_ratio)


def _predicted(artifact: ArtifactDocument, report: Report, policy: PredictedGate) -> Iterator[Check]:
    """The upper end of the interval counts. What nobody validated decides nothing."""
    found = [m for m in report["measurements"] if m["artifact"] == artifact["id"] and m["source"] == "predicted"]
    if not found:
        told = "; ".join(r["reason"] for r in report.get("refused", []) if r["artifact"] == artifact["id"])
        yield Check(
            f"predicted:{artifact['id']}", State.INVALID, f"no prediction of this artifact: {told or 'none made'}"
        )
    for one in found:
        (low, high), p50 = one["interval80_ms"], one["latency_ms"]["p50"]
        state = State.PASS if high <= policy.max_ms else State.FAIL if low > policy.max_ms else State.INCONCLUSIVE
        reason = (
            f"predicted {p50:.4g} ms in {one['runtime']} on {one['device']}, 80% interval {low:.4g} to {high:.4g} "
            f"({one['calibration']}); its upper end may be at most {policy.max_ms:g}"
        )
        if one["calibration"] in UNVALIDATED:
            state, reason = State.INVALID, f"UNVALIDATED: {reason}"
        yield Check(f"predicted:{artifact['id']}:{one['device']}", state, reason, high, policy.max_ms)


def _parity(artifact: ArtifactDocument) -> Check:
    parity = artifact.get("parity")
    if parity is None:
        return Check(f"parity:{artifact['id']}", State.INVALID, "the report holds no parity of this artifact")
    reason = f"{parity['reason']} (n = {parity['n']}, {parity['runtime']})"
    return Check(f"parity:{artifact['id']}", State(parity["state"]), reason)


def _teacher_artifact(artifact: ArtifactDocument, report: Report) -> ArtifactDocument | None:
    return next(
        (
            a
            for a in report["artifacts"]
            if a["model"] == "teacher" and a["format"] == artifact["format"] and a["precision"] == "fp32"
        ),
        None,
    )
