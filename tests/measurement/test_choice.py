"""What a device's figures are is its plug-in's word."""

from __future__ import annotations

from typing import Any

import pytest

from edgedistill.errors import PluginError
from edgedistill.events import QUIET
from edgedistill.measurement import choice
from edgedistill.recipe.document import Benchmark


@pytest.mark.parametrize(
    ("device", "source"),
    [("cpu", "measure"), ("ssh:pi4", "measure"), ("arm:cortex-a53", "emulate"), ("sim:pixel-4", "predict")],
)
def test_files_are_measured_emulated_or_predicted(monkeypatch: pytest.MonkeyPatch, device: str, source: str) -> None:
    for verb in ("measure", "emulate", "predict"):
        monkeypatch.setattr(choice, f"{verb}_files", lambda *_, verb=verb: [{"by": verb}])
    found: Any = choice.figures_of([], None, Benchmark(device=device), None, QUIET, {})
    assert found == [{"by": source}]


def test_an_unknown_device_is_told() -> None:
    with pytest.raises(PluginError, match="unknown device 'cpx'"):
        choice.figures_of([], None, Benchmark(device="cpx"), None, QUIET, {})
