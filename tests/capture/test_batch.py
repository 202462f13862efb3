"""Calls as people write them: any order, flags and numbers among the tensors, caches among the results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nanproof
from nanproof.capture.batch import as_batch, call
from nanproof.errors import CaptureError


class Cache:
    """An object that no one can export."""


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 4)

    def forward(self, x, scale, bias=None, power=1, use_cache=True, **kwargs):
        y = self.linear(x) * scale
        y = y if bias is None else y + bias
        return {"y": y**power, "nothing": None, "cache": Cache() if use_cache else None, "again": [y**power, x * 2]}


X, SCALE, BIAS = torch.randn(2, 4), torch.full((1, 4), 3.0), torch.ones(4)
CALLS = {
    "positional": (X, SCALE),
    "by keyword, in another order": {"scale": SCALE, "x": X},
    "with a number": (X, SCALE, None, 2),
    "with a flag": {"x": X, "scale": SCALE, "use_cache": False},
    "all of it": {"power": 2, "bias": BIAS, "scale": SCALE, "x": X},
}


@pytest.mark.parametrize("name", CALLS)
def test_converted_as_called(name):
    result = nanproof.convert(Layer(), CALLS[name])
    assert result.passed
    wanted = ["x", "scale", "bias"] if "bias" in CALLS[name] else ["x", "scale"]
    assert list(result.program.inputs) == wanted
    assert all(op.source.module == "linear" for op in result.program.walk() if op.type == "linear")
    assert nanproof.compare(result.program, Layer(), CALLS[name], numerics="gpu").within(1e-2)


def test_one_order_however_it_is_written():
    batches = [as_batch(CALLS[name], Layer()) for name in ("positional", "by keyword, in another order")]
    assert all(torch.equal(a, b) for a, b in zip(*(b.tensors for b in batches), strict=True))


class Twice(nn.Module):
    def forward(self, x):
        y = x + 1
        return y, y, (None, x * 2)


def test_a_tensor_returned_twice_is_one_output():
    assert len(call(Twice(), as_batch(X))) == 2
    result = nanproof.convert(Twice(), X)
    assert len(result.program.outputs) == 2
    assert result.passed


class Gain(nn.Module):
    def forward(self, x, gain):
        return x * gain


def test_a_scalar_tensor_as_input():
    result = nanproof.convert(Gain(), (X, torch.tensor(2.0)))
    assert result.passed
    assert nanproof.compare(result.program, Gain(), (X, torch.tensor(3.0))).error < 1e-3


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).abs()


def test_types_that_ml_programs_lack():
    with pytest.raises(CaptureError, match=r"(?s)with bfloat16 tensors, which ML Programs lack.*module\.float\(\)"):
        nanproof.convert(Gain(), (X.bfloat16(), X.bfloat16()))
    with pytest.raises(CaptureError, match=r"(?s)with complex64 tensors.*test_batch\.py:\d+.*real tensors"):
        nanproof.convert(Spectrum(), (X,))
