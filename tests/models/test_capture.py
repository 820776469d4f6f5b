"""Features are those of the model's own forward pass, and taking them leaves no trace."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.errors import ModelError
from edgedistill.models.capture import Captured, Tap
from edgedistill.models.layers import Layer, layers
from edgedistill.students.convnet import ConvNet

if TYPE_CHECKING:
    from collections.abc import Callable


class Residual(nn.Module):
    """As torchvision writes it: one ReLU for two places, in place, and an in-place sum."""

    def __init__(self, width: int, *, inplace: bool = True) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        activated: Tensor = self.relu(out)
        return activated


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), Residual(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def _images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def _hooks(module: nn.Module) -> int:
    return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in module.modules())


def _assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def _by_hand(net: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """The forward pass of `_net`, written out without anything in place."""
    block = net[1]
    assert isinstance(block, Residual)
    first = net[0](x)
    bn1 = block.bn1(block.conv1(first))
    relu1 = bn1.clamp(min=0)
    bn2 = block.bn2(block.conv2(relu1))
    total = bn2 + first
    pooled = total.clamp(min=0).mean((2, 3))
    logits = pooled @ net[4].weight.T + net[4].bias
    return {"first": first, "bn1": bn1, "relu1": relu1, "bn2": bn2, "total": total, "pooled": pooled, "logits": logits}


REQUESTS: dict[str, tuple[str, Tap]] = {
    "total": ("1", "pre_activation"),
    "bn1": ("1.bn1", "output"),
    "relu1": ("1.relu#0", "output"),
    "bn2": ("1.bn2", "output"),
    "first": ("1.conv1", "input"),
    "pooled": ("4", "input"),
}


@pytest.mark.parametrize("train", [False, True])
def test_features_and_gradients_are_those_of_the_forward_pass_written_out(train: bool) -> None:
    net = _net().train(train)
    twin = copy.deepcopy(net)
    captured = Captured(net, REQUESTS, _images())
    output, features = captured(_images())
    wanted = _by_hand(twin, _images())
    assert list(features) == list(REQUESTS)
    torch.testing.assert_close(output, wanted["logits"])
    for key in REQUESTS:
        torch.testing.assert_close(features[key], wanted[key])
        assert captured.points[key].shape == wanted[key].shape[1:]
        ours = torch.autograd.grad(features[key].pow(3).sum(), net.get_parameter("0.weight"), retain_graph=True)
        theirs = torch.autograd.grad(wanted[key].pow(3).sum(), twin.get_parameter("0.weight"), retain_graph=True)
        torch.testing.assert_close(ours, theirs)


def test_the_pre_activation_before_an_in_place_relu_is_not_overwritten() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    with Captured(net, {"bn": ("1", "output"), "relu": ("2", "pre_activation")}, _images()) as captured:
        output, features = captured(_images())
    true = net[1](net[0](_images()))
    assert true.min() < 0  # an overwritten feature has no negative values
    for feature in features.values():
        torch.testing.assert_close(feature, true, rtol=0, atol=0)
    torch.testing.assert_close(output, true.clamp(min=0), rtol=0, atol=0)


def test_dropout_in_place_that_only_training_runs_does_not_reach_a_feature() -> None:
    net = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5, inplace=True))
    captured = Captured(net, {"linear": ("0", "output")}, torch.ones(2, 4)).train()
    assert (captured(torch.ones(2, 4))[1]["linear"] != 0).all()


def test_without_features_and_after_close_the_model_is_as_it_was() -> None:
    net, x = _net(), _images()
    keys, before = list(net.state_dict()), net.eval()(x)
    captured = Captured(net, REQUESTS, x)
    assert list(net.state_dict()) == keys
    assert [id(p) for p in captured.parameters()] == [id(p) for p in net.parameters()]
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)  # outside the wrapper the hooks do nothing
    torch.testing.assert_close(captured(x)[0], before, rtol=0, atol=0)
    captured.close()
    assert _hooks(net) == 0
    torch.testing.assert_close(net(x), before, rtol=0, atol=0)
    with pytest.raises(ModelError, match="gave no feature: 0 calls"):
        captured(x)


def test_no_feature_outlives_its_step() -> None:
    captured = Captured(_net(), REQUESTS, _images())
    _, features = captured(_images())
    watched = [weakref.ref(feature) for feature in features.values()]
    sum((feature.sum() for feature in features.values()), torch.zeros(())).backward()
    del features
    assert [ref() for ref in watched] == [None] * len(REQUESTS)  # reference counts alone free them


def test_no_feature_outlives_a_step_that_fails() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    captured = Captured(net, {"map": ("0", "output")}, _images())
    with pytest.raises(RuntimeError, match="shapes"):
        captured(torch.zeros(2, 3, 9, 9))
    gc.collect()
    assert captured._taken is None
    assert captured(_images())[1]["map"].shape == (2, 4, 6, 6)


def test_two_captures_of_one_model_do_not_disturb_each_other() -> None:
    net, x = _net().eval(), _images()
    one, two = (Captured(net, {"own": (name, "output")}, x) for name in ("0", "1.bn1"))
    torch.testing.assert_close(two(x)[1]["own"], _by_hand(net, x)["bn1"])
    one.close()
    torch.testing.assert_close(two(x)[1]["own"], _by_hand(net, x)["bn1"])


@pytest.mark.parametrize(("request_", "call"), [("#0", 0), ("#1", 1), ("#-1", 1), ("#-2", 0)])
def test_a_call_of_a_shared_layer_is_chosen_by_number(request_: str, call: int) -> None:
    net, x = _net().eval(), _images()
    with Captured(net, {"relu": ("1.relu" + request_, "input")}, x) as captured:
        feature = captured(x)[1]["relu"]
    torch.testing.assert_close(feature, _by_hand(net, x)[("bn1", "total")[call]])


class Structured(nn.Module):
    """Takes a keyword, gives a dict of tuples."""

    def forward(self, *, x: Tensor) -> dict[str, Any]:
        return {"none": None, "pair": ([], (x + 1, x + 2))}


class CallsByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Structured()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.inner(x=x)["pair"][1][1]
        return found


def test_the_first_tensor_of_structured_inputs_and_outputs_counts() -> None:
    requests: dict[str, tuple[str, Tap]] = {"in": ("inner", "input"), "out": ("inner", "output")}
    output, features = Captured(CallsByKeyword(), requests, torch.zeros(2, 3))(torch.zeros(2, 3))
    assert (features["in"].unique(), features["out"].unique(), output.unique()) == (0, 1, 2)


class Gate(nn.Module):
    """Runs a sigmoid last, but returns a product; then an activation that was written over."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.sigmoid = nn.Linear(4, 4), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.sigmoid(self.linear(x))
        return gated


class Overwritten(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Sequential gave it
        out: Tensor = self[1](self[0](input))
        out += input
        return out


def test_the_pre_activation_of_nested_blocks_is_the_input_of_their_last_activation() -> None:
    block = nn.Sequential(nn.BatchNorm1d(4), nn.Sequential(nn.SiLU(), nn.Identity()))
    linear = nn.Linear(4, 4)
    net = nn.Sequential(nn.Sequential(linear, block), nn.Flatten())
    with Captured(net, {"pre": ("0", "pre_activation")}, torch.ones(2, 4)) as captured:
        assert captured.points["pre"].layer == "0.1.1.0"
        feature = captured.eval()(torch.ones(2, 4))[1]["pre"]
    torch.testing.assert_close(feature, block[0](linear(torch.ones(2, 4))))


@pytest.mark.parametrize("block", [Gate(), Overwritten(nn.Linear(4, 4), nn.ReLU())])
def test_a_block_that_does_not_return_its_last_activation_has_no_pre_activation(block: nn.Module) -> None:
    net = nn.Sequential(OrderedDict(block=block, block2=nn.ReLU()))
    with pytest.raises(ModelError, match="does not return the result of an activation") as caught:
        Captured(net, {"pre": ("block", "pre_activation")}, torch.ones(2, 4))
    assert caught.value.expected in ("'block.sigmoid'", "'block.1'")
    assert "functional" in caught.value.got


ACTIVATIONS = [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Hardswish()]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.Hardsigmoid(), nn.Sigmoid(), nn.Tanh(), nn.Mish()], ids=repr)
def test_every_activation_layer_has_a_pre_activation(activation: nn.Module) -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), activation), torch.ones(2, 4)
    torch.testing.assert_close(Captured(net, {"pre": ("1", "pre_activation")}, x)(x)[1]["pre"], net[0](x))


def test_an_unknown_layer_is_answered_with_the_nearest_names_only() -> None:
    net = nn.Sequential(OrderedDict(features=nn.Sequential(*[nn.Linear(1, 1) for _ in range(2000)])))
    with pytest.raises(ModelError) as caught:
        Captured(net, {"f": ("feature.137", "output")}, torch.ones(2, 1))
    error = caught.value
    assert error.where == "layer 'feature.137'"
    assert error.expected.startswith("'features.137', ")
    assert error.expected.endswith("or 1993 more")
    assert "`edgedistill layers`" in error.fix


@pytest.mark.parametrize(
    ("request_", "message", "fix"),
    [
        ("", "no layer ''", "edgedistill layers"),
        ("1.relu", "is called 2 times", "`1.relu#0`"),
        ("1.relu#2", "is called 2 times", "`1.relu#0`"),
        ("1.relu#-3", "is called 2 times", "`1.relu#-1`"),
        ("1.relu#last", "is called 2 times", "`1.relu#0`"),
        ("1.relu#", "is called 2 times", "`1.relu#0`"),
        ("1.bn1#1", "is called once", "`1.bn1#0`"),
    ],
)
def test_a_request_that_means_no_layer_or_no_call_is_refused(request_: str, message: str, fix: str) -> None:
    net = _net()
    with pytest.raises(ModelError, match=message) as caught:
        Captured(net, {"f": (request_, "output")}, _images())
    assert caught.value.where == f"layer {request_!r}"
    assert fix in caught.value.fix
    assert _hooks(net) == 0


def test_a_layer_that_forward_never_calls_is_named() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)  # attention uses out_proj's weights, not its forward
    with pytest.raises(ModelError, match=r"layer 'self_attn.out_proj' is never called in forward"):
        Captured(net, {"f": ("self_attn.out_proj", "output")}, torch.ones(2, 3, 8))


def test_a_fused_encoder_layer_is_seen_from_inside_in_eval_mode_too() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    requests: dict[str, tuple[str, Tap]] = {"attention": ("self_attn", "output"), "hidden": ("linear1", "output")}
    with torch.no_grad(), Captured(net, requests, x) as captured:
        output, features = captured(x)
        attended = net.norm1(x + features["attention"])
        torch.testing.assert_close(features["hidden"], net.linear1(attended))
        torch.testing.assert_close(output, net.norm2(attended + net.linear2(features["hidden"].clamp(min=0))))


class Counts(nn.Module):
    def forward(self, x: Tensor) -> int:
        return len(x)


class Moody(nn.Module):
    """Calls its layer once in eval mode, twice in training."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.layer, self.total = Counts(), nn.Linear(3, 3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.count(x)
        x = self.layer(x)
        self.total(x.sum())
        return functional.relu(self.layer(x)) if self.training else x


@pytest.mark.parametrize(("name", "got"), [("count", "no tensor"), ("total", "a single number")])
def test_a_layer_without_a_batch_of_features_is_refused(name: str, got: str) -> None:
    with pytest.raises(ModelError, match=f"the output of layer '{name}' is no tensor with a batch axis") as caught:
        Captured(Moody(), {"f": (name, "output")}, torch.ones(2, 3))
    assert caught.value.got == got


def test_a_layer_that_training_calls_otherwise_is_refused_at_the_first_step() -> None:
    captured = Captured(Moody(), {"f": ("layer", "output")}, torch.ones(2, 3))
    captured.eval()(torch.ones(2, 3))
    with pytest.raises(ModelError, match="gave no feature: 2 calls in this pass, 1 in the probe"):
        captured.train()(torch.ones(2, 3))


def _compiled_inside() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[0].compile()
    return net


@pytest.mark.parametrize(
    "compiled",
    [
        lambda: torch.compile(nn.Sequential(nn.Linear(3, 3))),
        lambda: torch.jit.trace(nn.Sequential(nn.Linear(3, 3)), torch.ones(2, 3)),  # type: ignore[no-untyped-call]  # torch leaves it without annotations
        _compiled_inside,
    ],
)
def test_a_model_compiled_already_says_that_it_cannot_be_captured(compiled: Callable[[], nn.Module]) -> None:
    with pytest.raises(ModelError, match="compiled module cannot be captured") as caught:
        Captured(compiled(), {"f": ("0", "output")}, torch.ones(2, 3))
    assert "torch.compile(Captured" in caught.value.fix


def _compare_compiled(backend: str) -> None:
    torch._dynamo.reset()
    net, x = _net().double(), _images().double()
    twin = copy.deepcopy(net)
    eager, wrapped = Captured(twin, REQUESTS, x), Captured(net, REQUESTS, x)
    compiled = torch.compile(wrapped, backend=backend, fullgraph=True)
    for _ in range(2):  # the second step runs what the first compiled
        results = []
        for model, weights in ((compiled, [*net.parameters()]), (eager, [*twin.parameters()])):
            output, features = model(x)
            loss = output.sum() + sum(feature.pow(3).sum() for feature in features.values())
            results.append((output, features, torch.autograd.grad(loss, weights)))
        torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.state_dict(), twin.state_dict(), rtol=1e-9, atol=1e-9)
    assert wrapped._taken is None


def test_compiled_as_one_graph_features_and_gradients_are_the_eager_ones() -> None:
    _compare_compiled("aot_eager")


@pytest.mark.slow
def test_compiled_by_inductor_features_and_gradients_are_the_eager_ones() -> None:
    _compare_compiled("inductor")


def test_listing_gives_names_kinds_shapes_parameters_and_calls() -> None:
    found = {layer.name: layer for layer in layers(ConvNet(1, 10, width=4, depth=2), torch.zeros(3, 1, 8, 8))}
    assert list(found) == ["features", *(f"features.{n}" for n in range(6)), "classifier"]
    assert found["features.3"] == Layer("features.3", "Conv2d", (3, 4, 8, 8), (3, 8, 4, 4), 8 * 4 * 9, 1)
    assert found["features"].parameters == 4 * 9 + 8 + 8 * 4 * 9 + 16
    assert found["classifier"] == Layer("classifier", "Linear", (3, 8), (3, 10), 90, 1)


def test_listing_shows_layers_that_are_never_called_or_give_no_tensor() -> None:
    net = Moody()
    net.unused = nn.Linear(2, 2)
    found = {layer.name: layer for layer in layers(net, torch.ones(2, 3))}
    assert found["unused"] == Layer("unused", "Linear", None, None, 6, 0)
    assert found["count"] == Layer("count", "Counts", (2, 3), None, 0, 1)
    assert found["total"].output_shape == ()


class Restless(nn.Module):
    """Writes wherever a forward pass can write, also in eval mode, and draws random numbers."""

    steps: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.full((3,), torch.nan))
        self.embedding = nn.Embedding(5, 3, max_norm=0.1)
        self.norm = nn.BatchNorm1d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        self.mean = x.mean(0)
        noisy = functional.dropout(self.relu(x), training=True) + self.embedding(torch.arange(2))
        normed: Tensor = self.norm(noisy)
        return normed


@pytest.mark.parametrize("look", [layers, lambda net, x: Captured(net, {"f": ("0.norm", "output")}, x).close()])
def test_looking_at_layers_changes_no_bit(look: Callable[[nn.Module, Tensor], object]) -> None:
    net = nn.Sequential(Restless(), nn.BatchNorm1d(3), nn.Dropout())
    net[1].eval()  # frozen, inside a model in training mode
    x = torch.randn(2, 3)
    state, flags, batch, tensors = _state(net), [m.training for m in net.modules()], x.clone(), [*net.buffers()]
    torch.manual_seed(7)
    random = torch.random.get_rng_state()
    look(net, x)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [m.training for m in net.modules()] == flags
    assert all(a is b for a, b in zip(net.buffers(), tensors, strict=True))
    assert torch.equal(x, batch)
    after = _state(net)
    assert after.pop("0.mean").isnan().all()
    state.pop("0.mean")
    _assert_equal(after, state)
    assert _hooks(net) == 0
    net[0](x)
    written = _state(net)  # a real pass does write
    assert [written[name].item() for name in ("0.steps", "0.norm.num_batches_tracked")] == [1, 1]


def test_looking_at_a_model_that_fails_leaves_it_as_it_was() -> None:
    net = _net().train()
    state = _state(net)
    with pytest.raises(RuntimeError):
        layers(net, torch.zeros(2, 7, 8, 8))
    _assert_equal(_state(net), state)
    assert all(m.training for m in net.modules())
    assert _hooks(net) == 0


def test_models_can_be_looked_at_in_inference_mode() -> None:
    with torch.inference_mode():
        captured = Captured(_net().eval(), REQUESTS, _images())
        torch.testing.assert_close(captured(_images())[1]["bn1"], _by_hand(_net().eval(), _images())["bn1"])
