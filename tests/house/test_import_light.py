"""Importing the package and asking for help must stay light."""

from __future__ import annotations

import subprocess
import sys

import edgedistill

HEAVY = (
    "numpy",
    "pydantic",
    "rich",
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "tflite_runtime",
    "ai_edge_litert",
    "litert_torch",
    "nncf",
    "jax",
)


def test_importing_edgedistill_and_its_cli_imports_nothing_heavy() -> None:
    script = f"import sys, edgedistill, edgedistill.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_and_nothing_else_is_public() -> None:
    assert edgedistill.__all__ == sorted(edgedistill.__all__)
    for name in edgedistill.__all__:
        assert getattr(edgedistill, name).__name__ == name
    assert not hasattr(edgedistill, "no_such_name")
