"""ncnn's two files: what is stored in each precision, the same bytes in every process, and what is told of damage."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.errors import ArtifactError, ModelError
from edgedistill.models.reference import of_module
from edgedistill.plugins import find_plugin, load_exporter
from edgedistill.types import Artifact, Precision, State

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array

NCNN = load_exporter("ncnn")
GIVEN = {"x": np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)}


def private(name: str) -> Any:
    return importlib.import_module(f".{name}", find_plugin("exporters", "ncnn").__package__)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(4, 33, 3, padding=1), nn.BatchNorm2d(33), nn.PReLU(33), nn.Conv2d(33, 33, 3, groups=33))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(33 * 36, 5)).eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    source = of_module(net(), GIVEN, "net")
    return NCNN.export(source.model, "net", source.signature, tmp_path_factory.mktemp("ncnn"), GIVEN)


def run(artifact: Artifact, out: Path) -> Array:
    np.savez(out / "in.npz", **GIVEN)
    return compute_all(subjects([artifact])[0], out / "in.npz", out / "out.npz")["output"]


def decoded(path: Path, shapes: list[tuple[int, ...]]) -> list[tuple[int, Array]]:
    """Tagged weights of a .bin, read without the exporter: the tag, and the values in float32; each with its bias."""
    data, start, found = path.read_bytes(), 0, []
    for shape in shapes:
        tag, size = int.from_bytes(data[start : start + 4], "little"), int(np.prod(shape))
        start += 4
        if tag == 0x01306B47:
            values, used = np.frombuffer(data, "<f2", size, start).astype(np.float32), 2 * size
        elif tag == 0:
            values, used = np.frombuffer(data, "<f4", size, start), 4 * size
        else:
            table = np.frombuffer(data, "<f4", 256, start)
            values, used = table[np.frombuffer(data, "u1", size, start + 1024)], 1024 + size
        start += used + -used % 4 + 4 * shape[0]
        found.append((tag, values.reshape(shape)))
    assert start == len(data)
    return found


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(4, 33, 3, padding=1), nn.ReLU(), nn.Conv2d(33, 33, 3, groups=33))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(33 * 36, 5)).eval()


@pytest.mark.parametrize(
    ("precision", "tags"),
    [(Precision.FP16, [0x01306B47] * 3), (Precision.INT8_WEIGHTS, [1, 0, 1])],  # 297 weights do not pay for a table
)
def test_ncnn_computes_with_the_values_that_are_stored(precision: Precision, tags: list[int], tmp_path: Path) -> None:
    module = plain()
    source = of_module(module, GIVEN, "net")
    made = NCNN.quantize(NCNN.export(source.model, "net", source.signature, tmp_path, GIVEN), precision, {}, tmp_path)
    weighted = [layer for layer in module if isinstance(layer, nn.Conv2d | nn.Linear)]
    stored = decoded(made.path.with_suffix(".bin"), [tuple(layer.weight.shape) for layer in weighted])
    assert [tag for tag, _ in stored] == tags
    with torch.no_grad():
        for layer, (_, values) in zip(weighted, stored, strict=True):
            if precision is Precision.FP16:
                assert np.array_equal(values, layer.weight.numpy().astype(np.float16).astype(np.float32))
            layer.weight.copy_(torch.from_numpy(values.copy()))
        expected = module(torch.from_numpy(GIVEN["x"])).numpy()
    assert np.abs(run(made, tmp_path) - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(expected - source.expected["output"]).max() > 1e-5 * np.abs(expected).max()  # rounded at all
    assert NCNN.count_macs(made).integer == 0


def test_weights_beyond_half_floats_stay_float32(tmp_path: Path) -> None:
    module = plain()
    first, last = module[0], module[4]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight[0, 0, 0, 0] = 1e5
        last.weight.mul_(1e-5)
    source = of_module(module, GIVEN, "net")
    fp32 = NCNN.export(source.model, "net", source.signature, tmp_path, GIVEN)
    made = NCNN.quantize(fp32, Precision.FP16, {}, tmp_path)
    shapes: list[tuple[int, ...]] = [(33, 4, 3, 3), (33, 1, 3, 3), (5, 33 * 36)]
    assert [tag for tag, _ in decoded(made.path.with_suffix(".bin"), shapes)] == [0, 0x01306B47, 0x01306B47]
    assert np.isfinite(run(made, tmp_path)).all()


@pytest.mark.parametrize("spread", ["normal", "uniform", "channels of many sizes"])
def test_a_codebook_is_near_the_best(spread: str) -> None:
    rng = np.random.default_rng(1)
    values = {
        "normal": rng.standard_normal(200_000),
        "uniform": rng.uniform(-1, 1, 200_000),
        "channels of many sizes": rng.standard_normal((200, 1000)) * np.logspace(-2, 0, 200)[:, None],
    }[spread].astype(np.float32)
    file = private("precisions")
    table = file.codebook(values)
    codes = file.codes(values, table)
    assert table.shape == (256,)
    assert np.array_equal(codes[..., None].ravel()[:500], np.abs(values.ravel()[:500, None] - table).argmin(1))
    error = float(np.mean((table[codes] - values) ** 2))
    step = 2 * float(np.abs(values).max()) / 255
    if spread == "uniform":
        assert error < 1.03 * step**2 / 12
    elif spread == "normal":  # Panter and Dite: sqrt(3) pi / 2 over the square of the number of levels
        assert error < 1.10 * np.sqrt(3) * np.pi / 2 / 256**2
    else:
        assert error < 0.25 * step**2 / 12


def test_of_a_small_model_the_largest_tensor_is_coded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = of_module(nn.Sequential(nn.Conv2d(4, 2, 3), nn.Conv2d(2, 3, 1)), GIVEN, "net")
    fp32 = NCNN.export(source.model, "net", source.signature, tmp_path, GIVEN)
    made = NCNN.quantize(fp32, Precision.INT8_WEIGHTS, {}, tmp_path)
    assert [tag for tag, _ in decoded(made.path.with_suffix(".bin"), [(2, 4, 3, 3), (3, 2, 1, 1)])] == [1, 0]
    assert np.abs(run(made, tmp_path) - source.expected["output"]).max() < 1e-2


def test_half_of_a_file_and_a_quarter_of_it(base: Artifact, tmp_path: Path) -> None:
    sizes = {
        precision: NCNN.quantize(base, precision, GIVEN, tmp_path).path.with_suffix(".bin").stat().st_size
        for precision in NCNN.PRECISIONS[1:]
    }
    whole = base.path.with_suffix(".bin").stat().st_size
    assert sizes[Precision.FP16] < 0.53 * whole
    assert sizes[Precision.INT8_STATIC] < 0.29 * whole


TWICE = """
import hashlib, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from edgedistill.models.reference import of_module
from edgedistill.plugins import load_exporter
from edgedistill.conversion.loading import Options, load
out, exporter = Path(sys.argv[1]), load_exporter("ncnn")
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3, 2), nn.Flatten(), nn.Linear(144, 7)).eval()
given = {"x": np.random.default_rng(0).standard_normal((4, 3, 9, 9)).astype(np.float32)}
source = of_module(net, given, "net")
from onnx import TensorProto, helper, numpy_helper
def tensor(name, layer): return numpy_helper.from_array(layer.detach().numpy(), name)
nodes = [helper.make_node("Conv", ["x", "w", "b"], ["1"], kernel_shape=[3, 3]), helper.make_node("Relu", ["1"], ["y"])]
shapes = {"x": ["n", 3, 9, 9], "y": ["n", 32, 7, 7]}
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensor("w", net[0].weight), tensor("b", net[0].bias)])
import onnx
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out / "net.onnx")
for folder, one in (("torch", source), ("onnx", load(str(out / "net.onnx"), Options(name="net"), given))):
    (out / folder).mkdir()
    base = exporter.export(one.model, "net", one.signature, out / folder, given)
    for precision in exporter.PRECISIONS[1:]:
        for scheme in exporter.schemes(precision)[:3:2]:
            (out / folder / scheme.name).mkdir()
            exporter.quantize(base, precision, given, out / folder / scheme.name, scheme)
"""


def test_the_same_bytes_in_two_processes(tmp_path: Path) -> None:
    digests = []
    for number in ("1", "2"):
        out = tmp_path / number
        (out / "tmp").mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": number, "TMPDIR": str(out / "tmp")}
        subprocess.run([sys.executable, "-c", TWICE, str(out)], check=True, env=environment, capture_output=True)
        files = sorted(p for p in out.rglob("*.ncnn.*") if p.is_file())
        digests.append({p.relative_to(out): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2 * 2 * 5


def copied(artifact: Artifact, folder: Path) -> Artifact:
    folder.mkdir()
    for file in artifact.files:
        (folder / file.name).write_bytes(file.read_bytes())
    return Artifact.from_json(artifact.to_json(artifact.path.parent), folder)


def edited(artifact: Artifact, old: str, new: str) -> None:
    text = artifact.path.read_text(encoding="ascii")
    assert old in text
    artifact.path.write_text(text.replace(old, new, 1), encoding="ascii")


DAMAGES: dict[str, Any] = {
    "no .bin": lambda a: a.path.with_suffix(".bin").unlink(),
    "half a .bin": lambda a: a.path.with_suffix(".bin").write_bytes(a.path.with_suffix(".bin").read_bytes()[:3000]),
    "an empty .bin": lambda a: a.path.with_suffix(".bin").write_bytes(b""),
    "a longer .bin": lambda a: a.path.with_suffix(".bin").write_bytes(a.path.with_suffix(".bin").read_bytes() * 2),
    "no .param": lambda a: a.path.unlink(),
    "half a .param": lambda a: a.path.write_bytes(a.path.read_bytes()[: a.path.stat().st_size // 2]),
    "a cut line": lambda a: a.path.write_bytes(a.path.read_bytes()[:-20]),
    "an empty .param": lambda a: a.path.write_bytes(b""),
    "bytes for a .param": lambda a: a.path.write_bytes(bytes(range(256)) * 8),
    "another magic number": lambda a: edited(a, "7767517", "7767518"),
    "an unknown layer": lambda a: edited(a, "PReLU ", "NoLayer "),
    "a weight too few": lambda a: edited(a, "6=1188", "6=1187"),
    "weights below none": lambda a: edited(a, "6=1188", "6=-1188"),
    "weights beyond memory": lambda a: edited(a, "6=1188", "6=1999999999"),
    "no outputs": lambda a: edited(a, " 0=33 1=3", " 0=0 1=3"),
    "words for numbers": lambda a: edited(a, "6=1188", "6=many"),
    "a blob that nobody makes": lambda a: edited(a, "Input in0 0 1 x", "Input in0 0 1 y"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_kills_nobody(damage: str, base: Artifact, tmp_path: Path) -> None:
    broken = copied(base, tmp_path / "broken")
    DAMAGES[damage](broken)
    (check,) = NCNN.check_support(broken)
    assert check.state is State.FAIL
    assert ".ncnn." in check.reason or "no such layer" in check.reason
    for precision in (Precision.INT8_STATIC, Precision.FP16):
        with pytest.raises(ArtifactError) as caught:
            NCNN.quantize(broken, precision, GIVEN, tmp_path)
        assert all((caught.value.where, caught.value.expected, caught.value.got, caught.value.fix))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken"]


def test_damage_is_told_when_macs_or_layers_are_asked_for(base: Artifact, tmp_path: Path) -> None:
    for number, damage in enumerate(("half a .param", "half a .bin", "an unknown layer")):
        broken = copied(base, tmp_path / str(number))
        DAMAGES[damage](broken)
        with pytest.raises(ArtifactError):
            NCNN.layers(broken)
        with pytest.raises(ArtifactError):
            NCNN.count_macs(broken)


def test_a_layer_of_another_ncnn_is_named(base: Artifact, tmp_path: Path) -> None:
    broken = copied(base, tmp_path / "broken")
    edited(broken, "PReLU ", "NoLayer ")
    (check,) = NCNN.check_support(broken)
    assert "NoLayer" in check.reason
    assert "no such layer" in check.reason


def test_only_float32_files_are_quantised(base: Artifact, tmp_path: Path) -> None:
    half = NCNN.quantize(base, Precision.FP16, GIVEN, tmp_path)
    with pytest.raises(ArtifactError, match="not float32"):
        NCNN.quantize(half, Precision.INT8_STATIC, GIVEN, tmp_path)


def test_a_precision_without_weights_is_refused(tmp_path: Path) -> None:
    source = of_module(nn.Sequential(nn.AvgPool2d(2), nn.Sigmoid()), GIVEN, "net")
    artifact = NCNN.export(source.model, "net", source.signature, tmp_path, GIVEN)
    for precision in NCNN.PRECISIONS[1:]:
        with pytest.raises(ModelError, match=f"no layer for {precision.short}"):
            NCNN.quantize(artifact, precision, GIVEN, tmp_path)


def test_the_agent_says_how_it_computes(base: Artifact, tmp_path: Path) -> None:
    from edgedistill import agent

    made = NCNN.quantize(base, Precision.INT8_STATIC, GIVEN, tmp_path)
    command = [sys.executable, agent.__file__, str(made.path), "--opener", str(NCNN.OPENER), "--runtime", "ncnn"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["facts"]["in_force"]["use_int8_inference"] is True
    assert told["facts"]["in_force"]["use_fp16_arithmetic"] is False


def test_every_layer_of_the_table_of_weights_is_ncnns() -> None:
    ncnn: Any = importlib.import_module("ncnn")
    layout = private("layout")
    kinds = {*layout._LAYOUTS, *layout._GATES, *layout._CONVOLUTIONS, *layout._TRANSPOSED, "DeformableConv2D"}
    assert not [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]
