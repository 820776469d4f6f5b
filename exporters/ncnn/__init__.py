"""ncnn (.param and .bin) by pnnx: batch 1, blobs under the signature's names."""

from .export import REQUIRES, RUNNER, RUNTIMES, SUFFIX, TOOLS, check_support, count_macs, export
from .foresee import foresee
from .operators import inventory
from .precisions import PRECISIONS, layers, quantize, schemes
from .tensors import tensors

__all__ = [
    "PRECISIONS",
    "REQUIRES",
    "RUNNER",
    "RUNTIMES",
    "SUFFIX",
    "TOOLS",
    "check_support",
    "count_macs",
    "export",
    "foresee",
    "inventory",
    "layers",
    "quantize",
    "schemes",
    "tensors",
]
