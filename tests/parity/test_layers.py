"""`parity --layers`: a spoilt layer is named, whichever it is and whatever the formats; a sound file names none."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgedistill
from edgedistill.artifacts.identify import artifact_of
from edgedistill.artifacts.running import matched
from edgedistill.cli.main import main
from edgedistill.conversion.loading import Options, load
from edgedistill.errors import ArtifactError, PluginError
from edgedistill.parity.departure import Limits
from edgedistill.parity.layers import Layers, align
from edgedistill.parity.proof import Proof, prove
from edgedistill.parity.tensors import trace_file, trace_program
from edgedistill.recipe.document import ParitySettings
from tests.conversion.test_export import examples, program, two
from tests.helpers import faults
from tests.helpers.near import near

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.documents.answers import FirstDeparture
    from edgedistill.types import TracedTensor


def shelf(fmt: str) -> Any:
    """How an exporter reads tensors; the face of its folder has the verb under the same name."""
    return importlib.import_module(f"exporters.{fmt}.tensors")


MODULES = ["stem", "one.deep", "one.wide", "two.deep", "two.wide", "head"]
TRACERS: dict[str, Callable[[str, str, str], list[TracedTensor]]] = {
    "onnxruntime": shelf("onnx")._trace,
    "tflite-runtime": shelf("tflite")._trace,
    "litert": shelf("tflite")._trace,
    "openvino": shelf("openvino")._trace,
    "ncnn": shelf("ncnn")._trace,
}
SPOILERS: dict[str, Callable[[Path, Path, int, faults.Spoil], str]] = {
    "onnxruntime": faults.onnx_weights,
    "tflite-runtime": faults.tflite_weights,
    "litert": faults.tflite_weights,
    "openvino": faults.openvino_weights,
    "ncnn": faults.ncnn_weights,
}
RUNTIMES = list(TRACERS)
FLOAT, INT8 = Limits(), Limits(min_snr_db=15)


class Block(nn.Module):
    """A residual block: depthwise with its norm, pointwise, both with a ReLU that writes in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.wide = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(x + self.wide(self.relu(self.norm(self.deep(x)))))
        return out


class Net(nn.Module):
    """A strided convolution, two residual blocks, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.one, self.two, self.head = Block(8), Block(8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.head(self.two(self.one(torch.relu(self.stem(image)))).mean((2, 3)))
        return scores


def net() -> nn.Module:
    torch.manual_seed(0)
    module = Net()
    for norm in (module.one.norm, module.two.norm):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 1.5)
    return module.eval()


@dataclass(frozen=True)
class Files:
    """One network in every format, with a sample and the tensors of each."""

    folder: Path
    paths: dict[str, Path]
    sample: Path
    tensors: dict[str, list[TracedTensor]]

    @property
    def program(self) -> Path:
        return self.folder / "net.pt2"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("layers")
    images = np.random.default_rng(0).standard_normal((6, 3, 12, 12)).astype(np.float32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net(), (torch.from_numpy(images),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    formats = ["onnx", "tflite", "openvino", "ncnn"]
    document = edgedistill.export(net(), images, folder / "out", to=formats, name="net")
    written = {a["format"]: folder / "out" / a["path"] for a in document["artifacts"]}
    paths = {"onnxruntime": written["onnx"], "openvino": written["openvino"], "ncnn": written["ncnn"]}
    paths |= {"tflite-runtime": written["tflite"], "litert": written["tflite"]}
    sample = folder / "sample.npz"
    np.savez(sample, image=images[:1])
    tensors = {runtime: TRACERS[runtime](str(path), runtime, str(sample)) for runtime, path in paths.items()}
    tensors["torch"] = trace_program(program.module(), [images[:1]], ["output"], None)
    return Files(folder, paths, sample, tensors)


def aligned(
    reference: list[TracedTensor], candidate: list[TracedTensor], limits: Limits = FLOAT, *, same: bool = False
) -> Layers:
    given = {t.output: t for t in candidate if t.output}
    outputs = {name: t.output for name, t in matched(given, [t.output for t in reference if t.output]).items()}
    return align(reference, candidate, outputs, limits, same_format=same)


def weighted(tensors: list[TracedTensor]) -> list[TracedTensor]:
    return [t for t in tensors if t.weighted and t.operator not in ("Add", "batch_norm")]  # folded, or OpenVINO's bias


@pytest.mark.parametrize("theirs", RUNTIMES)
@pytest.mark.parametrize("ours", ["torch", *RUNTIMES])
def test_sound_files_depart_nowhere_in_any_pair_of_formats(files: Files, ours: str, theirs: str) -> None:
    found = aligned(files.tensors[ours], files.tensors[theirs], same=ours == theirs)
    assert found.first_departure is None
    agreeing = [row for row in found.rows if row["state"] == "agrees"]
    assert len(agreeing) >= 9, "what the formats have in common"
    assert all(near(row, 1e-5) for row in agreeing)
    assert found.to_json()["layers_absent"] == len(found.rows) - len(agreeing)


def test_terms_of_a_sum_are_seen_before_the_sum_is_written_over_them(files: Files) -> None:
    for runtime in ("tflite-runtime", "litert"):
        tensors = files.tensors[runtime]
        (first, _) = (t for t in tensors if t.operator == "ADD")
        left, right = (tensors[source].value for source in first.sources)
        np.testing.assert_allclose(np.maximum(left + right, 0), first.value, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("a.Named/b.Net_module/b.Block_one/torch.nn.Conv2d_wide;2", "one.wide"),
        ("b.Net/b.Block_one/c.BatchNorm2d_norm;;b.Net/b.Block_one/c.Conv2d_deep;1", "one.deep"),
        ("a.Named/b.Net_module;1", ""),
        ("b.Net/c.Submodule_submodule;", "submodule"),
        ("serving_default_output_output", ""),
    ],
)
def test_the_module_in_a_tflite_name(name: str, module: str) -> None:
    assert shelf("tflite")._module(name) == module


@pytest.mark.parametrize("number", range(len(MODULES)))
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_spoilt_layer_is_named_against_its_own_format_and_every_other(
    files: Files, tmp_path: Path, runtime: str, number: int
) -> None:
    spoil = (faults.noisy, faults.swapped)[(number + RUNTIMES.index(runtime)) % 2]
    source = files.paths[runtime]
    target = tmp_path / f"spoilt{source.suffix}"
    name = SPOILERS[runtime](source, target, number, spoil)
    tensors = TRACERS[runtime](str(target), runtime, str(files.sample))
    for reference in ["torch", *RUNTIMES]:
        ours = files.tensors[reference]
        first = aligned(ours, tensors, same=reference == runtime).first_departure
        assert first is not None
        assert first["layer"]["tensor"] == weighted(ours)[number].name, reference
        if reference in ("torch", "onnxruntime"):
            assert first["layer"]["module"] == MODULES[number]
        if reference == runtime:
            assert first["artifact"] is not None
            assert first["layer"]["tensor"] == first["artifact"]["tensor"] == name
        assert all(near(row, 1e-5) for row in first["preceded_by"])
        assert (first["max_relative"] or 0.0) > 1e-3


def test_a_program_of_a_fixed_batch_and_one_that_refuses_a_single_row_are_followed_too(files: Files) -> None:
    images = np.load(files.sample)["image"]
    fixed = torch.export.export(net(), (torch.from_numpy(np.repeat(images, 3, axis=0)),))
    found = trace_program(fixed.module(), [images], ["output"], 3)
    atleast_two = {0: torch.export.Dim("batch", min=2, max=64)}
    pair = torch.export.export(net(), (torch.from_numpy(np.repeat(images, 3, axis=0)),), dynamic_shapes=(atleast_two,))
    for tensors in (found, trace_program(pair.module(), [images], ["output"], None)):
        assert [t.value.shape[0] for t in tensors] == [1] * len(tensors)
        assert aligned(files.tensors["torch"], tensors).first_departure is None


# 8-bit files: of the run that all tests share, a plain convnet.


@dataclass(frozen=True)
class Integers:
    """fp32 and int8 files of one format."""

    runtime: str
    fp32: Path
    int8: Path
    sample: Path
    tensors: list[TracedTensor]

    def first(self, path: Path) -> FirstDeparture | None:
        tensors = TRACERS[self.runtime](str(path), self.runtime, str(self.sample))
        return aligned(self.tensors, tensors, INT8, same=True).first_departure


@pytest.fixture(scope="module", params=["onnxruntime", "tflite-runtime", "litert", "openvino"])
def integers(request: pytest.FixtureRequest, finished: tuple[Path, dict[str, Any]], files: Files) -> Integers:
    runtime: str = request.param
    fmt = {"onnxruntime": "onnx", "openvino": "openvino"}.get(runtime, "tflite")
    stages = finished[0] / "stages"
    suffix = {"onnx": ".onnx", "openvino": ".xml"}.get(fmt, ".tflite")
    (fp32,) = stages.glob(f"export/*/{fmt}/student-fp32{suffix}")
    (int8,) = stages.glob(f"quantize/*/{fmt}/student-int8{suffix}")
    (kept,) = stages.glob(f"parity/*/worst/student-{fmt}-int8.{runtime}.npz")
    sample = files.folder / f"{runtime}-digit.npz"
    with np.load(kept) as archive:
        np.savez(sample, **{name: archive[name] for name in archive.files if "/" not in name})
    return Integers(runtime, fp32, int8, sample, TRACERS[runtime](str(fp32), runtime, str(sample)))


def test_a_sound_8_bit_file_departs_nowhere(integers: Integers) -> None:
    assert integers.first(integers.int8) is None
    assert integers.first(integers.fp32) is None


@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_8_bit_layer_of_spoilt_scales_is_named(integers: Integers, tmp_path: Path, number: int) -> None:
    target = tmp_path / f"spoilt{integers.int8.suffix}"

    def grown(scales: Any) -> Any:
        return (scales * 4).astype(scales.dtype)

    if integers.runtime == "onnxruntime":
        faults.onnx_tensor(integers.int8, target, r".*\.weight_scale", number, grown)
        layers = sorted(weighted(integers.tensors), key=lambda t: t.module)
    elif integers.runtime == "openvino":
        faults.openvino_weights(integers.int8, target, number, grown)
        layers = weighted(integers.tensors)
    else:
        faults.tflite_scale(integers.int8, target, number)
        layers = weighted(integers.tensors)
    first = integers.first(target)
    assert first is not None
    assert first["layer"]["tensor"] == layers[number].name


# OpenVINO's activations have ranges, no zero points; LiteRT's delegate refuses such a file itself
@pytest.mark.parametrize("integers", ["onnxruntime", "tflite-runtime"], indirect=True)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_spoilt_zero_point_of_activations_is_named(integers: Integers, tmp_path: Path, number: int) -> None:
    target = tmp_path / f"spoilt{integers.int8.suffix}"
    if integers.runtime == "onnxruntime":
        pattern = r"[^.]+_zero_point"  # dots stand in the names of weights alone
        spoilt = faults.onnx_tensor(
            integers.int8, target, pattern, number, lambda zero: ((zero.astype(int) + 100) % 256).astype(zero.dtype)
        )
        name = spoilt.removesuffix("_zero_point")
    else:
        name = faults.tflite_scale(integers.int8, target, number, zero_point=True)
    first = integers.first(target)
    assert first is not None
    assert first["tensor"] == name


# The command.


def spoilt(files: Files, tmp_path: Path) -> Path:
    target = tmp_path / "spoilt.onnx"
    faults.onnx_weights(files.paths["onnxruntime"], target, 2, faults.noisy)
    return target


def test_the_command_names_the_layer_to_people_and_in_one_document(
    files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bad, worst = spoilt(files, tmp_path), tmp_path / "kept" / "worst.npz"
    command = ["parity", str(files.program), str(bad), "--layers"]
    assert main([*command, "--json", "--worst", str(worst)]) == 1
    document = json.loads(capfd.readouterr().out)["parity"]
    assert document["state"] == "fail"
    assert document["first_departure"]["layer"]["module"] == "one.wide"
    assert document["worst_sample_file"] == str(worst)
    with np.load(worst, allow_pickle=False) as kept:
        assert set(kept.files) == {"image", "reference/output", "artifact/output"}
        far = np.abs(kept["reference/output"] - kept["artifact/output"]).max()
        with torch.no_grad():
            expected = net()(torch.from_numpy(kept["image"])).numpy()
        np.testing.assert_allclose(kept["reference/output"], expected, atol=1e-6)
    assert far == pytest.approx(document["max_abs"])
    assert main([*command, "--inputs", str(worst), "--min-snr", "3"]) == 1
    told = capfd.readouterr().out
    assert "n = 1" in told
    assert main([*command, "--inputs", str(worst)]) == 1
    told = capfd.readouterr().out
    assert "departs first at conv2d_2, conv2d of module one.wide" in told
    assert main(["parity", str(files.program), str(files.paths["onnxruntime"]), "--layers", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)["parity"]
    assert document["first_departure"] is None
    assert document["layers_note"] == ""


def test_a_file_that_departs_only_as_it_is_shipped_is_told(files: Files) -> None:
    source = load(str(files.program), Options(), None)
    proof = prove(source, artifact_of(files.paths["ncnn"]), None, ParitySettings())
    assert proof.layers(ParitySettings())["layers_note"] == ""
    fused = replace(proof, found={name: values * 1.01 for name, values in proof.found.items()})
    document = fused.layers(ParitySettings())
    assert document["first_departure"] is None
    assert "kernels that ncnn fuses" in document["layers_note"]
    assert isinstance(fused, Proof)


def refusal(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["parity", *map(str, arguments), "--json"])
    error: dict[str, Any] = json.loads(capfd.readouterr().out)["error"]
    assert all(error[key] for key in ("where", "expected", "fix")), error
    return code, error


def test_wrong_uses_are_told_in_words(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    onnx, tflite = files.paths["onnxruntime"], files.paths["litert"]
    images = np.load(files.sample)["image"]
    samples = {
        "name": {"picture": images},
        "nan": {"image": np.where(images > 2, np.nan, images)},
        "shape": {"image": images[..., :5]},
        "none": {},
    }
    for name, arrays in samples.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    for reference in (onnx, files.program):
        for name, says in (("name", "not those of"), ("nan", "NaN or infinity"), ("none", "not those of")):
            code, error = refusal(capfd, reference, onnx, "--layers", "--inputs", tmp_path / f"{name}.npz")
            assert (code, says in error["message"]) == (2, True), error
    code, error = refusal(capfd, onnx, tflite, "--layers", "--inputs", tmp_path / "shape.npz")
    assert code == 2
    assert "12" in error["message"]
    whole = onnx.read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    assert refusal(capfd, onnx, tmp_path / "half.onnx", "--layers")[0] == 3
    (tmp_path / "half.pt2").write_bytes(files.program.read_bytes()[:-300])
    assert refusal(capfd, tmp_path / "half.pt2", onnx, "--layers")[0] == 2
    assert refusal(capfd, onnx, files.program, "--layers")[0] == 2
    assert refusal(capfd, onnx, onnx, "--layers", "--device", "arm:cortex-a53")[0] == 2
    assert refusal(capfd, onnx, onnx, "--min-snr", "20")[0] == 2


def test_files_of_other_inputs_are_refused(files: Files, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other = nn.Sequential(nn.Flatten(), nn.Linear(27, 5))
    edgedistill.export(other, torch.randn(2, 3, 3, 3), tmp_path / "out", to=["onnx"], name="other")
    code, error = refusal(capfd, files.paths["onnxruntime"], tmp_path / "out" / "onnx" / "other-fp32.onnx", "--layers")
    assert code == 2
    assert "takes [3, 3, 3]" in error["message"]


def test_several_inputs_are_given_by_name_whatever_their_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    document = edgedistill.export(two(), examples(), tmp_path / "out", to=["onnx"], name="two")
    onnx = tmp_path / "out" / document["artifacts"][0]["path"]
    np.savez(tmp_path / "turned.npz", **dict(reversed(examples().items())))
    bad = tmp_path / "bad.onnx"
    faults.onnx_tensor(onnx, bad, r".*aside\.weight", 0, faults.noisy)
    for reference in (onnx, program(tmp_path / "two.pt2")):
        command = ["parity", str(reference), str(onnx), "--inputs", str(tmp_path / "turned.npz"), "--layers", "--json"]
        assert main(command) == 0
        assert json.loads(capfd.readouterr().out)["parity"]["first_departure"] is None
        assert main([*command[:2], str(bad), *command[3:]]) == 1
        found = json.loads(capfd.readouterr().out)["parity"]
        assert (found["output"], found["first_departure"]["layer"]["module"]) == ("aside", "aside")
        assert found["first_departure"]["also"] == []
    assert main(["parity", str(onnx), str(onnx), "--json"]) == 0, "made-up ids are ids"


def test_a_file_that_cannot_be_traced_is_refused(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = artifact_of(files.paths["onnxruntime"])
    with pytest.raises(ArtifactError, match="image"):
        trace_file(artifact, "onnxruntime", {"image": np.zeros((1, 3, 3, 3), np.float32)})

    class Blind:
        __name__ = "blind"

    monkeypatch.setattr("edgedistill.parity.tensors.load_exporter", lambda *_: Blind())
    with pytest.raises(PluginError, match="cannot show"):
        trace_file(artifact, "onnxruntime", {})


# Where the worst sample is kept.


def test_an_export_keeps_the_worst_sample_of_each_file(files: Files) -> None:
    document = json.loads((files.folder / "out" / "export.json").read_text(encoding="utf-8"))
    for artifact in document["artifacts"]:
        parity = artifact["parity"]
        assert parity["worst_sample_file"] == f"worst/{artifact['id']}.npz"
        with np.load(files.folder / "out" / parity["worst_sample_file"], allow_pickle=False) as kept:
            assert kept["image"].shape == (1, 3, 12, 12)
            far = np.abs(kept["reference/output"] - kept["artifact/output"]).max()
        assert far == pytest.approx(parity["max_abs"])


def test_a_run_keeps_the_worst_sample_of_each_file_and_the_report_says_where(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    run, document = finished
    for artifact in document["report"]["artifacts"]:
        for parity in artifact["parity_by_runtime"]:
            with np.load(run / parity["worst_sample_file"], allow_pickle=False) as kept:
                far = np.abs(kept["reference/logits"] - kept["artifact/logits"]).max()
            assert far == pytest.approx(parity["max_abs"]), artifact["id"]
        assert artifact["parity"]["worst_sample_file"] in [
            p["worst_sample_file"] for p in artifact["parity_by_runtime"]
        ]
