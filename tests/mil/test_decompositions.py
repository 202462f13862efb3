"""Operators that coremltools 9.0 lacks or computes as something else, in float32 against PyTorch.

The values lie where the faults are: all quadrants, zeros, ties, negative places, integers beyond 2^24.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.mil.operators import assert_agreement

_GENERATOR = torch.Generator().manual_seed(3)


def _normal(*shape):
    return torch.randn(*shape, generator=_GENERATOR)


def _ints(*values):
    return torch.tensor(values, dtype=torch.int32)


X, Y, IMAGE, BLOCK = _normal(3, 5), _normal(3, 5), _normal(2, 4, 8, 9), _normal(4, 6, 5)
SIGNED, DIVISORS = _ints(-7, -3, -1, 0, 1, 3, 7, 8), _ints(2, 2, -2, 3, 3, -3, -4, 4)
LARGE = _ints(16777217, -16777217, 33554433, 5, -3, 70000, -70000)
SINES = torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 2.0, -2.0, 1e-9, -1e-9, 1e30, 0.0])
COSINES = torch.tensor([1.0, -1.0, 0.0, 0.0, 1.0, -1.0, -3.0, 3.0, -1.0, 1.0, 1e-30, -5.0])
GRID = _normal(2, 4, 5, 2) * 0.7


def _assigned(x, ids):
    x = x.clone()
    x[:, ids.long()] = 0.0
    return x


CASES = {
    "trunc": (torch.trunc, X * 3),
    "frac": (torch.frac, X * 3),
    "fmod of floats": (torch.fmod, SIGNED + 0.5, DIVISORS.float()),
    "fmod of integers": (torch.fmod, SIGNED, DIVISORS),
    "fmod by a number": (lambda x: torch.fmod(x, -3), SIGNED),
    "remainder of a number": (lambda x: torch.remainder(10, x), DIVISORS),
    "isinf": (torch.isinf, torch.tensor([1.0, float("inf"), -float("inf"), 3e38])),
    "atan2": (torch.atan2, SINES, COSINES),
    "hypot": (torch.hypot, torch.tensor([3.0, 0.0, 1e30, -5.0]), torch.tensor([4.0, 0.0, 1e30, 12.0])),
    "asinh": (torch.asinh, X * 3),
    "acosh": (torch.acosh, X.abs() + 1.1),
    "erfc": (torch.erfc, X),
    "round to decimals": (lambda x: torch.round(x, decimals=2), X),
    "copysign": (torch.copysign, X, Y),
    "fmax": (torch.fmax, torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([3.0, float("nan"), 5.0])),
    "fmin": (torch.fmin, torch.tensor([float("nan"), 1.0, 2.0]), torch.tensor([3.0, float("nan"), 5.0])),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), X, Y),
    "lerp beyond the middle": (lambda x, y: torch.lerp(x, y, 0.7), X, Y),
    "relu6": (F.relu6, X * 9),
    "or of booleans": (torch.bitwise_or, X > 0, Y > 0),
    "xor of booleans": (torch.bitwise_xor, X > 0, Y > 0),
    "any of fractions": (lambda x: torch.any(x, dim=1), torch.tensor([[0.0, 0.5], [0.0, 0.0]])),
    "var of all": (torch.var, X),
    "var and mean": (lambda x: torch.var_mean(x, 1), X),
    "var and mean, correction 2": (lambda x: torch.var_mean(x, correction=2), X),
    "log_softmax far below": (lambda x: x.log_softmax(-1), X * 100),
    "argmax of all": (torch.argmax, X),
    "argmin of all": (torch.argmin, X),
    "addmv": (lambda x, v: torch.addmv(x[:, 0], x, v, beta=0.5, alpha=2.0), X, _normal(5)),
    "addbmm": (lambda a, x: torch.addbmm(a, x, x, beta=0.5, alpha=2.0), _normal(3, 3), _normal(2, 3, 3)),
    "bilinear": (F.bilinear, X, Y, _normal(4, 5, 5), _normal(4)),
    "cdist": (torch.cdist, X, Y),
    "dist": (torch.dist, X, Y),
    "clamp of integers from below": (lambda x: x.clamp(min=-3), LARGE),
    "clamp of integers from above": (lambda x: x.clamp(max=100000), LARGE),
    "clamp of integers on both sides": (lambda x: x.clamp(-100000, 33554433), LARGE),
    "clamp of integers, bounds crossed": (lambda x: x.clamp(5, -5), SIGNED),
    "clamp of integers by a fraction": (lambda x: x.clamp(min=0.5), SIGNED),
    "prod": (lambda x: x.prod(1), X),
    "prod, axis kept": (lambda x: x.prod(-1, keepdim=True), X),
    "prod of all": (torch.prod, X),
    "gather of fewer rows": (lambda x, i: x.gather(0, i.long()), X, _ints(0, 2, 1).reshape(1, 3)),
    "index_put behind a whole axis": (_assigned, X, _ints(0, -1)),
    "index_copy": (lambda x, i, y: x.index_copy(1, i.long(), y[:, :2]), X, _ints(0, 3), Y),
    "index_fill": (lambda x, i: x.index_fill(1, i.long(), 9.0), X, _ints(0, 3)),
    "diagonal": (torch.diagonal, _normal(5, 5)),
    "diagonal above": (lambda x: x.diagonal(2), _normal(4, 6)),
    "diagonal below": (lambda x: x.diagonal(-1), _normal(4, 6)),
    "diagonal of other axes": (lambda x: x.diagonal(1, 0, 2), BLOCK),
    "einsum of a diagonal": (lambda x: torch.einsum("ii->i", x), _normal(4, 4)),
    "as_strided": (lambda x: torch.as_strided(x, (2, 3), (5, 2), 1), X),
    "as_strided, repeated": (lambda x: torch.as_strided(x, (2, 3), (0, 2), 1), X),
    "unfold": (lambda x: x.unfold(1, 3, 2), BLOCK),
    "unfold without overlap": (lambda x: x.unfold(-1, 2, 2), BLOCK),
    "roll": (lambda x: x.roll(2, 1), BLOCK),
    "roll back along two axes": (lambda x: x.roll((-1, 13), (0, 2)), BLOCK),
    "roll of all": (lambda x: x.roll(3), X),
    "pad by less than nothing": (lambda x: F.pad(x, (-1, 2, 1, -1), value=3.0), X),
    "crop by padding": (lambda x: F.pad(x, (-1, -2)), X),
    "fold": (lambda x: F.fold(x, (5, 6), (2, 3)), _normal(2, 12, 16)),
    "fold with steps": (lambda x: F.fold(x, (7, 6), (3, 2), padding=1, stride=2), _normal(2, 12, 16)),
    "fold without a batch": (lambda x: F.fold(x, (5, 6), (2, 3)), _normal(12, 16)),
    "bucketize": (lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0])), torch.tensor([-2.0, -1.0, 0.5, 1.0])),
    "bucketize, right": (
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 1.0]), right=True),
        torch.tensor([-2.0, -1.0, 0.5, 1.0]),
    ),
    "kthvalue": (lambda x: x.kthvalue(2, 1), X),
    "median": (lambda x: x.median(1), _normal(3, 6)),
    "median of all": (torch.median, X),
    "avg_pool2d with a divisor": (lambda x: F.avg_pool2d(x, 2, padding=1, divisor_override=3), IMAGE),
    "empty_permuted": (lambda x: torch.empty_like(x).fill_(2.0) + x, X),
}
PLACES = torch.tensor([[0, 2, 1, 2, 0], [1, 1, 0, 2, 2]])
MASK, WORDS, OTHERS = _normal(3, 5) > 0, _ints(-(2**31), 2**31 - 1, -1, 0, 5, -77), _ints(3, -9, 2**30, -5, 6, 77)
ONE, BAGS = torch.tensor(0.5), _ints(0, 2, 2)


CASES |= {
    "and of integers": (torch.bitwise_and, WORDS, OTHERS),
    "or of integers": (torch.bitwise_or, WORDS, OTHERS),
    "xor of integers": (torch.bitwise_xor, WORDS, OTHERS),
    "not of integers": (torch.bitwise_not, WORDS),
    "shift to the left": (lambda x: x << 3, SIGNED),
    "shift to the right": (lambda x: x >> 2, WORDS),
    "sine of integers": (torch.sin, SIGNED),
    "floor of integers": (torch.floor, LARGE),
    "relu of integers": (torch.relu, SIGNED),
    "cummax": (lambda x: x.cummax(1), torch.tensor([[1.0, 3.0, 3.0, -2.0], [0.0, -1.0, 5.0, 5.0]])),
    "cummin": (lambda x: x.cummin(0), X),
    "logcumsumexp": (lambda x: x.logcumsumexp(1), X),
    "sort, stable": (lambda x: x.sort(stable=True, descending=True), torch.tensor([1.0, 3.0, 1.0, 2.0])),
    "masked_scatter": (torch.masked_scatter, X, MASK, Y),
    "scatter of fewer rows": (lambda x, i, y: x.scatter(0, i, y), X, PLACES[:1], Y),
    "scatter_add of fewer rows": (lambda x, i, y: x.scatter_add(0, i, y[:2]), X, PLACES, Y),
    "embedding_bag": (lambda w, i, o: F.embedding_bag(i, w, o, mode="mean"), X, PLACES[0], BAGS),
    "pdist": (F.pdist, X),
    "layer_norm with weights that are inputs": (lambda x, w, b: F.layer_norm(x, (5,), w, b), X, X[0], Y[0]),
    "where without axes": (lambda x, y: torch.where(x > 0, x, y), ONE, ONE * 3),
    "where with a wide condition": (lambda m, x: torch.where(m, x, 0.5), MASK, ONE),
    "sum without axes": (lambda x: x.sum(0) + x.amax(-1) + x.cumsum(0), ONE),
    "softmax without axes": (lambda x: x.softmax(0) + x.logsumexp(0), ONE),
    "sort without axes": (lambda x: x.sort(), ONE),
    "softplus": (F.softplus, X * 20),
    "softplus, steep, with a low threshold": (lambda x: F.softplus(x, 3, 0.2), X * 20),
    "scatter that multiplies": (lambda x, i: x.scatter(0, i, 2.5, reduce="multiply"), X, PLACES),
    "batch_norm of its own statistics": (lambda x: F.batch_norm(x, None, None, training=True), IMAGE),
    "an input laid out backwards": (lambda x: x * 2, X.T.contiguous().T),
    "linear without axes but one": (F.linear, X[0], Y),
    "matmul of four axes": (torch.matmul, _normal(2, 3, 4, 5), _normal(3, 5, 2)),
}
for _reduce in ("sum", "prod", "mean", "amax", "amin"):
    for _own in (False, True):
        CASES[f"scatter_reduce {_reduce} {_own}"] = (
            lambda x, i, y, r=_reduce, o=_own: x.scatter_reduce(0, i, y[:2], r, include_self=o),
            *(X, PLACES, Y),
        )
for _mode in ("bilinear", "nearest"):
    for _padding in ("zeros", "border", "reflection"):
        for _corners in (False, True):
            CASES[f"grid_sample {_mode} {_padding} {_corners}"] = (
                lambda x, g, m=_mode, p=_padding, c=_corners: F.grid_sample(x, g, m, p, c),
                IMAGE,
                GRID,
            )


@pytest.mark.parametrize("name", CASES)
def test_decomposed_operator_agrees_with_pytorch(name):
    function, *inputs = CASES[name]
    assert_agreement(function, inputs)
