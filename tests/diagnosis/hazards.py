"""Small modules, each with one hazard on a line that is marked with its name, and inputs that show it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


class Killed(nn.Module):
    """The Inf dies on its way: the output is finite, and wrong."""

    def forward(self, x: Tensor) -> Tensor:
        grown = torch.exp(x)  # HERE
        return 1000 * (1 / (grown + 1))


class Norm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)  # HERE
        return x * torch.rsqrt(mean + 1e-3)


class Nested(nn.Module):
    """A hazard inside of a submodule, between layers that are all right."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), Norm(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x) * 500))


class Masked(nn.Module):
    def forward(self, scores: Tensor, keep: Tensor) -> Tensor:
        bias = (1.0 - keep) * torch.finfo(torch.float32).min  # HERE
        return torch.softmax(scores + bias, -1)


class Underflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        power = x * x  # HERE
        return x * x / (power + power)


class Stalls(nn.Module):
    """Each step is below half an FP16 step of the level."""

    def forward(self, x: Tensor) -> Tensor:
        level = torch.full_like(x[:, 0], 1.0)
        for i in range(x.shape[1]):
            level = level + 0.0004 * x[:, i]  # HERE
        return level


class Cancels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        large = x * 1.0009765625
        return (large - x) * 1000  # HERE


class Rounds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x)  # HERE


class Angle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        phase = torch.cumsum(x, 1)
        return torch.sin(phase)  # HERE


class Swish(nn.Module):
    """exp(-x) is infinite for x < -11.1, and x / Inf is the right limit."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + torch.exp(-x))


class Gelu(nn.Module):
    """x ** 3 overflows, and the tangent of Inf is the right one."""

    def forward(self, x: Tensor) -> Tensor:
        inner = 0.8 * (x + 0.0447 * x * x * x)
        return torch.tanh(inner)


@dataclass(frozen=True)
class Case:
    """A module with an input, the code of the finding that is wanted, and the op that it names."""

    module: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    code: str
    op_type: str
    tolerance: float = 1e-2

    def __str__(self) -> str:
        return self.code

    @property
    def line(self) -> int:
        """The line that is marked."""
        source = Norm if self.module is Nested else self.module
        lines, start = inspect.getsourcelines(source)  # type: ignore[arg-type]
        return next(start + i for i, line in enumerate(lines) if "# HERE" in line)


FILE = Path(__file__)


def _drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


CASES = (
    Case(Killed, (torch.full((4,), 12.0),), "NP115", "exp"),
    Case(Nested, (_drawn(2, 8),), "NP111", "pow"),
    Case(Masked, (_drawn(2, 5), torch.tensor([[1.0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])), "NP101", "mul"),
    Case(Underflow, (torch.full((3,), 1e-4),), "NP118", "mul"),
    Case(Stalls, (torch.ones(2, 40),), "NP141", "add"),
    Case(Cancels, (_drawn(16).abs() + 1,), "NP143", "sub"),
    Case(Rounds, (torch.tensor([0.5002, 1.4998, 7.0]),), "NP144", "round"),
    Case(Angle, (_drawn(1, 600).abs() + 3,), "NP145", "sin"),
)
BENIGN = ((Swish, (torch.tensor([-30.0, -12.0, 1.0, 3.0]),)), (Gelu, (torch.tensor([-120.0, 2.0, 130.0]),)))
