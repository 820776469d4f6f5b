"""Normalisation, softmax and argmax inside the files: against the same computed outside, in numpy."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from edgedistill.artifacts.running import subjects
from edgedistill.conversion.export import export
from edgedistill.distillation.rounding.training import QuantizedStudent
from edgedistill.errors import EdgeDistillError, ModelError, RecipeError, UsageError
from edgedistill.models.folding import Folded, folded_signature
from edgedistill.models.signature import signature_of
from edgedistill.parity.compare import compare
from edgedistill.plugins import load_exporter
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.document import ParitySettings, load_recipe
from edgedistill.recipe.export import Quantize
from edgedistill.tasks.classification import correct
from edgedistill.types import Artifact, Normalization, Precision
from tests.conftest import SMALL, documents, edgedistill
from tests.helpers.answers import compute

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.documents.artifacts import ArtifactDocument
    from edgedistill.documents.report import ExportDocument
    from edgedistill.types import Array

NORM = Normalization((120.0, 110.0, 100.0), (60.0, 55.0, 50.0), "pixels, 0 to 255")


def model() -> nn.Module:
    """Channels matter, and no class wins always."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    last = net[4]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.mul_(10)
        last.bias.sub_(net(torch.from_numpy(ready(raw(256)))).mean(0))
    return net.eval()


def raw(count: int = 48) -> Array:
    random = np.random.default_rng(0)
    tint = random.uniform(0, 128, (count, 3, 1, 1))
    return (tint + random.uniform(0, 127, (count, 3, 12, 12))).astype(np.float32)


def ready(samples: Array) -> Array:
    """By hand, channel by channel."""
    channels = [(samples[:, c] - NORM.mean[c]) / NORM.std[c] for c in range(3)]
    return np.asarray(np.stack(channels, axis=1), dtype=np.float32)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def computed(document: ExportDocument, root: Path) -> dict[tuple[str, str], Array]:
    """Outputs for the raw samples, by precision and runtime."""
    np.savez(root / "in.npz", image=raw())
    found = {}
    for described in document["artifacts"]:
        artifact = Artifact.from_json(described, root / "out")
        for subject in subjects([artifact]):
            found[artifact.precision.short, subject.runtime] = compute(subject, root / "in.npz", root / "answers.npz")
    return found


@pytest.mark.parametrize(
    "fmt", ["onnx", "ncnn", *(pytest.param(f, marks=pytest.mark.slow) for f in ("openvino", "tflite"))]
)
def test_a_folded_file_on_raw_samples_is_the_plain_model_on_normalised_ones(fmt: str, tmp_path: Path) -> None:
    net = model()
    with torch.no_grad():
        logits = net(torch.from_numpy(ready(raw()))).numpy()
    assert len(set(logits.argmax(1))) >= 4
    ends: dict[tuple[str, ...], Array] = {("normalization",): logits, ("normalization", "softmax"): softmax(logits)}
    if fmt != "ncnn":  # it has no argmax
        ends["normalization", "argmax"] = logits.argmax(1)
    precisions = ["fp32"] if fmt == "ncnn" else ["fp32", "int8"]
    for number, (folds, expected) in enumerate(ends.items()):
        root = tmp_path / str(number)
        root.mkdir()
        document = export(
            net,
            {"image": raw()},
            root / "out",
            to=[fmt],
            precisions=precisions,
            normalization=NORM,
            fold=folds,
            calibration={"image": raw()},
            quantize=Quantize(candidates="default"),
            benchmark=Benchmark.model_validate({"preset": "quick", "rounds": 1}),
        )
        for (precision, _), outputs in computed(document, root).items():
            assert outputs.shape == expected.shape
            if precision == "fp32":
                assert np.abs(outputs - expected).max() <= 1e-4 * np.abs(expected).max()
            elif "argmax" in folds:
                assert (outputs == expected).mean() > 0.9
            else:
                assert np.sqrt(np.mean((outputs - expected) ** 2)) < np.ptp(expected) / 50
        for artifact in document["artifacts"]:
            assert artifact["parity"]["state"] == "pass"
            told = artifact["signature"]["normalization"]
            assert (told["mean"], told["std"]) == ([0.0], [1.0])
            assert told["raw"] == "pixels, 0 to 255; the normalisation is folded into the graph"
            (given,) = artifact["signature"]["outputs"]
            if "argmax" in folds:
                assert (given["name"], given["dtype"], len(given["shape"])) == ("class", "int32", 1)
            elif "softmax" in folds:
                assert given["name"] == "probabilities"


@pytest.mark.parametrize("fmt", ["onnx", *(pytest.param(f, marks=pytest.mark.slow) for f in ("openvino", "tflite"))])
def test_trained_ranges_are_found_behind_a_folded_normalisation(fmt: str, tmp_path: Path) -> None:
    samples = torch.from_numpy(ready(raw()))
    student = QuantizedStudent(model(), samples).eval()
    folds = ("normalization", "softmax")
    signature, _ = signature_of(student.graph, {"image": samples.numpy()}, normalization=NORM)
    with torch.no_grad():
        simulated = softmax(student(samples).numpy())
    exporter: Any = load_exporter(fmt)
    outside = folded_signature(signature, folds, student.graph(samples).detach().numpy(), "fold")
    plain = exporter.export(Folded(student.graph, NORM, folds).eval(), "net", outside, tmp_path)
    made = exporter.quantize_trained(plain, student.trained_ranges(samples), {"image": raw()}, tmp_path)
    assert made.producer["trained_ranges"] >= len(student.ranges) - 1  # logits behind softmax may stay float
    np.savez(tmp_path / "in.npz", image=raw())
    for subject in subjects([made]):
        given = compute(subject, tmp_path / "in.npz", tmp_path / "out.npz")
        assert np.abs(given - simulated).max() < 0.03
        assert (given.argmax(1) == simulated.argmax(1)).mean() > 0.9


class Twice(nn.Module):
    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": image.mean((2, 3)), "b": image.amax((2, 3))}


class Ids(nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.float()


@pytest.mark.parametrize(
    ("net", "example", "folds", "told"),
    [
        (model(), raw(), ["softmx"], "did you mean 'softmax'"),
        (model(), raw(), ["softmax", "softmax"], "each word is said once"),
        (model(), raw(), ["softmax", "argmax"], "a graph has one end"),
        (nn.Sequential(model(), nn.Softmax(1)), raw(), ["softmax"], "probabilities already"),
        (nn.Conv2d(3, 2, 3), raw(), ["softmax"], "rows of scores"),
        (nn.Sequential(model(), nn.Linear(5, 1)), raw(), ["argmax"], "rows of scores"),
        (Twice(), raw(), ["normalization"], "one float input and one output"),
        (Ids(), np.ones((4, 3), dtype=np.int64), ["argmax"], "one float input and one output"),
    ],
)
def test_what_cannot_be_folded_is_refused(
    net: nn.Module, example: Array, folds: list[str], told: str, tmp_path: Path
) -> None:
    with pytest.raises((ModelError, UsageError)) as caught:
        export(net, example, tmp_path / "out", to=["onnx"], normalization=NORM, fold=folds)
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_there_must_be_a_normalisation_and_it_must_fit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no normalisation"):
        export(model(), raw(), tmp_path / "out", to=["onnx"], fold=["normalization"])
    two = Normalization((1.0, 2.0), (1.0, 2.0))
    with pytest.raises(UsageError, match="does not fit"):
        export(model(), raw(), tmp_path / "out", to=["onnx"], normalization=two, fold=["normalization"])


@pytest.mark.long
def test_the_command_line_folds_and_names_mistakes(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text("from torch import nn\nnet = lambda: nn.Linear(6, 3)\n", encoding="utf-8")
    command: list[str | Path] = ["export", "nets:net", "--input", "x:6", "--mean", "5", "--std", "2", "--to", "onnx"]
    done = edgedistill(*command, "--fold", "normalization,argmx", "-o", tmp_path / "bad", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert documents(done)["error"]["where"] == "--fold"
    assert "did you mean 'argmax'" in documents(done)["error"]["expected"]
    made = edgedistill(*command, "--fold", "normalization,softmax", "-o", tmp_path / "ok", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    (artifact,) = documents(made)["artifacts"]
    assert artifact["parity"]["state"] == "pass"
    again = edgedistill(
        "export",
        tmp_path / "ok" / "onnx" / "net-fp32.onnx",
        "--to",
        "onnx",
        "--fold",
        "argmax",
        "-o",
        tmp_path / "x",
        "--json",
    )
    assert again.returncode == 2
    assert "ONNX files" in documents(again)["error"]["message"]


def test_class_numbers_are_the_same_or_not() -> None:
    numbers = np.arange(10, dtype=np.int32)
    off = numbers.astype(np.float32)
    off[3] = 9
    kept = {"name": "student", "runtime": "r"}
    one_wrong = compare(numbers, off, Precision.FP32, ParitySettings(), **kept)
    assert (one_wrong.state, one_wrong.top1_agreement) == ("fail", 0.9)
    assert compare(numbers, off, Precision.INT8_STATIC, ParitySettings(), **kept).state == "fail"
    assert compare(numbers, numbers.astype(np.float32), Precision.FP32, ParitySettings(), **kept).state == "pass"
    assert correct(off, numbers).tolist() == [True] * 3 + [False] + [True] * 6


@pytest.mark.parametrize("words", ["[softmax, argmax]", "[softmax, softmax]", "[normalisation]"])
def test_recipes_are_held_to_the_same(words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SMALL, encoding="utf-8")
    with pytest.raises(RecipeError, match="fold"):
        load_recipe(path, [f"export.fold={words}"])
    with pytest.raises(RecipeError, match=r"data\.normalize is none"):
        load_recipe(path, ["export.fold=[normalization]", "data.normalize=none"])


def _kept_as_the_file_took_it(run: Path, artifact: ArtifactDocument) -> None:
    """The worst sample is raw, and under the file's own names: the file gives for it what is kept beside it."""
    import onnxruntime as ort

    (given,) = artifact["signature"]["outputs"]
    with np.load(run / artifact["parity"].get("worst_sample_file", ""), allow_pickle=False) as kept:
        assert set(kept.files) == {"image", f"reference/{given['name']}", f"artifact/{given['name']}"}
        assert kept["image"].max() > 10  # 0 to 16, not normalised
        session = ort.InferenceSession(str(run / artifact["path"]), providers=["CPUExecutionProvider"])
        again = np.asarray(session.run(None, {"image": kept["image"]})[0])
        np.testing.assert_allclose(again, kept[f"artifact/{given['name']}"], atol=1e-6)


@pytest.mark.parametrize(
    "folds", ["[normalization, argmax]", pytest.param("[normalization, softmax]", marks=pytest.mark.slow)]
)
@pytest.mark.long
def test_a_folded_recipe_is_proved_judged_and_released_as_the_plain_one(
    folds: str, finished: tuple[Path, dict[str, Any]], recipe: Path, tmp_path: Path
) -> None:
    """Same quality on the same samples; the bundle's script takes raw samples without a normalisation."""
    run = tmp_path / "run"
    changes = ["--set", f"export.fold={folds}", "--set", "export.formats=[onnx]"]
    done = edgedistill("compress", recipe, "--run", run, "--json", *changes)
    assert done.returncode == 0, done.stderr
    plain = {a["id"]: a for a in finished[1]["report"]["artifacts"]}
    for artifact in documents(done)["report"]["artifacts"]:
        same = plain[artifact["id"]]
        assert artifact["parity"]["state"] == "pass"
        assert artifact["quality"]["n"] == 899
        margin = 0.002 if artifact["precision"] == "fp32" else 0.03
        assert abs(artifact["quality"]["value"] - same["quality"]["value"]) <= margin
        _kept_as_the_file_took_it(run, artifact)
    bundle = run / "bundle"
    metadata = yaml.safe_load((bundle / "metadata.yaml").read_text(encoding="utf-8"))
    assert metadata["normalization"]["mean"] == [0.0]
    assert "folded" in metadata["normalization"]["raw"]
    assert np.load(bundle / "example_inputs.npy").max() > 10  # raw: 0 to 16
    command: list[str | Path] = [sys.executable, "-I", bundle / "run_onnxruntime.py"]
    model_file = bundle / "artifacts" / "student-fp32.onnx"
    told = subprocess.run(
        [*command, model_file, "--output", tmp_path / "o.npy"], check=True, capture_output=True, text=True
    )
    expected = np.load(bundle / "example_logits.npy")
    assert np.abs(np.load(tmp_path / "o.npy") - expected).max() < 1e-4
    unfolded = np.load(finished[0] / "bundle" / "example_logits.npy").argmax(1)
    classes = [int(line.rsplit(" ", 1)[1]) for line in told.stdout.splitlines()]
    assert classes == unfolded.tolist()
    assert edgedistill("verify", bundle).returncode == 0


def test_an_error_is_ours(tmp_path: Path) -> None:
    with pytest.raises(EdgeDistillError):
        export(model(), raw(), tmp_path / "out", to=["ncnn"], normalization=NORM, fold=["argmax"])
