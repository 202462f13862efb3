"""Modules in half precision: converted as the float32 modules that they stand for, and judged by PyTorch in float32."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.errors import CaptureError

HALF = [torch.float16, torch.bfloat16]


class Mixed(nn.Module):
    """Weights, a buffer, a tensor that is neither, one made in the weights' dtype, and a bound that depends on it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)
        self.register_buffer("shift", torch.randn(8))
        self.turn = torch.randn(8, 8).to(torch.bfloat16)

    def forward(self, x, keep):
        dtype = self.layer.weight.dtype
        y = (self.layer(x) + self.shift) @ self.turn.to(dtype) + torch.ones(8, dtype=dtype)
        wide = y.float()
        y = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True))).to(dtype)
        return torch.softmax(y.masked_fill(keep == 0, torch.finfo(y.dtype).min), -1)


class Named(nn.Module):
    """Its code names the dtype."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x).to(torch.bfloat16) * 2


X = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
KEEP = (torch.arange(8) < 6).int().expand(3, 8).contiguous()


@pytest.mark.parametrize("dtype", HALF)
def test_a_module_in_half_precision(dtype):
    module = Mixed().to(dtype)
    weights = {name: (p, p.clone()) for name, p in module.state_dict(keep_vars=True).items()}
    result = nanproof.convert(module, (X.to(dtype), KEEP))
    assert result.passed
    with torch.no_grad():
        wide = copy.deepcopy(module).float()
        wide.turn = module.turn.float()
        expected = wide(X.to(dtype).float(), KEEP).numpy()
    feeds = {"x": X.to(dtype).float().numpy(), "keep": KEEP.numpy()}
    (actual,) = nanproof.predict(result.program, feeds, numerics="gpu").values()
    np.testing.assert_allclose(actual, expected, atol=2e-3)
    assert "wide = y.float()" in [f.source.code for f in result.findings if f.code == "NP130"]
    assert result.plan.fp32_ops == 0
    assert all(
        p is kept and torch.equal(p, old)
        for p, (kept, old) in zip(module.state_dict(keep_vars=True).values(), weights.values(), strict=True)
    )
    assert module.turn.dtype is torch.bfloat16


def test_an_exported_program_in_half_precision():
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU()).half()
    exported = torch.export.export(module, (X.half(),), strict=False)
    result = nanproof.convert(exported)
    assert result.passed
    assert {t.dtype.value for t in (*result.program.inputs.values(), *result.program.outputs.values())} == {"fp16"}


@pytest.mark.parametrize("model", ["module", "exported"])
def test_bfloat16_that_no_copy_can_be_rid_of(model):
    module, x = Named().bfloat16(), X.bfloat16()
    given = (module, (x,)) if model == "module" else (torch.export.export(module, (x,), strict=False), None)
    with pytest.raises(CaptureError, match=r"(?s)computes with bfloat16 tensors, which ML Programs lack.*name x.dtype"):
        nanproof.convert(*given)
