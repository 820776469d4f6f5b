"""ONNX, for onnxruntime: one file, dynamic batch; int8 as QDQ with uint8 activations, int8 weights per channel."""

from .export import REQUIRES, RUNNER, RUNTIMES, SUFFIX, TOOLS, check_support, export
from .foresee import foresee_onnx as foresee
from .macs import count_macs
from .metadata import embed, metadata
from .operators import inventory, refusals
from .precisions import PRECISIONS
from .quantization import layers, quantize, schemes
from .tensors import tensors
from .trained import quantize_trained

__all__ = [
    "PRECISIONS",
    "REQUIRES",
    "RUNNER",
    "RUNTIMES",
    "SUFFIX",
    "TOOLS",
    "check_support",
    "count_macs",
    "embed",
    "export",
    "foresee",
    "inventory",
    "layers",
    "metadata",
    "quantize",
    "quantize_trained",
    "refusals",
    "schemes",
    "tensors",
]
