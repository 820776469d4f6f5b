"""A model of one's own, several inputs and outputs, to every runtime: proved, repeatable, and refused in words."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgedistill
from edgedistill.artifacts.running import matched
from edgedistill.cli.main import main
from edgedistill.conversion.export import Settings, write
from edgedistill.conversion.loading import Options, load
from edgedistill.errors import EdgeDistillError, ModelError, UsageError
from edgedistill.models.reference import of_module
from edgedistill.models.signature import flat, parameters_of, signature_of
from edgedistill.parity.compare import compare_outputs
from edgedistill.recipe.document import ParitySettings
from edgedistill.types import Array, Precision
from tests.helpers.near import near

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.report import ExportDocument

ROWS = 4


class Two(nn.Module):
    """Ids and features in, two named outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.dense = nn.Embedding(50, 8), nn.Linear(5, 8)
        self.head, self.aside = nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, ids: Tensor, features: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(ids).mean(1) + self.dense(features).relu()
        return {"scores": self.head(hidden), "aside": self.aside(hidden)}


def two() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


def examples() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {"ids": rng.integers(0, 50, (ROWS, 6)), "features": rng.standard_normal((ROWS, 5)).astype(np.float32)}


def program(path: Path, *, dynamic: bool = True) -> Path:
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes: Any = {"ids": {0: batch}, "features": {0: batch}} if dynamic else None
    given = tuple(torch.from_numpy(array) for array in examples().values())
    torch.export.save(torch.export.export(two(), given, dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportDocument]:
    out = tmp_path_factory.mktemp("export") / "out"
    return out, edgedistill.export(two(), examples(), out, name="two")


def test_every_format_answers_as_the_module_in_every_runtime(exported: tuple[Path, ExportDocument]) -> None:
    out, document = exported
    assert json.loads((out / "export.json").read_text(encoding="utf-8")) == document
    assert [a["format"] for a in document["artifacts"]] == ["onnx", "tflite", "openvino"]
    runtimes = [p["runtime"] for a in document["artifacts"] for p in a["parity_by_runtime"]]
    assert sorted(runtimes) == ["litert", "onnxruntime", "openvino", "tflite-runtime"]
    for artifact in document["artifacts"]:
        assert (out / artifact["path"]).is_file()
        for parity in artifact["parity_by_runtime"]:
            assert parity["state"] == "pass", artifact["id"]
            assert near(parity, 1e-5)
            assert [one["output"] for one in parity["outputs"]] == ["scores", "aside"]
    tflite = document["artifacts"][1]["signature"]["inputs"]
    assert [(one["name"], one["shape"], one["dtype"]) for one in tflite] == [
        ("ids", [1, 6], "int32"),
        ("features", [1, 5], "float32"),
    ]


def test_the_same_module_gives_the_same_bytes(exported: tuple[Path, ExportDocument], tmp_path: Path) -> None:
    again = edgedistill.export(two(), tuple(examples().values()), tmp_path / "out", name="two")
    assert [a["sha256"] for a in again["artifacts"]] == [a["sha256"] for a in exported[1]["artifacts"]]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_one_onnx_and_one_openvino_file_serve_every_batch(exported: tuple[Path, ExportDocument], batch: int) -> None:
    import onnxruntime
    import openvino

    given = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in examples().items()}
    with torch.no_grad():
        expected = two()(*[torch.from_numpy(array) for array in given.values()])["scores"].numpy()
    session = onnxruntime.InferenceSession(exported[0] / "onnx" / "two-fp32.onnx")
    np.testing.assert_allclose(np.asarray(session.run(["scores"], given)[0]), expected, atol=1e-5)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(exported[0] / "openvino" / "two-fp32.xml", "CPU", settings)
    np.testing.assert_allclose(compiled(given)["scores"], expected, atol=1e-5)


def test_a_file_that_departs_is_told_as_failed(tmp_path: Path) -> None:
    source = of_module(two(), examples(), "two")
    expected = {name: array + np.float32(0.5) for name, array in source.expected.items()}
    lying = type(source)(source.model, source.name, source.signature, source.inputs, expected)
    document = write(lying, tmp_path / "out", Settings(to=["onnx"]))
    assert document["artifacts"][0]["parity"]["state"] == "fail"


def test_programs_and_onnx_files_export_from_the_command_line(
    exported: tuple[Path, ExportDocument], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = program(tmp_path / "two.pt2")
    calibration = tmp_path / "c.npz"
    np.savez(calibration, **examples())
    command = [
        "export",
        str(path),
        "--to",
        "onnx",
        "--precision",
        "int8",
        "--calibration",
        str(calibration),
        "--candidates",
        "min-max",
    ]
    code = main([*command, "-o", str(tmp_path / "p"), "--json"])
    artifacts = json.loads(capfd.readouterr().out)["artifacts"]
    assert [a["precision"] for a in artifacts] == ["fp32", "int8-static"]
    assert code == (0 if all(a["parity"]["state"] == "pass" for a in artifacts) else 1)
    assert artifacts[0]["parity"]["state"] == "pass"
    assert (tmp_path / "p" / "export.log").is_file()
    onnx = exported[0] / "onnx" / "two-fp32.onnx"
    assert main(["export", str(onnx), "--to", "onnx,openvino", "-o", str(tmp_path / "q")]) == 0
    assert "pass" in capfd.readouterr().out


def test_a_program_of_one_batch_keeps_it(tmp_path: Path) -> None:
    source = load(str(program(tmp_path / "fixed.pt2", dynamic=False)), Options(), None)
    assert [spec.shape[0] for spec in source.signature.inputs] == [ROWS, ROWS]


def refused(tmp_path: Path, target: str, *more: str) -> dict[str, Any]:
    with pytest.raises(EdgeDistillError) as caught:
        write(
            load(target, Options(shapes=tuple(m for m in more if ":" in m)), None),
            tmp_path / "o",
            Settings(to=[m for m in more if ":" not in m] or ["onnx"]),
        )
    error = caught.value
    assert error.exit_code in (2, 3), "of wrong use, or refused by a runtime"
    assert all((error.where, error.expected, error.fix))
    return error.to_json()


def test_what_is_no_model_is_refused(tmp_path: Path, exported: tuple[Path, ExportDocument]) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"no archive")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    half = program(tmp_path / "half.pt2")
    half.write_bytes(half.read_bytes()[:-200])
    for target, says in (
        ("missing.pt2", "there is no file"),
        ("model.h5", "no model"),
        (str(tmp_path / "bad.pt2"), "cannot be read"),
        (str(half), "cannot be read"),
        (str(tmp_path / "bad.onnx"), "refuses"),
        ("torch.nn:Flatten", "shapes of the inputs"),
        ("torch:get_num_threads", "torch module"),
    ):
        assert says in refused(tmp_path, target)["message"], target
    assert "TFLite" in refused(tmp_path, str(exported[0] / "onnx" / "two-fp32.onnx"), "tflite")["message"]
    assert "no input" in refused(tmp_path, "torch.nn:Flatten", "x:two,3")["message"]


def test_samples_and_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    given = examples()
    with pytest.raises(UsageError, match="needs calibration"):
        edgedistill.export(two(), given, tmp_path / "o", to=["onnx"], precisions=["int8"])
    with pytest.raises(UsageError, match="not those of the model"):
        edgedistill.export(
            two(), given, tmp_path / "o", to=["onnx"], precisions=["int8"], calibration={"x": given["ids"]}
        )
    wrong = {**given, "features": given["features"][:, :3]}
    with pytest.raises(UsageError, match="another shape"):
        edgedistill.export(two(), given, tmp_path / "o", to=["onnx"], precisions=["int8"], calibration=wrong)
    with pytest.raises(ModelError, match="does not take these inputs"):
        edgedistill.export(two(), wrong, tmp_path / "o")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UsageError, match="holds something else"):
        edgedistill.export(two(), given, tmp_path / "mine", to=["onnx"])
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_outputs_are_flattened_with_names() -> None:
    one = torch.zeros(2, 3)
    assert list(flat(one)) == ["output"]
    assert list(flat((one, [one, one]))) == ["output_0", "output_1_0", "output_1_1"]
    assert list(flat(OrderedDict(a=one, b={"c": one}))) == ["a", "b_c"]
    with pytest.raises(ModelError, match="returns a int"):
        flat((one, 3))
    assert parameters_of(two(), 2) == ["ids", "features"]
    assert parameters_of(nn.Sequential(), 1) == ["input"]
    signature, _ = signature_of(nn.ReLU(), {"x": np.zeros((2, 1, 4, 4), np.float32)})
    assert signature.inputs[0].shape == ("batch", 1, 4, 4)
    assert signature.inputs[0].layout == "NCHW"


def test_outputs_are_matched_by_name_then_by_part_of_a_name_then_by_order() -> None:
    a, b = np.zeros(1), np.ones(1)
    assert matched({"b": b, "a": a}, ["a", "b"]) == {"a": a, "b": b}
    assert matched({"call_b:0": b, "call_a:0": a}, ["a:0", "b:0"]) == {"a:0": a, "b:0": b}
    assert matched({"out0": a, "out1": b}, ["x", "y"]) == {"x": a, "y": b}


def test_the_worst_output_speaks_and_a_missing_one_fails() -> None:
    rng = np.random.default_rng(0)
    reference = {"good": rng.normal(size=(9, 4)), "map": rng.normal(size=(9, 2, 5, 5))}
    near = {"good": reference["good"], "map": reference["map"] + 1e-3}
    found = compare_outputs(reference, near, Precision.FP32, ParitySettings(), name="m", runtime="r")
    assert (found.output, found.state) == ("map", "fail")
    assert [one.state for one in found.outputs] == ["pass", "fail"]
    expected = 20 * np.log10(np.sqrt(np.mean(reference["map"] ** 2)) / 1e-3)
    assert found.snr_db == pytest.approx(expected, abs=1e-6)
    json.dumps(found.to_json(), allow_nan=False)
    missing = compare_outputs(
        reference, {"good": reference["good"]}, Precision.FP32, ParitySettings(), name="", runtime=""
    )
    assert (missing.output, missing.state) == ("map", "fail")
