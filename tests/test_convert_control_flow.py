"""``torch.cond`` and ``while_loop`` become MIL's, and compute what PyTorch does in every branch and turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.while_loop import while_loop

import nanproof
from nanproof.errors import CaptureError

POSITIVE = torch.tensor([[1.0, -2.0, 3.0, 0.5], [2.0, 1.0, -1.0, 0.25]])


class Choice(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(
            x.sum() > 0,
            lambda x: self.kind(x).relu(),
            lambda x: self.other(x) * 2,
            (x,),
        )


class Loop(nn.Module):
    def forward(self, x, count):
        def more(i, y):
            return i < count.sum()

        def turn(i, y):
            return i + 1, y * 1.5 + 1

        _, y = while_loop(more, turn, (torch.zeros((), dtype=torch.int64), x))
        return y


class Nested(nn.Module):
    """A choice inside a loop, with a branch that hands on its operand, and two results."""

    def forward(self, x, count):
        def turn(i, y):
            return i + 1, torch.cond(y.sum() > 4, lambda y: y - 2, lambda y: y.clone(), (y,))

        i, y = while_loop(lambda i, y: i < count.sum(), turn, (torch.zeros((), dtype=torch.int64), x))
        return y, i + 0


def run(program, **given):
    arrays = {name: t.numpy() if t.is_floating_point() else t.int().numpy() for name, t in given.items()}
    return list(nanproof.predict(program, arrays).values())


def test_both_branches():
    module = Choice().eval()
    result = nanproof.convert(module, (POSITIVE,), calibration=[(-POSITIVE,)])
    assert result.passed
    assert result.fidelity.error < 1e-6
    for x in (POSITIVE, -POSITIVE):
        (ours,) = run(result.program, x=x)
        with torch.no_grad():
            np.testing.assert_allclose(ours, module(x), rtol=2e-3, atol=2e-3)
    assert [op.type for op in result.program.walk()].count("cond") == 1


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_turns(count):
    module, example = Loop(), (POSITIVE, torch.tensor([3]))
    result = nanproof.convert(module, example, precision="float32")
    assert result.passed
    (ours,) = run(result.program, x=POSITIVE, count=torch.tensor([count]))
    np.testing.assert_allclose(ours, module(POSITIVE, torch.tensor([count])), rtol=1e-5)


def test_a_choice_inside_a_loop():
    module, example = Nested(), (POSITIVE, torch.tensor([2]))
    result = nanproof.convert(module, example, calibration=[(POSITIVE * 9, torch.tensor([3]))])
    assert result.passed
    ours, turns = run(result.program, x=POSITIVE * 9, count=torch.tensor([3]))
    np.testing.assert_allclose(ours, module(POSITIVE * 9, torch.tensor([3]))[0], rtol=2e-3)
    assert int(turns.reshape(-1)[0]) == 3


def test_ops_of_a_branch_know_their_line():
    result = nanproof.convert(Choice().eval(), (POSITIVE,))
    (choice,) = [op for op in result.program.walk() if op.type == "cond"]
    sources = [op.source for block in choice.blocks for op in block.ops if op.type in ("linear", "relu", "mul")]
    assert len(sources) == 4
    assert {source.file for source in sources} == {__file__}


def test_other_operators_that_run_a_function_are_named_with_their_line():
    class Mapped(nn.Module):
        def forward(self, xs):
            return torch_map(lambda x: x.cumsum(0) * 2, xs)

    with pytest.raises(CaptureError) as caught:
        nanproof.convert(Mapped(), (POSITIVE,))
    text = str(caught.value)
    assert "The model uses the operator 'map_impl', which runs a function of yours, and for which ML Programs" in text
    assert f"at {__file__}:" in text
    assert "return torch_map(lambda x: x.cumsum(0) * 2, xs)" in text
