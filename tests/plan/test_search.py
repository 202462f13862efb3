"""Accuracy as an objective: what loses it stays FP32, nothing else does, and each island has its evidence."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.interpret.execute import Executor
from nanproof.plan.blame import blame
from nanproof.plan.simulation import Score
from nanproof.plan.typing import Typist, uncastable
from nanproof.program import DType

UNITS = ("gpu", "strict", "ane")


convert = functools.partial(nanproof.convert, prove=False)


class Angles(nn.Module):
    """Angles of some thousand radians, between two layers that lose nothing in FP16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, position):
        wave = torch.sin(position * torch.tensor([1.0, 0.7, 0.3, 0.11, 0.05, 0.013]))
        return self.after(torch.tanh(self.before(x)) + wave)


class Nearest(nn.Module):
    """The index of the nearest of two points that are almost equally near."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), requires_grad=False)
        self.table = nn.Parameter(torch.tensor([[0.0, 1.0, 2.0], [7.0, 5.0, 6.0]]), requires_grad=False)

    def forward(self, x):
        distance = (x[:, None] - self.points).square().sum(-1)
        return self.table[distance.argmin(-1)] * 2.0


class Follower(nn.Module):
    """A level that moves by less than an FP16 step at a time, and a sum that is no state."""

    def forward(self, x, level):
        seen = []
        for i in range(x.shape[1]):
            level = level + 1e-4 * (x[:, i] - level)
            seen.append(level)
        return torch.stack(seen, 1) * 8.0 - 8.0


class Swish(nn.Module):
    """exp(-x) is infinite for x below -11, and 1 / inf = 0 is right."""

    def forward(self, x):
        return x * (1.0 / (1.0 + torch.exp(-x)))


def near_the_middle():
    middle = torch.tensor([2.0, 3.5])
    across = torch.tensor([2.0, 3.0])
    return middle + torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]) * 2e-4 * across


CASES = {
    "angles": (Angles(), (torch.randn(5, 4), torch.arange(1990.0, 1995.0)[:, None])),
    "nearest": (Nearest(), (near_the_middle(),)),
    "follower": (Follower(), (torch.ones(1, 12), torch.full((1,), 0.5))),
}


@pytest.fixture(scope="module")
def results():
    return {name: convert(module.eval(), inputs, units=UNITS, stress=False) for name, (module, inputs) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_of_accuracy_is_repaired(results, name):
    module, inputs = CASES[name]
    result = results[name]
    assert convert(module, inputs, units=("gpu",), stress=False, precision="float16").verdict == "failed"
    assert set(result.verdicts.values()) <= {"tested", "proved"}
    assert "NP121" in {finding.code for finding in result.findings}
    assert all(
        "in FP16, output" in i.evidence and "of its range on given input 1" in i.evidence for i in result.plan.islands
    )
    assert 1 < result.plan.executions <= 12


def test_the_layers_around_stay_fp16(results):
    plan = results["angles"].plan
    types = {op.type: op.dtype for op in results["angles"].program.walk()}
    assert types["linear"] is types["tanh"] is DType.FP16
    assert plan.fp32_ops <= 3


def typist_of(result):
    return Typist.like(result.fp32_program, result.program, result.plan.kept)


def feeds_of(result, inputs):
    return {n: t.numpy() for n, t in zip(result.fp32_program.inputs, inputs, strict=True)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("unit", UNITS)
def test_what_is_tried_is_what_is_written(results, name, unit):
    """The typed program computes bit for bit what the file computes that coremltools makes of the same plan."""
    result = results[name]
    feed = feeds_of(result, CASES[name][1])
    typed = typist_of(result).typed(result.plan.kept, result.plan.fp32_outputs)
    ours, theirs = Executor(typed, unit)(feed), Executor(result.program, unit)(feed)
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_without_any_island_the_plan_fails(results, name):
    """The evidence holds when it is looked up again: each island left out alone is out of tolerance."""
    module, inputs = CASES[name]
    result = results[name]
    feed, expected = feeds_of(result, inputs), module(*inputs).detach().numpy()
    for island in result.plan.islands:
        typed = typist_of(result).typed(result.plan.kept - set(island.ops), result.plan.fp32_outputs)
        errors = [np.abs(next(iter(Executor(typed, u)(feed).values())) - expected).max() for u in UNITS]
        assert max(errors) > result.tolerance * np.ptp(expected), island


def test_an_overflow_that_does_no_harm_stays_fp16():
    x = torch.linspace(-40, 20, 32)[None]
    result = convert(Swish(), (x,), units=UNITS)
    assert (result.findings, result.plan.fp32_ops, result.plan.islands) == ((), 0, ())
    assert set(result.verdicts.values()) <= {"tested", "proved"}


def test_a_healthy_model_is_executed_once():
    result = convert(nn.Linear(4, 2), (torch.randn(3, 4),))
    assert (result.plan.trials, result.plan.executions) == (1, 1.0)


def test_blame_goes_to_the_rounding_of_the_angle(results):
    _, inputs = CASES["angles"]
    result = results["angles"]
    typed = typist_of(result).typed(())
    outputs = dict.fromkeys(result.fp32_program.outputs, 1.0)
    sites = blame(result.fp32_program, typed, [feeds_of(result, inputs)], "gpu", outputs)
    names = {op.type: op.name for op in result.fp32_program.walk()}
    assert sites[0].ops | sites[1].ops == {names["mul"], names["sin"]}  # the constant, and the product
    assert sites[0].share + sites[1].share > 0.9
    assert sum(site.share for site in sites) == pytest.approx(1.0)


def test_huge_constants_and_control_flow_have_no_choice(results):
    program = results["nearest"].fp32_program
    assert not any(uncastable(op) for op in program.walk() if op.type in ("sub", "mul", "square"))
    huge = convert(Huge(), (torch.ones(3),), precision="float32").program
    assert [uncastable(op) for op in huge.walk() if op.type == "mul"] == [True]


class Huge(nn.Module):
    def forward(self, x):
        return x * 1e6


def test_worse_is_beyond_tolerance_and_beyond_what_it_was():
    good, bad = Score(0.5), Score(3.0)
    assert bad.worse_than(good)
    assert not good.worse_than(bad)
    assert not Score(3.2, decides=False).worse_than(Score(3.0, decides=False))
    assert Score(float("inf"), decides=False).worse_than(Score(3.0, decides=False))
    assert not Score(float("inf")).worse_than(Score(float("inf")))
