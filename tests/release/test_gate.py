"""May it ship? Every kind of check in every state, over small synthetic reports."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.recipe.document import Gate
from edgedistill.release.gate import judge, verdict_json
from edgedistill.types import Check, State, Verdict

Json = Any
"""A document of those fields alone that a test needs."""
STUDENT, TEACHER = "student-onnx-fp32", "teacher-onnx-fp32"


def _artifact(model: str, *, size: int = 100, fmt: str = "onnx", precision: str = "fp32") -> Json:
    return {
        "id": f"{model}-{fmt}-{precision}",
        "model": model,
        "format": fmt,
        "precision": precision,
        "size_bytes": size,
        "quality": {"value": 0.95 if model == "teacher" else 0.9},
        "versus_teacher": {"difference": -0.05, "ci95": [-0.07, -0.03], "n": 500},
        "parity": {"state": "pass", "reason": "difference 1e-7", "n": 500, "runtime": "onnxruntime"},
    }


def _measurement(artifact: str, rounds: tuple[float, ...], *, valid: bool = True) -> Json:
    return {
        "artifact": artifact,
        "source": "measured",
        "runtime": "onnxruntime",
        "valid": valid,
        "flags": [] if valid else ["too few queries: 7"],
        "ratio_to_teacher": {"reference": TEACHER, "p50": sorted(rounds)[len(rounds) // 2], "rounds": list(rounds)},
    }


def _report(*, size: int = 100, rounds: tuple[float, ...] = (0.4, 0.5, 0.6)) -> Json:
    return {
        "task": {"metric": "top1"},
        "models": [{"id": "teacher", "role": "teacher", "quality": {"value": 0.95}}, {"id": "student", "role": "x"}],
        "artifacts": [_artifact("teacher", size=400), _artifact("student", size=size)],
        "measurements": [_measurement(TEACHER, (1.0, 1.0, 1.0)), _measurement(STUDENT, rounds)],
    }


def _policy(**parts: Any) -> Gate:
    return Gate.model_validate({"parity": False, **parts})


def _only(report: Json, policy: Gate) -> Check:
    (check,) = judge(report, policy).checks
    return check


@pytest.mark.parametrize(
    ("max_drop", "state"),
    [(0.08, State.PASS), (0.07, State.INCONCLUSIVE), (0.05, State.INCONCLUSIVE), (0.02, State.FAIL)],
)
def test_quality_is_decided_on_the_whole_interval(max_drop: float, state: State) -> None:
    check = _only(_report(), _policy(quality={"max_drop": max_drop}))
    assert (check.id, check.state, check.value) == (f"quality:{STUDENT}", state, 0.9)
    assert check.limit == pytest.approx(0.95 - max_drop)
    for told in ("0.9000", "0.9500", "-0.0500", "[-0.0700, -0.0300]", "n = 500", f"at most {max_drop:g}"):
        assert told in check.reason
    assert ("cannot decide" in check.reason) == (state is State.INCONCLUSIVE)


@pytest.mark.parametrize("lacking", ["teacher", "comparison"])
def test_quality_without_a_teacher_is_invalid(lacking: str) -> None:
    report = _report()
    if lacking == "teacher":
        del report["models"][0]
    else:
        del report["artifacts"][1]["versus_teacher"]
    check = _only(report, _policy(quality={"max_drop": 0.5}))
    assert check.state is State.INVALID
    assert "teacher" in check.reason


@pytest.mark.parametrize(("limit", "state"), [(101, State.PASS), (100, State.PASS), (99, State.FAIL)])
def test_size_passes_up_to_and_at_its_limit(limit: int, state: State) -> None:
    check = _only(_report(), _policy(size={"max_bytes": limit}))
    assert check == Check(f"size:{STUDENT}", state, f"100 bytes, at most {limit} allowed", 100, limit)


@pytest.mark.parametrize(("limit", "state"), [(0.3, State.PASS), (0.25, State.PASS), (0.2, State.FAIL)])
def test_size_ratio_is_taken_to_the_teachers_fp32_artifact(limit: float, state: State) -> None:
    check = _only(_report(), _policy(size={"max_ratio": limit}))
    assert (check.id, check.state, check.value, check.limit) == (f"size-ratio:{STUDENT}", state, 0.25, limit)
    for told in ("100 bytes", "0.250 x", "400", f"{limit:g} x"):
        assert told in check.reason


@pytest.mark.parametrize("change", [{"format": "tflite"}, {"precision": "int8-static"}, {"model": "student"}])
def test_size_ratio_without_the_teachers_fp32_artifact_of_the_format_is_invalid(change: Json) -> None:
    report = _report()
    report["artifacts"][0] |= change
    checks = judge(report, _policy(size={"max_ratio": 9.0})).checks
    if change.get("model") == "student":
        assert [c.state for c in checks] == [State.INVALID, State.INVALID]
    else:
        assert [c.state for c in checks] == [State.INVALID]
    assert "no fp32 onnx artifact of the teacher" in checks[0].reason


@pytest.mark.parametrize(
    ("limit", "state"),
    [(0.7, State.PASS), (0.6, State.PASS), (0.5, State.INCONCLUSIVE), (0.4, State.INCONCLUSIVE), (0.3, State.FAIL)],
)
def test_latency_is_decided_when_every_round_agrees(limit: float, state: State) -> None:
    check = _only(_report(), _policy(latency={"max_ratio": limit}))
    assert (check.id, check.state) == (f"latency:{STUDENT}:onnxruntime", state)
    assert (check.value, check.limit) == (0.5, limit)
    for told in ("0.500 x", "3 rounds", "0.400 to 0.600", f"at most {limit:g}"):
        assert told in check.reason
    assert ("rounds disagree" in check.reason) == (state is State.INCONCLUSIVE)


def test_latency_is_asked_in_every_runtime_that_opens_the_artifact() -> None:
    report = _report()
    for artifact, rounds in ((TEACHER, (1.0, 1.0)), (STUDENT, (2.0, 2.0))):
        report["measurements"].append({**_measurement(artifact, rounds), "runtime": "other"})
    verdict = judge(report, _policy(latency={"max_ratio": 1.0}))
    assert [(c.id.rsplit(":", 1)[1], c.state) for c in verdict.checks] == [
        ("onnxruntime", State.PASS),
        ("other", State.FAIL),
    ]


@pytest.mark.parametrize("source", [None, "simulated"])
def test_latency_that_was_not_measured_is_invalid(source: str | None) -> None:
    report = _report()
    if source is None:
        del report["measurements"][1]
    else:
        report["measurements"][1]["source"] = source
    check = _only(report, _policy(latency={"max_ratio": 9.0}))
    assert (check.id, check.state) == (f"latency:{STUDENT}", State.INVALID)
    assert "no measurement" in check.reason


def test_latency_whose_teacher_was_not_measured_in_the_runtime_is_invalid() -> None:
    report = _report()
    del report["measurements"][1]["ratio_to_teacher"]
    check = _only(report, _policy(latency={"max_ratio": 9.0}))
    assert check.state is State.INVALID
    assert "teacher was not measured in onnxruntime" in check.reason


@pytest.mark.parametrize("whose", [TEACHER, STUDENT])
def test_latency_from_an_invalid_measurement_is_invalid_and_says_why(whose: str) -> None:
    report = _report()
    index = [m["artifact"] for m in report["measurements"]].index(whose)
    report["measurements"][index] |= {"valid": False, "flags": ["too few queries: 7"]}
    check = _only(report, _policy(latency={"max_ratio": 9.0}))
    assert check.state is State.INVALID
    assert "too few queries: 7" in check.reason


@pytest.mark.parametrize("whose", [0, 1])
@pytest.mark.parametrize("state", [State.PASS, State.FAIL])
def test_parity_is_asked_of_the_student_and_of_the_teacher(whose: int, state: State) -> None:
    report = _report()
    report["artifacts"][whose]["parity"] |= {"state": state.value, "reason": "difference 0.5"}
    verdict = judge(report, _policy(parity=True))
    assert [c.id for c in verdict.checks] == [f"parity:{TEACHER}", f"parity:{STUDENT}"]
    assert verdict.state is state
    assert verdict.checks[whose].reason == "difference 0.5 (n = 500, onnxruntime)"


def test_parity_that_was_not_computed_is_invalid() -> None:
    report = _report()
    report["artifacts"][1]["parity"] = None
    verdict = judge(report, _policy(parity=True))
    assert [c.state for c in verdict.checks] == [State.PASS, State.INVALID]
    assert "no parity" in verdict.checks[1].reason


def test_a_report_without_student_artifacts_cannot_pass() -> None:
    report = _report()
    del report["artifacts"][1]
    verdict = judge(report, _policy(parity=True))
    assert verdict.state is State.INVALID
    assert verdict.checks[0].id == "artifacts"
    assert "no artifact of the student" in verdict.checks[0].reason


@pytest.mark.parametrize(
    ("states", "verdict", "code"),
    [
        ("pass", State.PASS, 0),
        ("pass skipped", State.PASS, 0),
        ("pass inconclusive", State.INCONCLUSIVE, 3),
        ("inconclusive invalid pass", State.INVALID, 3),
        ("inconclusive fail invalid pass", State.FAIL, 1),
    ],
)
def test_the_worst_check_is_the_verdict_and_its_exit_code(states: str, verdict: State, code: int) -> None:
    found = Verdict(tuple(Check(word, State(word), "why") for word in states.split()))
    assert (found.state, found.exit_code) == (verdict, code)


def test_the_verdicts_json_names_every_check_with_its_numbers() -> None:
    policy = _policy(quality={"max_drop": 0.05}, size={"max_bytes": 5})
    document = json.loads(json.dumps(verdict_json(judge(_report(), policy), "abc"), allow_nan=False))
    assert set(document) == {"verdict", "policy_sha256", "checks"}
    assert (document["verdict"], document["policy_sha256"]) == ("fail", "abc")
    assert [c["state"] for c in document["checks"]] == ["inconclusive", "fail"]
    assert all(set(c) == {"id", "state", "value", "limit", "reason"} for c in document["checks"])
    assert (document["checks"][1]["value"], document["checks"][1]["limit"]) == (100, 5)


@given(
    limits=st.tuples(st.floats(0, 0.1), st.integers(0, 200), st.floats(0.01, 1), st.floats(0.01, 1)),
    factor=st.floats(0.05, 1),
    tightened=st.integers(0, 3),
    size=st.integers(1, 400),
    rounds=st.lists(st.floats(0.1, 1), min_size=1, max_size=5),
)
def test_tightening_a_limit_never_makes_any_check_better(
    limits: tuple[float, int, float, float], factor: float, tightened: int, size: int, rounds: list[float]
) -> None:
    worse = (State.PASS, State.INCONCLUSIVE, State.FAIL)

    def ranks(numbers: list[float]) -> list[int]:
        policy = _policy(
            quality={"max_drop": numbers[0]},
            size={"max_bytes": int(numbers[1]), "max_ratio": numbers[2]},
            latency={"max_ratio": numbers[3]},
        )
        return [worse.index(c.state) for c in judge(_report(size=size, rounds=tuple(rounds)), policy).checks]

    loose = list(limits)
    tight = [limit * factor if i == tightened else limit for i, limit in enumerate(loose)]
    assert all(after >= before for before, after in zip(ranks(loose), ranks(tight), strict=True))
