"""Your models: any function or class that returns a torch module giving logits."""

from __future__ import annotations

from torch import nn


def teacher(hidden: int = 96) -> nn.Module:
    """Three layers; its weights are in teacher.safetensors."""
    return nn.Sequential(nn.Linear(30, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def student(hidden: int = 4) -> nn.Module:
    """Two layers, a hundredth of the teacher."""
    return nn.Sequential(nn.Linear(30, hidden), nn.ReLU(), nn.Linear(hidden, 2))
