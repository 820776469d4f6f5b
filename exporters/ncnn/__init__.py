"""ncnn (.param and .bin) by pnnx: batch 1, blobs under the signature's names."""

from .export import OPENER, REQUIRES, RUNNER, SUFFIX, TOOLS, check_support, count_macs, export
from .file import companions
from .foresee import foresee
from .operators import inventory
from .precisions import PRECISIONS, layers, quantize, schemes
from .runtime import RUNTIMES
from .tensors import tensors

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
    "export",
    "foresee",
    "inventory",
    "layers",
    "quantize",
    "schemes",
    "tensors",
]
