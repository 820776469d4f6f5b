"""The same model and samples give the same bytes in two processes: every format, every precision, every scheme."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgedistill.plugins import plugin_names

if TYPE_CHECKING:
    from pathlib import Path

WRITE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from edgedistill.models.reference import of_module
from edgedistill.artifacts.metadata import Origin, embedded
from edgedistill.plugins import load_exporter
from edgedistill.types import Precision
fmt, out = sys.argv[1], Path(sys.argv[2])
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.GELU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 5),
).eval()
samples = np.random.default_rng(0).standard_normal((24, 3, 12, 12)).astype(np.float32)
source = of_module(net, {"image": samples[:4]}, "net")
exporter = load_exporter(fmt)
out.mkdir()
base = embedded(exporter.export(source.model, "net", source.signature, out, source.inputs), Origin("MIT"))
found = {"fp32": [base.sha256, *base.companions.values()]}
for precision in exporter.PRECISIONS[1:]:
    for scheme in exporter.schemes(precision):
        folder = out / f"{precision}-{scheme.name}"
        folder.mkdir()
        made = embedded(exporter.quantize(base, precision, {"image": samples}, folder, scheme), Origin("MIT"))
        found[folder.name] = [made.sha256, *made.companions.values()]
(out / "digests.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("fmt", plugin_names("exporters"))
def test_two_processes_write_the_same_bytes(fmt: str, tmp_path: Path) -> None:
    digests = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", WRITE, fmt, str(tmp_path / seed)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        digests.append(json.loads((tmp_path / seed / "digests.json").read_text()))
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 1
