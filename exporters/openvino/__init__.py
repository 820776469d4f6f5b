"""OpenVINO IR (.xml and .bin): dynamic batch, fp32 weights kept as fp32; int8 by NNCF."""

from .export import OPENER, PRECISIONS, REQUIRES, RUNNER, SUFFIX, TOOLS, check_support, export
from .foresee import foresee
from .ir import companions
from .macs import count_macs
from .metadata import embed, metadata
from .operators import inventory
from .quantization import layers, quantize, schemes
from .runtime import RUNTIMES
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
