"""The metrics against NumPy, and on everything that is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nanproof
from nanproof.comparison.compare import as_batches
from nanproof.comparison.metrics import difference
from nanproof.errors import InputError

INF, NAN = math.inf, math.nan


def test_error_is_relative_to_the_range():
    found = difference(np.array([0.0, 10.5]), np.array([0.0, 10.0]))
    assert found.error == pytest.approx(0.05)
    assert found.largest == 0.5
    assert found.snr_db == pytest.approx(20 * math.log10(20))


def test_a_constant_reference_is_measured_by_its_magnitude():
    assert difference(np.full(3, 5.1), np.full(3, 5.0)).error == pytest.approx(0.02)
    assert difference(np.full(3, 0.1), np.zeros(3)).error == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("actual", "reference", "nonfinite"),
    [
        ([1, NAN], [1, 2], 1),
        ([1, INF], [1, 2], 1),
        ([1, INF], [1, INF], 0),
        ([1, -INF], [1, INF], 1),
        ([1, NAN], [1, NAN], 0),
        ([1, 2], [1, NAN], 1),
        ([NAN, NAN], [NAN, NAN], 0),
    ],
)
def test_what_is_not_finite(actual, reference, nonfinite):
    found = difference(np.array(actual, float), np.array(reference, float))
    assert found.nonfinite == nonfinite
    assert found.within(1e9) == (nonfinite == 0)
    assert math.isinf(found.error) == (nonfinite > 0)


def test_cosine_of_the_worst_row():
    reference = np.array([[1.0, 0.0], [0.0, 1.0]])
    actual = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert difference(actual, reference).cosine == pytest.approx(1 / math.sqrt(2))


def test_shapes_have_to_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        difference(np.ones(2), np.ones(3))


def test_empty_and_scalar():
    assert difference(np.ones(0), np.ones(0)).within(0.0)
    assert difference(np.array(1.0), np.array(1.0)).cosine == 1.0


def test_batches():
    import torch

    x = torch.ones(2)
    assert len(as_batches((x, x))) == 1
    assert len(as_batches([x, x])) == 1
    assert len(as_batches([(x, x), (x, x)])) == 2
    assert len(as_batches({"x": x})) == 1
    with pytest.raises(InputError, match="at least one batch"):
        as_batches([])


def test_comparing_needs_as_many_inputs_as_the_program_takes():
    import torch

    module = torch.nn.Linear(3, 2)
    program = nanproof.convert(module, (torch.ones(1, 3),)).program
    with pytest.raises(InputError, match=r"takes 1 inputs \(input\), but the call has 2 tensors"):
        nanproof.compare(program, module, (torch.ones(1, 3), torch.ones(1)))
