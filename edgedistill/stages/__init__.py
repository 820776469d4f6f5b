"""The stages of the main path, one module each."""

STAGE_NAMES = (
    "data",
    "teacher",
    "student",
    "cache",
    "distill",
    "export",
    "quantize",
    "retrain",
    "requantize",
    "parity",
    "benchmark",
    "report",
    "gate",
    "bundle",
)
"""In the order in which they are done."""
