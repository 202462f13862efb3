"""What the user pins, and what he calls the same."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.comparison.compare import compare_outputs
from nanproof.comparison.criteria import Criterion, criteria_of
from nanproof.comparison.metrics import difference
from nanproof.errors import UsageError
from nanproof.plan.pins import pinned
from nanproof.program import DType

convert = functools.partial(nanproof.convert, prove=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.inner(x)) + self.outer(x).exp()


class Loud(nn.Module):
    """Overflows by a factor, and is scaled back."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        y = self.block(x)
        return torch.floor(x * 300.0 * 300.0).sqrt() / 300.0 + y, y


X = (torch.rand(3, 4, generator=torch.Generator().manual_seed(0)) + 0.5,)


def in_fp32(result):
    return {op.type for op in result.program.walk() if op.dtype is DType.FP32 and op.type != "cast"}


@pytest.fixture(scope="module")
def plain():
    return convert(Block(), X)


def test_patterns(plain):
    program = plain.fp32_program
    types = {op.name: op.type for op in program.walk()}
    by_type = {t: n for n, t in types.items()}
    line = next(op.source.line for op in program.walk() if op.type == "tanh")
    assert set(pinned(program, ["tanh"])) == {by_type["tanh"]}
    assert {types[n] for n in pinned(program, ["inner"])} == {"linear"}
    assert len(pinned(program, ["*er"])) == 2
    assert {types[n] for n in pinned(program, [f"test_pins.py:{line}"])} == {"linear", "tanh", "exp", "add"}
    assert {types[n] for n in pinned(program, [by_type["exp"]])} == {"exp"}


def test_a_pin_that_names_nothing_says_what_is_near():
    with pytest.raises(UsageError, match=r"(?s)'tahn' is pinned, but names no op.*Near it: .*tanh"):
        convert(Block(), X, keep_fp32="tahn")


def test_pins_that_contradict_each_other():
    with pytest.raises(UsageError, match="pinned to FP32 by 'tanh' and to FP16 by 't\\*'"):
        convert(Block(), X, keep_fp32=["tanh"], keep_fp16=["t*"])


def test_pins_need_a_choice():
    with pytest.raises(UsageError, match="choose within precision='auto'"):
        convert(Block(), X, keep_fp32=["tanh"], precision="float16")


def test_what_is_pinned_stays_fp32():
    result = convert(Block(), X, keep_fp32=["tanh", "inner"])
    assert in_fp32(result) == {"linear", "tanh"}
    assert [(i.reason, i.evidence) for i in result.plan.islands] == [("pinned", "keep_fp32 names 'inner'")]
    assert result.verdict == "tested"


def test_what_is_pinned_to_fp16_is_not_repaired():
    usual = convert(Loud(), X)
    assert usual.verdict == "tested"
    assert usual.plan.islands
    result = convert(Loud(), X, keep_fp16=["*"])
    assert (result.plan.islands, in_fp32(result)) == ((), set())
    assert result.verdict == "failed"
    assert "keep_fp16 pins it to FP16" in {f.remedy for f in result.findings}.pop()


def test_tolerance_and_metric_by_output():
    name = next(iter(convert(Block(), X).program.outputs))
    result = convert(Block(), X, tolerance={name: 1e-7}, precision="float16")
    assert result.verdict == "failed"
    assert "(tolerance 1e-07)" in result.units["gpu"].reasons[0]
    assert convert(Block(), X, tolerance={"*": 1e-7}, metric="top-1").verdict == "tested"
    own = convert(Block(), X, metric=lambda actual, expected: 0.5, tolerance=0.1)
    assert "in the metric '<lambda>' (tolerance 0.1)" in own.units["gpu"].reasons[0]
    with pytest.raises(UsageError, match="'logits', which is no output"):
        convert(Block(), X, metric={"logits": "snr"})


class Sharp(nn.Module):
    """Differences of numbers near 3000: FP16 loses half of each, the order of the elements stays."""

    def forward(self, x):
        return (x + 3000.0) - 2990.0


def test_drift_that_does_not_matter_to_the_metric_is_not_repaired():
    x = (torch.tensor([[0.3, 7.4, 3.1], [9.2, 4.3, 0.2]]),)
    assert convert(Sharp(), x, stress=False).plan.fp32_ops > 0
    result = convert(Sharp(), x, stress=False, metric="top-1", tolerance=0.0)
    assert (result.verdict, result.plan.fp32_ops) == ("tested", 0)


A = np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("metric", "other", "distance"),
    [
        ("max", A + 0.1, 0.1 / 4),
        ("snr", A * 1.01, 0.01),
        ("cosine", A * 7.0, 0.0),
        ("top-1", A[:, ::-1], 0.5 + 0.5),
        ("top-3", A[:, ::-1], 0.0),
        ("top-2", A * [[1, 1, 1], [1, 2, 1]], 0.0),
    ],
)
def test_metrics(metric, other, distance):
    found = Criterion(metric).distance(other, A, difference(other, A))
    assert found == pytest.approx(distance, abs=1e-12)


def test_the_worst_batch_is_that_of_the_metric():
    shifted, flipped = A + 100.0, A[:, ::-1]
    outputs = [{"y": shifted}, {"y": flipped}]
    found = compare_outputs(["y"], outputs, [[A], [A]], "gpu", criteria_of("top-1"))
    assert found.outputs[0].worst_batch == 1
    assert not found.within(0.5)


@pytest.mark.parametrize("metric", ["nearly", "top-0", "top-x"])
def test_unknown_metrics(metric):
    with pytest.raises(UsageError, match="Use max, snr, cosine, top-1"):
        criteria_of(metric)
