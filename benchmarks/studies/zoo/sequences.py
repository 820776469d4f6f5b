"""Students of text, signals and several inputs: plain torch, small, with random weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextBlock(nn.Module):
    """Attention with separate projections and an additive mask, then a feed-forward layer, post-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.after_attention, self.after_feed = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """The block's tokens."""
        batch, tokens, width = x.shape
        q, k, v = (
            layer(x).view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(2, 3) / math.sqrt(width // self.heads) + bias
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(batch, tokens, width)
        x = self.after_attention(x + self.out(mixed))
        out: Tensor = self.after_feed(x + self.feed(x))
        return out


class TextEncoder(nn.Module):
    """int64 ids and mask, learned positions, masked mean of the last layer."""

    def __init__(self, words: int = 200, width: int = 48, tokens: int = 16, classes: int = 6) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(words, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList([TextBlock(width, 4), TextBlock(width, 4)])
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits."""
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -1e4
        for block in self.blocks:
            x = block(x, bias)
        kept = mask[:, :, None].to(x.dtype)
        logits: Tensor = self.classifier((x * kept).sum(1) / kept.sum(1))
        return logits


class StockEncoder(nn.Module):
    """torch's own nn.TransformerEncoder over embedded ids."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(100, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.classifier = nn.Linear(32, 6)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.encoder(self.words(ids)).mean(1))
        return logits


class Recurrent(nn.Module):
    """Two recurrent layers, the last step classified."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM], *, bidirectional: bool = False) -> None:
        super().__init__()
        self.cells = kind(8, 24, num_layers=2, batch_first=True, bidirectional=bidirectional)
        self.classifier = nn.Linear(48 if bidirectional else 24, 6)

    def forward(self, signal: Tensor) -> Tensor:
        """Logits."""
        steps, _ = self.cells(signal)
        logits: Tensor = self.classifier(steps[:, -1])
        return logits


class TemporalConvnet(nn.Module):
    """Dilated causal 1-D convolutions over a signal (batch, channel, time)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(6 if i == 0 else 16, 16, 3, dilation=2**i, padding=2 * 2**i) for i in range(3)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(3))
        self.classifier = nn.Linear(16, 6)

    def forward(self, signal: Tensor) -> Tensor:
        """Logits."""
        x, length = signal, signal.shape[2]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = functional.relu(norm(layer(x)[:, :, :length]))
        logits: Tensor = self.classifier(functional.adaptive_avg_pool1d(x, 1).flatten(1))
        return logits


class TwoInputs(nn.Module):
    """An image and a vector of measurements, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.sense = nn.Sequential(nn.Linear(5, 16), nn.LeakyReLU(0.1))
        self.classifier = nn.Sequential(nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, image: Tensor, state: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(torch.cat([self.eye(image), self.sense(state)], dim=1))
        return logits
