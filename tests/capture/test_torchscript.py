"""TorchScript: traced and scripted modules, judged like any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nanproof
from nanproof.errors import CaptureError, InputError
from nanproof.mil.coreml import ct

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # people have such models still


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        bias = (1.0 - mask[:, None, :].float()) * -3.4028234663852886e38
        scores = x @ x.transpose(1, 2) + bias
        return self.dropout(torch.softmax(scores, -1) @ self.linear(x))


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def traced():
    return torch.jit.trace(Attention().eval(), (X, MASK))


def scripted():
    return torch.jit.script(Attention())


@pytest.mark.parametrize("make", [traced, scripted])
def test_masks_are_rewritten_as_in_any_model(make):
    result = nanproof.convert(make(), (X, MASK), units=("gpu", "strict"))
    assert result.passed
    assert result.fidelity.error < 1e-6
    assert [(f.code, f.remedy[:9]) for f in result.findings] == [("NP101", "rewritten")]
    assert list(result.program.inputs) == ["x", "mask"]
    assert result.plan.fp32_ops == 0
    (ours,) = nanproof.predict(result.program, {"x": X, "mask": MASK}, numerics="strict").values()
    np.testing.assert_allclose(ours, Attention().eval()(X, MASK).detach().numpy(), atol=1e-2)


def test_the_module_is_left_as_it_was():
    module = scripted()
    assert module.training
    nanproof.convert(module, {"mask": MASK, "x": X})
    assert module.training


class Reborn(nn.Module):
    """FP16 rounding makes 1 - 1 of it, and a division by zero."""

    def forward(self, x):
        return 1.0 / ((1.0 + x) - 1.0)


def test_births_are_charged_to_the_ops_of_the_lowered_program():
    x = torch.full((2, 8), 1e-4)
    result = nanproof.convert(torch.jit.trace(Reborn(), (x,)), (x,))
    assert "NP120" in {f.code for f in result.findings}
    assert result.units["gpu"].comparison.nonfinite == 0


def test_names_and_dtypes_come_from_the_declarations():
    declared = [ct.TensorType(name="a", shape=X.shape), ct.TensorType(name="b", shape=MASK.shape, dtype=np.int32)]
    result = nanproof.convert(traced(), inputs=declared)
    assert {n: str(t) for n, t in result.program.inputs.items()} == {"a": "fp32[2, 5, 8]", "b": "int32[2, 5]"}


def test_passes_are_checked_too():
    assert nanproof.convert(traced(), (X, MASK), verify_passes=True).seconds["check passes"] > 0


def test_wrong_inputs():
    with pytest.raises(InputError, match="takes x, mask, and not masque"):
        nanproof.convert(traced(), {"x": X, "masque": MASK})
    with pytest.raises(CaptureError, match="fails on the example inputs, before any conversion"):
        nanproof.convert(traced(), (X,))
    with pytest.raises(InputError, match="Example inputs are missing"):
        nanproof.convert(traced())
