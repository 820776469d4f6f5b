"""How teacher.safetensors was made: stands for the training you already have."""

from __future__ import annotations

from pathlib import Path

import torch
from my_data import dataset  # type: ignore[import-not-found]  # beside this script
from my_models import teacher  # type: ignore[import-not-found]  # beside this script
from safetensors.torch import save_file
from sklearn.model_selection import train_test_split

torch.manual_seed(0)
inputs, labels = dataset().tensors
rows, _ = train_test_split(
    range(len(labels)), test_size=0.5, stratify=labels, random_state=0
)  # the split of own_model.yaml
mean, std = inputs[rows].mean(0), inputs[rows].std(0, correction=0)
inputs = (inputs - mean) / std
model = teacher()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-1)
for _ in range(200):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
    torch.autograd.backward(loss)
    optimizer.step()
save_file(model.state_dict(), Path(__file__).with_name("teacher.safetensors"))
