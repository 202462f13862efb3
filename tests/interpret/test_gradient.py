"""The differentiable reading, against slopes by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nanproof.interpret.gradient import Differentiator
from tests.refutation.networks import dot, half, lookup, number, op, program


def largest(op, operands, results):
    return results[0].sum()


def test_slopes_are_those_of_the_function():
    p = dot([2.0, -3.0])
    found = Differentiator(p)({"x": np.array([[5.0, 7.0]], np.float16)}, p.main.block.ops[0], largest)
    assert found is not None
    assert found.goal == -11
    assert found.inputs["x"].tolist() == [[2.0, -3.0]]
    assert found.taps == ()


def test_values_beyond_binary16_are_not_cut():
    x, square, y = half("x", (1,)), half("square", (1,)), half("y", (1,))
    p = program([x], [op("mul", square, x=x, y=x), op("mul", y, x=square, y=square)], y)
    found = Differentiator(p)({"x": np.array([300.0], np.float16)}, p.main.block.ops[1], largest)
    assert found is not None
    assert found.goal == pytest.approx(300.0**4)
    assert found.inputs["x"][0] == pytest.approx(4 * 300.0**3)


@pytest.mark.parametrize(("type", "slope"), [("round", 1.0), ("floor", 1.0), ("ceil", 1.0), ("relu", 0.05)])
def test_steps_and_dead_units_have_a_slope(type, slope):
    x, y = half("x", (1,)), half("y", (1,))
    p = program([x], [op(type, y, x=x)], y)
    found = Differentiator(p)({"x": np.array([-1.25], np.float16)}, p.main.block.ops[0], largest)
    assert found is not None
    assert found.inputs["x"].tolist() == pytest.approx([slope])
    assert found.goal == {"round": -1, "floor": -2, "ceil": -1, "relu": 0}[type]


def test_gathered_rows_are_taps_and_what_lies_behind_the_target_is_not_run():
    p = lookup([[1.0, 2.0], [3.0, 4.0]])
    found = Differentiator(p)({"ids": np.array([1], np.int32)}, p.main.block.ops[1], largest)
    assert found is not None
    assert found.inputs == {}
    (tap,) = found.taps
    assert tap.op.type == "gather"
    assert tap.result.tolist() == [[3.0, 4.0]]
    assert tap.slope.tolist() == [[1.0, 1.0]]


def test_what_depends_on_no_input_smoothly_has_no_slopes():
    x, y = half("x", (1,)), half("y", (1,))
    sign = number([1.0])
    p = program([x], [op("add", y, x=sign, y=sign)], y)
    assert Differentiator(p)({"x": np.array([1.0], np.float16)}, p.main.block.ops[0], largest) is None
