"""Mask sentinels as people write them: rewritten where that is exact, kept in FP32 where it is not, else left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nanproof
from nanproof.mil.coreml import ct, quiet

LENGTH, WIDTH = 6, 8
MIN, MAX = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
CAUSAL = torch.full((LENGTH, LENGTH), -65504.0).triu(1)
BIAS = torch.linspace(-9.0, 9.0, LENGTH * LENGTH).reshape(LENGTH, LENGTH)
DOUBLE = torch.full((LENGTH, LENGTH), MIN).triu(1)

# Each takes scores (batch, queries, keys) and a float mask (batch, 1, keys), 1 for what is kept.
REWRITTEN = {
    "product with finfo.min": lambda s, m: s + (1.0 - m) * MIN,
    "product, then a clip": lambda s, m: s + ((1.0 - m) * MIN).clamp(MIN, MAX),
    "product from the left": lambda s, m: (m - 1.0) * 1e9 + s,
    "fill with finfo.min": lambda s, m: s.masked_fill(m == 0, MIN),
    "fill with -1e9": lambda s, m: s.masked_fill(m < 0.5, -1e9),
    "where, then a sum": lambda s, m: s + torch.where(m > 0.5, 0.0, -1e30),
    "difference": lambda s, m: s - 1e9 * (1.0 - m),
    "two planes of -65504": lambda s, m: s + (CAUSAL + torch.where(m > 0.5, 0.0, -65504.0)),
    "two planes of finfo.min": lambda s, m: s + DOUBLE + torch.where(m > 0.5, 0.0, MIN),
    "sum, then a bias": lambda s, m: s + (1.0 - m) * MIN + BIAS,
    "nan_to_num of -inf": lambda s, m: torch.nan_to_num(s.masked_fill(m < 0.5, float("-inf"))),
    "clip of the sum": lambda s, m: (s + (1.0 - m) * MIN).clamp(min=MIN),
    "maximum with finfo.min": lambda s, m: torch.maximum(s + (1.0 - m) * MIN, torch.tensor(MIN)),
}
UNIFORM_WHEN_EMPTY = [n for n in REWRITTEN if n not in ("two planes of -65504", "two planes of finfo.min")]
LEFT_ALONE = {
    "-1e4": lambda s, m: s + (1.0 - m) * -1e4,
    "-3e4 by fill": lambda s, m: s.masked_fill(m < 0.5, -3e4),
    "-inf by fill": lambda s, m: s.masked_fill(m < 0.5, float("-inf")),
}


class Attention(nn.Module):
    """One head whose scores reach some tens, so that a sentinel that does not absorb them shows."""

    def __init__(self, masked, gain=6.0):
        super().__init__()
        torch.manual_seed(5)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.masked, self.gain = masked, gain

    def forward(self, x, mask):
        scores = self.gain * self.query(x) @ self.key(x).transpose(1, 2)
        weights = torch.softmax(self.masked(scores, mask[:, None, :]), -1)
        return weights @ self.value(x)


def inputs(empty_row=False):
    generator = torch.Generator().manual_seed(11)
    x = torch.randn(3, LENGTH, WIDTH, generator=generator)
    mask = torch.ones(3, LENGTH)
    mask[1, 4:] = 0
    if empty_row:
        mask[2] = 0
    return x, mask


def rewrites(result):
    return {rewrite.name for rewrite in result.plan.rewrites}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_without_fp32(name):
    module = Attention(REWRITTEN[name])
    result = nanproof.convert(module, inputs(), units=("gpu", "strict"))
    assert result.passed, result.units
    assert "mask-sentinel" in rewrites(result)
    assert result.plan.islands == ()
    assert result.plan.fp32_ops == 0
    assert {"NP101", "NP102"} & {f.code for f in result.findings}
    assert all(f.source.file == __file__ for f in result.findings if f.source)


@pytest.mark.parametrize("name", UNIFORM_WHEN_EMPTY)
@pytest.mark.parametrize("numerics", ["reference", "gpu"])
def test_a_row_that_masks_everything_stays_uniform(name, numerics):
    """FP32 absorbs the scores there, so the weights are uniform; whatever the accumulator, the rewrite has to agree."""
    module = Attention(REWRITTEN[name])
    result = nanproof.convert(module, inputs())
    assert nanproof.compare(result.program, module, inputs(empty_row=True), numerics=numerics).error < 3e-3


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_coremltools_alone_is_nan():
    """The control: without the rewrite the classic mask is NaN in FP16, and so is an empty row of a fill."""
    for name, empty in (("product with finfo.min", False), ("fill with finfo.min", True)):
        module = Attention(REWRITTEN[name])
        exported = torch.export.export(module, inputs(), strict=False).run_decompositions()
        with quiet():
            plain = nanproof.load(ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True))
        assert nanproof.compare(plain, module, inputs(empty_row=empty), numerics="gpu").nonfinite > 0


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_safe_masks_are_left_alone(name):
    module = Attention(LEFT_ALONE[name])
    result = nanproof.convert(module, inputs())
    assert result.passed
    assert result.findings == ()
    assert result.plan.rewrites == ()
    assert result.plan.fp32_ops == 0


class Logits(nn.Module):
    """The sentinel itself is the answer."""

    def forward(self, x, mask):
        return x.sum(-1).masked_fill(mask == 0, -1e9)


class MaskedMaximum(nn.Module):
    """A maximum over what is kept: a row that keeps nothing answers with the sentinel."""

    def forward(self, x, mask):
        return x.masked_fill(mask[..., None] == 0, -1e9).amax(1)


class Weighted(nn.Module):
    """A constant that is no mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.linspace(-2e5, 2e5, WIDTH * WIDTH).reshape(WIDTH, WIDTH))

    def forward(self, x, mask):
        return torch.softmax((x * 1e-4) @ self.weight, -1) * mask[..., None]


@pytest.mark.parametrize("module", [Logits(), MaskedMaximum(), Weighted()], ids=lambda m: type(m).__name__)
def test_what_cannot_be_rewritten_stays_fp32(module):
    result = nanproof.convert(module, inputs())
    assert result.passed, result.units
    assert result.plan.rewrites == ()
    assert result.plan.fp32_ops > 0
    assert all(island.reason and island.evidence for island in result.plan.islands)
    assert nanproof.compare(result.program, module, inputs(empty_row=True), numerics="gpu").within(1e-2)


def test_scores_near_the_sentinel_refuse_the_rewrite():
    """With scores of 20,000 no finite FP16 sentinel lies safely below them."""
    module = Attention(REWRITTEN["fill with -1e9"], gain=6000.0)
    result = nanproof.convert(module, inputs())
    assert "mask-sentinel" not in rewrites(result)
    assert any("too near to any finite sentinel" in island.evidence for island in result.plan.islands)


def test_an_assumption_on_the_inputs_is_stated():
    result = nanproof.convert(Attention(REWRITTEN["product with finfo.min"]), inputs())
    assert "0 or 1 on all given inputs" in result.plan.rewrites[0].condition


class MaskReturned(nn.Module):
    """The sentinel feeds a softmax and is an answer as well."""

    def forward(self, x, mask):
        bias = (1.0 - mask) * MIN
        return torch.softmax(x.sum(-1) + bias, -1), bias


@pytest.mark.parametrize("stress", [True, False])
def test_a_value_that_happened_to_be_constant_is_no_constant(stress):
    """With nothing masked in the example, `1 - mask` was 0 everywhere; it need not be on the next input."""
    x, mask = inputs()
    result = nanproof.convert(MaskReturned(), (x, torch.ones_like(mask)), stress=stress)
    assert result.plan.rewrites == ()
    assert any("the output" in island.evidence for island in result.plan.islands)
    assert nanproof.compare(result.program, MaskReturned(), (x, mask), numerics="gpu").within(1e-2)


@pytest.mark.parametrize("name", ["product with finfo.min", "product from the left", "difference"])
def test_masks_of_ones_alone_tell_enough(name):
    module = Attention(REWRITTEN[name])
    x, mask = inputs()
    result = nanproof.convert(module, (x, torch.ones_like(mask)), stress=False)
    assert "mask-sentinel" in rewrites(result)
    assert nanproof.compare(result.program, module, (x, mask), numerics="gpu").within(1e-2)


def test_two_masks_are_not_promised_more_than_fp16_has():
    """-60000 and a score: 5,504 is left to the end of the range."""
    result = nanproof.convert(Attention(REWRITTEN["two planes of finfo.min"]), inputs())
    assert "exact up to 5504" in result.plan.rewrites[0].condition


def test_what_fp32_absorbs_bounds_the_promise():
    """-1e9 absorbs scores below 1e9 / 2**24 = 59.6 in float32; beyond, the original itself does something else."""
    result = nanproof.convert(Attention(REWRITTEN["difference"], gain=1.0), inputs())
    assert "exact up to 59.6" in result.plan.rewrites[0].condition


def test_a_rewrite_that_changes_something_is_taken_back(monkeypatch):
    """A sentinel of -5 among scores of some tens is not what the rewrite claims to be."""
    monkeypatch.setattr("nanproof.rewrite.mask_sentinel.HEADROOM", 5.0)
    monkeypatch.setattr("nanproof.rewrite.mask_sentinel._failed_condition", lambda region: "")
    module = Attention(REWRITTEN["fill with finfo.min"])
    result = nanproof.convert(module, inputs())
    assert result.plan.rewrites == ()
    assert "of its range in float32" in result.plan.islands[0].evidence
    assert "kept in FP32, since the rewrite was taken back" in result.findings[0].remedy
    assert result.passed
    naive = nanproof.convert(module, inputs(), precision="float16")
    assert (naive.plan.fp32_ops, naive.findings[0].remedy) == (0, "not repaired: the precision is float16")


def test_a_mask_that_takes_other_values_is_not_assumed_binary():
    x, mask = inputs()
    module = Attention(REWRITTEN["product with finfo.min"])
    result = nanproof.convert(module, (x, mask * 0.5 + 0.5))
    assert "mask-sentinel" not in rewrites(result)


class Clips(nn.Module):
    def forward(self, x):
        return x.clamp(min=0.5) + x.clamp(MIN, MAX) + torch.nan_to_num(x).clamp(max=2.0)


def test_clip_bounds():
    x = torch.linspace(-3, 3, 24).reshape(2, 12)
    result = nanproof.convert(Clips(), (x,))
    assert "clip-bound" in rewrites(result)
    assert result.plan.fp32_ops == 0
    bounds = [
        float(op.inputs[name][0].const)
        for op in result.program.walk()
        if op.type == "clip"
        for name in ("alpha", "beta")
    ]
    assert bounds
    assert max(abs(b) for b in bounds) == 65504.0
    assert nanproof.compare(result.program, Clips(), (x,), numerics="gpu").error < 1e-3
