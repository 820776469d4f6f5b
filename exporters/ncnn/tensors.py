"""Every blob of an ncnn file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedistill.types import TracedTensor

from .._shared.tensors import Trace, feed, serve, traced
from . import runtime as opener

if TYPE_CHECKING:
    from edgedistill.types import Artifact

_COPIES = ("Split", "Noop")
_WEIGHTED = (
    "Convolution",
    "ConvolutionDepthWise",
    "Convolution1D",
    "ConvolutionDepthWise1D",
    "Convolution3D",
    "Deconvolution",
    "DeconvolutionDepthWise",
    "InnerProduct",
    "Embed",
    "BatchNorm",
    "Scale",
    "Bias",
    "PReLU",
    "LayerNorm",
    "GroupNorm",
    "InstanceNorm",
    "RMSNorm",
    "MultiHeadAttention",
    "LSTM",
    "GRU",
    "RNN",
)


def tensors(artifact: Artifact, runtime: str, inputs: Path) -> list[TracedTensor]:
    """Every blob for the first sample of an .npz, in the order of the file."""
    return traced(__name__, artifact, runtime, inputs)


def _trace(path: str, runtime: str, inputs: str) -> list[TracedTensor]:
    ncnn = opener.library()
    session, sample = feed(opener, path, runtime, inputs)
    net = ncnn.Net()
    net.opt.num_threads = 1
    for flag, value in session.facts["in_force"].items():
        setattr(net.opt, flag, value)
    net.opt.lightmode = False  # which frees a blob once it was read
    if net.load_param(path) != 0 or net.load_model(str(Path(path).with_suffix(".bin"))) != 0:
        raise ValueError(f"ncnn cannot read {path}")
    layers = opener.layers_of(path)
    outputs = {spec["name"] for spec in session.outputs}
    trace = Trace()
    with net.create_extractor() as extractor:
        for spec, array in zip(session.inputs, sample, strict=True):
            extractor.input(spec["name"], ncnn.Mat(array[0]).clone())
            trace.keep(spec["name"], [], TracedTensor(spec["name"], "input", "", array, origin=spec["name"]))
        for kind, below, above, _ in layers:
            for blob in above:
                if not any(trace.depends_on_inputs(name) for name in below) or kind in _COPIES:
                    if below:
                        trace.skip(blob, below)
                    continue
                code, mat = extractor.extract(blob)
                if code != 0:
                    raise ValueError(f"ncnn fails at {blob} with code {code}")
                value = np.array(mat.numpy())[None]
                output = blob if blob in outputs else ""
                trace.keep(blob, below, TracedTensor(blob, kind, "", value, (), blob, kind in _WEIGHTED, output))
    return trace.tensors


if __name__ == "__main__":
    sys.exit(serve(_trace))
