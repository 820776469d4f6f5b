"""Students of many kinds in quantisation-aware training: equalised, simulated as files compute, resumed exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.studies.zoo.models import ZOO, built
from edgedistill.artifacts.running import subjects
from edgedistill.distillation.rounding.equalizing import equalize
from edgedistill.distillation.rounding.graph import graph_of
from edgedistill.distillation.rounding.training import QuantizedStudent, qat_settings, terms
from edgedistill.distillation.schemes import Classroom, TaughtBy, train
from edgedistill.errors import ModelError
from edgedistill.models.graph import Recording
from edgedistill.models.signature import signature_of
from edgedistill.plugins import load_exporter
from edgedistill.recipe.document import Distill
from tests.helpers.answers import compute
from tests.helpers.school import (
    HINT,
    SOFT,
    Kill,
    Pupil,
    Trained,
    Training,
    Witness,
    killed,
    new_teacher,
    recipe,
    same,
    splits,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import fx

    from edgedistill.types import Array, TrainedRange


def apart(graph: fx.GraphModule, samples: Tensor, name: str) -> float:
    """The largest channel of a tensor over its middle one."""
    found: dict[str, Tensor] = {}
    Recording(graph, lambda n, value: found.update({n: value})).run(samples)
    tops = found[name].abs().transpose(0, 1).flatten(1).amax(1)
    return float(tops.max() / tops.median())


def uneven(*layers: nn.Module) -> nn.Sequential:
    """Layers whose weights give channels of very different size."""
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in net:
            if isinstance(layer, nn.Conv2d | nn.Conv1d | nn.Linear):
                layer.weight *= torch.logspace(-1.5, 1.5, len(layer.weight)).reshape(-1, *[1] * (layer.weight.ndim - 1))
    return net.eval()


@pytest.mark.parametrize(
    ("net", "shape", "pairs", "tensor"),
    [
        (uneven(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), (3, 9, 9), 1, "relu"),
        (uneven(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)), (3, 9, 9), 1, "relu"),
        (uneven(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 12, 1, groups=4)), (3, 9, 9), 1, "max_pool2d"),
        (uneven(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), (3, 9, 9), 1, "view"),
        (uneven(nn.Conv1d(3, 8, 3), nn.LeakyReLU(), nn.Conv1d(8, 4, 1)), (3, 9), 1, "leaky_relu"),
        (uneven(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4)), (5,), 1, "relu"),
        (uneven(nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 4, 1)), (3, 9, 9), 0, ""),  # 6 is a scale
        (uneven(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 1)), (3, 9, 9), 0, ""),
        (uneven(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 4)), (3, 9, 9), 0, ""),  # no channels
    ],
)
def test_equalising_changes_ranges_and_not_the_function(
    net: nn.Sequential, shape: tuple[int, ...], pairs: int, tensor: str
) -> None:
    samples = torch.randn(20, *shape, generator=torch.Generator().manual_seed(1))
    graph = graph_of(net, samples[:2])
    with torch.no_grad():
        before = graph(samples)
        spread = apart(graph, samples, tensor) if tensor else 0.0
        assert equalize(graph, samples) == pairs
        assert torch.allclose(graph(samples), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
        assert torch.allclose(net(samples), before), "the student is left as it is"
        if tensor:
            assert apart(graph, samples, tensor) < spread / 3


class Residual(nn.Module):
    """Two readers of one tensor, and one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.first(image))
        logits: Tensor = (x + self.second(torch.relu(self.second(x)))).mean((2, 3))
        return logits


def test_tensors_with_two_readers_and_shared_weights_are_left_alone() -> None:
    samples = torch.randn(8, 3, 6, 6)
    assert equalize(graph_of(Residual().eval(), samples[:2]), samples) == 0


def decibels(found: Array, exact: Array) -> float:
    noise = float(np.sqrt(np.mean((found - exact) ** 2)))
    return float(20 * np.log10(float(np.ptp(exact)) / noise))


@dataclass(frozen=True)
class Simulated:
    """A student of the zoo, what it gives, and what it gives with its rounding."""

    student: QuantizedStudent
    inputs: Tensor
    exact: Array
    simulated: Array
    ranges: list[TrainedRange]


def simulated(name: str) -> Simulated:
    module, (few,) = built(ZOO[name])
    inputs = torch.cat([few] * 3)
    inputs = inputs + 0.3 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1))
    student = QuantizedStudent(module, inputs).eval()
    with torch.no_grad():
        return Simulated(
            student, inputs, module(inputs).numpy(), student(inputs).numpy(), student.trained_ranges(inputs)
        )


# attention and the token before it are taken apart by converters: more is rounded there than is simulated
_LEAST = {"vit": 25.0, "convnext": 44.0}
_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("shufflenet", "onnx"),  # grouped, concatenated, shuffled
        ("convnext", "openvino"),  # depthwise, GELU, layer norm
        *[
            pytest.param(name, fmt, marks=_SLOW)
            for name in ("mobilenet-32", "resnet", "shufflenet", "convnext", "vit", "temporal-convnet", "unet")
            for fmt in ("onnx", "openvino", "tflite")
            if (name, fmt) not in {("shufflenet", "onnx"), ("convnext", "openvino")}
        ],
    ],
)
def test_a_file_computes_what_was_simulated(name: str, fmt: str, tmp_path: Path) -> None:
    case, exporter = simulated(name), load_exporter(fmt)
    samples = {"image": case.inputs.numpy()}
    signature, _ = signature_of(case.student.graph, samples)
    plain = exporter.export(case.student.graph, name, signature, tmp_path)
    verb: Any = exporter
    artifact = verb.quantize_trained(plain, case.ranges, samples, tmp_path)
    assert exporter.count_macs(artifact).integer_share > 0.99
    assert artifact.producer["trained_ranges"] >= 0.6 * len(case.ranges)
    np.savez(tmp_path / "in.npz", image=samples["image"])
    noise = decibels(case.simulated, case.exact)
    for subject in subjects([artifact]):
        given = compute(subject, tmp_path / "in.npz", tmp_path / "out.npz").reshape(case.exact.shape)
        assert decibels(given, case.simulated) > _LEAST.get(name, 49.0)
        assert decibels(given, case.exact) > noise - 4


@pytest.mark.parametrize("name", ["multi-output", "two-inputs", "stock-transformer"])
def test_other_ends_than_one_float_input_and_one_output_are_refused(name: str) -> None:
    module, samples = built(ZOO[name])
    with pytest.raises(ModelError) as caught:
        QuantizedStudent(module, samples[0])
    assert caught.value.where == "quantize.qat"
    assert "when to never" in str(caught.value.fix)


@dataclass(frozen=True)
class QatTraining(Training):
    """The training of a student with its rounding."""

    def run(self, folder: Path, events: Witness | None = None) -> Trained:
        witness, told = events or Witness(), recipe(self.distill, **self.more)
        data = splits(self.samples)
        room = Classroom(told, folder, data, folder, witness, held_out=(0, 5, 7))
        student = QuantizedStudent(Pupil(0.0).eval(), torch.tensor(data.train_inputs[:16]))
        source = TaughtBy(new_teacher())
        train(room, "student-qat", student, terms(told.distill), source, qat_settings(told), told.seed)
        return Trained({n: t.clone() for n, t in student.state_dict().items()}, witness, {})


QAT = QatTraining({"epochs": 6, "batch_size": 8, "checkpoint_seconds": 0})


@pytest.mark.parametrize(
    "kill", [Kill("step", 9), *(pytest.param(k, marks=_SLOW) for k in (Kill("step", 3), Kill("epoch", 2)))]
)
def test_a_killed_training_ends_with_the_weights_and_ranges_of_one_that_was_not(kill: Kill, tmp_path: Path) -> None:
    whole = QAT.run(tmp_path / "whole")
    killed(QAT, tmp_path / "killed", kill)
    assert same(QAT.run(tmp_path / "killed").weights, whole.weights)
    assert len(whole.witness.epochs) == 3  # half of 6
    assert len(whole.witness.steps) == 3 * 5  # 41 samples without 3, in batches of 8
    untouched = QuantizedStudent(Pupil(0.0).eval(), torch.tensor(splits(41).train_inputs[:16])).state_dict()
    assert not same(whole.weights, untouched)
    assert any("growth" in name and bool(tensor != 0) for name, tensor in whole.weights.items())


def test_the_settings_are_those_of_the_distillation_unless_the_recipe_says_so() -> None:
    given = {"epochs": 9, "learning_rate": 0.1, "warmup_epochs": 2, "ema": 0.9, "clip_norm": 3.0, "batch_size": 16}
    found = qat_settings(recipe(given))
    assert (found.epochs, found.warmup_epochs, found.ema, found.clip_norm, found.batch_size) == (4, 0.0, None, 3.0, 16)
    assert found.learning_rate == pytest.approx(0.02)
    own = qat_settings(recipe(given, quantize={"qat": {"epochs": 30, "learning_rate": 0.5}}))
    assert (own.epochs, own.learning_rate) == (30, 0.5)
    assert qat_settings(recipe({"epochs": 1})).epochs == 1


def test_after_several_phases_the_last_objective_is_learned() -> None:
    phases = [{"epochs": 2, "objective": [HINT]}, {"epochs": 4, "objective": [HINT, {**SOFT, "weight": 3.0}]}]
    staged = Distill.model_validate({"epochs": 1, "scheme": {"kind": "multi_stage", "phases": phases}})
    assert [(term.loss, term.weight) for term in terms(staged)] == [("soft_targets", 3.0)]
    assert qat_settings(recipe({"epochs": 1, "scheme": {"kind": "multi_stage", "phases": phases}})).epochs == 3
