"""What a module's author wants in FP32 is found, and kept; the judge is PyTorch in float32."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.capture import author as author_module
from nanproof.capture.module import capture
from nanproof.mil.coreml import ct, quiet


class Normed(nn.Module):
    """An RMSNorm as Hugging Face writes it, and a layer behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.layer = nn.Parameter(torch.rand(16) + 0.5), nn.Linear(16, 16)

    def forward(self, x):
        dtype = x.dtype
        wide = x.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.layer(self.weight * wide.to(dtype))


class Angles(nn.Module):
    """A rotary embedding: positions, as whole numbers, become angles in float32."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rates", 1.0 / (10000 ** (torch.arange(0, 8, 2).float() / 8)))

    @torch.no_grad()
    def forward(self, x, positions):
        with torch.autocast("cpu", enabled=False):
            angles = positions[:, :, None].float() * self.rates.float()
            waves = torch.cat([angles.cos(), angles.sin()], -1)
        return x * waves.to(x.dtype)


class Weighted(nn.Module):
    def forward(self, scores):
        return torch.softmax(scores * 2, dim=-1, dtype=torch.float32).to(scores.dtype) * 3


class Outside(nn.LayerNorm):
    """A LayerNorm in float32, with ``type_as``."""

    def forward(self, x):
        return nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight.float()).type_as(x) + x


class Masked(nn.Module):
    """The cast of a mask is no wish: whole numbers have to become floats."""

    def forward(self, scores, mask):
        return torch.softmax(scores + (1.0 - mask.float()) * -10000.0, -1)


class Refused(nn.Module):
    """It runs in float32 alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x.float())


class Flat(nn.Module):
    def forward(self, x):
        return torch.relu(x) + 1


LARGE = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(1)).sign() * 300
POSITIONS = torch.arange(5000, 5006)[None]
SCORES = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))


def wished(module, *inputs):
    """Lines of the casts, and the ops that stay FP32 for them."""
    result = nanproof.convert(module, inputs)
    return [f.source.code for f in result.findings if f.code == "NP130"], {
        op.type for op in result.program.walk() if op.name in result.plan.author
    }


def test_an_rmsnorm_at_300():
    result = nanproof.convert(Normed(), (LARGE,), units=("gpu", "strict"))
    assert result.passed
    assert result.comparison.error < 1e-3
    (finding,) = result.findings
    assert (finding.code, finding.source.code) == ("NP130", "wide = x.to(torch.float32)")
    (island,) = result.plan.islands
    assert island.reason == "author's FP32"
    assert island.evidence.endswith(" says so: wide = x.to(torch.float32)")
    assert island.evidence.startswith("test_author.py:")
    assert (result.plan.fp32_ops, result.plan.author_fp32_ops) == (0, len(island.ops))
    layers = [op for op in result.program.walk() if op.type == "linear"]
    assert [op.dtype.value for op in layers] == ["fp16"]


def plain(module, inputs):
    """``coremltools.convert`` alone, executed as the GPU does."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(module.eval(), inputs, strict=False).run_decompositions()
        model = ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    return on_gpu(nanproof.load(model), inputs)


def on_gpu(program, inputs):
    feeds = dict(zip(program.inputs, (t.numpy() for t in inputs), strict=True))
    return next(iter(nanproof.predict(program, feeds, numerics="gpu").values()))


@pytest.mark.parametrize("kind", ["ours", "huggingface"])
def test_coremltools_alone_erases_the_island(kind):
    """The bug that this is for: the normalised activations, and with them all but the bias, become zero."""
    module = Normed()
    if kind == "huggingface":
        norms = pytest.importorskip("transformers.models.llama.modeling_llama")
        module = nn.Sequential(norms.LlamaRMSNorm(16), module.layer)
    with torch.no_grad():
        expected = module(LARGE).numpy()
    span = np.ptp(expected)
    assert np.abs(plain(module, (LARGE,)) - expected).max() > 0.1 * span
    result = nanproof.convert(module, (LARGE,))
    assert np.abs(on_gpu(result.program, (LARGE,)) - expected).max() < 1e-3 * span


def test_a_rotary_embedding_at_position_5000():
    x = torch.ones(1, 6, 8)
    lines, types = wished(Angles(), x, POSITIONS)
    assert lines == ["angles = positions[:, :, None].float() * self.rates.float()"]
    assert {"cos", "sin", "mul"} <= types
    result = nanproof.convert(Angles(), (x, POSITIONS))
    assert (result.passed, result.plan.fp32_ops) == (True, 0)
    assert result.comparison.error < 1e-3
    with torch.no_grad():
        expected = Angles()(x, POSITIONS).numpy()
    assert np.abs(plain(Angles(), (x, POSITIONS)) - expected).max() > 0.5


def test_softmax_with_a_dtype():
    assert wished(Weighted(), SCORES) == (
        ["return torch.softmax(scores * 2, dim=-1, dtype=torch.float32).to(scores.dtype) * 3"],
        {"softmax"},
    )


def test_a_layer_norm_in_float32():
    lines, types = wished(Outside(16), LARGE)
    assert (len(lines), types) == (1, {"layer_norm"})


@pytest.mark.parametrize(("module", "inputs"), [(Masked(), (SCORES, torch.ones(2, 8).int())), (Flat(), (SCORES,))])
def test_code_without_a_wish_is_not_captured_twice(module, inputs, monkeypatch):
    monkeypatch.setattr("nanproof.capture.module.half_copy", None)  # a call would fail
    assert capture(module, inputs, with_author=True).author == author_module.Author()


def test_float16_and_float32_keep_nothing():
    half = nanproof.convert(Normed(), (LARGE,), precision="float16")
    assert (half.plan.islands, half.plan.author_fp32_ops) == ((), 0)
    assert {f.code: f.remedy for f in half.findings}["NP130"] == "not kept in FP32: the precision is float16"
    assert nanproof.convert(Normed(), (LARGE,), precision="float32").findings == ()


def test_a_module_that_does_not_run_in_half_precision():
    result = nanproof.convert(Refused(), (SCORES,))
    (finding,) = result.findings
    assert finding.code == "NP131"
    assert finding.detail.startswith(
        "its casts to float32 may ask for FP32, but aten.linear.default there would get float32 and half precision"
    )
    assert finding.source.code == "return self.layer(x.float())"
    assert result.passed


def test_the_module_stays_as_it_is():
    module = Normed().train()
    before = {name: (p, p.clone()) for name, p in module.named_parameters()}
    nanproof.convert(module, (LARGE,))
    assert module.training
    for name, p in module.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])
        assert p.requires_grad


def test_the_copy_costs_no_memory():
    """Weights are shared with nothing and never filled in."""
    module = nn.Sequential(nn.Linear(1000, 1000), nn.BatchNorm1d(4))
    module[0].other = module[0].weight
    half, _ = author_module.half_copy(module, author_module.Batch((torch.ones(2),)))
    assert half[0].weight.dtype is torch.bfloat16
    assert half[0].other is half[0].weight
    assert half[1].num_batches_tracked.dtype is torch.int64
    assert module[0].weight.dtype is torch.float32
