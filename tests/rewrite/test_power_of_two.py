"""Overflows that a power of two takes away: norms, products, sums and residual streams, without an FP32 operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanproof
from nanproof.mil.coreml import ct, quiet
from tests.rewrite.judged import applied, converted, errors

WIDTH = 32


def draw(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def rms_norm(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def layer_norm(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)


def instance_norm(x):
    var = x.var(dim=(1, 2), keepdim=True, unbiased=False)
    return (x - x.mean(dim=(1, 2), keepdim=True)) / torch.sqrt(var + 1e-5)


def cosine(x, y):
    return (x * y).sum(-1) / torch.sqrt((x * x).sum(-1) * (y * y).sum(-1) + 1e-3)


def attention(q, k):
    return torch.softmax((q @ k.transpose(1, 2)) * WIDTH**-0.5 * 0.01, -1)


def log_power(x):
    return torch.log((x * x).sum(-1) + 1.0) / 4


class Norms(nn.Module):
    """GroupNorm, which coremltools writes out as mean, square and root."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x):
        return self.norm(x.reshape(1, 8, 8, -1))


# Each with the factor by which normal numbers are multiplied to make it overflow.
SCALED = {
    "rms norm": (Of(rms_norm), (4, WIDTH), 700.0, "NP111"),
    "layer norm": (Of(layer_norm), (4, WIDTH), 700.0, "NP111"),
    "group norm": (Norms(), (1, 8 * WIDTH), 700.0, "NP111"),
    "instance norm": (Of(instance_norm), (2, 8, 8), 700.0, "NP111"),
    "l2 norm": (Of(lambda x: F.normalize(x, dim=-1)), (4, WIDTH), 700.0, "NP111"),
    "logarithm of a power": (Of(log_power), (4, WIDTH), 700.0, "NP111"),
    "sum over a map": (Of(lambda x: x.abs().sum((1, 2)) / 4096), (2, 64, 64), 200.0, "NP113"),
    "square root of squares": (Of(lambda x: torch.sqrt((x * x).sum(-1))), (4, WIDTH), 400.0, "NP111"),
    "scaled after a sum": (Of(lambda x: (x + x.flip(-1)) * 0.01), (4, WIDTH), 25000.0, "NP114"),
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_without_fp32(name):
    module, shape, factor, code = SCALED[name]
    rows = torch.linspace(0.3, 1.0, shape[0]).reshape(-1, *(1 for _ in shape[1:])) * factor
    large, small = draw(*shape).clamp(-2.5, 2.5) * rows, draw(*shape, seed=4).clamp(-2.5, 2.5) * rows / 4
    result = converted(module, (large,), (small,))
    assert applied(result) == {"power-of-two"}
    assert result.plan.fp32_ops == 0
    assert {finding.code for finding in result.findings} == {code}
    assert all("rewritten: carried as 2^-" in finding.remedy for finding in result.findings)
    assert max(errors(result, module, (large,), (small,)).values()) < 5e-3


@pytest.mark.parametrize("name", SCALED)
def test_left_alone_where_nothing_overflows(name):
    module, shape, factor, _ = SCALED[name]
    # Adding up a map in FP16, as `strict` does, is off by 3 % of the small range of its mean, which is another matter.
    result = converted(module, (draw(*shape) * min(factor / 5000, 1.0),), tolerance=0.1)
    assert applied(result) == set()
    assert result.findings == ()
    assert result.plan.fp32_ops == 0


def test_scores_are_scaled_before_the_product():
    q, k = draw(2, 6, WIDTH) * 250, draw(2, 6, WIDTH, seed=5) * 250
    result = converted(Of(attention), (q, k))
    assert applied(result) == {"power-of-two"}
    assert {f.code for f in result.findings} == {"NP112"}
    assert result.plan.fp32_ops == 0
    assert max(errors(result, Of(attention), (q, k)).values()) < 2e-2


@pytest.mark.parametrize(("units", "names"), [(("gpu",), set()), (("ane",), {"power-of-two"})])
def test_the_accumulator_of_the_neural_engine_ends_at_two_to_the_fifteenth(units, names):
    """A product of 40,000 is a number on the GPU, and infinite on the Neural Engine (device facts A3, A4)."""
    module = Of(lambda q, k: torch.tanh((q @ k.transpose(1, 2)) / 65536))
    q, k = torch.full((1, 2, 16), 50.0), torch.full((1, 2, 16), 50.0)
    result = converted(module, (q, k), units=units)
    assert applied(result) == names
    assert errors(result, module, (q, k), units=units)[units[0]] < 1e-2


def test_cosine_of_large_vectors():
    x, y = draw(4, WIDTH) * 12, draw(4, WIDTH, seed=6) * 12
    result = converted(Of(cosine), (x, y))
    assert applied(result) == {"power-of-two"}
    assert result.plan.fp32_ops == 0
    assert max(errors(result, Of(cosine), (x, y)).values()) < 5e-3


class Block(nn.Module):
    def __init__(self, gain):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.down.weight.data.mul_(gain)
        self.down.bias.data.mul_(gain)

    def forward(self, x):
        return x + self.down(F.relu(self.up(rms_norm(x))))


class Stream(nn.Module):
    """A residual stream that leaves the range, read through norms alone."""

    def __init__(self, gain, blocks=4):
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(50, WIDTH), nn.Linear(WIDTH, 5)
        self.blocks = nn.Sequential(*(Block(gain) for _ in range(blocks)))

    def forward(self, ids):
        return self.head(rms_norm(self.blocks(self.embed(ids))))


def test_a_residual_stream_through_norms_needs_no_fp32():
    module, ids = Stream(gain=60000.0), torch.arange(12, dtype=torch.int32).reshape(1, 12)
    result = converted(module, (ids,), (ids.flip(1),))
    assert applied(result) == {"power-of-two"}
    assert result.plan.fp32_ops == 0
    assert result.plan.islands == ()
    assert max(errors(result, module, (ids,)).values()) < 1e-2


def test_a_residual_stream_that_fits_is_left_alone():
    result = converted(Stream(gain=10.0), (torch.arange(12, dtype=torch.int32).reshape(1, 12),))
    assert (applied(result), result.findings, result.plan.fp32_ops) == (set(), (), 0)


def test_what_reads_the_large_value_itself_stays_fp32():
    """A sine is not homogeneous: it needs the angle itself."""
    module, x = Of(lambda x: torch.sin(x * x)), (torch.arange(257.0, 289.0).reshape(4, 8),)
    result = converted(module, x)
    assert applied(result) == set()
    assert {f.code for f in result.findings} == {"NP110"}
    assert result.plan.fp32_ops > 0
    assert max(errors(result, module, x).values()) < 1e-2


def test_small_values_that_would_vanish_refuse_the_rewrite():
    """Most of the rows are of size 1e-2: their squares, divided by 2**10 and more, are no FP16 numbers."""
    rows = torch.tensor([1000.0, 1e-2, 1e-2, 1e-2]).repeat(2)[:, None]
    x = (draw(8, WIDTH) * rows,)
    result = converted(Of(rms_norm), x)
    assert applied(result) == set()
    assert result.plan.fp32_ops > 0
    assert max(errors(result, Of(rms_norm), x).values()) < 5e-3


def test_a_divisor_that_would_vanish_refuses_the_rewrite():
    """Most divisors are large, one is 1e-3: an FP16 number of its size, divided by 2**6, has few bits left."""
    module = Of(lambda x: 0.5 / x.square())
    x = torch.cat([torch.full((1, 7), 900.0), torch.full((1, 1), 0.03)], 1)
    result = converted(module, (x,))
    assert applied(result) == set()
    assert result.plan.fp32_ops > 0
    assert max(errors(result, module, (x,)).values()) < 5e-3


def test_room_for_larger_inputs():
    """What was scaled leaves room: twice the calibrated input still gives the right result."""
    x = draw(4, WIDTH) * 700
    result = converted(Of(rms_norm), (x,))
    assert max(errors(result, Of(rms_norm), (x * 2,)).values()) < 5e-3


def test_rows_of_zeros_stay_zeros():
    x = draw(4, WIDTH) * 700
    x[1] = 0
    result = converted(Of(rms_norm), (x,))
    assert applied(result) == {"power-of-two"}
    assert max(errors(result, Of(rms_norm), (x,)).values()) < 5e-3


def test_rows_of_small_variance_refuse_the_rewrite():
    """Scaled for the one large row, the variance of the small ones would drown in the smallest epsilon of FP16."""
    module = Of(lambda x: F.layer_norm(x * 40.0 + x.flip(-1) * 40.0, (WIDTH,)))
    rows = torch.tensor([1500.0, 1500.0, 1500.0, 0.02])[:, None]
    x = (draw(4, WIDTH) * rows,)
    result = converted(module, x)
    assert applied(result) == set()
    assert result.plan.fp32_ops > 0
    assert max(errors(result, module, x).values()) < 5e-3


def test_a_map_of_zeros_stays_zeros():
    """Where the deviation is 0 the epsilon is all that is divided by: it has to survive every division by two."""
    module, shape, factor, _ = SCALED["group norm"]
    x = draw(*shape).clamp(-2.5, 2.5) * factor
    result = converted(module, (x,), stress=False)
    assert applied(result) == {"power-of-two"}
    assert max(errors(result, module, (x,), (torch.zeros(shape),)).values()) < 5e-3


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch.export's own
def test_coremltools_alone_loses_the_rows():
    """The control: with FP16 and no rewrite the squares are infinite, and rows of a large norm become zeros."""
    x = draw(4, WIDTH) * 700
    exported = torch.export.export(Of(rms_norm), (x,), strict=False).run_decompositions()
    with quiet():
        plain = nanproof.load(ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True))
    (output,) = nanproof.predict(plain, {next(iter(plain.inputs)): x.numpy()}, numerics="gpu").values()
    assert not output.any()


def test_a_layer_norm_whose_squares_overflow_inside():
    """`strict` keeps the sum of squares of a layer norm in binary16; the epsilon is scaled with it."""
    module, x = nn.LayerNorm(WIDTH), (draw(4, WIDTH) * 200,)
    result = converted(module, x)
    assert applied(result) == {"power-of-two"}
    assert {f.code for f in result.findings} == {"NP111"}
    assert result.plan.fp32_ops == 0
    assert max(errors(result, module, x).values()) < 5e-3
    assert applied(converted(module, x, units=("gpu",))) == set()
