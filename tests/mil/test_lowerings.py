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


class Attending(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.settings = settings

    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, **self.settings)


_QKV = ((2, 4, 5, 4), (2, 4, 6, 4), (2, 4, 6, 7))
ATTENTIONS = {
    "plain": ({}, _QKV),
    "own scale": ({"scale": 0.3}, _QKV),
    "without heads": ({}, ((3, 5, 4), (3, 6, 4), (3, 6, 7))),
    "without a batch": ({}, ((5, 4), (6, 4), (6, 7))),
    "broadcast batch": ({}, ((1, 4, 5, 4), (2, 4, 6, 4), (2, 1, 6, 7))),
    "causal": ({"is_causal": True}, _QKV),
    "grouped queries": ({"enable_gqa": True}, ((2, 4, 5, 4), (2, 2, 6, 4), (2, 2, 6, 7))),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_agrees_with_pytorch(name):
    settings, shapes = ATTENTIONS[name]
    generator = torch.Generator().manual_seed(1)
    inputs = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    result = nanproof.convert(Attending(**settings), inputs, precision="float32")
    assert nanproof.compare(result.program, Attending(**settings), inputs).error < 2e-6


def test_attention_without_a_mask_has_no_guard_against_masked_rows():
    inputs = tuple(torch.randn(shape) for shape in _QKV)
    result = nanproof.convert(Attending(), inputs, precision="float32")
    assert [op.type for op in result.program.walk()] == ["mul", "matmul", "softmax", "matmul"]


LSTMS = {
    "one layer": {},
    "two layers, both directions": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without biases": {"bias": False, "bidirectional": True},
    "with a projection": {"proj_size": 3},
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", LSTMS)
def test_lstm_agrees_with_pytorch(name):
    torch.manual_seed(1)
    module, inputs = nn.LSTM(5, 7, **LSTMS[name]), (torch.randn(4, 3, 5),)
    result = nanproof.convert(module, inputs, precision="float32")
    assert nanproof.compare(result.program, module, inputs).error < 2e-6
    steps = [op for op in result.program.walk() if op.type == "lstm"]
    assert len(steps) == (0 if "proj_size" in LSTMS[name] else module.num_layers)
