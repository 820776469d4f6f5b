"""An environment of the peers' own: theirs never enters ours, and torch is ours in both."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".venv-peers"
PINS = ("torchdistill==1.1.5", "torchvision==0.28.0")
"""Installed without their dependencies, which come from our environment. torchvision 0.28 belongs to torch 2.13."""


def interpreter(folder: Path = FOLDER) -> Path:
    """The environment's Python; the environment is made anew when it is not of these pins."""
    python = folder / "bin" / "python"
    ours = sysconfig.get_path("purelib")
    wanted = "\n".join((*PINS, ours, sys.version))
    stamp = folder / "made-of.txt"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-deps", *PINS]
    subprocess.run(pip, check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")
    return python
