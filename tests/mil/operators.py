"""A call of PyTorch and its program in float32, side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def lowered(function, inputs):
    """The program of a call, in float32."""
    captured = capture(Applied(function), tuple(t.clone() for t in inputs))
    return reflect(lower(captured.exported, Options()))


def assert_agreement(function, inputs, rtol=1e-5, atol=2e-6):
    """Assert that a call and its program in float32 return the same: ``atol`` is a part of the largest element."""
    program = lowered(function, inputs)
    arrays = [t.numpy().astype(np.int32) if t.dtype == torch.bool else t.numpy() for t in inputs]
    shaped = {name: a.reshape(of.shape) for (name, of), a in zip(program.inputs.items(), arrays, strict=True)}
    found = list(Executor(program).once(shaped).values())
    expected = function(*(t.clone() for t in inputs))
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape in (theirs.shape, theirs.shape or (1,))
        if theirs.is_floating_point():
            scale = float(theirs[theirs.isfinite()].abs().max())
            np.testing.assert_allclose(ours.reshape(theirs.shape), theirs.numpy(), rtol=rtol, atol=atol * scale)
        else:
            np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs.numpy())
