"""A conversion that has a bit of everything."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nanproof
from nanproof.result import Conversion


class Everything(nn.Module):
    """A mask sentinel to rewrite, an overflow to keep in FP32, and a mask to stress."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.linear(x)
        bias = (1.0 - mask[:, None, :].float()) * torch.finfo(torch.float32).min
        mixed = torch.softmax(h @ h.transpose(1, 2) + bias, -1) @ h
        return mixed, torch.sqrt(torch.floor(torch.exp(x.abs() * 5.0 + 10.0)))


@pytest.fixture(scope="session")
def conversion() -> Conversion:
    torch.manual_seed(0)
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    return nanproof.convert(Everything(), (torch.randn(2, 5, 8), mask), units=("gpu", "strict"))
