"""Binary16 in float32 carriers: exact on its grid, NumPy's rounding off it, and every dtype there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanproof.program import DType
from nanproof.values.floats import (
    FP16_MAX,
    FP16_SMALLEST_NORMAL,
    FP16_SMALLEST_SUBNORMAL,
    from_carrier,
    round_fp16,
    to_carrier,
)

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16)


def numpy_rounded(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(np.float16).astype(np.float32)


def assert_identical(ours: torch.Tensor, expected: np.ndarray) -> None:
    """The same numbers, the signs of zeros included, and NaN in the same places."""
    got = ours.numpy()
    nans = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(got), nans)
    np.testing.assert_array_equal(got[~nans].view(np.int32), expected[~nans].view(np.int32))


def test_rounding_is_the_identity_on_all_halves() -> None:
    wide = HALVES.astype(np.float32)
    assert_identical(round_fp16(torch.from_numpy(wide)), wide)


def test_rounding_is_numpys_on_every_exponent() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    wide = bits.view(np.float32)
    assert_identical(round_fp16(torch.from_numpy(wide)), numpy_rounded(wide))


def test_midpoints_go_to_even_and_their_neighbours_to_the_nearest() -> None:
    finite = np.sort(HALVES[np.isfinite(HALVES)].astype(np.float32))
    # The overflow threshold is the midpoint of 65504 and the 65536 that binary16 lacks.
    middles = np.concatenate([(finite[:-1] + finite[1:]) / 2, np.array([65520.0, -65520.0], np.float32)])
    points = np.concatenate([np.nextafter(middles, -np.inf), middles, np.nextafter(middles, np.inf)], dtype=np.float32)
    rounded = round_fp16(torch.from_numpy(points))
    assert_identical(rounded, numpy_rounded(points))
    even = rounded[len(middles) : 2 * len(middles)].numpy().astype(np.float16).view(np.uint16)
    assert not (even & 1).any()


@given(st.floats(width=32))
def test_rounding_is_numpys(number: float) -> None:
    wide = np.array([number], np.float32)
    assert_identical(round_fp16(torch.from_numpy(wide)), numpy_rounded(wide))


def test_limits_are_those_of_the_format() -> None:
    info = np.finfo(np.float16)
    assert float(info.max) == FP16_MAX
    assert float(info.smallest_normal) == FP16_SMALLEST_NORMAL
    assert float(info.smallest_subnormal) == FP16_SMALLEST_SUBNORMAL


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.STRING])
def test_carriers_return_every_dtype_unchanged(dtype: DType) -> None:
    if dtype is DType.BOOL:
        array = np.array([[True, False]])
    elif dtype.is_float:
        info = np.finfo(dtype.numpy)
        array = np.array([0.0, -0.0, 1.5, info.max, info.min, info.smallest_subnormal, np.inf, np.nan], dtype.numpy)
    else:
        info = np.iinfo(dtype.numpy)
        # A uint64 beyond int64 is no value of any MIL tensor; int64 carries the rest.
        array = np.array([0, 1, info.min, min(info.max, 2**63 - 1)], dtype.numpy)
    for shaped in (array, array.reshape(-1)[0].reshape(())):
        carried = to_carrier(shaped, dtype)
        assert isinstance(carried, torch.Tensor)
        back = from_carrier(carried, dtype)
        assert back.dtype == dtype.numpy
        np.testing.assert_array_equal(back, shaped)


def test_strings_pass_through_carriers() -> None:
    assert to_carrier("EXACT", DType.STRING) == "EXACT"


def test_half_carrier_rounds_what_it_is_given() -> None:
    carried = to_carrier(np.array([1e-8, 2049.0, 7e4]), DType.FP16)
    assert isinstance(carried, torch.Tensor)
    assert carried.tolist() == [0.0, 2048.0, float("inf")]


def test_read_only_arrays_can_be_carried() -> None:
    array = np.array([1, 2], np.int32)
    array.flags.writeable = False
    carried = to_carrier(array, DType.INT32)
    assert isinstance(carried, torch.Tensor)
    carried += 1
    assert array.tolist() == [1, 2]
