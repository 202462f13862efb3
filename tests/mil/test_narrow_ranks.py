"""Tensors of more than five axes, which MIL lacks, as tensors of fewer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect
from tests.mil.operators import Applied

_GENERATOR = torch.Generator().manual_seed(7)
X = torch.randn(2, 8, 12, 6, generator=_GENERATOR)
Y = torch.randn(2, 3, 6, generator=_GENERATOR)


def _windows(x):
    return x.view(2, 2, 4, 3, 4, 6)


CASES = {
    "windows": (lambda x: _windows(x).permute(0, 1, 3, 2, 4, 5).reshape(12, 16, 6), X),
    "windows as output of six runs": (
        lambda x: x.view(2, 2, 4, 3, 4, 2, 3).permute(5, 3, 1, 6, 4, 2, 0).reshape(6, -1),
        X,
    ),
    "patches, added, summed": (lambda x: (_windows(x).permute(0, 5, 1, 3, 2, 4) + 1).relu().sum((1, 3)), X),
    "a mean of all": (lambda x: _windows(x).permute(5, 1, 3, 2, 4, 0).mean(), X),
    "broadcast along every other axis": (lambda x, y: (_windows(x) * y.view(1, 2, 1, 3, 1, 6)).mean(-1), X, Y),
    "broadcast of few runs": (lambda x, y: (_windows(x) * y[0, 0]).flatten(1), X, Y),
    "joined, cut, picked": (
        lambda x: torch.cat([_windows(x), _windows(x) * 2], 3)[:, :, 1:3].softmax(2).select(4, 1).flatten(2),
        X,
    ),
    "einsum of windows": (
        lambda x: torch.einsum("bhwnqc,bhwnkc->bhwnqk", x.view(2, 2, 2, 2, 12, 6), x.view(2, 2, 2, 2, 12, 6)).flatten(
            3
        ),
        X,
    ),
    "repeated": (lambda x: x[:, :, None, :, None, :].expand(2, 8, 2, 12, 3, 6).reshape(16, 24, 18), X),
    "axes of length one": (lambda x: x.view(1, 2, 8, 1, 12, 6).permute(3, 4, 0, 1, 5, 2).reshape(12, -1), X),
}


@pytest.mark.parametrize("name", CASES)
def test_narrowed_program_agrees_with_pytorch(name):
    function, *inputs = CASES[name]
    captured = capture(Applied(function), tuple(inputs))
    program = reflect(lower(captured.exported, Options()), captured.sources)
    assert all(len(value.type.shape) <= 5 for op in program.walk() for value in op.outputs)
    assert all(op.source is not None for op in program.walk())
    (found,) = (
        Executor(program).once(dict(zip(captured.input_names, (t.numpy() for t in inputs), strict=True))).values()
    )
    expected = function(*inputs).numpy()
    assert found.shape in (expected.shape, (1,))
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)


def test_windows_cost_one_transpose():
    captured = capture(Applied(CASES["windows"][0]), (X,))
    kinds = [op.type for op in reflect(lower(captured.exported, Options())).walk()]
    assert kinds == ["reshape", "transpose", "reshape"]
