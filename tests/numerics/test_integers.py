"""Products of 8-bit integers: a Neural Engine from the M4 on sums them in 32 bits (device fact A16)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nanproof
from nanproof.mil.coreml import ct, mb, types
from nanproof.mil.reflect import reflect
from nanproof.program import Program

WEIGHTS = np.full((3, 4), 100, np.int8)
"""With a scale of 1, the products of an x of 100 are 10000, and the sum of four is 40000."""


def layer(kind: str, *, both: bool) -> Program:
    """A layer with 8-bit weights, of activations that are quantised too, or not."""
    shape = (2, 4, 1, 1) if kind == "conv" else (2, 4)

    @mb.program(input_specs=[mb.TensorSpec(shape, dtype=types.fp16)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        half = np.float16(1)
        if both:
            x = mb.dequantize(input=mb.quantize(input=x, scale=half, output_dtype="int8"), scale=half)
        weight = mb.constexpr_affine_dequantize(
            quantized_data=WEIGHTS.reshape(*WEIGHTS.shape, 1, 1) if kind == "conv" else WEIGHTS,
            zero_point=np.int8(0),
            scale=half,
            axis=0,
        )
        return mb.conv(x=x, weight=weight) if kind == "conv" else mb.linear(x=x, weight=weight)

    return reflect(program)


def answer(program: Program, numerics: str) -> np.ndarray:
    x = np.full(program.inputs["x"].shape, 100, np.float16)
    (result,) = nanproof.predict(program, {"x": x}, numerics=numerics).values()
    return result.reshape(2, 3)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_sums_of_integers_have_no_limit_of_their_own(kind: str) -> None:
    assert (answer(layer(kind, both=True), "ane") == 40000).all()


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_weights_alone_are_unpacked_first(kind: str) -> None:
    assert np.isposinf(answer(layer(kind, both=False), "ane")).all()


def test_an_m1_unpacks_both_factors_first() -> None:
    assert np.isposinf(answer(layer("linear", both=True), "ane_m1")).all()


def test_the_scaled_sum_is_rounded_with_ties_away_from_zero() -> None:
    """4 * 127 * 100 = 50800 lies halfway between 50784 and 50816 (A8)."""
    x = np.array([[127] * 4, [-127] * 4], np.float16)
    (result,) = nanproof.predict(layer("linear", both=True), {"x": x}, numerics="ane").values()
    np.testing.assert_array_equal(result, np.outer([1, -1], [50816] * 3).astype(np.float16))
