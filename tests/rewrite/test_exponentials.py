"""Exponentials and logarithms that overflow or vanish on the way to a result that fits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.rewrite.judged import applied, converted, errors
from tests.rewrite.test_power_of_two import Of, draw

CAUSAL = torch.ones(8, 8).tril()


def tanh_written_out(x):
    return (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x))


def masked(x):
    return torch.exp(x[:, :, None] - x[:, None, :]) * CAUSAL


# Each with inputs that overflow or vanish, inputs that do not, and the code of the finding.
FORMS = {
    "softplus": (F.softplus, torch.linspace(-20, 19, 40)[None], torch.linspace(-5, 8, 40)[None], "NP115"),
    "mish": (F.mish, torch.linspace(-20, 19, 40)[None], torch.linspace(-5, 8, 40)[None], "NP115"),
    "log-sum-exp": (
        lambda x: torch.log(torch.exp(x).sum(-1)),
        torch.linspace(0, 30, 64).reshape(8, 8),
        torch.linspace(0, 6, 64).reshape(8, 8),
        "NP115",
    ),
    "log-softmax": (
        lambda x: torch.log(torch.softmax(x, -1)),
        draw(4, 9) * 10,
        draw(4, 9).clamp(-2, 2),
        "NP116",
    ),
    "tanh-ratio": (tanh_written_out, torch.linspace(-30, 30, 41)[None], torch.linspace(-5, 5, 41)[None], "NP115"),
    "exp-before-mask": (masked, -torch.arange(8.0)[None] * 4, -torch.arange(8.0)[None], "NP115"),
    "log-floor": (
        lambda x: torch.log(torch.relu(x) + 1e-8),
        torch.linspace(-1, 1, 40)[None],
        torch.linspace(0.1, 1, 40)[None],
        "NP117",
    ),
}
NAMES = {"mish": "softplus"}


@pytest.mark.parametrize("form", FORMS)
def test_rewritten_without_fp32(form):
    function, hazard, benign, code = FORMS[form]
    result = converted(Of(function), (hazard,), (benign.reshape(hazard.shape),))
    assert applied(result) == {NAMES.get(form, form)}
    assert {f.code for f in result.findings} == {code}
    assert result.plan.fp32_ops == 0
    assert max(errors(result, Of(function), (hazard,), (benign.reshape(hazard.shape),)).values()) < 5e-3


@pytest.mark.parametrize("form", FORMS)
def test_left_alone_where_nothing_is_lost(form):
    function, _, benign, _ = FORMS[form]
    result = converted(Of(function), (benign,), stress=False)
    assert (applied(result), result.findings, result.plan.fp32_ops) == (set(), (), 0)


def test_one_form_inside_of_another_reads_what_the_first_has_become():
    module = Of(lambda x: F.softplus(F.softplus(x) * 2))
    x = (torch.linspace(-20, 19, 40)[None],)
    result = converted(module, x)
    assert applied(result) == {"softplus"}
    assert result.plan.fp32_ops == 0
    assert max(errors(result, module, x).values()) < 5e-3


def test_the_floor_of_values_too_large_to_scale_is_left_alone():
    """2**14 times 100 is no FP16 number: the epsilon of 1e-8 cannot become a normal number beside it."""
    result = converted(Of(lambda x: torch.log(torch.relu(x) + 1e-8)), (torch.linspace(-1, 100, 40)[None],))
    assert applied(result) == set()


def test_a_computed_mask_is_left_to_fp32():
    """The mask need not be 0 where the exponential overflows on the next input."""
    module = Of(lambda x, m: torch.exp(x) * m)
    x, m = torch.linspace(0, 20, 8)[None], (torch.arange(8) < 4).float()[None]
    result = converted(module, (x, m), stress=False)
    assert applied(result) == set()
    assert result.plan.fp32_ops > 0
    assert max(errors(result, module, (x, m)).values()) < 5e-3


def test_a_quotient_of_other_sums_is_no_tanh():
    module = Of(lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-2 * x)))
    result = converted(module, (torch.linspace(-12, 12, 41)[None],))
    assert "tanh-ratio" not in applied(result)
    assert max(errors(result, module, (torch.linspace(-12, 12, 41)[None],)).values()) < 1e-2


def test_infinite_scores_refuse_the_shift():
    """-Inf minus a maximum of -Inf is NaN: a row that masks everything has no maximum to subtract."""
    mask = torch.zeros(4, 9)
    mask[:, 5:] = float("-inf")
    module = Of(lambda x: torch.softmax(torch.log(torch.softmax(x + mask, -1)).clamp(min=-50.0), -1))
    result = converted(module, (draw(4, 9) * 3,))
    assert "log-softmax" not in applied(result)
