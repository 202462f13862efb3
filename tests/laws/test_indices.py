"""Indices that are to be validated: iOS17 calls negative ones invalid, and Core ML refuses them at run time.

The evidence is coremltools' own test of the scatter ops on a Mac (iOS17/test_scatter_gather.py,
``test_ios17_invalid_indices``): a RuntimeError with ``validate_indices``, whatever is invalid.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops import TABLE

DATA, ROW = torch.arange(6.0).reshape(2, 3), torch.tensor([[1, 0, 1]])


def call(name, indices, **validated):
    data = {"x": DATA} if name.startswith("gather") else {"data": DATA, "updates": torch.ones_like(DATA)}
    if name == "scatter_along_axis":
        data["updates"] = torch.ones(1, 3)
    return TABLE[name].run(SingleInside(), indices=indices, **data, **validated)


CASES = [
    ("gather", torch.tensor([1, 0])),
    ("gather_along_axis", ROW),
    ("gather_nd", torch.tensor([[1], [0]])),
    ("scatter", torch.tensor([1, 0])),
    ("scatter_along_axis", ROW),
    ("scatter_nd", torch.tensor([[1], [0]])),
]


@pytest.mark.parametrize(("name", "indices"), CASES)
def test_negative_indices_are_refused_only_where_they_are_validated(name, indices):
    valid = call(name, indices, validate_indices=torch.tensor(True))
    negative = indices - 2
    for validated in ({}, {"validate_indices": torch.tensor(False)}):
        assert np.array_equal(call(name, negative, **validated), valid)
    with pytest.raises(IndexError, match="the indices reach from -2 to -1, but the axis has 2 elements"):
        call(name, negative, validate_indices=torch.tensor(True))


@pytest.mark.parametrize(("name", "indices"), CASES)
def test_indices_beyond_both_ends_are_always_refused(name, indices):
    for wrong in (indices + 1, indices - 3):
        for validated in ({}, {"validate_indices": torch.tensor(False)}, {"validate_indices": torch.tensor(True)}):
            with pytest.raises(IndexError, match="but the axis has 2 elements"):
                call(name, wrong, **validated)
