"""The stages of the main path, one module each; work.py says what is in it: `NAME, READS, check, key, make`."""

NAMES = (
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
"""In the order in which they happen."""
