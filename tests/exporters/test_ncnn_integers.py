"""ncnn in 8-bit integers: what its kernels compute, against integer arithmetic written out; and what is lost."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.studies.zoo.models import ZOO, built
from edgedistill.artifacts.running import compute_all, subjects
from edgedistill.conversion.candidates import choose
from edgedistill.errors import DataError, ModelError
from edgedistill.models.reference import of_module
from edgedistill.models.signature import parameters_of
from edgedistill.plugins import find_plugin, load_exporter
from edgedistill.recipe.benchmark import Benchmark
from edgedistill.recipe.export import Quantize
from edgedistill.students.convnet import ConvNet
from edgedistill.types import Precision, QuantizationScheme
from tests.conversion import test_candidates as test_quantizing
from tests.helpers.answers import compute

if TYPE_CHECKING:
    from pathlib import Path

    from edgedistill.types import Array, Artifact

INT8 = Precision.INT8_STATIC


def private(name: str) -> Any:
    return importlib.import_module(f".{name}", find_plugin("exporters", "ncnn").__package__)


def written(module: nn.Module, given: dict[str, Array], out: Path) -> tuple[Artifact, dict[str, Array]]:
    """The fp32 file of a module, and what the module computes."""
    source = of_module(module.eval(), given, "net")
    artifact = load_exporter("ncnn").export(source.model, "net", source.signature, out, given)
    return artifact, dict(source.expected)


def int8(artifact: Artifact, given: dict[str, Array], out: Path, scheme: QuantizationScheme | None = None) -> Artifact:
    return load_exporter("ncnn").quantize(artifact, INT8, given, out, scheme)


def outputs(artifact: Artifact, given: dict[str, Array], out: Path) -> dict[str, Array]:
    np.savez(out / "in.npz", **given)
    return compute_all(subjects([artifact])[0], out / "in.npz", out / "out.npz")


def signal_db(expected: Array, found: Array) -> float:
    return float(20 * np.log10(np.sqrt(np.mean(expected**2)) / np.sqrt(np.mean((expected - found) ** 2))))


def half_away(values: Array) -> Array:
    rounded: Array = np.clip(np.sign(values) * np.floor(np.abs(values) + 0.5), -127, 127)
    return rounded


def integers(values: Array, scale: Array) -> torch.Tensor:
    return torch.from_numpy(half_away(values.astype(np.float64) * scale))


def by_integers(layer: nn.Conv2d | nn.Linear, x: Array, *, dynamic: bool = False) -> Array:
    """A layer's outputs by products of integers: weights with a scale a row, inputs with one for all samples.

    Dynamic, as ncnn's matrix products are: weights with one scale, inputs with one for each row.
    """
    weight = layer.weight.detach().numpy().astype(np.float64)
    rows = weight.reshape(len(weight), -1)
    scale = 127 / np.abs(rows if not dynamic else rows.reshape(1, -1)).max(1)
    taken = 127 / (np.abs(x).max(-1, keepdims=True) if dynamic else np.abs(x).max())
    codes, given = integers(rows, scale[:, None]).reshape(weight.shape), integers(x, taken)
    assert layer.bias is not None
    bias = layer.bias.detach().numpy()
    if isinstance(layer, nn.Linear):
        products: Array = (given @ codes.T).numpy() / (scale * taken) + bias
        return products
    sums = nn.functional.conv2d(given, codes, None, layer.stride, layer.padding, layer.dilation, layer.groups).numpy()
    each: Array = sums / (scale[:, None, None] * taken) + bias[:, None, None]
    return each


KERNELS: dict[str, tuple[nn.Conv2d | nn.Linear, tuple[int, ...]]] = {
    "small": (nn.Conv2d(3, 10, 3, padding=1), (3, 12, 12)),
    "winograd": (nn.Conv2d(16, 24, 3, padding=1), (16, 12, 12)),
    "pointwise": (nn.Conv2d(8, 16, 1), (8, 12, 12)),
    "strided": (nn.Conv2d(12, 32, 5, 2, 2), (12, 12, 12)),
    "dilated": (nn.Conv2d(4, 8, 3, padding=2, dilation=2), (4, 12, 12)),
    "depthwise": (nn.Conv2d(16, 16, 3, padding=1, groups=16), (16, 12, 12)),
    "depthwise_odd": (nn.Conv2d(3, 3, 3, 2, 1, groups=3), (3, 12, 12)),
    "dense": (nn.Linear(40, 33), (40,)),
    "product": (nn.Linear(24, 10), (7, 24)),
}


class Kernels(nn.Module):
    """All of them side by side, each with an input and an output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: layer for name, (layer, _) in KERNELS.items()})

    def forward(
        self,
        small: torch.Tensor,
        winograd: torch.Tensor,
        pointwise: torch.Tensor,
        strided: torch.Tensor,
        dilated: torch.Tensor,
        depthwise: torch.Tensor,
        depthwise_odd: torch.Tensor,
        dense: torch.Tensor,
        product: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        given = (small, winograd, pointwise, strided, dilated, depthwise, depthwise_odd, dense, product)
        return {f"y_{name}": self.layers[name](x) for name, x in zip(KERNELS, given, strict=True)}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Inputs, exact outputs, and those of the int8 file."""
    out, rng = tmp_path_factory.mktemp("kernels"), np.random.default_rng(3)
    module = Kernels()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
    given = {name: rng.standard_normal((3, *shape)).astype(np.float32) for name, (_, shape) in KERNELS.items()}
    artifact, exact = written(module, given, out)
    made = int8(artifact, given, out)
    assert load_exporter("ncnn").count_macs(made).integer_share == 1.0
    return given, exact, outputs(made, given, out)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compute_what_integer_arithmetic_does(
    name: str, kernels: tuple[dict[str, Array], dict[str, Array], dict[str, Array]]
) -> None:
    given, exact, found = kernels[0][name], kernels[1][f"y_{name}"], kernels[2][f"y_{name}"]
    expected = by_integers(KERNELS[name][0], given, dynamic=name == "product")
    near = 1e-4 + 2e-4 * np.abs(expected).max()  # depthwise kernels multiply by a reciprocal of 12 bits
    assert (np.abs(found - expected) > near).mean() < 2e-3  # an input between two codes may go to either
    assert np.abs(found - expected).max() < 0.1
    assert (np.abs(exact - expected) > near).mean() > 0.8  # floats would have been told


def test_grouped_convolutions_stay_float(tmp_path: Path) -> None:
    """ncnn packs 8 channels of a group and then reads beside them: nothing of such a file can be trusted."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=3), nn.ReLU(), nn.Conv2d(24, 5, 1))
    given = {"x": np.random.default_rng(0).standard_normal((4, 24, 9, 9)).astype(np.float32)}
    artifact, expected = written(net, given, tmp_path)
    made = int8(artifact, given, tmp_path)
    assert len(load_exporter("ncnn").layers(artifact)) == 1
    assert signal_db(expected["output"], outputs(made, given, tmp_path)["output"]) > 35
    macs = load_exporter("ncnn").count_macs(made)
    assert (macs.total, macs.integer) == (81 * (24 * 8 * 9 + 24 * 5), 81 * 24 * 5)


ZOO_DB = {
    "mobilenet-32": 43.0,
    "vit": 31.0,
    "text-encoder": 34.0,
    "bidirectional-lstm": 43.0,
    "stock-transformer": 33.0,
}
"""About 4 dB below what was measured; docs/ncnn.md has the whole zoo."""


@pytest.mark.parametrize("name", ZOO_DB)
def test_students_of_many_kinds_compute_something_close(name: str, tmp_path: Path) -> None:
    module, samples = built(ZOO[name])
    given = {k: v.numpy() for k, v in zip(parameters_of(module, len(samples)), samples, strict=True)}
    artifact, expected = written(module, given, tmp_path)
    made = int8(artifact, given, tmp_path)
    assert signal_db(expected["output"], outputs(made, given, tmp_path)["output"]) > ZOO_DB[name]
    assert made.size_bytes < 0.35 * artifact.size_bytes
    assert load_exporter("ncnn").count_macs(made).integer_share > 0.9


def test_a_recurrent_layer_takes_a_silent_step(tmp_path: Path) -> None:
    """ncnn divides by the largest magnitude of each step; of one without any it must not make NaN."""
    module, samples = built(ZOO["gru"])
    given = {"signal": samples[0].numpy()}
    artifact, lively = written(module, given, tmp_path)
    made = int8(artifact, given, tmp_path)
    assert signal_db(lively["output"], outputs(made, given, tmp_path)["output"]) > 39
    silent = {"signal": np.zeros_like(given["signal"])}
    with torch.no_grad():
        expected = module(torch.zeros_like(samples[0])).numpy()
    assert signal_db(expected, outputs(made, silent, tmp_path)["output"]) > 30


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Array, Array, Array, Path]:
    """A convnet that has learnt the digits; training samples, evaluation samples and their labels."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x = ((found.images[order, None] - 4.88) / 6.0).astype(np.float32)
    labels = found.target[order].astype(np.int64)
    torch.manual_seed(0)
    net = ConvNet(1, 10, width=16, depth=2)
    optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    for epoch in range(12):
        for rows in np.array_split(np.random.default_rng(epoch).permutation(898), 15):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(torch.from_numpy(x[rows])), torch.from_numpy(labels[rows]))
            loss.backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
    out = tmp_path_factory.mktemp("digits")
    artifact, _ = written(net, {"image": x[:8]}, out)
    return artifact, x[:898], x[898:], labels[898:], out


@pytest.mark.parametrize("scheme", load_exporter("ncnn").schemes(INT8)[:3], ids=lambda s: s.name)
def test_a_trained_student_keeps_its_answers(
    scheme: QuantizationScheme, digits: tuple[Artifact, Array, Array, Array, Path], tmp_path: Path
) -> None:
    artifact, train, x, labels, _ = digits
    made = int8(artifact, {"image": train[:128]}, tmp_path, scheme)
    np.savez(tmp_path / "eval.npz", image=x)
    fp32, integer = (
        (compute(subjects([a])[0], tmp_path / "eval.npz", tmp_path / "out.npz").argmax(1) == labels).mean()
        for a in (artifact, made)
    )
    assert len(labels) == 899
    assert fp32 > 0.9
    assert integer >= fp32 - 0.01
    assert load_exporter("ncnn").count_macs(made).integer_share == 1.0
    assert made.producer["scheme"] == scheme.name


def test_a_large_model_shrinks_to_less_than_a_third(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2),
        nn.ReLU(),
        nn.Conv2d(64, 192, 3, 2),
        nn.ReLU(),
        nn.Conv2d(192, 512, 3, 2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 100),
    )
    assert sum(p.numel() for p in net.parameters()) > 1_000_000
    given = {"x": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    artifact, _ = written(net, given, tmp_path)
    assert int8(artifact, given, tmp_path).size_bytes <= 0.30 * artifact.size_bytes


def test_layers_kept_in_float_are_counted_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(256, 3))
    given = {"x": np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype(np.float32)}
    artifact, expected = written(net, given, tmp_path)
    exporter = load_exporter("ncnn")
    first, second, _ = exporter.layers(artifact)
    plain = exporter.schemes(INT8)[0]
    made = int8(artifact, given, tmp_path, replace(plain, keep_float=(first,)))  # fallback names layers
    macs = exporter.count_macs(made)
    assert (macs.total, macs.integer) == (64 * (144 + 32) + 768, 64 * 32 + 768)
    whole = int8(artifact, given, tmp_path, plain)
    loss = signal_db(expected["output"], outputs(whole, given, tmp_path)["output"])
    made = int8(artifact, given, tmp_path, replace(plain, keep_float=(first, second)))
    assert signal_db(expected["output"], outputs(made, given, tmp_path)["output"]) > loss
    made = int8(artifact, given, tmp_path, replace(plain, keep_float=tuple(exporter.layers(artifact))))
    assert np.array_equal(outputs(made, given, tmp_path)["output"], outputs(artifact, given, tmp_path)["output"])
    assert exporter.count_macs(made).integer == 0


def test_a_scheme_leaves_depthwise_convolutions_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    given = {"x": np.random.default_rng(0).standard_normal((4, 2, 8, 8)).astype(np.float32)}
    artifact, _ = written(net, given, tmp_path)
    exporter = load_exporter("ncnn")
    scheme = next(s for s in exporter.schemes(INT8) if s.name == "min-max-float-depthwise")
    macs = exporter.count_macs(int8(artifact, given, tmp_path, scheme))
    assert (macs.total, macs.integer) == (64 * (16 + 72), 64 * 16)


def test_attention_is_counted_whole(tmp_path: Path) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mixed: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
            return mixed

    torch.manual_seed(0)
    given = {"x": np.random.default_rng(0).standard_normal((3, 7, 16)).astype(np.float32)}
    artifact, _ = written(Attention(), given, tmp_path)
    macs = load_exporter("ncnn").count_macs(artifact)
    assert (macs.total, macs.integer) == (4 * 7 * 16 * 16 + 2 * 7 * 7 * 16, 0)


def test_layers_return_to_float_until_the_loss_is_within_the_margin(tmp_path: Path) -> None:
    artifact, samples = test_quantizing.exported("ncnn", tmp_path)
    (tmp_path / "out").mkdir()
    settings = Quantize(candidates="default", max_drop=0.02)
    choice = choose(artifact, INT8, test_quantizing.judged(samples, tmp_path), settings, Benchmark(), tmp_path / "out")
    assert (choice.rows[0]["drop"] or 0.0) > 0.02
    assert choice.met
    assert 0 < len(choice.keep_float) < len(load_exporter("ncnn").layers(artifact))
    assert 0 < load_exporter("ncnn").count_macs(choice.artifact).integer_share < 1


def rounding_error(values: Array, threshold: float) -> float:
    step = threshold / 127
    return float(np.mean((half_away(values / step) * step - values) ** 2))


@pytest.mark.parametrize("shape", ["normal", "laplace", "outlier"])
def test_thresholds_are_those_of_brute_force(shape: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.standard_normal(20000),
        "laplace": rng.laplace(size=20000),
        "outlier": np.append(rng.standard_normal(20000), 30.0),
    }[shape]
    values[::3] = 0.0  # as after ReLU
    ranges, top = private("ranges"), float(np.abs(values).max())
    counts = ranges._histogram(values.astype(np.float32), top)
    assert counts.sum() == np.count_nonzero(values)
    chosen = top * ranges._least_error(counts)
    best = min(rounding_error(values, top * share) for share in np.linspace(0.05, 1, 400))
    assert rounding_error(values, chosen) < 1.05 * best
    magnitudes = np.sort(np.abs(values[values != 0]))
    exact = magnitudes[int(np.ceil(0.9999 * magnitudes.size)) - 1]
    assert abs(top * ranges._percentile(counts) - exact) <= top / 2048


def test_one_wild_value_is_clipped_by_percentiles(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    x = np.random.default_rng(0).standard_normal((200, 1, 8, 8)).astype(np.float32)
    artifact, _ = written(net, {"x": x[:8]}, tmp_path)
    wild = x.copy()
    wild[7, 0, 3, 3] = 200.0
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    found = {
        scheme.name: signal_db(
            expected, outputs(int8(artifact, {"x": wild}, tmp_path, scheme), {"x": x}, tmp_path)["output"]
        )
        for scheme in load_exporter("ncnn").schemes(INT8)
    }
    assert found["percentile"] > found["min-max"] + 5
    assert found["mse"] >= found["min-max"]  # to clip it would cost more than all rounding


def test_samples_without_a_range_are_refused(tmp_path: Path) -> None:
    given = {"x": np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)}
    artifact, _ = written(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid()), given, tmp_path)
    with pytest.raises(DataError, match="no calibration samples"):
        int8(artifact, {"x": given["x"][:0]}, tmp_path)
    broken = given["x"].copy()
    broken[2, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite for sample 2"):
        int8(artifact, {"x": broken}, tmp_path)
    artifact, _ = written(nn.Sequential(nn.ConvTranspose2d(1, 4, 2), nn.Sigmoid()), given, tmp_path)
    with pytest.raises(ModelError, match="no layer for int8"):
        int8(artifact, given, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 2])
def test_memory_is_flat_in_the_number_of_samples(scheme: int, tmp_path: Path) -> None:
    test_quantizing.test_memory_is_flat_in_the_number_of_samples("ncnn", scheme, tmp_path)
