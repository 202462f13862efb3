"""Module by module: the part that is wrong is named, by trying all or by halves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import nanproof
from nanproof.errors import NumericsError, UsageError
from tests.diagnosis.hazards import Norm


class Layer(nn.Module):
    def __init__(self, *, planted: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = Norm() if planted else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(400 * self.down(torch.relu(self.up(x)))) / 400


class Deep(nn.Module):
    """Twelve layers with one planted hazard."""

    def __init__(self, planted: int, *, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(planted=i == planted) for i in range(12))
        self.out = nn.Linear(8, 3)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.out(x)


class Louder(Norm):
    """What the norm gives is large enough to matter."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 400


def deep(planted: int) -> Deep:
    module = Deep(planted)
    module.layers[planted].norm = Louder()
    return module


@pytest.mark.parametrize("planted", [1, 10])
def test_a_planted_hazard_is_found_by_halves(planted: int) -> None:
    found = nanproof.by_module(deep(planted), torch.randn(1, 8) + 20, bisect=True)
    assert found.verdict == "failed"
    assert len(found.blamed) == 1
    assert found.blamed[0].startswith(f"layers.{planted}")
    assert found.conversions <= math.log2(12) + 3


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), Louder(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(300 * torch.tanh(self.first(x))))


def test_the_tree_has_an_error_for_each_part() -> None:
    found = nanproof.by_module(Small(), torch.ones(2, 8) * 3)
    assert found.blamed == ("norm",)
    assert [(p.path, p.status) for p in found.root.walk()] == [
        ("", "failed"),
        ("first", "good"),
        ("norm", "failed"),
        ("last", "good"),
    ]
    assert found.conversions == 4
    assert all(0 <= p.error < 1e-2 for p in found.root.walk() if p.status == "good")


class Odd(nn.Module):
    """coremltools knows no operator for this."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_a_part_that_does_not_convert_is_named() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Odd(), nn.ReLU())
    found = nanproof.by_module(module, torch.ones(1, 4))
    assert found.blamed == ("1",)
    assert [p.status for p in found.root.walk()] == ["not converted", "good", "not converted", "good"]
    assert "bessel" in found.root.children[1].message
    halves = nanproof.by_module(module, torch.ones(1, 4), bisect=True)
    assert halves.blamed == ("1",)


def test_a_module_in_which_all_is_right() -> None:
    found = nanproof.by_module(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.ones(1, 4), bisect=True)
    assert (found.verdict, found.blamed, found.conversions) == ("tested", (), 1)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="can be taken apart into its submodules"):
        nanproof.by_module(3, torch.ones(1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="The module Linear fails on the inputs, before any conversion"):
        nanproof.by_module(nn.Linear(3, 3), torch.ones(1, 4))
    with pytest.raises(NumericsError, match="Unknown numerics"):
        nanproof.by_module(nn.Linear(3, 3), torch.ones(1, 3), numerics="tpu")
