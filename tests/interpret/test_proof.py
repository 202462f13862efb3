"""Proofs of small models: what is proved, what is not, and why."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import nanproof
from nanproof.errors import UsageError
from nanproof.interpret.proof import assumptions
from nanproof.program import Program

UNITS = ("gpu", "cpu", "ane")


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def converted(module: nn.Module, *inputs: Tensor, **options) -> Program:
    return nanproof.convert(module.eval(), inputs, stress=False, **options).program


def fp16(function, *inputs: Tensor) -> Program:
    """A function in FP16 throughout, hazards included."""
    return converted(Function(function), *inputs, precision="float16")


def proved(program: Program, low: float, high: float, *units: str) -> dict[str, str]:
    proof = nanproof.prove(program, {next(iter(program.inputs)): (low, high)}, units=units or UNITS)
    return {name: unit.verdict for name, unit in proof.units.items()}


def test_a_sum_of_squares_is_proved_up_to_where_it_overflows():
    program = fp16(lambda x: x.square().sum(-1), torch.randn(2, 4))
    assert set(proved(program, -100, 100).values()) == {"proved"}  # 4e4
    assert set(proved(program, -200, 200).values()) == {"unknown"}  # 1.6e5


def test_the_neural_engines_accumulator_ends_earlier():
    program = converted(nn.Linear(4, 1, bias=False), torch.randn(2, 4))
    weight = next(op for op in program.walk() if op.type == "linear").inputs["weight"][0].const
    reach = float(np.abs(np.asarray(weight, np.float64)).sum())
    between = 40_000 / reach  # beyond 2**15, and below 65504
    assert proved(program, -between, between) == {"gpu": "proved", "cpu": "proved", "ane": "unknown"}


def test_partial_sums_count_on_the_neural_engine():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -1.0]])
    program = converted(layer, torch.randn(1, 2))
    # The products may be 30,000 and -30,000: each partial sum is inside, whatever the order.
    assert proved(program, 29_000, 30_000, "ane") == {"ane": "proved"}
    assert proved(program, 29_000, 33_000, "ane") == {"ane": "unknown"}


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def softmax_by_hand(x: Tensor) -> Tensor:
    powers = torch.exp(x - x.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "function",
    [
        rms_norm,
        lambda x: F.layer_norm(x, (64,)),
        lambda x: F.normalize(x, dim=-1),
        lambda x: (
            torch.exp(x - x.amax(-1, keepdim=True)) / torch.exp(x - x.amax(-1, keepdim=True)).sum(-1, keepdim=True)
        ),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt(),
        lambda x: x / (x.abs().amax(-1, keepdim=True) + 1e-3),
    ],
    ids=["rms_norm", "layer_norm", "normalize", "softmax", "layer_norm by hand", "max_norm"],
)
def test_quotients_of_what_belongs_together_are_bounded(function):
    program = fp16(function, torch.randn(2, 64))
    proof = nanproof.prove(program, {next(iter(program.inputs)): (-100, 100)}, units=("gpu",))
    assert proof.verdict == "proved"
    output = program.main.block.outputs[0]
    low, high = next((s.low, s.high) for s in proof.units["gpu"].steps if output in s.op.outputs)
    assert max(-low, high) <= 8.6  # sqrt(64), with room for roundings


def test_unrelated_quotients_are_not():
    """One row by the norm of another: a row of zeros leaves 1 / sqrt(epsilon), which is 1024."""
    program = fp16(lambda x: x * torch.rsqrt(x.flip(0).pow(2).mean(-1, keepdim=True) + 2.0**-20), torch.randn(2, 64))
    assert proved(program, -100, 100, "gpu") == {"gpu": "unknown"}
    program = fp16(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 2.0**-20), torch.randn(2, 64))
    assert proved(program, -100, 100, "gpu") == {"gpu": "proved"}


def test_an_exponential_is_bounded_by_its_overflow():
    program = fp16(torch.exp, torch.randn(2, 4))
    assert proved(program, -20, 11, "gpu") == {"gpu": "proved"}
    assert proved(program, -20, 11.1, "gpu") == {"gpu": "unknown"}  # ln 65504 is 11.0899


def test_killed_exceptions_are_obstacles_although_the_output_is_finite():
    program = fp16(lambda x: 1000 / (1 + torch.exp(x)), torch.randn(2, 4))
    name = next(iter(program.inputs))
    obstacles = nanproof.prove(program, {name: (0, 12)}, units=("gpu",)).units["gpu"].obstacles
    assert [o.op.type for o in obstacles if o.first] == ["exp"]


class Masked(nn.Module):
    """Attention weights over objects, some of them padding: scores are replaced by a number, or by -inf."""

    def __init__(self, sentinel: float) -> None:
        super().__init__()
        self.sentinel = sentinel

    def forward(self, scores: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(scores.masked_fill(mask == 0, self.sentinel), -1)


def test_a_finite_mask_is_proved_and_an_infinite_one_is_not():
    inputs = torch.randn(2, 8), torch.ones(2, 8, dtype=torch.int32)
    for sentinel, verdict in ((-1e4, "proved"), (-float("inf"), "unknown")):
        program = converted(Masked(sentinel), *inputs)
        proof = nanproof.prove(program, {"scores": (-50, 50)}, units=("gpu",))
        assert proof.verdict == verdict
    assert any("its softmax is NaN" in o.reason for o in proof.units["gpu"].obstacles)


def test_assumptions_come_from_the_signature_and_are_told():
    class Embedding(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(50, 8)

        def forward(self, input_ids: Tensor, scale: Tensor) -> Tensor:
            return self.table(input_ids) * scale

    program = converted(Embedding(), torch.ones(1, 4, dtype=torch.int32), torch.ones(1))
    by_name = {a.name: a for a in assumptions(program)}
    assert (by_name["input_ids"].low, by_name["input_ids"].high) == (0, 49)
    assert "50 rows" in str(by_name["input_ids"])
    assert by_name["scale"].reason == "every finite fp32: nothing says what it is"
    assert nanproof.prove(program, units=("gpu",)).verdict == "unknown"
    assert nanproof.prove(program, {"scale": (0, 2)}, units=("gpu",)).verdict == "proved"


def test_ids_beyond_the_table_are_an_obstacle():
    program = converted(nn.Embedding(50, 8), torch.ones(1, 4, dtype=torch.int32))
    (name,) = program.inputs
    proof = nanproof.prove(program, {name: (0, 50)}, units=("gpu",))
    assert any("an index may be 50, and there are 50 elements" in o.reason for o in proof.units["gpu"].obstacles)


@pytest.mark.parametrize(
    ("assume", "message"),
    [
        ({"y": (0, 1)}, "There is no input 'y' to assume anything of. The program takes x."),
        ({"x": (1, 0)}, "The assumption on 'x', from 1 to 0, is no range of finite numbers."),
        ({"x": (0, float("inf"))}, "is no range of finite numbers"),
        ({"x": "picture"}, "picture"),
    ],
)
def test_wrong_assumptions(assume, message: str):
    program = fp16(torch.relu, torch.randn(2))
    with pytest.raises(UsageError) as caught:
        nanproof.prove(program, assume)
    assert message in str(caught.value)


def test_shapes_are_told_and_can_be_chosen():
    program = converted(
        Function(lambda x: x.sum(-1)), torch.randn(2, 4), dynamic_shapes=({1: torch.export.Dim("n", min=2, max=4000)},)
    )
    (name,) = program.inputs
    assert nanproof.prove(program, {name: (0, 20)}, shapes={name: (2, 100)}, units=("gpu",)).verdict == "proved"
    proof = nanproof.prove(program, {name: (0, 20)}, shapes={name: (2, 4000)}, units=("gpu",))
    assert (proof.verdict, proof.shapes[name]) == ("unknown", (2, 4000))  # a sum of 80,000
