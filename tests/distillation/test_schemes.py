"""The core end to end in one process: teachers, cache, schemes, on real digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedistill.data.sources import load_source
from edgedistill.data.splits import prepare, save
from edgedistill.distillation.trainings import Training, build_cache, train_students
from edgedistill.errors import ModelError, StorageError
from edgedistill.events import Quiet
from edgedistill.models.weights import save_weights
from edgedistill.recipe.document import Recipe
from edgedistill.students.build import construct
from edgedistill.teachers.build import build_teacher
from edgedistill.teachers.ensemble import Ensemble
from edgedistill.teachers.file import OnnxModel
from edgedistill.teachers.module import Adapted, Affine, fingerprint, frozen

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = {"student_layers": ["features.5"], "teacher_layers": ["features.5"]}
LOGIT_LOSSES = ["soft_targets", "dkd", "dist", "logit_standardized", "multi_level", "hard_label", "logit_mse", "binary"]
RELATIONS = ["rkd_distance", "rkd_angle", "similarity_preserving", "pkt", "correlation_congruence", "crd"]
MAP_LOSSES = [
    "hint",
    "attention_transfer",
    "neuron_selectivity",
    "activation_boundary",
    "factor_transfer",
    "variational_information",
    "review",
    "simkd",
    "channel_wise",
]


def recipe(distill: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    document = {
        "data": {"source": "digits", "evaluation_fraction": 0.8},
        "teacher": {"family": "convnet", "width": 6, "depth": 2, "train": {"epochs": 1}},
        "student": {"family": "convnet", "width": 3, "depth": 2},
        "distill": {"epochs": 2, "batch_size": 50, **(distill or {})},
        **parts,
    }
    return Recipe.model_validate(document)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and a teacher with random weights, as the stages leave them."""
    root, spec = tmp_path_factory.mktemp("school"), recipe()
    data = prepare(load_source(spec.data, root), "auto", spec.data.evaluation_fraction, 0)
    for name in ("data", "teacher"):
        (root / name).mkdir()
    save(data, root / "data")
    save_weights(build_teacher(spec.teacher, data, root, 0, root / "teacher"), root / "teacher" / "teacher.safetensors")
    return root


def trained(spec: Recipe, school: Path, out: Path, cache: Path | None = None) -> dict[str, Tensor]:
    """The student's weights after the recipe's training."""
    kept: dict[str, dict[str, Tensor]] = {}
    job = Training(spec, school, school / "data", school / "teacher", out / "resume", None, cache)
    train_students(job, lambda module, name: kept.update({name: dict(module.state_dict())}), Quiet())
    return kept["student"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("augment", [None, {"crop_padding": 1, "views": 2}])
@pytest.mark.parametrize("objective", [None, [{"loss": "hint", **LAYERS}, {"loss": "dkd"}]])
def test_a_cached_teacher_trains_the_same_student_bit_for_bit(
    objective: Any, augment: Any, school: Path, tmp_path: Path
) -> None:
    spec = recipe({"epochs": 3, "objective": objective, "augment": augment})
    job = Training(spec, school, school / "data", school / "teacher", tmp_path / "resume")
    (tmp_path / "cache").mkdir()
    plan = build_cache(job, tmp_path / "cache", Quiet())
    assert plan.use
    arrays = [np.load(path, mmap_mode="r") for path in (tmp_path / "cache").glob("*.npy")]
    assert sum(array.nbytes for array in arrays) == plan.size_bytes
    assert {len(array) for array in arrays} == {2 if augment else 1}
    live = trained(spec, school, tmp_path / "live")
    assert same(live, trained(spec, school, tmp_path / "cached", tmp_path / "cache"))
    assert not same(live, trained(recipe({"epochs": 3, "alpha": 0.0}), school, tmp_path / "labels"))


def test_a_demanded_cache_that_does_not_fit_is_an_error(school: Path, tmp_path: Path) -> None:
    spec = recipe({"cache": {"mode": "always", "max_gb": 1e-9}})
    with pytest.raises(StorageError, match="does not fit"):
        build_cache(Training(spec, school, school / "data", school / "teacher", tmp_path / "r"), tmp_path, Quiet())


@pytest.mark.parametrize("loss", [*LOGIT_LOSSES, *RELATIONS, *MAP_LOSSES])
def test_every_loss_of_the_recipe_moves_the_student_and_leaves_no_trace_in_it(
    loss: str, school: Path, tmp_path: Path
) -> None:
    term = {"loss": loss, "weight": 0.01, **(LAYERS if loss in MAP_LOSSES else {})}
    spec = recipe({"epochs": 1, "objective": [term]})
    student = trained(spec, school, tmp_path)
    fresh = construct(spec.student, (1, 8, 8), 10, tmp_path, 0).state_dict()
    assert student.keys() == fresh.keys()
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in student.values())
    assert not torch.equal(student["features.0.weight"], fresh["features.0.weight"])


SCHEMES: list[dict[str, Any]] = [
    {"kind": "offline"},
    {"kind": "born_again"},
    {"kind": "mutual"},
    {"kind": "self", "layers": ["features.2"]},
    {"kind": "assistants", "chain": [{"family": "convnet", "width": 4, "depth": 2}]},
    {
        "kind": "multi_stage",
        "phases": [
            {"epochs": 1, "objective": [{"loss": "hint", **LAYERS}]},
            {"epochs": 1, "objective": [{"loss": "soft_targets"}]},
        ],
    },
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: str(scheme["kind"]))
def test_every_scheme_ends_in_a_plain_student_of_its_own(scheme: dict[str, Any], school: Path, tmp_path: Path) -> None:
    student = trained(recipe({"epochs": 1, "scheme": scheme}), school, tmp_path)
    assert student.keys() == construct(recipe().student, (1, 8, 8), 10, tmp_path, 0).state_dict().keys()
    if scheme["kind"] != "offline":
        assert not same(student, trained(recipe({"epochs": 1}), school, tmp_path / "offline"))


def test_a_teacher_is_frozen_in_eval_mode_and_what_it_was_afterwards() -> None:
    teacher = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    teacher[2].eval()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with frozen(teacher):
        assert not any(module.training for module in teacher.modules())
        teacher(torch.randn(4, 1, 5, 5))
    assert same(before, dict(teacher.state_dict()))
    assert [teacher.training, teacher[1].training, teacher[2].training] == [True, True, False]
    with pytest.raises(ModelError, match="changed"), frozen(teacher):
        teacher[1].running_mean.add_(1)  # type: ignore[operator]  # a batch norm's buffer


def test_fingerprints_see_every_bit() -> None:
    module = nn.BatchNorm1d(2)
    before = fingerprint(module)
    module.get_buffer("running_var")[1] += 1e-7
    assert fingerprint(module) != before


class Fixed(nn.Module):
    """Always the same logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.logits[: len(inputs)]


@pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities", "confidence"])
def test_an_ensemble_is_the_formula(combine: Any) -> None:
    logits, weights = np.random.default_rng(0).normal(size=(2, 5, 3)) * 3, np.array([3.0, 1.0])
    members = {str(n): Adapted(Fixed(torch.tensor(z)), None, None, str(n)) for n, z in enumerate(logits)}
    found = Ensemble(members, combine, list(weights), None).double()(torch.zeros(5, 1)).detach().numpy()
    if combine == "mean_logits":
        expected = (weights[:, None, None] * logits).sum(0) / weights.sum()
    else:
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        entropy = -(p * np.log(p)).sum(-1)
        w = weights[:, None] * (np.exp(-entropy) if combine == "confidence" else 1.0)
        expected = np.log((w[..., None] * p).sum(0) / w.sum(0)[:, None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_teachers_own_normalisation_is_converted() -> None:
    raw = torch.rand(4, 2, 3, 3)
    ours, theirs = (torch.tensor([0.2, 0.4]), torch.tensor([2.0, 3.0])), (torch.tensor([0.5]), torch.tensor([0.25]))
    affine = Affine(tuple((ours[1] / theirs[1]).tolist()), tuple(((ours[0] - theirs[0]) / theirs[1]).tolist()))
    seen = Adapted(nn.Identity(), affine, None, "t").convert((raw - ours[0][:, None, None]) / ours[1][:, None, None])
    torch.testing.assert_close(seen, (raw - 0.5) / 0.25)


def test_a_teacher_that_returns_a_dict_is_asked_for_its_part() -> None:
    class Dict(nn.Module):
        def forward(self, inputs: Tensor) -> dict[str, Tensor]:
            return {"features": inputs, "logits": inputs + 1}

    with pytest.raises(ModelError, match="features, logits") as caught:
        Adapted(Dict(), None, None, "t")(torch.zeros(2, 3))
    assert "output: logits" in caught.value.fix
    assert Adapted(Dict(), None, "logits", "t")(torch.zeros(2, 3)).sum() == 6


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_teaches_as_the_module_it_was_made_of(suffix: str, school: Path, tmp_path: Path) -> None:
    module = construct(recipe().student, (1, 8, 8), 10, tmp_path, 3)
    example = torch.randn(2, 1, 8, 8)
    program = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    if suffix == ".pt2":
        torch.export.save(program, tmp_path / "box.pt2")
    else:
        made = torch.onnx.export(program, dynamo=True, verbose=False)
        assert made is not None
        made.save(str(tmp_path / "box.onnx"))
    spec = recipe(teacher={"file": f"box{suffix}"})
    from edgedistill.data.splits import load

    teacher = build_teacher(spec.teacher, load(school / "data"), tmp_path, 0, tmp_path)
    assert isinstance(teacher.module, OnnxModel)
    inputs = torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(teacher(inputs), module(inputs).detach(), rtol=1e-4, atol=1e-5)
    assert teacher.module.file_parameters > 200  # batch norm may be folded
