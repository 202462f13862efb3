"""Attention stays whole, and a query that may attend to nothing gets what PyTorch gives it: zeros."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect
from tests.mil.operators import Applied

_GENERATOR = torch.Generator().manual_seed(5)


def _normal(*shape):
    return torch.randn(*shape, generator=_GENERATOR)


Q, K, V = _normal(2, 4, 5, 4), _normal(2, 4, 6, 4), _normal(2, 4, 6, 7)
ALLOWED = _normal(2, 1, 5, 6) > 0
ALLOWED[1, 0, 2] = False
HIDING = torch.where(ALLOWED, _normal(2, 1, 5, 6), -torch.inf)
KEEPING = ALLOWED | (torch.arange(6) == 0)

CASES = {
    "boolean mask, a row hidden": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), Q, K, V, ALLOWED),
    "boolean mask by keyword": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m, scale=0.3),
        *(Q, K, V, ALLOWED),
    ),
    "float mask, a row of -inf": (lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m), Q, K, V, HIDING),
    "scores far above zero": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        *(Q.abs() * 80, K.abs() * 80, V, KEEPING),
    ),
    "a sentinel of the model's own": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, (1 - m.float()) * torch.finfo(q.dtype).min),
        *(Q, K, V, KEEPING),
    ),
    "two sentinels that add up to -inf": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, torch.where(m, 0.0, -3e38) * 2),
        *(Q, K, V, ALLOWED),
    ),
    "heads that share keys": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, enable_gqa=True),
        *(Q, K[:, :2], V[:, :2], ALLOWED),
    ),
    "causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), Q, K, V),
    "no mask": (F.scaled_dot_product_attention, Q, K, V),
    "no heads": (F.scaled_dot_product_attention, Q[0, 0], K[0, 0], V[0, 0]),
    "one query for all": (F.scaled_dot_product_attention, Q[:1, :1], K, V),
    "two layers, one mask": (
        lambda q, m: F.scaled_dot_product_attention(F.scaled_dot_product_attention(q, q, q, m), q, q, m),
        *(Q, ALLOWED[..., :5]),
    ),
}


def lowered(name, target):
    function, *inputs = CASES[name]
    captured = capture(Applied(function), tuple(inputs))
    return reflect(lower(captured.exported, Options(minimum_deployment_target=target))), captured.input_names, inputs


@pytest.mark.parametrize("target", ["iOS15", "iOS17", "iOS18"])
@pytest.mark.parametrize("name", CASES)
def test_attention_agrees_with_pytorch(name, target):
    program, names, inputs = lowered(name, target)
    arrays = [t.numpy().astype(np.int32) if t.dtype == torch.bool else t.numpy() for t in inputs]
    (found,) = Executor(program).once(dict(zip(names, arrays, strict=True))).values()
    expected = CASES[name][0](*inputs).numpy()
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "target", "ops"),
    [
        ("no mask", "iOS17", ["mul", "matmul", "softmax", "matmul"]),
        ("causal", "iOS17", ["mul", "matmul", "select", "softmax", "matmul"]),
        ("causal", "iOS18", ["scaled_dot_product_attention"]),
        # Without the guard of a row that may be hidden, since its mask is made of finite numbers.
        (
            "a sentinel of the model's own",
            "iOS17",
            ["cast", "sub", "mul", "mul", "matmul", "add", "softmax", "matmul"],
        ),
    ],
)
def test_attention_is_as_short_as_it_can_be(name, target, ops):
    program, _, _ = lowered(name, target)
    kinds = [op.type for op in program.walk()]
    assert sorted(kind for kind in kinds if kind != "cast") == sorted(kind for kind in ops if kind != "cast")


def test_layers_share_what_they_need_of_the_mask():
    one, two = (len(list(lowered(name, "iOS17")[0].walk())) for name in (*CASES,) if name in _MASKED)
    assert two - one == 6  # mul, matmul, select, softmax, matmul, and the product that clears hidden rows


_MASKED = ("boolean mask, a row hidden", "two layers, one mask")
