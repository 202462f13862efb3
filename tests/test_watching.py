"""Watching a model: what its ops return, where FP16 is left first, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import nanproof
from nanproof.errors import UsageError
from nanproof.interpret.observe import Range


class Block(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x):
        return x + torch.relu(self.up(self.norm(x)))


class Net(nn.Module):
    """Two blocks, and a line at which FP16 ends."""

    def __init__(self, factor=1e5):
        super().__init__()
        torch.manual_seed(1)
        self.blocks, self.factor = nn.Sequential(Block(), Block()), factor

    def forward(self, x):
        x = self.blocks(x)
        return x * self.factor  # the line that overflows


X = torch.linspace(-2, 2, 12).reshape(3, 4)
LINE = (
    Path(__file__)
    .read_text(encoding="utf-8")
    .splitlines()
    .index("        return x * self.factor  # the line that overflows")
)


def test_where_fp16_ends():
    net = Net()
    with nanproof.watch(net) as log:
        result = net(X)
    largest = float(result.detach().abs().max())
    assert log.unfit == [
        f"will not survive FP16: max {largest:.6g} of mul at the model itself, test_watching.py:{LINE + 1}"
    ]
    first = log.first_overflow
    assert first is not None
    assert (first.step, first.seen.place.op) == (1, "mul")
    assert [seen.place.op for seen in first.before[-2:]] == ["relu", "add"]
    assert first.before[-1].place.module == "blocks.1"
    assert log.first_bf16_overflow is None


def test_every_op_has_its_range():
    net = Net()
    with nanproof.watch(net) as log:
        net(X)
        net(2 * X)
    seen = {(place.module, place.op): found for place, found in log.ranges.items()}
    normalised = torch.cat([net.blocks[0].norm(X), net.blocks[0].norm(2 * X)])
    assert seen["blocks.0.norm", "native_layer_norm"].count >= normalised.numel()
    assert seen["blocks.1", "relu"].low == 0
    assert seen["", "mul"] == Range.of(net(X)) | Range.of(net(2 * X))
    assert set(log.modules) == {
        "blocks.0.norm",
        "blocks.0.up",
        "blocks.0",
        "blocks.1.norm",
        "blocks.1.up",
        "blocks.1",
        "",
    }
    assert log.steps == 2


def test_nothing_changes():
    def trained(watched):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), Net(1.0))
        step = torch.optim.SGD(net.parameters(), lr=0.1)

        def train():
            step.zero_grad()
            net(X).square().mean().backward()
            step.step()

        if watched:
            with nanproof.watch(net, gradients=True):
                train()
        else:
            train()
        hooks = [m for m in net.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert not hooks, "no hook stays behind"
        return [p.detach().clone() for p in net.parameters()]

    assert all(map(torch.equal, trained(watched=False), trained(watched=True)))


def test_gradients():
    net = Net(1e-6)
    with nanproof.watch(net, gradients=True) as log:
        net(X).sum().backward()
    seen = {place.module: found for place, found in log.ranges.items() if place.op == "gradient"}
    assert set(seen) == {name for name, _ in net.named_parameters()}
    weight = net.blocks[0].up.weight.grad
    assert seen["blocks.0.up.weight"] == Range.of(weight)
    assert seen["blocks.0.up.weight"].subnormals + seen["blocks.0.up.weight"].lost > 0, "what loss scaling is for"


def test_plain_data_and_text():
    net = Net()
    with nanproof.watch(net) as log:
        net(torch.where(X > 1.9, torch.inf, X))
    data = log.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["schema"], data["steps"]) == ("nanproof-watch/1", 1)
    assert data["first_overflow"]["before"] == [] or data["first_overflow"]["op"] != "mul"
    assert any("is not finite" in line for line in data["unfit"])
    table = log.table(3).splitlines()
    assert table[0].split()[:3] == ["largest", "smallest", "lost"]
    assert "NO" in table[1]
    assert table[-1].startswith("and ")


def test_logs_join():
    net = Net()
    with nanproof.watch(net) as whole:
        net(X)
        net(3 * X)
    with nanproof.watch(net) as first:
        net(X)
    with nanproof.watch(net) as second:
        net(3 * X)
    joined = first | second
    assert joined.ranges == whole.ranges
    assert joined.steps == 2
    assert joined.first_overflow == first.first_overflow


def test_every_other_call():
    net = Net()
    with nanproof.watch(net, every=2) as log:
        for factor in (1, 100, 1):
            net(factor * X)
    assert log.steps == 2
    assert log.modules[""] == Range.of(net(X)) | Range.of(net(X))


def test_an_error_ends_the_call():
    net = Net()
    with nanproof.watch(net) as log:
        with pytest.raises(RuntimeError):
            net(torch.ones(3, 5))
        torch.ones(3) * 1e6  # outside of the model: not seen
        net(X)
    assert log.steps == 2
    assert all(found.magnitude != 1e6 for found in log.ranges.values())


@pytest.mark.parametrize("wrong", [{"every": 0}, {"last": 0}])
def test_wrong_use(wrong):
    with pytest.raises(UsageError, match="both have to be 1 or more"), nanproof.watch(Net(), **wrong):
        pass


def test_memory_does_not_grow_with_steps():
    net = Net()
    with nanproof.watch(net) as log:
        net(X)
        places = len(log.ranges)
        for _ in range(50):
            net(X)
    assert len(log.ranges) == places
