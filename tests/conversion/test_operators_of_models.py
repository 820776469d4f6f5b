"""Operators of a model before it is converted: what is foreseen, against what really happens."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

import edgedistill
from benchmarks.studies.zoo.models import ZOO, built
from edgedistill.cli.main import main
from edgedistill.conversion.operators import require_convertible
from edgedistill.errors import EdgeDistillError, ModelError
from edgedistill.models.reference import of_module
from edgedistill.plugins import find_plugin, load_exporter
from edgedistill.recipe.document import ParitySettings
from exporters._shared.replacements import replacement
from exporters._shared.torch_graph import blamed
from tests.helpers.awkward import CASES, FORMATS, Awkward

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from edgedistill.models.reference import Reference
    from edgedistill.types import Operator

FORESEE = {fmt: find_plugin("exporters", fmt).foresee for fmt in FORMATS}
QUICK = (
    "rfft",
    "complex",
    "grid_sample",
    "custom",
    "sort",
    "scatter",
    "adaptive_maximum",
    "einsum",
    "bitwise",
    "noise",
)


def source(name: str) -> Reference:
    torch.manual_seed(0)
    module = Awkward(CASES[name].compute).eval()
    return of_module(module, {"x": torch.randn(2, *CASES[name].sample).numpy()}, name)


def refused(found: Reference, fmt: str) -> list[Operator]:
    return [row for row in FORESEE[fmt](found.model, found.signature, found.inputs) if row.refused]


def foreseen(name: str, formats: Iterable[str] = FORMATS) -> set[str]:
    found, refusing = source(name), set()
    for fmt in formats:
        try:
            rows = refused(found, fmt)
        except ModelError:
            refusing.add(fmt)
            continue
        if rows:
            refusing.add(fmt)
            assert all(row.modules == ("body",) for row in rows), rows
            assert all(set(row.refused) == {fmt} for row in rows)
    return refusing


@pytest.mark.parametrize("name", QUICK)
def test_what_formats_refuse_is_foreseen(name: str) -> None:
    assert foreseen(name) == CASES[name].foreseen


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CASES) - set(QUICK)))
def test_what_formats_refuse_is_foreseen_of_all_modules(name: str) -> None:
    assert foreseen(name) == CASES[name].foreseen


@pytest.mark.slow
@pytest.mark.parametrize("fmt", sorted(FORMATS))
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_table_is_what_really_happens(name: str, fmt: str, tmp_path: Path) -> None:
    """Converted by the exporter itself, without asking first."""
    from edgedistill.conversion.proof import prove, unsupported
    from edgedistill.plugins import load_exporter

    found = source(name)
    try:
        artifact = load_exporter(fmt).export(found.model, name, found.signature, tmp_path, found.inputs)
        proof = prove(found, artifact, ParitySettings(), tmp_path, unsupported(artifact))
        taken = proof.speaks.parity.state == "pass"
    except EdgeDistillError:
        taken = False
    wrong_silently = name == "rfft" and fmt == "openvino"  # it converts, and parity tells
    assert taken == (fmt not in CASES[name].foreseen | CASES[name].unforeseen) or wrong_silently


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZOO))
def test_no_student_of_the_zoo_is_refused(name: str) -> None:
    module, samples = built(ZOO[name])
    found = of_module(module, {f"x{n}": sample.numpy() for n, sample in enumerate(samples)}, name)
    assert {fmt: refused(found, fmt) for fmt in FORMATS} == {fmt: [] for fmt in FORMATS}


def test_every_operator_is_listed_with_its_module() -> None:
    module, samples = built(ZOO["two-inputs"])
    found = of_module(module, {f"x{n}": sample.numpy() for n, sample in enumerate(samples)}, "two")
    rows = {row.type: row for row in FORESEE["ncnn"](found.model, found.signature, found.inputs)}
    assert rows["linear.default"].modules == ("sense.0", "classifier.0", "classifier.2")
    assert rows["linear.default"].count == 3
    assert rows["conv2d.default"].modules == ("eye.0",)
    assert not any(row.refused for row in rows.values())


class Deep(nn.Module):
    """A branch on values, three modules deep."""

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 0:
                return x * 2
            return x

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), self.Gate()))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.encoder(x)
        return found


def test_a_branch_on_values_is_told_with_its_module_and_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        edgedistill.export(Deep(), torch.randn(2, 4), tmp_path / "out", to=["onnx", "tflite"], name="deep")
    error = caught.value
    assert error.message == "deep cannot be converted to onnx, tflite"
    assert "encoder.1.1" in error.where
    assert "if x.mean() > 0:" in error.got
    assert "test_operators_of_models.py" in error.got
    assert "torch.where" in error.fix
    assert not (tmp_path / "out").exists()


class Rank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.rank = nn.Linear(4, 4), Awkward(lambda x: torch.sort(x, -1)[0])
        self.log = Awkward(torch.erfinv)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.log(self.rank(self.encoder(x)).tanh())
        return found


def rank() -> nn.Module:
    """For the command line."""
    return Rank()


def test_one_error_names_every_format_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        edgedistill.export(Rank(), torch.randn(2, 4), tmp_path / "out", to=["onnx", "tflite", "openvino"])
    error = caught.value
    assert error.message == "model cannot be converted to onnx, tflite, openvino"
    assert error.where == "log.body, rank.body"
    assert "aten.sort.default (rank.body): it becomes" in error.got
    assert "onnx, openvino: aten.erfinv.default (log.body): torch.onnx has no translation" in error.got
    assert "instead of sort" in error.fix
    assert "instead of erfinv" in error.fix
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_is_refused_by_every_format_that_needs_torch(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tflite") as caught:
        require_convertible(tmp_path / "m.onnx", "m", source("roll").signature, ["onnx", "tflite", "openvino"])
    assert "written from torch models" in caught.value.message


def test_a_converter_that_fails_names_operator_module_and_replacement(tmp_path: Path) -> None:
    """The exporters alone, nobody having asked before."""
    found = source("sort")
    shape = found.signature
    lost = source("erfinv")
    with pytest.raises(ModelError, match=r"litert-torch cannot convert m: aten.erfinv.default \(body\)") as caught:
        load_exporter("tflite").export(lost.model, "m", shape, tmp_path, lost.inputs)
    assert caught.value.where == "body"
    assert "polynomial" in caught.value.fix
    lost = source("determinant")  # torch.onnx translates it, OpenVINO does not read it
    with pytest.raises(ModelError, match="openvino cannot convert m: Det: ") as caught:
        load_exporter("openvino").export(lost.model, "m", lost.signature, tmp_path, lost.inputs)
    assert "factorisation" in caught.value.fix


def test_the_operator_is_found_in_what_converters_say() -> None:
    outer = ValueError("\x1b[96mThis is step 3/3\x1b[0m")
    outer.__cause__ = RuntimeError("No ONNX function found for <OpOverload(op='aten.median', overload='dim')>.")
    assert blamed(outer)[0] == "aten.median.dim"
    assert blamed(RuntimeError("Lowering not found: aten.erfinv.default"))[0] == "aten.erfinv.default"
    assert blamed(RuntimeError("trace: ncnn has no layer for pnnx.Expression, aten::sort"))[0] == "aten::sort"
    assert blamed(RuntimeError("something else\nand more")) == ("", "something else")


def test_replacements_are_those_of_the_family() -> None:
    for name, word in (
        ("aten.fft_rfft2.default", "DFT"),
        ("DFT", "DFT"),
        ("NonZero", "mask"),
        ("TopK", "argmax"),
        ("GridSample", "resizing"),
        ("STABLEHLO_SORT", "argmax"),
        ("adaptive_max_pool2d", "kernel"),
        ("FlexErfinv", "polynomial"),
        ("linalg_inv_ex", "factorisation"),
    ):
        assert word in replacement(name), name
    for name in ("Relu", "PReLU", "CONV_2D", "linear.default", "gelu", "leaky_relu", "InnerProduct"):
        assert replacement(name) == "", name


def test_the_command_lists_a_model_and_refuses_with_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = ["tests.conversion.test_operators_of_models:rank", "--input", "x:4"]
    assert main(["operators", *target, "--to", "tflite", "--json"]) == 3
    document: dict[str, Any] = json.loads(capfd.readouterr().out)
    rows = {row["type"]: row for row in document["operators"]}
    assert rows["linear.default"]["modules"] == ["encoder"]
    assert rows["linear.default"]["refused"] == {}
    assert list(rows["sort.default"]["refused"]) == ["tflite"]
    assert document["takers"][0]["takes"] is False
    assert main(["export", *target, "--to", "tflite", "-o", str(tmp_path / "out")]) == 2
    assert "cannot be converted to tflite" in capfd.readouterr().err
    assert "litert_torch" in sys.modules  # it was asked, and nothing was written
    assert not (tmp_path / "out").exists()
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(built(ZOO["two-inputs"])[0], built(ZOO["two-inputs"])[1]), path)
    assert main(["operators", str(path), "--to", "onnx"]) == 0
    told = capfd.readouterr().out
    assert "classifier.0" in told  # a saved program keeps its modules
    assert "onnx: takes it" in told
