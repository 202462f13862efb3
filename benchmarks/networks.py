"""Networks of usual sizes with random weights, written out so that a benchmark needs no model zoo and no download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NETWORKS", "Network"]


class Bottleneck(nn.Module):
    """The residual block of ResNet-50: 1x1, 3x3, 1x1 convolutions, each with a BatchNorm."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = 4 * width
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.spatial = nn.Sequential(
            nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.expand = nn.Sequential(nn.Conv2d(width, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.skip = (
            nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))
            if stride != 1 or channels != wide
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to ``(n, 4 * width, h / stride, w / stride)``."""
        return F.relu(self.expand(self.spatial(self.reduce(x))) + self.skip(x))


def resnet50() -> nn.Module:
    """A ResNet-50: 3, 4, 6, 3 bottlenecks; 25.6 million parameters."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(channels, width, stride if i == 0 else 1))
            channels = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


class SqueezeExcite(nn.Module):
    """Scales each channel by what its mean says, through a hard sigmoid."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """The block of MobileNetV3: expand, depthwise, squeeze-and-excite, project."""

    def __init__(self, channels: int, settings: tuple[int, int, int, bool, bool, int]) -> None:
        super().__init__()
        kernel, expanded, out, excite, swish, stride = settings
        act = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != channels:
            layers += [nn.Conv2d(channels, expanded, 1, bias=False), nn.BatchNorm2d(expanded), act()]
        depthwise = nn.Conv2d(expanded, expanded, kernel, stride, kernel // 2, groups=expanded, bias=False)
        layers += [depthwise, nn.BatchNorm2d(expanded)]
        layers += [SqueezeExcite(expanded, expanded // 4)] if excite else []
        layers += [act(), nn.Conv2d(expanded, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.body = nn.Sequential(*layers)
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, h, w)`` to ``(n, out, h / stride, w / stride)``."""
        return x + self.body(x) if self.residual else self.body(x)


def mobilenet_v3() -> nn.Module:
    """A MobileNetV3-Large: 15 blocks; 5.5 million parameters."""
    rows = (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
    channels = 16
    for row in rows:
        layers.append(Inverted(channels, row))
        channels = row[2]
    layers += [nn.Conv2d(channels, 960, 1, bias=False), nn.BatchNorm2d(960), nn.Hardswish()]
    return nn.Sequential(
        *layers,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(960, 1280),
        nn.Hardswish(),
        nn.Linear(1280, 1000),
    )


class Recurrent(nn.Module):
    """Two bidirectional LSTM layers of 256 units and a classifier at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(128, 256, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(512, 64)

    def forward(self, x: Tensor) -> Tensor:
        """``(n, steps, 128)`` to ``(n, steps, 64)``."""
        return self.head(self.lstm(x)[0])


class FirstOutput(nn.Module):
    """The last hidden state of a Hugging Face encoder, as a tensor."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """``(n, tokens)`` ids or ``(n, 3, h, w)`` pixels to ``(n, tokens, width)``."""
        return self.encoder(x).last_hidden_state


def bert_base() -> nn.Module:
    """BERT-base: 12 layers of width 768; 109 million parameters."""
    from transformers import BertConfig, BertModel

    return FirstOutput(BertModel(BertConfig(), add_pooling_layer=False))


def vit_base() -> nn.Module:
    """ViT-B/16 at 224 x 224: 197 tokens, 12 layers of width 768; 86 million parameters."""
    from transformers import ViTConfig, ViTModel

    return FirstOutput(ViTModel(ViTConfig(), add_pooling_layer=False))


@dataclass(frozen=True, slots=True)
class Network:
    """A network and one input."""

    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]

    def module(self) -> nn.Module:
        """The network in evaluation mode, its random weights always the same.

        Biases and statistics that start as zeros and ones are random too: passes would remove ops that do nothing.
        """
        torch.manual_seed(0)
        module = self.build().eval()
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                nn.init.normal_(tensor, std=0.02)
            elif name.endswith("running_var"):
                nn.init.uniform_(tensor, 0.8, 1.2)
        return module


NETWORKS: dict[str, Network] = {
    "BERT-base, 128 tokens": Network(bert_base, lambda: torch.randint(0, 30000, (1, 128))),
    "ViT-B/16": Network(vit_base, lambda: torch.randn(1, 3, 224, 224)),
    "ResNet-50": Network(resnet50, lambda: torch.randn(1, 3, 224, 224)),
    "MobileNetV3-Large": Network(mobilenet_v3, lambda: torch.randn(1, 3, 224, 224)),
    "LSTM, 2 x 256, 128 steps": Network(Recurrent, lambda: torch.randn(1, 128, 128)),
}
"""What the benchmarks of execution run, by name."""
