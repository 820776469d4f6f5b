"""What is usually written instead of an operator that a converter or a runtime does not have."""

from __future__ import annotations

import re

_FAMILIES = (
    (
        r"fft|dft|stft|complex|view_as_real|polar|(^|_)(real|imag|angle)($|_)|conj",
        "real matrix products with a precomputed DFT (two dense layers: cosines and sines), or features made outside",
    ),
    (
        r"non_?zero|masked_select|unique|repeat_interleave|data.dependent|max_suppression|nms",
        "a mask of fixed shape multiplied in (torch.where, or * mask), so that no shape depends on values",
    ),
    (r"grid_?sampl|deform|roi_align", "resizing or slicing at fixed positions, or warping outside the model"),
    (r"sort|top_?k|kthvalue|median|quantile", "max or argmax repeated, pooling, or ranking outside the model"),
    (r"scatter|index_put|index_add|index_copy", "a one-hot matrix product, torch.where, or concatenation"),
    (r"gather|index_select|(^|_)index($|_)|take", "a one-hot matrix product, or slices at fixed positions"),
    (
        r"unfold|im2col|col2im|(^|_)fold($|_)|unpool",
        "a (transposed) convolution with a fixed one-hot kernel, or pixel_shuffle",
    ),
    (r"cumsum|cumprod|cummax|logcumsumexp", "a product with a constant triangular matrix"),
    (r"einsum", "matmul with explicit transposes and reshapes"),
    (r"adaptive", "pooling with a fixed kernel, on a size that the output size divides"),
    (r"upsample|interpolate|resize", "nearest or bilinear resizing without align_corners, or a transposed convolution"),
    (r"lgamma|erf_?inv|digamma|igamma|bessel|special", "a polynomial, or a table read by linear interpolation"),
    (
        r"inverse|solve|svd|eig|cholesky|linalg|(^|_)(inv|det|qr)($|_)",
        "the factorisation computed once outside, its factors kept as buffers",
    ),
    (r"rand|multinomial|bernoulli|dropout|normal", "noise as a further input, or nothing at inference"),
    (r"conv3d|conv_transpose3d|pool3d", "2-D layers over frames folded into the batch or the channels"),
    (r"bitwise|shift", "arithmetic on floats: floor, multiplication, subtraction"),
    (r"bucketize|histc|searchsorted|bincount", "sums of comparisons with the fixed boundaries"),
    (r"cdist|pdist", "squared distances by matmul: |a|^2 - 2ab + |b|^2"),
    (r"lstm|gru|(^|_)rnn($|_)", "a loop over the steps written out, or temporal convolutions"),
    (r"attention", "softmax(q k^T) v written out with matmul"),
    (r"while|control|scan|loop|(^|_)(if|cond)($|_)", "torch.where over both branches, or a fixed number of steps"),
)

CUSTOM = "the same in operators of torch's own (or register a translation and a kernel in the runtime)"


def replacement(name: str, *, custom: bool = False) -> str:
    """For an operator by its name in torch, ONNX, TFLite, OpenVINO or ncnn; empty where none is usual."""
    if custom:
        return CUSTOM
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W", "_", name).lower()
    return next((text for pattern, text in _FAMILIES if re.search(pattern, word)), "")
