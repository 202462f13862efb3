"""What coremltools 9.0 lacks or lowers to something else, against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanproof

FUNCTIONS = {
    "alias (a full slice)": lambda x, y: torch.ops.aten.alias(x[:, 0:]) * y,
    "gelu, tanh form": lambda x, y: F.gelu(x, approximate="tanh") + y,
    "gelu, tanh form, beside a tanh": lambda x, y: F.gelu(torch.tanh(x) * 3, approximate="tanh") + y,
    "floor division beside a floor": lambda x, y: torch.div(torch.floor(x * 9), 2.0, rounding_mode="floor") + y,
    "a word as output": lambda x, y: torch.tanh(F.gelu(x + y, approximate="tanh")),
    "gelu, exact form": lambda x, y: F.gelu(x) + y,
    "reciprocal of small numbers": lambda x, y: 1 / (x * 1e-4 + 3e-4) + y,
    "add with alpha": lambda x, y: torch.add(x, y, alpha=2.5),
    "sub with alpha": lambda x, y: torch.sub(x, y, alpha=-0.5),
    "rsub with alpha": lambda x, y: torch.rsub(x, y, alpha=2),
    "selu": lambda x, y: F.selu(x) + y,
    "celu": lambda x, y: F.celu(x, alpha=0.5) + y,
    "elu": lambda x, y: F.elu(x, alpha=1.5) + y,
    "addcmul": lambda x, y: torch.addcmul(x, y, y, value=0.3),
}


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, y):
        return self.function(x, y)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lowering_agrees_with_pytorch(name):
    generator = torch.Generator().manual_seed(1)
    inputs = (torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator))
    result = nanproof.convert(Applied(FUNCTIONS[name]), inputs, precision="float32")
    comparison = nanproof.compare(result.program, Applied(FUNCTIONS[name]), inputs)
    assert comparison.error < 2e-6
