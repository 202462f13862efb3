"""Masks that hide nothing are dropped, and no other ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nanproof.capture.constant_masks import drop_empty_masks

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def of_ones(x):
    return torch.ones(5, 5, dtype=torch.bool)[None].expand(x.shape[0], 5, 5)


def of_positions(x):
    return torch.arange(5)[:, None] >= torch.arange(5) - 9


def causal(x):
    return torch.arange(5)[:, None] >= torch.arange(5)


def of_the_input(x):
    return (x.sum(-1) < 1e9)[:, None, :].expand(x.shape[0], 5, 5)


def of_floats(x):
    return torch.zeros(5, 5)


class Attending(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        self.register_buffer("ones", torch.ones(5, 5, dtype=torch.bool))

    def forward(self, x):
        mask = self.ones if self.mask is None else self.mask(x)
        return F.scaled_dot_product_attention(x, x, x, mask)


def masks(mask):
    exported = torch.export.export(Attending(mask), (torch.randn(2, 5, 4),), strict=False)
    drop_empty_masks(exported)
    return exported, [node.args[3] for node in exported.graph.nodes if node.target is ATTENTION]


@pytest.mark.parametrize("mask", [of_ones, of_positions])
def test_a_constant_mask_of_ones_is_dropped(mask):
    exported, found = masks(mask)
    assert found == [None]
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(exported.module()(x), Attending(mask)(x))


@pytest.mark.parametrize("mask", [causal, of_the_input, of_floats, None], ids=["causal", "input", "floats", "buffer"])
def test_any_other_mask_stays(mask):
    (found,) = masks(mask)[1]
    assert isinstance(found, torch.fx.Node)
