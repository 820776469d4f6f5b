"""Simulated devices: what is predicted, widened, refused, and said."""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from edgedistill.agent import load_opener
from edgedistill.cli.main import main
from edgedistill.errors import DeviceError, UsageError
from edgedistill.prediction.networks import FEW
from edgedistill.prediction.predict import predict
from tests.helpers.calls import opener_of
from tests.helpers.listening import Listening
from tests.helpers.predicting import convolutions, module, transformer, window

if TYPE_CHECKING:
    from pathlib import Path

profiles: Any = module("profiles")
build: Any = module("workshop.build")
answers: Any = module("answer")
read: Any = module("graphs.read")
counts: Any = module("counts")
MEASURED_ONLY = ("count", "memory_bytes", "load_cold_ms", "runtime_version", "rounds", "first_inference_ms")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for own profiles, and no emulator."""
    monkeypatch.setenv("EDGEDISTILL_PROFILES", str(tmp_path / "own"))
    monkeypatch.setenv("EDGEDISTILL_ARM", str(tmp_path / "no-emulator"))
    return tmp_path / "own"


class Command:
    """The command line in this process: a fresh one for every question would take most of the time."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.capture = capture

    def __call__(self, *arguments: object) -> Command:
        self.capture.readouterr()
        self.returncode = main([str(one) for one in arguments])
        self.stdout, self.stderr = self.capture.readouterr()
        return self


@pytest.fixture
def edgedistill(capfd: pytest.CaptureFixture[str]) -> Command:
    return Command(capfd)


def documents(done: Command) -> Any:
    return json.loads(done.stdout)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return convolutions(tmp_path / "net.onnx", 64, size=112)


def test_the_catalogue_holds_what_was_promised() -> None:
    known = profiles.profiles()
    assert len(known) >= 24
    words = " ".join(f"{p.id} {p.soc} {p.class_}" for p in known.values())
    for wanted in (
        "zero-2w",
        "3b-plus",
        "raspberry-pi-4b",
        "raspberry-pi-5",
        "jetson-nano",
        "RK3566",
        "RK3568",
        "RK3588",
        "gateway",
        "x86",
        "cortex-m4",
        "cortex-m7",
        "cortex-m33",
        "cortex-m85",
        "flagship",
        "low end",
    ):
        assert wanted in words
    for profile in known.values():
        assert profile.provenance
        for block in profile.runtimes:
            if block.status != "spec-only":
                assert all(p.anchors >= 3 and p.mdape is not None for p in (block.counts, block.graph) if p)
    unsure = [p for p in known.values() if any(not one.verified for one in p.provenance.values())]
    assert unsure  # values that nobody verified say so


def test_a_shipped_profile_is_what_its_tables_make() -> None:
    document = build.boards()
    device = next(d for d in document["devices"] if d["id"] == "raspberry-pi-4b")
    made, shipped = build._profile(device, document), profiles.find("raspberry-pi-4b")
    for fresh, kept in zip(made.runtimes, shipped.runtimes, strict=True):
        assert fresh.graph.costs == pytest.approx(kept.graph.costs, rel=1e-3)
        assert fresh.counts.mdape == pytest.approx(kept.counts.mdape, rel=1e-3)


def test_a_prediction_has_the_contracts_fields_and_none_of_a_measurement(network: Path) -> None:
    one = predict(network, ["sim:raspberry-pi-4b"], runtime="ncnn")["predictions"][0]
    assert one["source"] == "predicted"
    assert one["device"] == "sim:raspberry-pi-4b"
    low, high = one["interval80_ms"]
    assert 0 < low < one["latency_ms"]["p50"] < high
    assert set(one["latency_ms"]) == {"p50"}
    assert one["calibration"] == "calibrated"
    assert 0 < (one["mdape"] or 0.0) < 0.2
    assert not set(MEASURED_ONLY) & set(one)
    assert sum(one["parts_ms"].values()) == pytest.approx(one["latency_ms"]["p50"])
    memory = one["predicted_memory_bytes"]
    assert memory["total"] == pytest.approx(sum(memory[p] for p in ("weights", "arena", "workspace", "runtime")), abs=4)


def test_all_devices_are_sorted_and_the_refusals_are_told(network: Path) -> None:
    found = predict(network)
    times = [one["latency_ms"]["p50"] for one in found["predictions"]]
    assert times == sorted(times)
    assert len(times) > 40
    assert {r["device"] for r in found["refused"]} >= {"sim:cortex-m4-stm32l4r5"}  # no float on a microcontroller
    assert all(r["reason"] and r["fix"] for r in found["refused"])


def test_more_work_takes_longer_and_more_memory(tmp_path: Path) -> None:
    small, large = (
        predict(convolutions(tmp_path / f"{w}.onnx", w, size=112), ["rpi-4b"])["predictions"][0] for w in (32, 128)
    )
    assert large["latency_ms"]["p50"] > 4 * small["latency_ms"]["p50"]
    assert large["predicted_memory_bytes"]["total"] > small["predicted_memory_bytes"]["total"]


def test_a_transformer_is_refused_by_operator_classes_and_wide_by_counts(tmp_path: Path) -> None:
    path = transformer(tmp_path / "t.onnx", 196, 384)
    for device in ("raspberry-pi-4b", "raspberry-pi-5", "pixel-3", "celeron-n5105"):
        with pytest.raises(DeviceError, match="hardly saw"):
            predict(path, [device], predictor="graph")
    profile = profiles.find("raspberry-pi-4b")
    choice = answers.choose(profile, "ncnn", 1, "float")
    counted = np.array([5e7, 1e8, 3e7, 1e6, 2e6, 1e6])
    wide = answers.answer(profile, choice, read.read_graph(path), counted)
    narrow = answers.answer(profile, choice, read.read_graph(convolutions(tmp_path / "c.onnx", 64)), counted)
    factors = [one["interval80_ms"][1] / one["latency_ms"]["p50"] for one in (wide, narrow)]
    assert factors[0] > 2.6  # the largest miss that was met
    assert factors[1] < 1.2
    assert any("widened" in flag for flag in wide["flags"])


@pytest.mark.parametrize("groups", [2, 32])
def test_grouped_convolutions_widen_or_refuse(tmp_path: Path, groups: int) -> None:
    plain = predict(convolutions(tmp_path / "p.onnx", 64, size=112), ["rpi-4b"], predictor="graph")["predictions"][0]
    path = convolutions(tmp_path / "g.onnx", 64, groups=groups, size=112)
    if groups == 2:  # three quarters of the work
        with pytest.raises(DeviceError, match="hardly saw: grouped"):
            predict(path, ["rpi-4b"], predictor="graph")
        return
    one = predict(path, ["rpi-4b"], predictor="graph")["predictions"][0]
    wide, usual = (m["interval80_ms"][1] / m["latency_ms"]["p50"] for m in (one, plain))
    assert wide > 1.2 * usual


def test_other_runtimes_are_wider_and_say_what_stands_behind_them(network: Path) -> None:
    found = {
        runtime: predict(network, ["raspberry-pi-4b"], runtime=runtime, predictor="graph")["predictions"][0]
        for runtime in ("ncnn", "tflite", "onnxruntime", "openvino")
    }
    width = {runtime: math.log(one["interval80_ms"][1] / one["latency_ms"]["p50"]) for runtime, one in found.items()}
    assert width["ncnn"] < width["tflite"] < width["onnxruntime"] == width["openvino"]
    assert found["tflite"]["calibration"] == "transferred"
    assert any("tried on 8 published rows of Paddle-Lite on A72 and A73" in flag for flag in found["tflite"]["flags"])
    assert found["onnxruntime"]["calibration"] == "no evidence"
    assert any("UNVALIDATED" in flag for flag in found["onnxruntime"]["flags"])


def test_tflite_is_transferred_from_calibrated_arm_boards_alone(network: Path, own: Path) -> None:
    board = profiles.find("raspberry-pi-4b")
    few = board.runtimes[0].model_copy(update={"status": "few-shot"})
    mine = board.model_copy(update={"id": "mine", "aliases": (), "status": "few-shot", "runtimes": (few,)})
    profiles.write(mine, own)
    for device, wanted, standing in (
        ("raspberry-pi-4b", {}, "transferred"),
        ("raspberry-pi-4b", {"precision": "int8"}, "no evidence"),
        ("celeron-n5105", {}, "no evidence"),
        ("mine", {}, "no evidence"),
        ("intel-n100", {}, "spec-only"),
        ("raspberry-pi-4b", {"runtime": "onnxruntime"}, "no evidence"),
    ):
        asked: dict[str, Any] = {"runtime": "tflite", "predictor": "graph", **wanted}
        one = predict(network, [device], **asked)["predictions"][0]
        assert one["calibration"] == standing
        assert any("UNVALIDATED" in flag for flag in one["flags"]) == (standing != "transferred")


def test_where_ncnn_computes_in_half_floats_others_may_take_twice_as_long(network: Path) -> None:
    ncnn, tflite = (
        predict(network, ["raspberry-pi-5"], runtime=runtime, predictor="graph")["predictions"][0]
        for runtime in ("ncnn", "tflite")
    )
    assert tflite["interval80_ms"][1] > 2.02 * ncnn["latency_ms"]["p50"]
    assert tflite["mdape"] == pytest.approx(0.50, abs=0.01)
    assert any("rows of Paddle-Lite on one A76, which took 2.0 times as long" in flag for flag in tflite["flags"])
    choice = answers.choose(profiles.find("raspberry-pi-5"), "tflite", 1, "float")
    counted = answers.answer(
        profiles.find("raspberry-pi-5"), choice, read.read_graph(network), np.array([5e7, 1e8, 3e7, 1e6, 2e6, 1e6])
    )
    assert any("tried on 6 published rows of TFLite" in flag for flag in counted["flags"])
    assert counted["mdape"] == pytest.approx(0.32, abs=0.01)


def test_dilated_and_transposed_convolutions_are_told_by_their_own_classes(tmp_path: Path) -> None:
    for kind, named in (("transposed", "unknown .ConvTranspose."), ("volume", "unknown .3-D Conv.")):
        with pytest.raises(DeviceError, match=named):
            predict(window(tmp_path, ".onnx", kind), ["rpi-4b"], predictor="graph")
    one = predict(window(tmp_path, ".onnx", "dilated"), ["rpi-4b"], predictor="graph")["predictions"][0]
    assert "convkxk" in one["parts_ms"]
    assert "conv3x3" not in one["parts_ms"]


def test_nothing_is_scaled_to_what_was_not_measured(network: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("raspberry-pi-4b", {"threads": 3}),
        ("pixel-3", {"runtime": "tflite", "threads": 1}),
        ("snapdragon-865", {"runtime": "ncnn"}),
        ("intel-n100", {"precision": "int8"}),
    ]
    for device, wanted in cases:
        with pytest.raises(DeviceError) as caught:
            predict(network, [device], **wanted)
        assert "threads" in caught.value.expected  # it names what there is
    with pytest.raises(DeviceError) as caught:
        predict(network, ["celeron-n5105"], threads=63)
    assert "the same for onnxruntime, openvino, tflite" in caught.value.expected


def test_a_spec_only_device_is_unvalidated_wherever_it_prints(network: Path, edgedistill: Command) -> None:
    one = predict(network, ["intel-n100"])["predictions"][0]
    assert one["calibration"] == "spec-only"
    assert any(flag.startswith("UNVALIDATED") for flag in one["flags"])
    assert one["mdape"] is None
    for command in (
        ("devices", "predict", network, "--device", "sim:intel-n100"),
        ("devices", "show", "sim:intel-n100"),
        ("devices", "list"),
        ("benchmark", network, "--device", "sim:intel-n100"),
        ("devices", "predict", network, "--device", "sim:intel-n100", "--json"),
    ):
        assert "UNVALIDATED" in edgedistill(*command).stdout
    told = edgedistill("devices", "predict", network, "--device", "sim:intel-n100").stdout
    assert "where the time goes, UNVALIDATED" in told
    assert "costliest layers, UNVALIDATED" in told
    assert "goes, " not in edgedistill("devices", "predict", network, "--device", "rpi-4b").stdout


def test_a_spec_only_device_saw_no_grouped_convolutions(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="hardly saw: grouped"):
        predict(convolutions(tmp_path / "g.onnx", 64, groups=2, size=112), ["intel-n100"])


def test_far_from_the_anchors_the_interval_grows(tmp_path: Path) -> None:
    usual = predict(convolutions(tmp_path / "u.onnx", 64, size=112), ["rpi-4b"], predictor="graph")["predictions"][0]
    tiny = predict(convolutions(tmp_path / "t.onnx", 4, size=16), ["rpi-4b"], predictor="graph")["predictions"][0]
    assert any("extrapolated" in flag for flag in tiny["flags"])
    factors = [one["interval80_ms"][1] / one["latency_ms"]["p50"] for one in (tiny, usual)]
    assert factors[0] > factors[1]


def test_counts_without_an_emulator_name_the_command(network: Path, edgedistill: Command) -> None:
    done = edgedistill("devices", "predict", network, "--device", "rpi-4b", "--predictor", "counts", "--json")
    assert done.returncode == 2
    assert documents(done)["error"]["fix"] == "edgedistill arm setup"
    one = predict(network, ["rpi-4b"])["predictions"][0]
    assert one["predictor"] == "graph"
    assert any("arm setup" in flag for flag in one["flags"])


def test_counts_are_used_where_they_are_to_be_had(
    network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The emulator's answer is put in place; the rest is real."""
    emulate = module("emulate")
    asked = []

    def counted(files: tuple[Path, ...], runtime: str, opener: Path, core: str, shapes: Any) -> Any:
        assert runtime in load_opener(str(opener)).RUNTIMES
        asked.append((files[0].suffix, runtime, core, dict(shapes)))
        return np.array([1e7, 1e7, 3e6, 1e6, 1e6, 1e5])

    monkeypatch.setattr(emulate, "counted", counted)
    found = {"in0": (1, 3, 8, 8)}
    monkeypatch.setattr(module("counting"), "runnable", lambda files, _: ((files[0].with_suffix(".param"),), found))
    (tmp_path / "no-emulator").mkdir()
    lock = module("device").layout().lock
    lock.parent.mkdir(parents=True)
    lock.write_text("{}")
    one = predict(network, ["rpi-5"])["predictions"][0]
    assert one["predictor"] == "counts"
    costs = profiles.find("rpi-5").runtimes[0].counts.costs
    by_hand = sum(costs[n] * v for n, v in zip(counts.FEATURES, (1e7, 1e7, 3e6, 1e6, 1e6, 1e5), strict=True))
    assert one["latency_ms"]["p50"] == pytest.approx(by_hand)
    assert asked == [(".param", "ncnn", "cortex-a76", {"in0": (1, 3, 8, 8)})]


def test_the_command_line_budgets_and_plots(network: Path, tmp_path: Path, edgedistill: Command) -> None:
    low = ("devices", "predict", network, "--device", "raspberry-pi-4b", "--predictor", "graph")
    one = documents(edgedistill(*low, "--json"))["predictions"][0]
    upper, p50 = one["interval80_ms"][1], one["latency_ms"]["p50"]
    between = edgedistill(*low, "--budget-ms", str((p50 + upper) / 2), "--json")
    assert between.returncode == 1  # the interval's upper end counts, not the middle
    assert documents(between)["predictions"][0]["meets_budget"] is False
    assert edgedistill(*low, "--budget-ms", str(upper * 1.01), "--budget-mb", "500").returncode == 0
    assert edgedistill(*low, "--budget-mb", "1").returncode == 1
    assert edgedistill(*low, "--plot", tmp_path / "p.svg").returncode == 0
    picture = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert "sim:raspberry-pi-4b" in picture
    assert "pattern" in picture  # hatched
    assert edgedistill("devices", "show", "sim:rpi-4b", "--plot", tmp_path / "a.svg").returncode == 0
    assert "published, ms" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_a_budget_that_nobody_can_vouch_for_is_not_kept(network: Path, edgedistill: Command) -> None:
    budget = ("devices", "predict", network, "--predictor", "graph", "--budget-ms", "1e6")
    for devices, code in (
        (["rpi-4b"], 0),
        (["rpi-4b", "intel-n100"], 3),
        (["rpi-4b", "cortex-m4-stm32l4r5"], 3),
        (["intel-n100"], 3),
        ([], 0),
    ):
        assert edgedistill(*budget, *(f"--device={name}" for name in devices)).returncode == code
    assert edgedistill(*budget[:-2], "--device=rpi-4b", "--device=cortex-m4-stm32l4r5").returncode == 0  # no budget


def test_a_refusal_in_the_terminal_tells_what_to_do(network: Path, edgedistill: Command) -> None:
    told = edgedistill("devices", "predict", network, "--device=rpi-4b", "--device=cortex-m4-stm32l4r5").stdout
    assert "fix: ask for one of these, or measure the board" in told


def test_a_picture_in_a_missing_folder_is_refused_before_anything_runs(tmp_path: Path, edgedistill: Command) -> None:
    done = edgedistill("devices", "predict", tmp_path / "no.onnx", "--plot", tmp_path / "missing" / "x.svg", "--json")
    assert done.returncode == 2
    assert "missing" in documents(done)["error"]["message"]  # and not the file, which is missing too


def test_the_catalogue_tells_the_precision_of_an_error(edgedistill: Command) -> None:
    told = " ".join(edgedistill("devices", "list").stdout.split())
    assert "float 1T" in told
    assert "int8 1T" in told


def test_benchmark_gives_the_same_prediction(network: Path, edgedistill: Command) -> None:
    made = documents(edgedistill("benchmark", network, "--device", "sim:raspberry-pi-4b", "--json"))["measurements"][0]
    one = predict(network, ["raspberry-pi-4b"], threads=1)["predictions"][0]
    assert made["latency_ms"] == one["latency_ms"]
    assert made["artifact"] == "net-onnx-fp32"
    assert not set(MEASURED_ONLY) & set(made)


def test_unknown_words_are_answered_with_the_nearest(network: Path) -> None:
    with pytest.raises(UsageError) as caught:
        predict(network, ["sim:raspberry-pi-4"])
    assert "raspberry-pi-4b" in caught.value.expected
    wrongs: list[dict[str, Any]] = [{"predictor": "guess"}, {"precision": "int4-weights"}, {"precision": "fp31"}]
    for wrong in wrongs:
        with pytest.raises(UsageError):
            predict(network, ["rpi-4b"], **wrong)
    with pytest.raises(UsageError) as caught:
        predict(network, ["rpi-4b"], runtime="onnxruntme")
    assert "did you mean 'onnxruntime'?" in caught.value.expected
    for known in ("litert", "ort", "paddle-lite", "tflite-micro"):
        with contextlib.suppress(DeviceError):  # known, but perhaps not to this board
            predict(network, ["rpi-4b"], runtime=known)


def test_malformed_profiles_are_named_with_their_key(own: Path, network: Path) -> None:
    own.mkdir()
    document = yaml.safe_load((profiles.SHIPPED / "intel-n100.yaml").read_text(encoding="utf-8"))
    changes: list[tuple[Any, str]] = [
        ({"schema": "edgedistill.profile/9"}, "schema"),
        ({"surprise": 1}, "surprise"),
        ({"runtimes": []}, "runtimes"),
        ({"clusters": [{"core": "x", "count": 4, "ghz": 1800}]}, "clusters.0.ghz"),
        ({"memory": {"ram_mb": -1}}, "memory.ram_mb"),
        ({"runtimes": [*document["runtimes"], *document["runtimes"]]}, "two blocks"),
    ]
    for change, key in changes:
        (own / "mine.yaml").write_text(yaml.safe_dump({**document, "id": "mine", **change}), encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            predict(network, ["rpi-4b"])
        assert "mine.yaml" in caught.value.where + caught.value.message
        assert key in str(caught.value)
    costs = {**document["runtimes"][0]["graph"], "costs": {"stem_macs": -1.0}}
    bad = {**document, "id": "mine", "runtimes": [{**document["runtimes"][0], "graph": costs}]}
    (own / "mine.yaml").write_text(yaml.safe_dump(bad), encoding="utf-8")
    with pytest.raises(UsageError, match="nonnegative"):
        predict(network, ["rpi-4b"])
    (own / "mine.yaml").write_text("{unclosed", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read"):
        predict(network, ["rpi-4b"])
    (own / "mine.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(UsageError, match="two profiles have the id"):
        predict(network, ["rpi-4b"])
    (own / "mine.yaml").write_text(yaml.safe_dump({**document, "id": "mine", "aliases": ["rpi-4b"]}), encoding="utf-8")
    with pytest.raises(UsageError, match="two profiles have the id 'rpi-4b'"):
        predict(network, ["rpi-4b"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"costs": {"stem_macs": 1.0}}, "stored_vectors missing"),
        ({"costs": {"surprise": 1.0}}, "surprise"),
        ({"seen": ["conv9x9"]}, "conv9x9 is none of"),
        ({"spread": 4.0}, "spread"),
        ({"mdape": None}, "mdape"),
        ({"held_out": [["net", -1.0, 2.0]]}, "held_out"),
        ({"kernels": "cortex-m4"}, "cortex-m4 is none of"),
        ({"kernels": None}, "None is none of"),
        ({"status": "spec-only"}, "status"),
    ],
)
def test_a_profile_that_contradicts_itself_is_named_with_its_key(
    own: Path, network: Path, change: dict[str, Any], told: str
) -> None:
    own.mkdir()
    document = yaml.safe_load((profiles.SHIPPED / "raspberry-pi-4b.yaml").read_text(encoding="utf-8"))
    document |= {"id": "mine", "aliases": []}
    if "status" in change:
        document |= change
    else:
        document["runtimes"][0]["counts"] |= change
    (own / "mine.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.yaml") as caught:
        predict(network, ["rpi-4b"])
    assert told in str(caught.value)


def anchors_csv(folder: Path, scale: float = 1.0, names: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    """Timings of a board that is twice as slow as a Raspberry Pi 4, by its own operator classes."""
    lines = ["model,ms"]
    for number, name in enumerate(names):
        path = convolutions(folder / f"{name}.onnx", 32 * (number + 1), size=112)
        ms = 2 * scale * predict(path, ["rpi-4b"], predictor="graph")["predictions"][0]["latency_ms"]["p50"]
        lines.append(f"{path.name},{ms}")
    (folder / "anchors.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "anchors.csv"


def test_a_board_of_ones_own_from_timings(tmp_path: Path, own: Path, edgedistill: Command) -> None:
    path = anchors_csv(tmp_path)
    done = edgedistill("devices", "calibrate", "--name", "my-board", "--anchors", path, "--runtime", "ncnn", "--json")
    assert done.returncode == 0, done.stderr
    answer = documents(done)
    assert answer["status"] == "few-shot"
    assert answer["anchors"] == 4
    assert (own / "my-board.yaml").is_file()
    new = convolutions(tmp_path / "new.onnx", 80, size=112)
    mine, like = (predict(new, [d], predictor="graph")["predictions"][0] for d in ("my-board", "rpi-4b"))
    ratio = mine["latency_ms"]["p50"] / like["latency_ms"]["p50"]
    assert ratio == pytest.approx(2, rel=0.25)
    low, high = mine["interval80_ms"]
    assert low < 2 * like["latency_ms"]["p50"] < high
    again = edgedistill("devices", "calibrate", "--name", "my-board", "--anchors", path, "--runtime", "ncnn", "--json")
    assert again.returncode == 2
    assert "--replace" in documents(again)["error"]["fix"]


@pytest.mark.parametrize(
    ("scale", "unit", "right"), [(1e-3, "seconds", True), (1e3, "microseconds", True), (1.0, "", False)]
)
def test_timings_in_another_unit_are_noticed(
    tmp_path: Path, scale: float, unit: str, right: bool, edgedistill: Command
) -> None:
    path = anchors_csv(tmp_path, scale)
    done = edgedistill("devices", "calibrate", "--name", "b", "--anchors", path, "--runtime", "ncnn", "--json")
    assert done.returncode == (2 if right else 0)
    if right:
        assert f"are these {unit}?" in documents(done)["error"]["message"]


def test_seconds_of_a_slow_board_are_noticed(tmp_path: Path) -> None:
    """A Raspberry Pi Zero's seconds are no eighth part of what the fastest phone takes with all its cores."""
    from edgedistill.prediction.own_board import Board, from_anchors

    lines = ["model,ms"]
    for width in (96, 112, 128):
        path = convolutions(tmp_path / f"n{width}.onnx", width, size=112)
        one = predict(path, ["raspberry-pi-zero-2w"], predictor="graph", threads=1)["predictions"][0]
        lines.append(f"{path.name},{one['latency_ms']['p50'] / 1000}")
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UsageError, match="are these seconds"):
        from_anchors(Board("b", "ncnn"), tmp_path / "t.csv")


@pytest.mark.parametrize("runtime", ["tflite", "paddle-lite"])
def test_given_timings_need_no_exporter_and_may_begin_with_a_mark(tmp_path: Path, runtime: str) -> None:
    from edgedistill.prediction.own_board import Board, from_anchors

    path = anchors_csv(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets do
    assert from_anchors(Board("mine", runtime), path)["anchors"] == 4
    assert profiles.find("mine").runtimes[0].runtime == runtime
    with pytest.raises(UsageError, match="unknown runtime 'tflit'"):
        from_anchors(Board("other", "tflit"), path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model,seconds\na.onnx,1\n", "lacks ms"),
        ("model,ms\nmissing.onnx,3\n", "column model"),
        ("model,ms\na.onnx,fast\n", "column ms"),
        ("model,ms\na.onnx,-3\n", "column ms"),
        ("model,ms\na.onnx,3\na.onnx,4\n", "twice"),
        ("model,ms\na.onnx,3\n", "too few"),
        ("model,ms\na.onnx,3\nb.onnx,3\ntwin.onnx,3\n", "one network"),
        ("", "lacks"),
    ],
)
def test_wrong_timings_are_named_with_row_and_column(tmp_path: Path, text: str, told: str) -> None:
    from edgedistill.prediction.own_board import Board, from_anchors

    for name, width in (("a", 32), ("b", 48), ("twin", 32)):
        convolutions(tmp_path / f"{name}.onnx", width, size=112)
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        from_anchors(Board("b", "ncnn"), tmp_path / "t.csv")
    assert told in str(caught.value)


@pytest.mark.slow
def test_calibrating_a_device_measures_exports_and_writes(monkeypatch: pytest.MonkeyPatch, own: Path) -> None:
    """Really measured, three tiny rounds of the few-shot suite on this machine."""
    from edgedistill.prediction import own_board as calibrating

    monkeypatch.setattr(calibrating, "ROUNDS", 1)
    monkeypatch.setattr(calibrating, "_QUERIES", 3)
    monkeypatch.setattr(calibrating, "_SECONDS", 0.01)
    steps: list[str] = []
    found = calibrating.from_device(
        calibrating.Board("here", "onnxruntime", few_shot=True), "cpu", Listening(steps.append)
    )
    assert len(steps) == 3
    assert found["status"] == "few-shot"
    assert {one["name"] for one in found["networks"]} == {f"{name}-fp32" for name in FEW}
    assert json.loads(json.dumps(found)) == found
    assert profiles.find("here").runtimes[0].runtime == "onnxruntime"
    assert (own / "here.yaml").is_file()


def test_calibration_names_what_is_wrong_before_it_measures(tmp_path: Path, edgedistill: Command) -> None:
    for arguments, told in (
        (("--name", "b", "--device", "cpu", "--runtime", "onnxruntim"), "onnxruntime"),
        (("--name", "raspberry-pi-4b", "--device", "cpu"), "already"),
        (("--name", "My Board", "--device", "cpu"), "no id"),
        (("--name", "_board", "--device", "cpu"), "no id"),
        (("--name", "m\u00fcnchen", "--device", "cpu"), "no id"),
        (("--name", "b"), "--anchors"),
        (("--name", "b", "--anchors", tmp_path / "no.csv"), "cannot be read"),
    ):
        done = edgedistill("devices", "calibrate", *arguments)
        assert done.returncode == 2
        assert told in done.stderr


def test_a_file_that_cannot_be_counted_is_predicted_by_its_classes_and_says_so(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgedistill.errors import ArtifactError

    tried = []

    def refuse(_: Path, runtime: str) -> Any:
        tried.append(runtime)
        raise ArtifactError("no way", got="an operator")

    monkeypatch.setattr(module("counting"), "runnable", refuse)
    lock = module("device").layout().lock
    lock.parent.mkdir(parents=True)
    lock.write_text("{}")
    found = predict(network)["predictions"]
    assert len(tried) == 2  # once for each emulated core, not once for each device
    one = next(m for m in found if m["device"] == "sim:raspberry-pi-5")
    assert one["predictor"] == "graph"
    assert any("no way" in flag for flag in one["flags"])
    with pytest.raises(ArtifactError):
        predict(network, ["rpi-5"], predictor="counts")
    with pytest.raises(UsageError, match="the file is float"):
        predict(network, ["rpi-5"], predictor="counts", precision="int8")
    assert predict(network, ["rpi-5"], precision="int8")["predictions"][0]["predictor"] == "graph"


@pytest.mark.slow
def test_a_file_is_counted_in_the_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four MACs are one vector instruction; what else ncnn does is no more than a few times that."""
    monkeypatch.delenv("EDGEDISTILL_ARM")
    if not module("emulate").layout().lock.is_file():
        pytest.skip("`edgedistill arm setup` was not run")
    path = convolutions(tmp_path / "n.onnx", 32, size=64)
    ready, shapes = read.runnable((path,), "ncnn")
    counted = module("emulate").counted(ready, "ncnn", opener_of("ncnn"), "cortex-a72", shapes)
    features = dict(zip(counts.FEATURES, counted, strict=True))
    macs = read.read_graph(path).macs_by_class()
    least = macs["stem"] + macs["conv1x1"] + macs["conv3x3"] / 4  # Winograd's algorithm spares multiplications
    assert least / 4 <= features["multiply_adds"] <= 1.3 * sum(macs.values()) / 4
    assert 0 < features["other_instructions"] < 10 * features["multiply_adds"]
    one = predict(path, ["rpi-4b"], predictor="counts")["predictions"][0]
    by_classes = predict(path, ["rpi-4b"], predictor="graph")["predictions"][0]
    assert one["latency_ms"]["p50"] == pytest.approx(by_classes["latency_ms"]["p50"], rel=0.5)


@pytest.mark.parametrize(
    ("device", "runtime", "precision", "told", "flag"),
    [
        ("rpi-4b", "litert", "fp16", "fp32", "not in fp16"),
        ("rpi-4b", "tflite-runtime", None, "fp32", ""),
        ("rpi-4b", "ncnn", "int8", "int8", ""),
        ("rpi-4b", "ncnn", "fp16", "fp32", "not in fp16"),
        ("rpi-5", "ncnn", "fp32", "fp16", "not in fp32"),
        ("rpi-5", "ncnn", None, "fp16", ""),
        ("rpi-5", "ncnn", "fp16", "fp16", ""),
        ("rpi-5", "tflite", "fp32", "fp32", ""),
        ("rpi-5", "ncnn", "int8", "int8", ""),
    ],
)
def test_the_runtime_comes_back_as_it_was_asked_for_and_floats_as_they_are(
    network: Path, device: str, runtime: str, precision: str | None, told: str, flag: str
) -> None:
    one = predict(network, [device], runtime=runtime, precision=precision, predictor="graph")["predictions"][0]
    assert (one["runtime"], one["precision"]) == (runtime, told)
    assert one["arithmetic"] == ("int8" if told == "int8" else "float")
    assert "floats" not in one
    assert [found for found in one["flags"] if found.startswith("not in")] == [
        found for found in one["flags"] if flag and flag in found
    ]
    assert any(flag in found for found in one["flags"])


def test_a_microcontroller_tells_sram_and_flash_and_whether_it_fits(tmp_path: Path) -> None:
    """As if the file were int8: tflite-micro has no published row of its own."""
    small = predict(
        convolutions(tmp_path / "s.onnx", 16, size=32),
        ["cortex-m4-stm32l4r5"],
        runtime="tflite-micro",
        precision="int8",
    )["predictions"][0]
    assert small["calibration"] == "no evidence"
    assert small["memory_budget"]["fits"] is True
    assert small["memory_budget"].get("flash_bytes") == 16 * 27 + 2 * 16 * 16 * 9 + 16 * 16 + 160  # a byte a weight
    large = predict(
        convolutions(tmp_path / "l.onnx", 256, size=224), ["cortex-m4-stm32l4r5"], runtime="x-cube-ai", precision="int8"
    )["predictions"][0]
    assert large["memory_budget"]["fits"] is False
    assert large["memory_budget"].get("sram_bytes", 0) > large["memory_budget"].get("sram_limit_bytes", 0) > 0


def test_a_tflite_file_on_a_microcontroller_is_told_in_tflite_micro(tmp_path: Path) -> None:
    """Its own runtime, tflite, is what phones have; who asks for that by name is told that there is none."""
    path = window(tmp_path, ".tflite", "plain")
    one = predict(path, ["cortex-m4-stm32l4r5"], precision="int8")["predictions"][0]
    assert one["runtime"] == "tflite-micro"
    with pytest.raises(DeviceError):
        predict(path, ["cortex-m4-stm32l4r5"], precision="int8", runtime="tflite")
    assert predict(path, ["rpi-4b"])["predictions"][0]["runtime"] == "tflite"


def test_what_no_cost_tells_of_is_refused(tmp_path: Path) -> None:
    """A share of nothing is no number."""
    profile = profiles.find("raspberry-pi-4b")
    block = profile.runtimes[0]
    costs = {**dict.fromkeys(block.graph.costs, 0.0), "matmul_macs": 1.0}
    free = block.model_copy(update={"graph": block.graph.model_copy(update={"costs": costs})})
    graph = read.read_graph(convolutions(tmp_path / "c.onnx", 8))
    with pytest.raises(DeviceError, match="nothing in this network takes time"):
        answers.answer(profile, answers.Choice(free, "ncnn", "calibrated"), graph, None)
