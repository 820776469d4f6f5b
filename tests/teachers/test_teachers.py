"""Teachers answer as their own formula says, whatever form they have, and are afterwards what they were."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgedistill.data.splits import Data
from edgedistill.distillation.schemes import listening
from edgedistill.errors import DataError, ModelError
from edgedistill.models.key import model_key
from edgedistill.models.signals import LOGITS, Signal
from edgedistill.teachers.build import Teacher, build_teacher
from edgedistill.teachers.ensemble import Ensemble
from edgedistill.teachers.live import LiveTeacher
from edgedistill.teachers.module import Adapted, fingerprint, frozen
from edgedistill.types import Array, Normalization
from tests.helpers.school import recipe, same

if TYPE_CHECKING:
    from pathlib import Path

SHAPE, CLASSES = (2, 3, 4), 3
OURS = Normalization((0.3, -2.0), (0.5, 4.0), "raw")
RAW = np.random.default_rng(0).normal(size=(9, *SHAPE)) * 3 + 1
X = torch.randn(9, *SHAPE, generator=torch.Generator().manual_seed(3))
PARTS = """\
from collections import namedtuple
from torch import nn
Pair = namedtuple("Pair", "hidden scores")
class Parts(nn.Module):
    def __init__(self, form="tensor"):
        super().__init__()
        self.form, self.linear = form, nn.Linear(24, 3)
    def forward(self, x):
        hidden = x.flatten(1)
        scores = self.linear(hidden)
        return {"tensor": scores, "dict": {"hidden": hidden, "my_logits": scores}, "tuple": (hidden, scores),
                "list": [hidden, scores], "named": Pair(hidden, scores), "nothing": None}[self.form]
"""


@pytest.fixture(autouse=True)
def own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds to the import path is gone after it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def data(normalization: Normalization = OURS) -> Data:
    """Normalised samples of `RAW`."""
    mean, std = (np.reshape(values, (-1, 1, 1)) for values in (normalization.mean, normalization.std))
    inputs, labels = ((RAW - mean) / std).astype(np.float32), np.arange(9) % CLASSES
    return Data(inputs, labels, inputs, labels, ("a", "b", "c"), normalization)


def parts(folder: Path, form: str = "tensor", **more: Any) -> dict[str, Any]:
    """A recipe's teacher: a linear classifier of the 24 numbers, that returns them and the scores in some form."""
    name = f"teachers_of_{folder.name}"
    (folder / f"{name}.py").write_text(PARTS, encoding="utf-8")
    return {"model": f"{name}:Parts", "arguments": {"form": form}, **more}


def built(spec: dict[str, Any], folder: Path, of: Data | None = None) -> Teacher:
    return build_teacher(recipe({"epochs": 1}, teacher=spec).teacher, of or data(), folder, 0, folder)


def linear(teacher: Teacher, inputs: Array) -> Array:
    """The classifier's scores in float64."""
    state = {name.rsplit(".", 1)[-1]: tensor.double().numpy() for name, tensor in teacher.state_dict().items()}
    return np.asarray(inputs.reshape(len(inputs), -1) @ state["weight"].T + state["bias"])


def net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))
    module(torch.randn(20, *SHAPE))  # moves the batch norm's statistics
    return module.eval()


def pair(**settings: Any) -> tuple[Ensemble, nn.Sequential, nn.Sequential]:
    first, second = net(1), net(2)
    members = {"a": Adapted(first, None, None, "a"), "b": Adapted(second, None, None, "b")}
    options = {"combine": "mean_probabilities", "weights": None, "features_from": None, **settings}
    return Ensemble(members, **options).eval(), first, second


def softmax(logits: list[float]) -> list[float]:
    powers = [float(np.exp(z - max(logits))) for z in logits]
    return [power / sum(powers) for power in powers]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-300, 300), min_size=4, max_size=4), min_size=2, max_size=4),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=4, max_size=4),
    st.sampled_from(["mean_logits", "mean_probabilities", "confidence"]),
)
def test_an_ensemble_answers_by_its_formula_sample_by_sample(
    logits: list[list[float]], given_weights: list[float], combine: Any
) -> None:
    weights = given_weights[: len(logits)] if sum(given_weights[: len(logits)]) else None
    members = {str(n): Adapted(nn.Identity(), None, None, str(n)) for n in range(len(logits))}
    found = Ensemble(members, combine, weights, None).combined([torch.tensor([z], dtype=torch.float64) for z in logits])
    share = [w / sum(weights) for w in weights] if weights else [1 / len(logits)] * len(logits)
    if combine == "mean_logits":
        wanted = softmax([sum(w * z[c] for w, z in zip(share, logits, strict=True)) for c in range(4)])
    else:
        each = [softmax(z) for z in logits]
        if combine == "confidence":
            surety = [float(np.exp(sum(q * np.log(q) for q in p if q > 0))) for p in each]
            share = [w * s for w, s in zip(share, surety, strict=True)]
        wanted = [sum(w * p[c] for w, p in zip(share, each, strict=True)) / sum(share) for c in range(4)]
    np.testing.assert_allclose(found.softmax(-1)[0].numpy(), wanted, rtol=1e-5, atol=1e-30)


def test_an_ensemble_s_signals_are_those_of_the_whole_of_members_and_of_their_layers() -> None:
    teacher, first, second = pair(features_from="a")
    signals = [LOGITS, Signal(member="b"), Signal("1"), Signal("2", "input", "b"), Signal("1", "output", "a")]
    live = LiveTeacher(teacher, signals, X[:2], batch_size=4)
    found = live(np.arange(9), 0, X)
    assert live.shapes(CLASSES) == {s: (CLASSES,) if s.layer is None else (4, 3, 4) for s in signals}
    with torch.no_grad():
        wanted = [teacher(X), second(X), first[:2](X), second[:2](X), first[:2](X)]
    for signal, tensor in zip(signals, wanted, strict=True):
        torch.testing.assert_close(found[signal], tensor, msg=signal.text)
        assert not found[signal].requires_grad
        assert found[signal].dtype == torch.float32
    live.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


@pytest.mark.parametrize(("signal", "ran"), [(Signal(member="b"), "b"), (Signal("1", member="a"), "a"), (LOGITS, "ab")])
def test_only_the_members_that_are_listened_to_run(signal: Signal, ran: str) -> None:
    teacher, first, second = pair()
    live = LiveTeacher(teacher, [signal], X[:2], batch_size=4)
    counts = {"a": 0, "b": 0}
    for name, module in (("a", first), ("b", second)):
        module.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    live(np.arange(9), 0, X)
    assert counts == {name: 3 if name in ran else 0 for name in "ab"}, "9 samples are 3 batches of at most 4"


@pytest.mark.parametrize(
    ("signal", "says"),
    [(Signal("1"), "which teacher's"), (Signal(member="c"), "'c'"), (Signal("conv", member="a"), "no layer 'conv'")],
)
def test_a_signal_that_is_nobody_s_is_refused_with_the_names_there_are(signal: Signal, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        LiveTeacher(pair()[0], [signal], X[:2], batch_size=4)
    error = caught.value
    assert all(name in error.expected for name in (("0", "1") if signal.layer == "conv" else ("a", "b")))
    assert all((error.where, error.got, error.fix))


@pytest.mark.parametrize("name", ["wide", "v1.2", "train", "items", "0", "type"])
def test_a_member_may_have_every_name_that_the_recipe_allows(name: str, tmp_path: Path) -> None:
    spec = {"ensemble": [parts(tmp_path, name=name), parts(tmp_path, name="other")], "features_from": name}
    live = LiveTeacher(built(spec, tmp_path), [Signal("linear"), Signal(member=name)], X[:2], batch_size=4)
    assert torch.equal(*live(np.arange(9), 0, X).values())


@pytest.mark.parametrize("theirs", [{"mean": [5.0, -1.0], "std": [0.1, 2.0]}, {"mean": [5.0], "std": [0.1]}])
@pytest.mark.parametrize("ours", [OURS, Normalization((0.0,), (1.0,), "raw")], ids=["channels", "none"])
def test_a_teacher_s_own_normalisation_is_converted_channel_by_channel(
    theirs: dict[str, list[float]], ours: Normalization, tmp_path: Path
) -> None:
    teacher = built(parts(tmp_path, normalize=theirs), tmp_path, data(ours))
    mean, std = (np.reshape(theirs[key], (-1, 1, 1)) for key in ("mean", "std"))
    found = teacher(torch.from_numpy(data(ours).train_inputs)).detach().numpy()
    np.testing.assert_allclose(found, linear(teacher, (RAW - mean) / std), rtol=2e-4, atol=2e-4)


def test_a_normalisation_of_another_number_of_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not fit") as caught:
        built(parts(tmp_path, normalize={"mean": [0.0] * 3, "std": [1.0] * 3}), tmp_path)
    assert (caught.value.where, caught.value.got) == ("teacher.normalize", "3 values")


@pytest.mark.parametrize(
    ("form", "output"),
    [("dict", "my_logits"), ("tuple", 1), ("tuple", -1), ("list", 1), ("named", "scores"), ("named", 1)],
)
def test_the_logits_are_the_part_that_output_names(form: str, output: str | int, tmp_path: Path) -> None:
    teacher = built(parts(tmp_path, form, output=output), tmp_path)
    inputs = data().train_inputs
    np.testing.assert_allclose(teacher(torch.from_numpy(inputs)).detach().numpy(), linear(teacher, inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "output", "says", "fix"),
    [
        ("dict", None, "hidden, my_logits", "output: my_logits"),
        ("dict", "logits", "hidden, my_logits", "output: my_logits"),
        ("tuple", None, "a tuple of 2", "output: 0"),
        ("tuple", 2, "a tuple of 2", "output: 0"),
        ("list", None, "a list of 2", "output: 0"),
        ("nothing", None, "NoneType", "output"),
        ("tensor", "logits", "a Tensor", "output"),
    ],
)
def test_a_teacher_that_returns_no_logits_is_asked_for_output(
    form: str, output: Any, says: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        built(parts(tmp_path, form, output=output), tmp_path)
    error = caught.value
    assert says in f"{error.message}\n{error.got}"
    assert fix in error.fix
    assert "output" in error.where
    assert says in error.got


class Counts(nn.Module):
    """It counts its calls in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        scores: Tensor = self.linear(x.flatten(1))
        return scores


def test_listening_leaves_weights_statistics_flags_and_gradients_as_they_were() -> None:
    teacher, first, second = pair(features_from="a")
    first.train()
    second[4].requires_grad_(requires_grad=False)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    modes = {name: module.training for name, module in teacher.named_modules()}
    needs = {name: p.requires_grad for name, p in teacher.named_parameters()}
    with listening(teacher, [LOGITS, Signal("1")], X[:2], 4) as live:
        assert not any(module.training for module in teacher.modules())
        live(np.arange(9), 0, X.requires_grad_())
    X.requires_grad_(False)
    assert same(before, dict(teacher.state_dict()))
    assert modes == {name: module.training for name, module in teacher.named_modules()}
    assert needs == {name: p.requires_grad for name, p in teacher.named_parameters()}
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_whose_buffers_move_in_eval_mode_is_found_out() -> None:
    teacher = Adapted(Counts(), None, None, "t").train()
    with listening(teacher, [LOGITS, Signal("linear")], X[:2], 4):
        pass  # looking up the layers leaves no trace
    with (
        pytest.raises(ModelError, match="the teacher changed") as caught,
        listening(teacher, [LOGITS], X[:2], 4) as live,
    ):
        live(np.arange(9), 0, X)
    assert caught.value.got == fingerprint(teacher)[:16] != caught.value.expected[-16:]
    assert teacher.training, "the flags are put back also then"


def _spoil(teacher: nn.Module) -> None:
    nn.init.zeros_(next(teacher.parameters()))
    raise ZeroDivisionError


def test_an_error_inside_is_the_one_that_is_told_and_the_flags_are_put_back() -> None:
    teacher = Adapted(net(0), None, None, "t").train()
    with pytest.raises(ZeroDivisionError), frozen(teacher):
        _spoil(teacher)
    assert all(module.training for module in teacher.modules())


def test_the_key_of_an_ensemble_knows_every_member_and_how_they_are_combined(tmp_path: Path) -> None:
    one, other = parts(tmp_path), parts(tmp_path, "dict", output="my_logits")
    specs = [
        {"ensemble": [one, other]},
        {"ensemble": [other, one]},
        {"ensemble": [one, other], "combine": "confidence"},
        {"ensemble": [one, other], "weights": [1, 2]},
        {"ensemble": [one, {**other, "normalize": {"mean": [0], "std": [1]}}]},
    ]
    keys = [model_key(recipe({"epochs": 1}, teacher=spec).teacher, tmp_path) for spec in specs]
    assert all(keys.count(key) == 1 for key in keys)
