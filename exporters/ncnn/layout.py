"""What each layer of ncnn loads from the .bin file (ncnn: `load_model` in src/layer/*.cpp)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Told = list[tuple[str, tuple[int, ...], bool]]
    Setting = Callable[..., int]

_CONVOLUTIONS = (
    "Convolution",
    "ConvolutionDepthWise",
    "Convolution1D",
    "ConvolutionDepthWise1D",
    "Convolution3D",
    "ConvolutionDepthWise3D",
)
_TRANSPOSED = (
    "Deconvolution",
    "DeconvolutionDepthWise",
    "Deconvolution1D",
    "DeconvolutionDepthWise1D",
    "Deconvolution3D",
    "DeconvolutionDepthWise3D",
)
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_BIASES = {"LSTM": 4, "GRU": 4, "RNN": 1}


def layout(kind: str, settings: Mapping[str, str]) -> Told:
    """(role, shape, tagged) of each tensor in the order of loading; none for a layer without weights.

    Raises:
        ValueError, KeyError, ZeroDivisionError: the settings make no layer.
    """

    def setting(key: int, default: int = 0) -> int:
        return int(settings.get(str(key), default))

    told: Told = []
    if kind in _LAYOUTS:
        told = _LAYOUTS[kind](setting)
    elif kind in _GATES:
        told = _recurrent(kind, setting)
    elif kind in _CONVOLUTIONS or kind in _TRANSPOSED or kind == "DeformableConv2D":
        given = setting(28 if kind in _TRANSPOSED else 19)  # weights that come as a blob
        told = [] if given else _rows(setting(0), setting(6), setting(5))
    if any(size < 1 for _, shape, _ in told for size in shape):
        raise ValueError(f"a tensor of {kind} has a size below 1")
    return told


def _rows(rows: int, size: int, bias: int) -> Told:
    """A matrix with a row for each output, and a bias where there is one."""
    return [("weight", (rows, size // rows), True), *([("bias", (rows,), False)] if bias else [])]


def _plain(role: str, size: int) -> Told:
    return [(role, (size,), False)] if size > 0 else []  # -233: the layer takes it from a blob


def _norm(size: int, affine: int, roles: tuple[str, ...] = ("gamma", "beta")) -> Told:
    return [(role, (size,), False) for role in roles] if affine else []


def _gemm(setting: Setting) -> Told:
    m, n, k = setting(7), setting(8), setting(9)
    told: Told = []
    if setting(4):
        told.append(("A", (k, m) if setting(2) else (m, k), True))
    if setting(5):
        told.append(("B", (n, k) if setting(3) else (k, n), True))
    if setting(6) and setting(10) >= 0:
        told.append(("C", ((1,), (m,), (m, 1), (m, n), (1, n))[setting(10)], True))
    return told


def _attention(setting: Setting) -> Told:
    width = setting(0)
    queries, keys, values = setting(2) // width, setting(3, width), setting(4, width)
    told: Told = []
    for role, rows, columns in (
        ("query", width, queries),
        ("key", width, keys),
        ("value", width, values),
        ("out", queries, width),
    ):
        told += [(role, (rows, columns), True), (f"{role} bias", (rows,), False)]
    return told


def _recurrent(kind: str, setting: Setting) -> Told:
    directions = 2 if setting(2) == 2 else 1  # ncnn's word for both
    outputs, gates = setting(0), _GATES[kind]
    hidden = setting(3, outputs) if kind == "LSTM" else outputs
    told: Told = [
        ("input", (directions, gates * hidden, setting(1) // directions // hidden // gates), True),
        ("bias", (directions, _BIASES[kind], hidden), True),
        ("state", (directions, gates * hidden, outputs), True),
    ]
    return [*told, ("projection", (directions, outputs, hidden), True)] if outputs != hidden else told


def _constant(setting: Setting) -> Told:
    """Sizes that are 0 are axes it does not have; 21: whether the values go without a tag."""
    shape = tuple(size for size in (setting(key) for key in (2, 11, 1, 0)) if size)
    return [("data", shape, setting(21, 1) == 0)] if shape else []


_LAYOUTS: dict[str, Callable[[Setting], Told]] = {
    "InnerProduct": lambda s: _rows(s(0), s(2), s(1)),
    "Embed": lambda s: [("weight", (s(1), s(0)), True), *(_plain("bias", s(0)) if s(2) else [])],
    "Gemm": _gemm,
    "MultiHeadAttention": _attention,
    "MemoryData": _constant,
    "BatchNorm": lambda s: _norm(s(0), 1, ("slope", "mean", "variance", "bias")),
    "LayerNorm": lambda s: _norm(s(0), s(2, 1)),
    "GroupNorm": lambda s: _norm(s(1), s(3, 1)),
    "InstanceNorm": lambda s: _norm(s(0), s(2, 1)),
    "RMSNorm": lambda s: _norm(s(0), s(2, 1), ("gamma",)),
    "PReLU": lambda s: _plain("slope", s(0)),
    "Bias": lambda s: _plain("bias", s(0)),
    "Scale": lambda s: [*_plain("scale", s(0)), *(_plain("bias", s(0)) if s(1) else [])],
    "Normalize": lambda s: _plain("scale", s(3)),
}
