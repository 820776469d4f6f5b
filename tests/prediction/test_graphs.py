"""Graphs read from files: MACs against other counters, fusions, and what lives at once against brute force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest
from onnx import helper

from edgedistill.errors import ArtifactError, UsageError
from edgedistill.plugins import load_exporter
from edgedistill.types import Artifact
from tests.helpers.predicting import WINDOWS, convolutions, module, save, transformer, window

if TYPE_CHECKING:
    from pathlib import Path

    Finished = tuple[Path, dict[str, Any]]

graph: Any = module("graphs.graph")
read: Any = module("graphs.read")
networks: Any = module("published.networks")
data: Any = module("published.data")
memory: Any = module("memory")


def test_a_hand_counted_network(tmp_path: Path) -> None:
    found = read.read_graph(convolutions(tmp_path / "n.onnx", 16))
    by_class = found.macs_by_class()
    positions = 28 * 28
    assert by_class["stem"] == 16 * 27 * positions
    assert by_class["conv3x3"] == 2 * 16 * 16 * 9 * positions
    assert by_class["conv1x1"] == 16 * 16 * positions
    assert by_class["dense"] == 160
    row = dict(zip(graph.FEATURES, graph.features(found), strict=True))
    assert row["layers"] == 6  # four convolutions, the average, the dense layer; both activations are fused
    assert row["dense_weight_bytes"] == 640
    assert row["memory_io_bytes"] == 4 * (16 * positions + 16)


def test_grouped_is_no_depthwise(tmp_path: Path) -> None:
    assert read.read_graph(convolutions(tmp_path / "g.onnx", 16, groups=4)).macs_by_class()["grouped"] > 0
    assert read.read_graph(convolutions(tmp_path / "d.onnx", 16, groups=16)).macs_by_class()["depthwise"] > 0


def test_attention_is_counted_without_weights_too(tmp_path: Path) -> None:
    found = read.read_graph(transformer(tmp_path / "t.onnx", 64, 128))
    assert found.macs == 3 * 64 * 128 * 128 + 2 * 64 * 64 * 128 + 2 * 64 * 128 * 512


def test_an_activation_is_fused_where_nobody_else_reads_and_stays_where_one_does(tmp_path: Path) -> None:
    node = helper.make_node
    weights = {"w": (4, 3, 3, 3)}
    shape = (1, 3, 8, 8)
    alone = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])]
    shared = [node("Conv", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]
    swish = [node("Conv", ["x", "w"], ["a"]), node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["y"])]
    kinds = {
        name: [layer.kind for layer in read.read_graph(save(tmp_path / name, nodes, weights, shape)).layers]
        for name, nodes in (("alone.onnx", alone), ("shared.onnx", shared), ("swish.onnx", swish))
    }
    assert kinds["alone.onnx"] == ["stem", "free"]
    assert kinds["shared.onnx"] == ["stem", "memory", "memory"]
    assert kinds["swish.onnx"] == ["stem", "free", "memory"]


def test_every_format_of_a_student_has_the_exporters_macs(finished: Finished) -> None:
    """The exporters count in their own way; int8 files are read too."""
    run, answer = finished
    root = run
    checked = set()
    for document in answer["report"]["artifacts"]:
        artifact = Artifact.from_json(document, root)
        found = read.read_graph(artifact.path)
        assert found.macs == load_exporter(artifact.format).count_macs(artifact).total
        assert found.quantized == document["precision"].startswith("int8")
        checked.add(artifact.format)
    assert {"onnx", "tflite", "openvino"} <= checked


def test_published_networks_have_their_published_macs() -> None:
    assert networks.mobilenet_v1(1.0, 224).macs == pytest.approx(569e6, rel=0.001)
    assert networks.mobilenet_v3(small=False).macs == pytest.approx(217e6, rel=0.005)
    assert networks.mobilenet_v3(small=True).macs == pytest.approx(56.5e6, rel=0.005)
    tiny = {name: networks.tiny(name).macs for name in ("ad", "ic", "kws", "vww")}
    assert tiny == {"ad": 264192, "ic": 12501632, "kws": 2656768, "vww": 7489664}


def test_a_built_network_is_the_one_of_the_table() -> None:
    """MobileNetV1 from its paper and from ncnn's benchmark: the same but for what ncnn adds at the ends."""
    built, table = (graph.features(g) for g in (networks.mobilenet_v1(1.0, 224, 1000), data.ncnn_graph("mobilenet")))
    for name, one, other in zip(graph.FEATURES, built, table, strict=True):
        if name not in ("layers", "memory_io_bytes"):
            assert one == pytest.approx(other, rel=1e-3), name


def test_the_arena_is_the_most_that_lives_at_once() -> None:
    layer = graph.Layer
    layers = (
        layer("memory", "1", ("in",), ("a",)),
        layer("memory", "2", ("a",), ("b",)),
        layer("free", "reshape", ("b",), ("b2",)),
        layer("memory", "3", ("b2", "a"), ("c",)),
        layer("memory", "4", ("c",), ("out",)),
    )
    sizes = {"in": 10, "a": 20, "b": 40, "b2": 40, "c": 5, "out": 1}
    # in+a 30, a+b 60, a+b+c 65 (the reshape lies where b does), c+out 6
    assert graph.arena_elements(graph.Graph(layers, sizes, ("in",), ("out",), 0)) == 65


def test_memory_of_ncnn_is_within_ten_percent_in_the_median() -> None:
    anchors = memory.measured_anchors("ncnn")
    assert len(anchors.names) == 34
    assert memory.fitted("ncnn", anchors)[1].mdape <= 0.10
    columns = dict(zip(memory.features_of("ncnn"), anchors.features.T, strict=True))
    weights_and_arena = columns["held_weights"] + columns["arena"]
    assert abs(weights_and_arena / anchors.times_ms - 1).mean() > 0.3  # what it is better than


def test_memory_starts_from_what_the_agent_takes_before_anything_is_opened() -> None:
    """In every runtime: Python, numpy and the runtime; nobody runs in less."""
    assert all(memory.base_bytes(runtime) > 35e6 for runtime in memory.MEASURED)


def test_what_ncnn_holds_is_counted_by_hand(tmp_path: Path) -> None:
    found = memory.features(read.read_graph(window(tmp_path, ".onnx", "plain")))
    assert found["held_weights"] == 4 * 16 * 16 * 64  # 3x3 kernels as 8x8, in place of the file's
    assert found["largest_weights"] == 4 * 16 * 16 * 9
    assert found["beside_arena"] == 4 * 2.25 * 16 * 6 * 6  # beside the convolution, where the arena is largest
    dilated = memory.features(read.read_graph(window(tmp_path, ".onnx", "dilated")))
    assert dilated["held_weights"] == dilated["weights"]  # no Winograd
    assert dilated["transformed_weights"] == 0
    assert dilated["beside_arena"] == 4 * 9 * 16 * 4 * 4  # unrolled


def test_files_that_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    (tmp_path / "bad.tflite").write_bytes(b"nonsense, too")
    for name in ("bad.onnx", "bad.tflite"):
        with pytest.raises(ArtifactError, match="cannot be read"):
            read.read_graph(tmp_path / name)
    for name in ("missing.onnx", "model.pb"):
        with pytest.raises(UsageError, match="not an artifact"):
            read.read_graph(tmp_path / name)


def test_sizes_that_decide_the_latency_must_be_told(tmp_path: Path) -> None:
    path = convolutions(tmp_path / "n.onnx", 8)
    model = onnx.load(str(path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, path)
    with pytest.raises(ArtifactError) as caught:
        read.read_graph(path)
    assert "axis 2" in caught.value.got
    assert "damaged" not in str(caught.value)
    assert "fix the axis" in caught.value.fix


@pytest.mark.parametrize(
    ("ending", "shape", "told"),
    [
        (".onnx", (8, 16, 8, 8), "batch of 8"),
        (".xml", (8, 16, 8, 8), "batch of 8"),
        (".tflite", (8, 8, 8, 16), "batch of 8"),
        (".xml", (1, 16, "height", 8), "axis 2"),
        (".tflite", (1, 8, "width", 16), "axis 2"),
        (".onnx", (1, 16, 0, 8), "axis 2"),
    ],
)
def test_one_sample_of_a_known_size_is_asked_for_in_every_format(
    tmp_path: Path, ending: str, shape: tuple[Any, ...], told: str
) -> None:
    with pytest.raises(ArtifactError, match="nothing can be predicted") as caught:
        read.read_graph(window(tmp_path, ending, "plain", shape))
    assert told in caught.value.got
    assert "damaged" not in caught.value.fix


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".tflite"])
def test_a_dynamic_batch_is_one_sample(tmp_path: Path, ending: str) -> None:
    shape = ("batch", 8, 8, 16) if ending == ".tflite" else ("batch", 16, 8, 8)
    dynamic = read.read_graph(window(tmp_path, ending, "plain", shape))
    one = read.read_graph(window(tmp_path, ending, "plain"))
    assert sorted(dynamic.sizes.values()) == sorted(one.sizes.values())
    assert dynamic.macs == one.macs


@pytest.mark.parametrize("ending", [".onnx", ".xml", ".tflite", ".param"])
@pytest.mark.parametrize("kind", WINDOWS)
def test_convolutions_that_no_class_is_for_are_no_3x3(tmp_path: Path, ending: str, kind: str) -> None:
    found = read.read_graph(window(tmp_path, ending, kind))
    (layer,) = [layer for layer in found.layers if layer.macs]
    assert layer.kind == {"plain": "conv3x3", "dilated": "convkxk"}.get(kind, "unknown")
    assert sum(found.unknown.values()) == (kind in ("transposed", "volume"))
    side = 8 if ending == ".tflite" or kind == "transposed" else 4 if kind == "dilated" else 6
    axes = 3 if kind == "volume" else 2
    assert layer.macs == 16 * 16 * 3**axes * side**axes  # of the input, where it is transposed
    row = dict(zip(graph.FEATURES, graph.features(found), strict=True))
    assert row["matmul_macs"] == (layer.macs if layer.kind == "unknown" else 0)


def test_a_dilated_depthwise_convolution_is_no_depthwise() -> None:
    layer = graph.Layer("conv", "d", (), (), groups=16, channels=(16, 16), kernel=(3, 3))
    dilated = graph.Layer("conv", "d", (), (), groups=16, channels=(16, 16), kernel=(3, 3), dilation=2)
    assert (layer.kind, dilated.kind) == ("depthwise", "grouped")


def test_operators_with_graphs_of_their_own_are_unknown_or_refused(tmp_path: Path) -> None:
    """Work in a branch is not known before it runs; a branch without any is an operator that nobody knows."""
    node, value = helper.make_node, helper.make_tensor_value_info
    for name, inner in (("Neg", node("Neg", ["x"], ["b"])), ("MatMul", node("MatMul", ["x", "x"], ["b"]))):
        branch = helper.make_graph([inner], "branch", [], [value("b", onnx.TensorProto.FLOAT, None)])
        nodes = [
            node("ReduceMax", ["x"], ["m"], keepdims=0),
            node("Cast", ["m"], ["c"], to=onnx.TensorProto.BOOL),
            node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ]
        path = save(tmp_path / f"{name}.onnx", nodes, {}, (1, 8, 8))
        if name == "Neg":
            assert read.read_graph(path).unknown == {"If": 1}
            continue
        with pytest.raises(ArtifactError, match="the operator If holds layers of its own"):
            read.read_graph(path)


@pytest.mark.parametrize("operators", [["Identity"], ["Flatten", "Identity"]])
def test_a_network_that_computes_nothing_is_refused(tmp_path: Path, operators: list[str]) -> None:
    names = ["x", *(f"a{n}" for n in range(1, len(operators))), "y"]
    nodes = [helper.make_node(op, [names[n]], [names[n + 1]]) for n, op in enumerate(operators)]
    with pytest.raises(ArtifactError, match="no layer in it takes time"):
        read.read_graph(save(tmp_path / "i.onnx", nodes, {}, (1, 3, 8, 8)))


def test_an_operator_that_hides_the_shapes_behind_it_is_told(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [node("Mystery", ["x"], ["a"], domain="x.y"), node("Conv", ["a", "w"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, {"w": (4, 3, 3, 3)}, (1, 3, 8, 8))
    with pytest.raises(ArtifactError) as caught:
        read.read_graph(path)
    assert "Mystery" in caught.value.got
