"""Quantisation-aware distillation, on a student whose channels differ so much that calibration alone loses answers."""

from __future__ import annotations

import copy
import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgedistill.artifacts.running import subjects
from edgedistill.data.splits import Data
from edgedistill.distillation.rounding.ranges import LearnedRange, rounded, rounded_weights
from edgedistill.distillation.rounding.training import QuantizedStudent, terms
from edgedistill.distillation.schemes import Classroom, TaughtBy, learn_labels, train
from edgedistill.events import Quiet
from edgedistill.plugins import load_exporter
from edgedistill.recipe.document import Distill, Recipe
from edgedistill.teachers.module import Adapted, fingerprint
from edgedistill.types import Normalization, Precision, Signature, TensorSpec, TrainedRange
from examples.separable import Separable
from exporters._shared.trained import trained_ends
from tests.helpers.answers import compute

if TYPE_CHECKING:
    from edgedistill.types import Array, Artifact

SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 1, 8, 8), "float32", "NCHW"),),
    (TensorSpec("logits", ("batch", 10), "float32"),),
    Normalization((4.88,), (6.0,)),
    tuple("0123456789"),
)


@dataclass(frozen=True)
class Case:
    """A student before and after its quantisation-aware training."""

    data: Data
    student: nn.Module
    quantized: QuantizedStudent
    teacher_unchanged: bool

    @property
    def calibration(self) -> dict[str, Array]:
        return {"image": np.asarray(self.data.train_inputs[:128])}

    @property
    def trained(self) -> list[TrainedRange]:
        return self.quantized.trained_ranges(torch.tensor(self.calibration["image"]))


def digits() -> Data:
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    inputs = ((found.images[order, None] - 4.88) / 6.0).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    return Data(inputs[:898], labels[:898], inputs[898:], labels[898:], SIGNATURE.labels, SIGNATURE.normalization)


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A teacher, a student with wide ranges taught by it, and the same student trained on with its rounding."""
    taught = {"epochs": 30, "learning_rate": 0.05, "clip_norm": 1.0, "alpha": 0.9, "temperature": 2.0}
    recipe = Recipe.model_validate(
        {
            "data": {"source": "digits"},
            "teacher": {"family": "convnet", "width": 4, "train": {"epochs": 1}},
            "student": {"family": "convnet", "width": 4},
            "distill": taught,
        }
    )
    data = digits()
    room = Classroom(recipe, Path(), data, tmp_path_factory.mktemp("training"), Quiet())
    torch.manual_seed(1)
    large, student = Separable(24, 1.0), Separable(16, 20.0)
    learn_labels(room, "teacher", large, recipe.distill.model_copy(update={"epochs": 15}), 1)
    teacher = Adapted(large.eval(), None, None, "teacher").eval()
    objective = terms(recipe.distill)
    train(room, "student", student, objective, TaughtBy(teacher), recipe.distill, 1)
    quantized = QuantizedStudent(student.eval(), torch.tensor(data.train_inputs[:128]))
    before = fingerprint(teacher)
    again = recipe.distill.model_copy(update={"epochs": 20, "learning_rate": 0.01})
    train(room, "student-qat", quantized, objective, TaughtBy(teacher), again, 1)
    return Case(data, student, quantized.eval(), fingerprint(teacher) == before)


def answers(artifact: Artifact, data: Data, folder: Path) -> dict[str, Array]:
    """Logits over the evaluation split, by runtime."""
    np.savez(folder / "in.npz", **{artifact.signature.inputs[0].name: data.eval_inputs})
    return {s.runtime: compute(s, folder / "in.npz", folder / "out.npz") for s in subjects([artifact])}


def top1(logits: Array, data: Data) -> float:
    return float((logits.argmax(1) == data.eval_labels).mean())


def trained_file(case: Case, fmt: str, folder: Path) -> Artifact:
    exported = load_exporter(fmt).export(case.quantized.graph, "student", SIGNATURE, folder)
    exporter: Any = load_exporter(fmt)
    artifact: Artifact = exporter.quantize_trained(exported, case.trained, case.calibration, folder)
    return artifact


@pytest.mark.parametrize(
    ("fmt", "loses"),
    [("onnx", 0.02), ("openvino", -0.01), pytest.param("tflite", 0.02, marks=pytest.mark.slow)],
)
def test_training_wins_back_most_of_what_calibration_loses(case: Case, fmt: str, loses: float, tmp_path: Path) -> None:
    """NNCF aligns channels and corrects biases: in OpenVINO calibration alone loses little, and training no more."""
    exporter = load_exporter(fmt)
    with torch.no_grad():
        exact = top1(case.student(torch.tensor(case.data.eval_inputs)).numpy(), case.data)
        simulated = case.quantized(torch.tensor(case.data.eval_inputs)).numpy()
    plain = exporter.export(case.student, "plain", SIGNATURE, tmp_path)
    calibrated = exporter.quantize(plain, Precision.INT8_STATIC, case.calibration, tmp_path)
    artifact = trained_file(case, fmt, tmp_path)
    before = {r: top1(logits, case.data) for r, logits in answers(calibrated, case.data, tmp_path).items()}
    assert artifact.precision is Precision.INT8_QAT
    for runtime, logits in answers(artifact, case.data, tmp_path).items():
        after, lost = top1(logits, case.data), exact - before[runtime]
        assert lost >= loses, f"calibration alone loses too little for a case: {lost}"
        assert exact - after < max(0.75 * lost, 0.015), f"fp32 {exact}, calibrated {before[runtime]}, trained {after}"
        noise = float(np.sqrt(np.mean((logits - simulated) ** 2)))
        assert 20 * math.log10(float(np.ptp(simulated)) / noise) > 30, "the file computes what was trained"
        assert (logits.argmax(1) == simulated.argmax(1)).mean() > 0.97


def test_the_onnx_file_holds_the_trained_scales_and_weights(case: Case, tmp_path: Path) -> None:
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(str(trained_file(case, "onnx", tmp_path).path)).graph
    held = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    scales = sorted(float(held[node.input[1]]) for node in activations)
    expected = {one.name: (one.high - one.low) / 255 for one in case.trained}
    for scale in scales:
        assert min(abs(scale / e - 1) for e in expected.values()) < 1e-5, f"{scale} was never trained"
    for point in case.quantized.ranges:
        assert min(abs(scale / expected[point] - 1) for scale in scales) < 1e-5, f"{point} is not in the file"
    quantized = {name: a for name, a in held.items() if a.dtype == np.int8 and a.ndim > 1}
    trained = [p.detach() for p in case.quantized.graph.parameters() if p.ndim > 1]
    for weights in trained:
        wanted = np.sort(_integers(weights), axis=None)
        assert any(
            a.size == wanted.size and np.abs(np.sort(a, axis=None).astype(int) - wanted).max() <= 1
            for a in quantized.values()
        )


def _integers(weights: Tensor) -> Array:
    largest = weights.abs().amax(tuple(range(1, weights.ndim)), keepdim=True)
    return np.asarray((weights / largest * 127).round().to(torch.int64))


def test_the_openvino_file_holds_the_trained_scales(case: Case, tmp_path: Path) -> None:
    import openvino

    model = openvino.Core().read_model(trained_file(case, "openvino", tmp_path).path)
    held = [
        tuple(float(node.input(i).get_source_output().get_node().data) for i in (1, 2))
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize" and int(node.get_attributes()["levels"]) == 256
    ]
    expected = [(one.low, one.high) for one in case.trained]
    assert len(held) >= len(case.quantized.ranges) - 1  # not the logits, which stay float
    for ends in held:
        assert any(np.allclose(ends, e, rtol=1e-5, atol=1e-6) for e in expected)


@pytest.mark.slow
def test_the_tflite_file_holds_the_trained_scales(case: Case, tmp_path: Path) -> None:
    tflite = importlib.import_module("exporters.tflite.quantization")
    graph = tflite.read(trained_file(case, "tflite", tmp_path).path).subgraphs[0]
    expected = [(one.high - one.low) / 255 for one in case.trained]
    held = {float(graph.tensors[i].quantization.scale[0]) for op in graph.operators for i in op.outputs}
    for scale in held:
        assert min(abs(scale / e - 1) for e in expected) < 1e-5, f"{scale} was never trained"


def test_the_same_training_gives_the_same_bytes(case: Case, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(trained_file(case, "onnx", tmp_path / name).sha256)
    assert files[0] == files[1]


def test_the_teacher_is_as_it_was(case: Case) -> None:
    assert case.teacher_unchanged


def test_the_student_is_left_as_it_is_and_folding_keeps_its_function() -> None:
    torch.manual_seed(0)
    student = Separable(8, 5.0)
    student(torch.randn(64, 1, 8, 8))  # statistics that are not the initial ones
    student.eval()
    before = copy.deepcopy(student.state_dict())
    samples = torch.randn(16, 1, 8, 8)
    quantized = QuantizedStudent(student, samples)
    with torch.no_grad():
        assert torch.allclose(quantized.graph(samples), student(samples), atol=1e-5)
        assert not torch.equal(quantized(samples), student(samples))
    quantized(samples).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())
    assert all(p.grad is not None for p in quantized.parameters())
    assert not any("running" in name for name, _ in quantized.named_buffers())


def test_a_tensor_whose_values_differ_is_not_taken_for_a_trained_one() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 4, 3, 3)).astype(np.float32)
    trained = [TrainedRange("x", -1.0, 2.0, (rows[0].ravel(), rows[1].ravel()))]
    moved = np.moveaxis(rows, 1, -1)
    assert trained_ends(trained, {"moved": list(moved)}) == {"moved": (-1.0, 2.0)}
    assert trained_ends(trained, {"other": list(moved + 0.1)}) == {}
    assert trained_ends(trained, {"second differs": [moved[0], moved[1] * 1.1]}) == {}


@given(low=st.floats(-100, 0), high=st.floats(1e-2, 100), seed=st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_rounding_is_idempotent_keeps_zero_and_errs_by_half_a_step(low: float, high: float, seed: int) -> None:
    ends = torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)
    chance = torch.Generator().manual_seed(seed)
    x = torch.rand(200, generator=chance, dtype=torch.float64) * (high - low) + low
    step = (high - low) / 255
    once = rounded(x, *ends)
    assert len(torch.unique(once)) <= 256
    assert rounded(torch.zeros(1, dtype=torch.float64), *ends).item() == 0
    assert torch.allclose(rounded(once, *ends), once, atol=1e-9 * (high - low))
    inside = (x > low + step) & (x < high - step)
    assert float((once - x)[inside].abs().max()) <= step / 2 * (1 + 1e-6)


def test_rounded_weights_have_255_levels_a_channel_and_the_largest_is_exact() -> None:
    weights = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 3, 5).reshape(
        -1, 1, 1, 1
    )
    values = rounded_weights(weights, 0)
    for own, exact in zip(values, weights, strict=True):
        levels = own / own.abs().max() * 127
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert torch.isclose(own.abs().max(), exact.abs().max())


def test_the_ends_of_a_range_are_learned() -> None:
    """The gradient of squared error pulls a range that is far too wide inwards."""
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    learned = LearnedRange()
    learned.low.fill_(-40.0)
    learned.high.fill_(40.0)
    optimizer = torch.optim.SGD(learned.parameters(), 2.0, momentum=0.9)
    first = (learned(x) - x).square().mean().item()
    for _ in range(300):
        optimizer.zero_grad()
        (learned(x) - x).square().sum().backward()
        optimizer.step()
    assert (learned(x) - x).square().mean().item() < first / 4
    low, high = learned.bounds()
    assert -40 < low < 0 < high < 40


def test_terms_on_layers_are_left_out_and_the_teacher_stays_in() -> None:
    hint = {"loss": "hint", "student_layers": "features.3", "teacher_layers": "features.3"}
    only = Distill.model_validate({"epochs": 1, "objective": [hint, {"loss": "cross_entropy"}]})
    assert [term.loss for term in terms(only)] == ["soft_targets", "cross_entropy"]
    assert [term.loss for term in terms(Distill(epochs=1))] == ["soft_targets", "cross_entropy"]
