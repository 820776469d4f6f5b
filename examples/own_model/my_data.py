"""Your data: a function that returns a torch Dataset, or a pair (training, evaluation)."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_breast_cancer
from torch.utils.data import TensorDataset


def dataset() -> TensorDataset:
    """Wisconsin breast cancer (scikit-learn): 569 samples of 30 features, malignant or benign."""
    cancer: Any = load_breast_cancer()
    return TensorDataset(torch.tensor(cancer.data, dtype=torch.float32), torch.tensor(cancer.target))
