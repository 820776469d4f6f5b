"""OpenVINO IR (.xml and .bin): dynamic batch, fp32 weights kept as fp32; int8 by NNCF."""

from .export import PRECISIONS, REQUIRES, RUNNER, RUNTIMES, SUFFIX, TOOLS, check_support, export
from .foresee import foresee
from .macs import count_macs
from .metadata import embed, metadata
from .operators import inventory
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
    "schemes",
    "tensors",
]
