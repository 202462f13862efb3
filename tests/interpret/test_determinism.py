"""The same inputs give the same bytes: in every run, and with any number of threads where PyTorch sees to it."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.numerics import AVAILABLE


class Layers(nn.Module):
    """Matrix products, attention, a norm and a recurrent layer, large enough to be divided among threads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(64, 256), nn.LayerNorm(256), nn.LSTM(256, 64)

    def forward(self, x):
        y = self.norm(torch.tanh(self.first(x)))
        return self.last(torch.softmax(y @ y.mT, -1) @ y)[0]


@pytest.fixture(scope="module")
def program():
    return nanproof.convert(Layers(), (torch.randn(4, 96, 64),)).program


@pytest.fixture(autouse=True)
def threads() -> Generator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def answer(program, numerics):
    (name,) = program.inputs
    x = np.random.default_rng(1).standard_normal((4, 96, 64))
    (result,) = nanproof.predict(program, {name: x}, numerics=numerics).values()
    return result.tobytes()


@pytest.mark.parametrize("numerics", AVAILABLE)
def test_runs_and_threads_do_not_change_a_bit(program, numerics):
    torch.set_num_threads(1)
    first = answer(program, numerics)
    assert answer(program, numerics) == first
    torch.set_num_threads(4)
    assert answer(program, numerics) == first
