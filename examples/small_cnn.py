"""A small convolutional network on a real picture array.

Residual blocks with batch norm, a depthwise block with hard-swish, global pooling: the shapes of ResNet and MobileNet
in miniature, with random weights. The picture is a photograph-like scene (a sky gradient, a sun, hills, noise), made
here.

    nanproof convert examples/small_cnn.py:model -o cnn.mlpackage
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """ResNet's basic block: two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, channels_in, h, w)`` → ``(batch, channels, h / stride, w / stride)``."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Inverted(nn.Module):
    """MobileNet's inverted residual: expand, depthwise convolution, squeeze."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.body(x)


class SmallNet(nn.Module):
    """Ten logits from a picture ``(batch, 3, h, w)`` in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(Residual(16, 32, 2), Inverted(32), Residual(32, 64, 2), Inverted(64))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def forward(self, picture: Tensor) -> Tensor:
        """Logits ``(batch, 10)``."""
        return self.head(self.blocks(self.stem(picture)))


def picture(height: int = 96, width: int = 128) -> Tensor:
    """A scene as ``(1, 3, height, width)`` in [0, 1]: sky, sun, hills, sensor noise."""
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    sky = torch.stack([0.35 + 0.4 * y, 0.55 + 0.3 * y, 0.95 - 0.2 * y])
    sun = torch.exp(-((x - 0.7) ** 2 + (y - 0.25) ** 2) / 0.004)
    hills = (y > 0.65 + 0.1 * torch.sin(7 * x) + 0.03 * torch.sin(31 * x)).float()
    ground = torch.stack([0.2 + 0.2 * x, 0.45 - 0.1 * x, 0.15 + 0.0 * x])
    scene = sky * (1 - hills) + ground * hills + sun * (1 - hills) * torch.tensor([0.6, 0.5, 0.2])[:, None, None]
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(3)) * 0.02
    return (scene + noise).clamp(0, 1).unsqueeze(0)


def model() -> tuple[nn.Module, tuple[Tensor]]:
    """The module, with batch-norm statistics of its own picture, and its example inputs."""
    torch.manual_seed(0)
    net = SmallNet()
    with torch.no_grad():
        for _ in range(5):
            net(picture())
    return net.eval(), (picture(),)
