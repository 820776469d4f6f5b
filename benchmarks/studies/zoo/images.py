"""Image students: plain torch, small, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The gated channels."""
        gate = functional.hardsigmoid(self.up(functional.relu(self.down(functional.adaptive_avg_pool2d(x, 1)))))
        return x * gate


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, squeeze and excite, project; added to its input where shapes agree."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        middle = 3 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.Hardswish(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.Hardswish(),
            SqueezeExcite(middle),
            nn.Conv2d(middle, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.added = stride == 1 and channels == wide

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        out: Tensor = self.body(x)
        return x + out if self.added else out


class MobileNet(nn.Module):
    """Depthwise separable blocks with squeeze and excite; `stride` is that of the stem."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        blocks = [(16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 40, 2), (40, 40, 1)]
        self.blocks = nn.Sequential(*(InvertedResidual(*block) for block in blocks))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(40, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.blocks(self.stem(image)))
        return logits


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide))
        same = stride == 1 and channels == wide
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, wide, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem with max pooling and three residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(BasicBlock(16, 16, 1), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2))
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.blocks(self.stem(image)).mean((2, 3)))
        return logits


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolutions with a channel shuffle between them."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, channels, 1, groups=groups), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.BatchNorm2d(channels)
        )
        self.expand = nn.Conv2d(channels, channels, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's features."""
        batch, channels, height, width = x.shape
        mixed = self.reduce(x).view(batch, self.groups, channels // self.groups, height, width)
        mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return functional.relu(x + self.expand(self.depthwise(mixed)))


class ShuffleNet(nn.Module):
    """Grouped convolutions and channel shuffles, a split of the channels between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.units = nn.Sequential(ShuffleUnit(24, 3), nn.AvgPool2d(2), ShuffleUnit(24, 3))
        self.left, self.right = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 3, 1, 1)
        self.classifier = nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        left, right = self.units(self.stem(image)).chunk(2, dim=1)
        both = torch.cat([self.left(left), self.right(right)], dim=1)
        logits: Tensor = self.classifier(both.mean((2, 3)))
        return logits


class FusedAttention(nn.Module):
    """Self-attention whose queries, keys and values come out of one dense layer, split by unbind."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mixed tokens."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return out


class VisionBlock(nn.Module):
    """Pre-norm attention and feed-forward layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), FusedAttention(width, heads)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's tokens."""
        x = x + self.attention(self.before(x))
        out: Tensor = x + self.feed(x)
        return out


class VisionTransformer(nn.Module):
    """Patches, a class token, learned positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 48) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, 48) * 0.02)
        self.blocks = nn.Sequential(VisionBlock(48, 3), VisionBlock(48, 3))
        self.norm, self.classifier = nn.LayerNorm(48), nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        logits: Tensor = self.classifier(self.norm(self.blocks(x))[:, 0])
        return logits


class ConvNextBlock(nn.Module):
    """Wide depthwise convolution, layer norm over channels, dense layers on the last axis, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand, self.project = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.project(functional.gelu(self.expand(y))) * self.scale
        out: Tensor = x + y.permute(0, 3, 1, 2)
        return out


class ConvNext(nn.Module):
    """A patch stem and two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 4, 4)
        self.blocks = nn.Sequential(ConvNextBlock(24), ConvNextBlock(24))
        self.norm, self.classifier = nn.LayerNorm(24), nn.Linear(24, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.norm(self.blocks(self.stem(image)).mean((2, 3))))
        return logits


class UNet(nn.Module):
    """Two levels down, bilinear and transposed-convolution upsampling, skips; one map per class."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = _double(3, 12), _double(12, 24), _double(24, 32)
        self.lift = nn.ConvTranspose2d(32, 24, 2, 2)
        self.fourth, self.fifth = _double(48, 24), _double(36, 12)
        self.classifier = nn.Conv2d(12, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of every pixel."""
        one = self.first(image)
        two = self.second(functional.max_pool2d(one, 2))
        three = self.third(functional.max_pool2d(two, 2))
        x = self.fourth(torch.cat([self.lift(three), two], dim=1))
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        logits: Tensor = self.classifier(self.fifth(torch.cat([x, one], dim=1)))
        return logits


def _double(channels: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, wide, 3, 1, 1),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, 1, 1),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
    )


class Detector(nn.Module):
    """One backbone, three named outputs of different shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU())
        self.classes, self.boxes = nn.Linear(32, 5), nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Class logits, a map of boxes, and the embedding."""
        features = self.backbone(image)
        pooled = features.mean((2, 3))
        return {
            "logits": self.classes(pooled),
            "boxes": self.boxes(features).sigmoid(),
            "embedding": functional.normalize(pooled, dim=1),
        }
