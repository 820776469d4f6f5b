"""TFLite, for tflite-runtime 2.14 and LiteRT: batch 1, layout as in torch; int8 is full-integer, ends included."""

from .export import OPENER, PRECISIONS, REFERENCE, REQUIRES, RUNNER, SUFFIX, TOOLS, check_support, export
from .foresee import foresee
from .macs import count_macs
from .metadata import embed, metadata
from .operators import inventory
from .quantization import layers, quantize, schemes
from .runtime import RUNTIMES
from .steps import output_steps
from .tensors import tensors
from .trained import quantize_trained

__all__ = [
    "OPENER",
    "PRECISIONS",
    "REFERENCE",
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
    "output_steps",
    "quantize",
    "quantize_trained",
    "schemes",
    "tensors",
]
