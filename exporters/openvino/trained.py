"""OpenVINO IR with trained 8-bit ranges: FakeQuantize on activations, weights stored in 8 bits per channel.

The CPU plug-in turns these into integer kernels when it compiles the file, as it does with NNCF's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import Array, Artifact, Precision

from .._shared.conversion import conversion
from .._shared.trained import trained_ends
from .ir import save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from openvino import Model, Node, Output

    from edgedistill.types import TrainedRange

_WEIGHTED = {"Convolution", "GroupConvolution", "MatMul"}
_MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Constant", "Result", "FakeQuantize"}
"""What they pass on is rounded already, or never stored."""
_ACTIVATION_LEVELS, _WEIGHT_LEVELS = 256, 255
_LEAST = 1e-12


def quantize_trained(
    artifact: Artifact,
    trained: Sequence[TrainedRange],
    samples: Mapping[str, Array],
    out: Path,
    precision: Precision = Precision.INT8_QAT,
    *,
    float_ends: bool = False,
) -> Artifact:
    """Write an int8 copy of an fp32 file whose activations have the trained ranges.

    Tensors that were not trained stay in float.

    Args:
        artifact: the fp32 file of the fine-tuned student.
        trained: its trained tensors, probed with the first of the samples.
        samples: input name -> calibration samples.
        out: folder.
        precision: what the file is called: INT8_STATIC where it stands in for a calibrated one.
        float_ends: whether inputs and outputs of a TFLite file are float.

    Raises:
        ModelError: OpenVINO refuses the file.
    """
    import openvino
    from openvino._offline_transformations import compress_quantize_weights_transformation

    del float_ends  # TFLite's
    with conversion(artifact.id, "openvino"):
        model = openvino.Core().read_model(artifact.path)
        found = trained_ends(trained, _tensors(model, list(samples.values()), len(trained[0].probes)))
        for node in model.get_ordered_ops():
            if node.get_type_name() in _WEIGHTED:
                _round_weights(node)
        rounded = [_round_activation(node, found) for node in model.get_ordered_ops()]
        model.validate_nodes_and_infer_types()
        compress_quantize_weights_transformation(model)
    path = out / f"{artifact.model}-{precision.short}.xml"
    producer = {"parent": artifact.sha256, "scheme": "qat", "trained_ranges": sum(rounded)}
    return save(model, path, artifact.model, precision, artifact.signature, producer)


def _tensors(model: Model, rows: Sequence[Array], count: int) -> dict[str, list[Array]]:
    """Every float tensor inside the model, for the first samples; computed in a copy, in float32."""
    import openvino

    watched = model.clone()
    inputs = {port.get_node().get_friendly_name(): row for port, row in zip(watched.inputs, rows, strict=True)}
    ports = [node.output(0) for node in watched.get_ordered_ops() if _stores_float(node) and node.get_input_size()]
    given = len(watched.outputs)
    watched.add_outputs(ports)
    compiled = openvino.Core().compile_model(watched, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found: dict[str, list[Array]] = {}
    for number in range(count):
        feed = {name: row[number : number + 1] for name, row in inputs.items()}
        results = compiled(list(feed.values()))
        values = {port.get_node().get_friendly_name(): results[given + i] for i, port in enumerate(ports)}
        for name, value in {**feed, **values}.items():
            found.setdefault(name, []).append(np.array(value))
    return found


def _stores_float(node: Node) -> bool:
    """Whether the node's one output is a float tensor that another operator reads."""
    if node.get_type_name() in _MOVES or node.get_output_size() != 1:
        return False
    readers = [port.get_node().get_type_name() for port in node.output(0).get_target_inputs()]
    return node.get_output_element_type(0).get_type_name() == "f32" and bool(readers) and "Result" not in readers


def _round_activation(node: Node, found: Mapping[str, tuple[float, float]]) -> bool:
    """Round what the node stores, if its range was trained."""
    name = node.get_friendly_name()
    if name not in found or not _stores_float(node):
        return False
    low, high = (np.array(end, np.float32) for end in found[name])
    _put_behind(node.output(0), low, high, _ACTIVATION_LEVELS)
    return True


def _round_weights(node: Node) -> None:
    """Round the constant that a convolution or matrix product reads, each output channel by its largest magnitude."""
    source = node.input(1).get_source_output()
    if source.get_node().get_type_name() != "Constant":
        return
    values = np.asarray(source.get_node().data)
    channels = _channel_axes(node, values.ndim)
    others = tuple(axis for axis in range(values.ndim) if axis not in channels)
    largest = np.maximum(np.abs(values).max(axis=others, keepdims=True), _LEAST).astype(np.float32)
    _put_behind(source, -largest, largest, _WEIGHT_LEVELS)


def _channel_axes(node: Node, rank: int) -> tuple[int, ...]:
    kind = node.get_type_name()
    if kind == "MatMul":
        return (rank - 2 if node.get_attributes()["transpose_b"] else rank - 1,)
    return (0, 1) if kind == "GroupConvolution" else (0,)


def _put_behind(port: Output, low: Array, high: Array, levels: int) -> None:
    """Let all readers of a tensor read it rounded."""
    from openvino import opset13 as operators

    readers = list(port.get_target_inputs())
    ends = [operators.constant(end) for end in (low, high, low, high)]
    rounded = operators.fake_quantize(port, *ends, levels)
    for reader in readers:
        reader.replace_source_output(rounded.output(0))
