"""The report as people read it: the table, the page and the terminal."""

from __future__ import annotations

import copy
import io
import itertools
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from edgedistill.conversion.recommendation import recommend, with_choice
from edgedistill.recipe.document import Gate
from edgedistill.release.gate import judge, verdict_json
from edgedistill.report.build import build, environment
from edgedistill.report.html import render
from edgedistill.report.plots import quality_against_latency
from edgedistill.report.rows import HEADINGS, rows
from edgedistill.report.terminal import show, show_measurements
from edgedistill.types import DeviceInfo

Json = Any
"""A document of those fields alone that a test needs."""
HOSTILE = "<script>alert('x')</script> & \"[/bold]\""


def _quality(value: float) -> Json:
    return {"metric": "top1", "value": value, "n": 500, "ci95": [value - 0.02, value + 0.01], "method": "Wilson"}


def _artifact(model: str, precision: str = "fp32", *, fmt: str = "onnx", size: int = 4000) -> Json:
    runtime = {"onnx": "onnxruntime", "tflite": "litert"}[fmt]
    quality = _quality(0.98 if model == "teacher" else 0.9)
    parity = {"state": "pass", "reason": "difference 1e-7", "n": 500, "runtime": runtime}
    return {
        "id": f"{model}-{fmt}-{precision.removesuffix('-static')}",
        "model": model,
        "format": fmt,
        "precision": precision,
        "path": f"stages/{model}.{fmt}",
        "sha256": "0" * 64,
        "size_bytes": size,
        "integer_mac_share": 0.0 if precision == "fp32" else 0.75,
        "quality": quality,
        "quality_by_runtime": {runtime: quality},
        "versus_teacher": {"difference": quality["value"] - 0.98, "ci95": [-0.1, 0.0], "n": 500},
        "parity": parity,
        "parity_by_runtime": [parity],
        "notes": [],
    }


def _measurement(artifact: Json, medians: tuple[float, ...], *, runtime: str = "") -> Json:
    p50 = sorted(medians)[len(medians) // 2]
    return {
        "artifact": artifact["id"],
        "batch": 1,
        "device": "cpu",
        "source": "measured",
        "runtime": runtime or artifact["parity"]["runtime"],
        "runtime_version": "1.2.3",
        "threads": 1,
        "rounds": len(medians),
        "latency_ms": {"p50": p50, "p90": 1.25 * p50, "count": 321},
        "round_p50_ms": list(medians),
        "load_cold_ms": 4.5,
        "memory_bytes": {"baseline": 1e7, "after_import": 2e7, "after_load": 25e6, "peak": 3e7},
        "valid": True,
        "flags": [],
    }


TEACHER, FP32, INT8 = _artifact("teacher", size=40_000), _artifact("student"), _artifact("student", "int8-static")
INT8["size_bytes"] = 5000
MEASURED = [
    _measurement(INT8, (0.31, 0.3, 0.36)),
    _measurement(FP32, (0.2, 0.25, 0.3)),
    _measurement(TEACHER, (1.0, 1.0, 1.0)),
]


def _build(artifacts: list[Json], measurements: list[Json]) -> Json:
    models: Json = [
        {"id": role, "role": role, "parameters": count, "macs": 10 * count, "quality": _quality(value)}
        for role, count, value in (("teacher", 123_456, 0.98), ("student", 1234, 0.9))
    ]
    return build(
        name="synthetic",
        seed=3,
        environment=environment(DeviceInfo("cpu", "A CPU", "x86_64", 2, 8_000_000_000)),
        models=models,
        artifacts=copy.deepcopy(artifacts),
        measurements=copy.deepcopy(measurements),
        choices=[],
        eval_samples=500,
    )


@pytest.fixture
def report() -> Json:
    made = _build([TEACHER, FP32, INT8], MEASURED)
    policy = Gate.model_validate({"size": {"max_bytes": 4500}, "parity": True})
    made["gate"] = verdict_json(judge(made, policy), "p" * 64)
    return made


def _page(report: Json) -> str:
    return render(report, quality_against_latency(report))


def _shown(report: Json) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=300, color_system=None))
    return stream.getvalue()


class _Page(HTMLParser):
    """Tags with their attributes, and the text of each table row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_rows_begin_with_the_teacher_and_hold_the_reports_numbers(report: Json) -> None:
    found = rows(report)
    assert [row.role for row in found] == ["teacher", "student", "student"]
    row = next(row for row in found if row.artifact == "student-onnx-int8")
    assert (row.runtime, row.parity) == ("onnxruntime 1.2.3", "pass")
    assert (row.quality, row.versus_teacher) == ("90.0 [88.0, 91.0]", "-8.0")
    assert (row.size_kb, row.p50_ms, row.p90_ms, row.ratio) == ("5.0", "0.3100", "0.3875", "0.31")
    assert (row.peak_mb, row.load_mb, row.integer_share) == ("30.0", "10.0", "75.0%")


def test_rows_are_sorted_by_model_format_and_precision_whatever_the_order_of_measurement() -> None:
    artifacts = [
        _artifact(model, precision, fmt=fmt)
        for model in ("teacher", "student")
        for fmt in ("onnx", "tflite")
        for precision in ("fp32", "int8-static")
    ]
    measurements = [_measurement(a, (1.0, 1.0)) for a in artifacts]
    for shuffled in (measurements[::-1], measurements[::2] + measurements[1::2]):
        assert [row.artifact for row in rows(_build(artifacts, shuffled))] == [a["id"] for a in artifacts]


def test_a_row_tells_the_quality_and_parity_of_its_own_runtime() -> None:
    artifact = _artifact("teacher")
    artifact["quality_by_runtime"]["other"] = _quality(0.5)
    artifact["parity_by_runtime"].append({"state": "fail", "reason": "far", "n": 500, "runtime": "other"})
    measurements = [_measurement(artifact, (1.0,)), _measurement(artifact, (1.0,), runtime="other")]
    found = {row.runtime.split()[0]: row for row in rows(_build([artifact], measurements))}
    assert (found["onnxruntime"].parity, found["other"].parity) == ("pass", "fail")
    assert (found["onnxruntime"].quality[:4], found["other"].quality[:4]) == ("98.0", "50.0")


@pytest.mark.parametrize("draw", [_page, _shown])
def test_the_failing_check_is_named_with_its_reason(report: Json, draw: Any) -> None:
    drawn = draw(report)
    text = "".join(_Page(drawn).text) if draw is _page else drawn
    assert re.search(r"fail\s+size:student-onnx-int8: 5000 bytes, at most 4500 allowed", text)
    assert "gate: fail" in text


@pytest.mark.parametrize("draw", [_page, _shown])
def test_every_artifact_and_heading_is_drawn_the_teacher_first(report: Json, draw: Any) -> None:
    drawn = draw(report)
    table = drawn[drawn.index("x teacher p50") :]
    where = [table.index(name) for name in ("teacher-onnx-fp32", "student-onnx-fp32", "student-onnx-int8")]
    assert where[0] < min(where[1:])
    shown = HEADINGS.values() if draw is _page else (HEADINGS["quality"], HEADINGS["ratio"], HEADINGS["parity"])
    assert all(heading in drawn for heading in shown)
    assert "123,456" in drawn


@pytest.mark.parametrize("draw", [_page, _shown])
def test_notes_are_drawn_beside_their_artifact(report: Json, draw: Any) -> None:
    text = re.sub(r"<[^>]*>", "", draw(report))
    assert "student-onnx-int8: larger than fp32: 5000 against 4000 bytes" in text


@pytest.mark.parametrize("draw", [_page, _shown])
def test_a_report_without_a_gate_is_drawn_without_a_verdict(report: Json, draw: Any) -> None:
    drawn = draw({**report, "gate": None})
    assert "teacher-onnx-fp32" in drawn
    assert "gate:" not in drawn


def test_the_page_is_one_file_without_scripts_that_fetches_nothing(report: Json) -> None:
    page = _page(report)
    tags = _Page(page).tags
    assert "svg" in {tag for tag, _ in tags}
    assert not {"script", "iframe", "link", "object", "embed", "img"} & {tag for tag, _ in tags}
    fetched = [
        value or ""
        for _, attributes in tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "xlink:href", "data") or name.startswith("on")
    ]
    assert fetched
    assert all(value.startswith("#") for value in fetched)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", page))
    assert "@import" not in page


def test_the_pages_only_addresses_are_the_names_of_svgs_namespaces(report: Json) -> None:
    page = re.sub(r'xmlns(:\w+)?="[^"]*"', "", _page(report))
    assert re.findall(r"https?://[^\s\"'<]*", page) == []


@pytest.mark.parametrize("place", ["name", "note", "flag", "check", "runtime"])
def test_hostile_texts_stay_text_in_the_page_and_in_the_terminal(report: Json, place: str) -> None:
    if place == "name":
        report["name"] = HOSTILE
    elif place == "note":
        report["artifacts"][1]["notes"] = [HOSTILE]
    elif place == "flag":
        report["measurements"][1]["flags"] = [HOSTILE]
    elif place == "check":
        report["gate"]["checks"][0] |= {"state": "fail", "reason": HOSTILE}
    else:
        report["measurements"][1]["runtime"] = HOSTILE
    drawn = _Page(_page(report))
    assert "script" not in {tag for tag, _ in drawn.tags}
    assert HOSTILE in "".join(drawn.text)
    if place in ("note", "check", "runtime"):
        assert HOSTILE in _shown(report)


def test_a_file_name_with_brackets_is_shown_as_it_is() -> None:
    stream = io.StringIO()
    measurement: Json = {**MEASURED[0], "artifact": "model[bold][/x]-onnx-fp32"}
    show_measurements([measurement], Console(file=stream, width=300, color_system=None))
    assert "model[bold][/x]-onnx-fp32" in stream.getvalue()


def test_the_chart_is_valid_xml_and_the_same_bytes_twice(report: Json) -> None:
    chart = quality_against_latency(report)
    root = ET.fromstring(chart)  # noqa: S314 - drawn here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext())
    assert "latency p50, ms" in text
    assert "top1, % (n = 500" in text
    assert "student int8-static" in text
    assert quality_against_latency(report) == chart


def test_the_chart_shows_what_was_measured(report: Json) -> None:
    chart = quality_against_latency(report)
    moved = copy.deepcopy(report)
    moved["measurements"][0]["latency_ms"]["p50"] *= 1.1
    assert quality_against_latency(moved) != chart


def test_a_report_without_measurements_can_be_drawn() -> None:
    empty = _build([TEACHER, FP32], [])
    assert rows(empty) == []
    assert "student.onnx" in _page(empty)
    assert "student" in _shown(empty)


@pytest.mark.parametrize(
    ("rounds", "told"),
    [((0.31, 0.3), True), ((0.31, 0.1), False), ((0.1, 0.1), False), ((0.2, 0.2), False)],
)
def test_int8_that_is_slower_than_fp32_in_every_round_has_a_note(rounds: tuple[float, ...], *, told: bool) -> None:
    measurements = [_measurement(INT8, rounds), _measurement(FP32, (0.2, 0.2)), _measurement(TEACHER, (1.0, 1.0))]
    made = _build([TEACHER, FP32, {**INT8, "size_bytes": 1}], measurements)
    notes = made["artifacts"][2]["notes"]
    if told:
        (note,) = notes
        assert "slower than fp32 in onnxruntime" in note
        assert "1.50 to 1.55 x over 2 rounds" in note
    else:
        assert notes == []
    assert made["artifacts"][0]["notes"] == made["artifacts"][1]["notes"] == []


@pytest.mark.parametrize(("size", "told"), [(3999, False), (4000, False), (4001, True)])
def test_int8_that_is_larger_than_fp32_has_a_note(size: int, *, told: bool) -> None:
    made = _build([TEACHER, FP32, {**INT8, "size_bytes": size}], [])
    assert ["larger than fp32: 4001 against 4000" in note for note in made["artifacts"][2]["notes"]] == [True] * told


def test_int8_is_compared_only_with_fp32_of_its_own_format_and_model() -> None:
    other = _artifact("student", fmt="tflite", size=1)
    made = _build([TEACHER, other, INT8], [_measurement(INT8, (9.0,)), _measurement(other, (0.1,))])
    assert made["artifacts"][2]["notes"] == []


def test_int8_measured_where_fp32_was_not_is_still_reported() -> None:
    made = _build([TEACHER, FP32, {**INT8, "size_bytes": 1}], [_measurement(INT8, (0.3,))])
    assert made["artifacts"][2]["notes"] == []


def test_notes_that_an_artifact_had_are_kept() -> None:
    made = _build([TEACHER, FP32, {**INT8, "notes": ["from the exporter"]}], [])
    assert made["artifacts"][2]["notes"][0] == "from the exporter"
    assert len(made["artifacts"][2]["notes"]) == 2


def test_the_ratio_to_the_teacher_is_taken_round_by_round(report: Json) -> None:
    found = {m["artifact"]: m["ratio_to_teacher"] for m in report["measurements"]}
    assert found["student-onnx-fp32"] == {"reference": "teacher-onnx-fp32", "p50": 0.25, "rounds": [0.2, 0.25, 0.3]}
    assert found["teacher-onnx-fp32"]["rounds"] == [1, 1, 1]


def test_the_ratio_to_the_teacher_needs_the_same_runtime_and_the_same_format() -> None:
    student, teacher = _artifact("student"), _artifact("teacher")
    for fmt, runtime in itertools.product(("onnx", "tflite"), ("onnxruntime", "litert")):
        reference = teacher if fmt == "onnx" else _artifact("teacher", fmt="tflite")
        measurements = [_measurement(student, (1.0,)), _measurement(reference, (2.0,), runtime=runtime)]
        compared = _build([student, reference], measurements)["measurements"][0]
        assert ("ratio_to_teacher" in compared) == ((fmt, runtime) == ("onnx", "onnxruntime"))


def test_the_ratio_is_never_taken_to_the_teachers_int8_artifact() -> None:
    quantised = _artifact("teacher", "int8-static")
    made = _build([quantised, FP32], [_measurement(quantised, (1.0,)), _measurement(FP32, (0.5,))])
    assert not any("ratio_to_teacher" in m for m in made["measurements"])


def _measured(artifact: str, rounds: list[float]) -> Json:
    return {"artifact": artifact, "runtime": "r", "device": "cpu", "round_p50_ms": rounds}


def _file(name: str, precision: str, **more: Any) -> Json:
    passed = {"state": "pass"}
    return {"id": name, "model": "student", "precision": precision, "parity": passed, "notes": [], **more}


@pytest.mark.parametrize(
    ("rounds", "met", "chosen", "why"),
    [
        ([0.5, 0.6, 0.9], True, "int8", "0.60 x the latency"),
        ([0.5, 0.6, 1.1], True, "fp32", "not faster than fp32 in every round"),
        ([0.5, 0.6, 0.9], False, "fp32", "loses more quality"),
    ],
)
def test_int8_is_recommended_only_if_faster_and_within_the_margin(
    rounds: list[float], met: bool, chosen: str, why: str
) -> None:
    row: Json = {
        "scheme": "min-max",
        "state": "shipped",
        "keep_float": ["conv"],
        "quality": 0.9,
        "drop": 0.03,
        "n": 100,
    }
    int8 = with_choice(_file("int8", "int8"), [{"artifact": "int8", "met": met, "candidates": [row]}])
    assert "1 layers stay in float: conv" in int8["notes"]
    assert any("3.00 points" in note for note in int8["notes"]) is not met
    measured = [_measured("fp32", [1.0, 1.0, 1.0]), _measured("int8", rounds)]
    (told,) = recommend([_file("fp32", "fp32"), int8], measured)
    assert told["artifact"] == chosen
    assert why in told["why"]


def test_a_lone_precision_is_recommended_as_such() -> None:
    (told,) = recommend([_file("fp32", "fp32")], [_measured("fp32", [1.0])])
    assert told["why"] == "the only precision"
