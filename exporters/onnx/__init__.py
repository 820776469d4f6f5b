"""ONNX, for onnxruntime: one file, dynamic batch; int8 as QDQ with uint8 activations, int8 weights per channel."""

from .._shared.foresee_onnx import foresee_onnx as foresee
from .._shared.onnx_runtime import RUNTIMES
from .companions import companions
from .export import OPENER, REQUIRES, RUNNER, SUFFIX, TOOLS, check_support, export
from .macs import count_macs
from .metadata import embed, metadata
from .operators import inventory
from .precisions import PRECISIONS
from .quantization import layers, quantize, schemes
from .tensors import tensors
from .trained import quantize_trained

__all__ = [
    "OPENER",
    "PRECISIONS",
    "REQUIRES",
    "RUNNER",
    "RUNTIMES",
    "SUFFIX",
    "TOOLS",
    "check_support",
    "companions",
    "count_macs",
    "embed",
    "export",
    "foresee",
    "inventory",
    "layers",
    "metadata",
    "quantize",
    "quantize_trained",
    "schemes",
    "tensors",
]
