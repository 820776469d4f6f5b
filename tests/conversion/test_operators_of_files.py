"""Operators of files against their runtimes; newer, foreign and damaged files: told in words, never a crash."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgedistill
from edgedistill.artifacts.identify import described, inventory_of
from edgedistill.cli.main import main
from edgedistill.opening import opens
from edgedistill.plugins import load_exporter
from exporters.ncnn import operators as ncnn_operators
from exporters.onnx import operators as onnx_operators
from exporters.tflite.flatbuffer import packed, read
from exporters.tflite.versions import LITERT_VERSION, NEWEST
from tests.helpers.calls import opener_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgedistill.types import Inventory, Operator

FILES = {
    "onnx": "onnx/net-fp32.onnx",
    "tflite": "tflite/net-fp32.tflite",
    "openvino": "openvino/net-fp32.xml",
    "ncnn": "ncnn/net-fp32.ncnn.param",
}
RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "openvino": "openvino", "ncnn": "ncnn"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.encoder(x)).softmax(-1)
        return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("support") / "out"
    edgedistill.export(Net(), torch.randn(4, 8), out, to=list(FILES), name="net")
    return out


def inventory(path: Path) -> Inventory:
    """Also of a format whose exporter does not hand it on."""
    artifact = described(path)
    return ncnn_operators.inventory(artifact) if artifact.format == "ncnn" else inventory_of(artifact)


def by_type(found: Inventory) -> dict[str, Operator]:
    return {operator.type: operator for operator in found.operators}


def copies(files: Path, fmt: str, folder: Path, stem: str = "net-fp32") -> Path:
    """The file and its weights, free to be damaged."""
    source = files / FILES[fmt]
    for path in source.parent.iterdir():
        shutil.copy(path, folder / path.name.replace("net-fp32", stem))
    return folder / source.name.replace("net-fp32", stem)


def test_operators_are_counted_with_their_modules(files: Path) -> None:
    found = by_type(inventory(files / FILES["onnx"]))
    counted = Counter(node.op_type for node in onnx.load(files / FILES["onnx"]).graph.node)
    assert {kind: operator.count for kind, operator in found.items()} == counted
    assert found["Gemm"].modules == ("encoder.0", "head")
    assert found["Relu"].modules == ("encoder.1",)
    assert {operator.version for operator in found.values()} == {20}
    found = by_type(inventory(files / FILES["tflite"]))
    assert found["FULLY_CONNECTED"].count == 2
    assert found["FULLY_CONNECTED"].modules[0] == "encoder.0"
    assert found["FULLY_CONNECTED"].version == 5
    found = by_type(inventory(files / FILES["openvino"]))
    assert found["MatMul"].modules == ("encoder.0", "head")
    assert found["ReLU"].domain == "opset1"
    found = by_type(inventory(files / FILES["ncnn"]))
    assert found["InnerProduct"].count == 2
    for name in FILES.values():
        assert inventory(files / name).refusals == {}


def test_openvino_and_tflite_count_as_their_runtimes_do(files: Path) -> None:
    import openvino
    from ai_edge_litert.interpreter import Interpreter

    model = openvino.Core().read_model(files / FILES["openvino"])
    spelled = {"Relu": "ReLU", "Softmax": "SoftMax"}
    counted = Counter(spelled.get(kind, kind) for kind in (node.get_type_name() for node in model.get_ops()))
    for passive in ("Parameter", "Result", "Constant"):
        counted.pop(passive, None)
    found = inventory(files / FILES["openvino"]).operators
    assert {operator.type: operator.count for operator in found} == counted
    interpreter: Any = Interpreter(str(files / FILES["tflite"]), experimental_op_resolver_type=_without_delegates())
    names = Counter(one["op_name"] for one in interpreter._get_ops_details())
    assert {operator.type: operator.count for operator in inventory(files / FILES["tflite"]).operators} == names


def _without_delegates() -> Any:
    from ai_edge_litert.interpreter import OpResolverType

    return OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES


PROBE = '''
import importlib, json, sys
import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from edgedistill.exporters.tflite.flatbuffer import packed

Interpreter = importlib.import_module(sys.argv[1] + ".interpreter").Interpreter

def opens(code, version):
    """A file of one operator code and no operators."""
    model, graph, entry = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT()
    entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [schema.BufferT()], [entry], [graph]
    try:
        Interpreter(model_content=packed(model))
    except ValueError:
        return False
    return True

codes = {name: code for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
codes.pop("CUSTOM")
print(json.dumps({n: max([v for v in range(1, 17) if opens(c, v)], default=0) for n, c in codes.items()}))
'''


@pytest.mark.parametrize(("column", "module"), [(0, "tflite_runtime"), (1, "ai_edge_litert")])
def test_the_runtime_itself_registers_the_versions_of_the_table(column: int, module: str) -> None:
    if module == "ai_edge_litert" and version("ai-edge-litert") != LITERT_VERSION:
        pytest.skip("the table is of another LiteRT")
    done = subprocess.run([sys.executable, "-c", PROBE, module], capture_output=True, text=True, check=True)
    newest = json.loads(done.stdout.splitlines()[-1])
    assert {name: number for name, number in newest.items() if number} == {
        name: both[column] for name, both in NEWEST.items() if both[column]
    }


def _onnx(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString())

    return edit


def _newer_ir(model: Any) -> None:
    model.ir_version = 99


def _newer_opset(model: Any) -> None:
    model.opset_import[0].version = 77


def _own_domain(model: Any) -> None:
    model.graph.node[0].domain = "my.own"
    model.opset_import.add(domain="my.own", version=1)


def _unknown_operator(model: Any) -> None:
    model.graph.node[1].op_type = "Fancy"


def _weights_outside(path: Path) -> None:
    model = onnx.load(path)
    onnx.save(model, str(path), save_as_external_data=True, location="weights.data", size_threshold=0)
    path.with_name("weights.data").unlink()


def _tflite(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        model = read(path)
        change(model)
        path.write_bytes(packed(model))

    return edit


def _newer_schema(model: Any) -> None:
    model.version = 4


def _newer_version(model: Any) -> None:
    model.operatorCodes[0].version = 30


def _custom(name: bytes) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        code = model.operatorCodes[-1]
        code.builtinCode = code.deprecatedBuiltinCode = 32  # CUSTOM
        code.customCode, code.version = name, 1
        for operator in model.subgraphs[0].operators:
            if operator.opcodeIndex == len(model.operatorCodes) - 1:
                operator.builtinOptionsType, operator.builtinOptions = 0, None

    return edit


def _text(before: str, after: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")

    return edit


FOREIGN: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "newer IR of ONNX": ("onnx", _onnx(_newer_ir), "its IR version is 99"),
    "newer opset": ("onnx", _onnx(_newer_opset), "its opset is 77"),
    "a domain of one's own": ("onnx", _onnx(_own_domain), "Gemm (encoder.0): a custom operator of the domain my.own"),
    "an unknown operator": ("onnx", _onnx(_unknown_operator), "Fancy (encoder.1): not in ai.onnx 20"),
    "weights that are not there": ("onnx", _weights_outside, "weights.data, which is not beside it"),
    "newer schema of TFLite": ("tflite", _tflite(_newer_schema), "its schema version is 4"),
    "newer operator of TFLite": ("tflite", _tflite(_newer_version), "version 30, LiteRT"),
    "an operator of Flex": ("tflite", _tflite(_custom(b"FlexErf")), "(FlexErf), which needs the Flex delegate"),
    "a custom operator": ("tflite", _tflite(_custom(b"Mine")), "a custom operator (Mine)"),
    "newer IR of OpenVINO": ("openvino", _text('version="11"', 'version="12"'), "its IR version is '12'"),
    "newer opset of OpenVINO": ("openvino", _text('version="opset1"', 'version="opset99"'), "of opset99, which"),
    "unknown to OpenVINO": ("openvino", _text('type="ReLU"', 'type="Mystery"'), "Mystery (encoder.1): OpenVINO"),
    "unknown to ncnn": ("ncnn", _text("InnerProduct ", "Mystery "), "has no such layer"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_newer_and_foreign_files_are_refused_in_words_and_by_the_runtime_too(
    name: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fmt, edit, told = FOREIGN[name]
    path = copies(files, fmt, tmp_path)
    edit(path)
    reasons = inventory(path).refusals
    assert told in reasons[RUNTIMES[fmt]]
    opened = opens(described(path), RUNTIMES[fmt], opener_of(RUNTIMES[fmt]))
    assert opened.state == "fail"  # no refusal that the runtime would not give
    assert main(["parity", str(path), str(path), "--json"]) == 3
    error = json.loads(capfd.readouterr().out)["error"]
    assert all(error[part] for part in ("message", "where", "expected", "got", "fix"))
    assert path.name in error["where"]
    assert told in error["got"]
    assert main(["operators", str(path)]) == 3
    assert told in " ".join(capfd.readouterr().out.split())


def test_the_newest_that_onnxruntime_knows_is_not_refused(files: Path, tmp_path: Path) -> None:
    path = copies(files, "onnx", tmp_path)
    model = onnx.load(path)
    model.opset_import[0].version = max(onnx_operators._FIRST_WITH_OPSET)
    model.ir_version = max(onnx_operators._FIRST_WITH_IR)
    path.write_bytes(model.SerializeToString())
    refused, opened = inventory(path).refusals, opens(described(path), "onnxruntime", opener_of("onnxruntime"))
    assert bool(refused) == (opened.state == "fail"), (refused, opened.reason)


def test_weights_of_another_file_are_told(files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for fmt in ("openvino", "ncnn"):
        path = copies(files, fmt, tmp_path)
        path.with_suffix(".bin").unlink()
        assert main(["benchmark", str(path)]) == 2
        assert f"{path.stem}.bin is not beside {path.name}" in capfd.readouterr().err
    foreign = copies(files, "openvino", tmp_path)
    text = foreign.read_text(encoding="utf-8")
    start = text.index("<rt_info>", text.rindex("</edges>"))
    foreign.write_text(text[:start] + "</net>", encoding="utf-8")  # as others write it, without our digest
    (check,) = load_exporter("openvino").check_support(described(foreign))
    assert check.state == "pass", check.reason


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


def _flip(share: float) -> Callable[[bytes], bytes]:
    def flipped(content: bytes) -> bytes:
        at = int(len(content) * share)
        return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]

    return flipped


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"This is no model.\n" * 20,
    "zeros": lambda content: bytes(len(content)),
    "another magic": lambda content: b"\x00\x01\x02\x03XXXX" + content[8:],
    "first byte": _flip(0),
    **{f"cut at {share:.0%}": _cut(share) for share in (0.1, 0.5, 0.9)},
}
PERHAPS = {f"flipped at {share:.0%}": _flip(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)}


def settled(code: int, told: str) -> None:
    """One message with all its parts, or a verdict."""
    assert "Traceback" not in told
    assert "internal error" not in told
    if code in (2, 3):
        assert sum(line.startswith("error: ") for line in told.splitlines()) == 1, told
        assert all(f"{part}: " in told for part in ("where", "expected", "got", "fix")), told


@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.parametrize("fmt", FILES)
def test_every_command_refuses_a_damaged_file(
    fmt: str, damage: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copies(files, fmt, tmp_path)
    path.write_bytes(UNREADABLE[damage](path.read_bytes()))
    whole, once = str(files / FILES[fmt]), ["--preset", "quick", "--rounds", "1"]
    commands = [["parity", str(path), whole], ["benchmark", str(path), *once], ["operators", str(path)]]
    for command in commands:
        code = main(command)
        out, told = capfd.readouterr()
        assert code == 3, command
        if command[0] == "operators" and "refuses it" in " ".join(out.split()):
            continue  # cut where its text can still be read: a verdict
        settled(code, told)
        assert path.name in told
    code = main(["export", str(path), "--to", "onnx", "-o", str(tmp_path / "o")])
    assert code == (3 if fmt == "onnx" else 2)
    settled(code, capfd.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("damage", PERHAPS)
@pytest.mark.parametrize(
    ("fmt", "suffix"), [(f, s) for f in FILES for s in ("", ".bin") if f in ("openvino", "ncnn") or not s]
)
def test_a_flipped_byte_ends_in_a_verdict_or_one_message(
    fmt: str, suffix: str, damage: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copies(files, fmt, tmp_path)
    target = path.with_suffix(suffix) if suffix else path
    target.write_bytes(PERHAPS[damage](target.read_bytes()))
    for command in (["parity", str(files / FILES[fmt]), str(path)], ["parity", str(path), str(path)]):
        code = main(command)
        assert code in (0, 1, 3), command
        settled(code, capfd.readouterr().err)


@pytest.mark.parametrize("damage", ["cut at 50%", "zeros"])
@pytest.mark.parametrize("fmt", ["openvino", "ncnn"])
def test_damaged_weights_are_told(
    fmt: str, damage: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = copies(files, fmt, tmp_path)
    weights = path.with_suffix(".bin")
    weights.write_bytes(UNREADABLE[damage](weights.read_bytes()))
    code = main(["parity", str(files / FILES[fmt]), str(path)])
    assert code == (1 if (fmt, damage) == ("ncnn", "zeros") else 3)  # ncnn reads zeros as weights; parity tells
    settled(code, capfd.readouterr().err)


def test_a_bundle_with_a_damaged_file_is_refused(copied: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in sorted((copied / "bundle" / "artifacts").rglob("*-fp32.*"))[:3]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert main(["verify", str(copied / "bundle")]) in (2, 3)
        told = capfd.readouterr().err
        settled(3, told)
        assert path.name in told
        path.write_bytes(whole)


WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "too many": ({"x": np.zeros((4, 8), np.float32), "y": np.zeros(4)}, "takes 1 inputs"),
    "another shape": ({"x": np.zeros((4, 9), np.float32)}, "takes [8] a sample"),
    "text": ({"x": np.array([["a"] * 8] * 4)}, "models take numbers"),
    "complex": ({"x": np.zeros((4, 8), np.complex64)}, "models take numbers"),
    "no samples": ({"x": np.zeros((0, 8), np.float32)}, "positive number of samples"),
    "one number": ({"x": np.float32(1)}, "first axis must be the samples"),
    "objects": ({"x": np.array([None, 1], dtype=object)}, "cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_samples_that_do_not_fit_are_wrong_use(
    name: str, files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays, says = WRONG_INPUTS[name]
    samples, onnx_file = tmp_path / "samples.npz", str(files / FILES["onnx"])
    np.savez(samples, **arrays)
    assert main(["benchmark", onnx_file, "--preset", "quick", "--rounds", "1", "--inputs", str(samples)]) == 2
    told = capfd.readouterr().err
    settled(2, told)
    assert says in told
    assert "samples.npz" in told
    assert main(["export", onnx_file, "--to", "onnx", "-o", str(tmp_path / "o"), "--inputs", str(samples)]) == 2
    settled(2, capfd.readouterr().err)


def test_fractions_for_ids_are_told() -> None:
    agent = importlib.import_module("edgedistill.agent")
    spec = {"name": "ids", "shape": [1, 4], "dtype": "int64"}
    agent._check_numbers({"ids": np.ones((2, 4))}, [spec])
    with pytest.raises(agent.Refused, match="fractions"):
        agent._check_numbers({"ids": np.full((2, 4), 0.5)}, [spec])
