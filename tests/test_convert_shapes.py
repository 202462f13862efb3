"""Inputs of several shapes: declared to coremltools or to torch.export, executed where it matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

import nanproof
from nanproof.errors import CaptureError, InputError
from nanproof.mil.coreml import ct

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # people have such models still


class Pooled(nn.Module):
    """Attention over a sequence of any length, with the mask that FP16 cannot hold."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.linear = nn.Embedding(30, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        x = self.table(ids)
        weights = torch.softmax((1 - mask.float()) * torch.finfo(torch.float32).min, -1)
        return self.linear((x * weights[..., None]).sum(1))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(x).flatten(1)


class Kernel(nn.Module):
    """Takes no less than five columns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(2, 2, 5)

    def forward(self, x):
        return self.conv(x)


IDS = torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(0))
MASK = torch.ones(2, 6, dtype=torch.int64)
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def ranged():
    return [ct.TensorType(name=n, shape=(2, ct.RangeDim(1, 24, default=7)), dtype=np.int32) for n in ("ids", "mask")]


WAYS = {
    "torch.export by name": lambda: nanproof.convert(
        Pooled(), (IDS, MASK), dynamic_shapes={n: {1: Dim("length", min=1, max=24)} for n in ("ids", "mask")}
    ),
    "torch.export by place": lambda: nanproof.convert(
        Pooled(), (IDS, MASK), dynamic_shapes=({1: Dim("length", min=1, max=24)},) * 2
    ),
    "coremltools": lambda: nanproof.convert(Pooled(), (IDS, MASK), inputs=ranged()),
    "coremltools without examples": lambda: nanproof.convert(Pooled(), inputs=ranged()),
    "traced": lambda: nanproof.convert(torch.jit.trace(Pooled().eval(), (IDS, MASK)), inputs=ranged()),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_range(way):
    result = WAYS[way]()
    assert result.passed
    assert [f.remedy[:9] for f in result.findings] == ["rewritten"]
    assert {n: str(f) for n, f in result.program.interface.inputs.items()} == {
        "ids": "int32[2, 1..24]",
        "mask": "int32[2, 1..24]",
    }
    module = Pooled().eval()
    for length in (1, 3, 24):
        ids = torch.randint(0, 30, (2, length))
        mask = torch.ones(2, length, dtype=torch.int64)
        mask[0, length // 2 + 1 :] = 0
        (ours,) = nanproof.predict(result.program, {"ids": ids, "mask": mask}, numerics="gpu").values()
        np.testing.assert_allclose(ours, module(ids, mask).detach().numpy(), atol=5e-3)


def test_the_example_is_the_default():
    """coremltools takes the smallest shape; the example's says more about the model."""
    result = nanproof.convert(Flat(), (X,), dynamic_shapes={"x": {1: Dim("n", min=2, max=9)}})
    assert result.program.interface.inputs["x"].shapes.default == (2, 5, 8)
    assert result.comparison.batches == 3, "the given one, the smallest and the largest"


def test_enumerated_shapes():
    declared = ct.EnumeratedShapes([(2, 4, 8), (2, 9, 8), (2, 6, 8)])
    result = nanproof.convert(Flat(), (X[:, :4],), inputs=[ct.TensorType(name="x", shape=declared)])
    assert result.passed
    assert result.comparison.batches == 2, "the given one is the default and the smallest"
    assert str(result.program.interface.inputs["x"]) == "fp32[2, 4, 8] or [2, 9, 8] or [2, 6, 8]"
    with pytest.raises(InputError, match=r"2, 5, 8"):
        nanproof.predict(result.program, {"x": X})


def test_a_huge_range_is_not_executed_to_its_end():
    declared = ct.TensorType(name="x", shape=(2, ct.RangeDim(1, 10**9), 8))
    result = nanproof.convert(Flat(), inputs=[declared])
    assert result.passed
    assert "1..1000000000" in str(result.program.interface.inputs["x"])


def test_a_range_that_the_module_does_not_take():
    declared = ct.TensorType(name="x", shape=(1, 2, ct.RangeDim(1, 50, default=8)))
    model = torch.jit.trace(Kernel().eval(), torch.rand(1, 2, 8))
    with pytest.raises(CaptureError, match=r"(?s)fails at the smallest of the shapes.*Shapes: \[1, 2, 1\]\. Declare"):
        nanproof.convert(model, inputs=[declared])


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(2, 40)


def test_a_module_of_one_shape_alone():
    with pytest.raises(CaptureError, match=r"torch\.export cannot capture Fixed"):
        nanproof.convert(Fixed(), (X,), dynamic_shapes={"x": {1: Dim("n", min=2, max=9)}})


def test_a_range_without_an_end_is_tried_at_four_times_the_example():
    result = nanproof.convert(Flat(), (X,), dynamic_shapes={"x": {1: Dim.DYNAMIC}}, stress=False)
    assert result.passed
    assert result.comparison.batches == 3
    x = torch.randn(2, 33, 8)
    (ours,) = nanproof.predict(result.program, {"x": x}, numerics="gpu").values()
    np.testing.assert_allclose(ours, Flat()(x).detach().numpy(), atol=5e-3)


def test_dynamic_shapes_for_an_input_that_is_none():
    with pytest.raises(InputError, match=r"dynamic_shapes names y, and the inputs are x\."):
        nanproof.convert(Flat(), (X,), dynamic_shapes={"y": {1: Dim("n", min=2, max=9)}})
