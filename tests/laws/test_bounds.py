"""The bound of every op against what runs compute: generated calls and the samples of the records, in random boxes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanproof.ops import TABLE
from tests.laws.bounded import UNITS, Tally, boxed_call, check
from tests.laws.bounded_programs import PATTERNS, boxed_program
from tests.laws.calls import Call, calls
from tests.laws.draws import THOROUGH, Inputs, budget, seeds
from tests.laws.inference import RejectedError, infer, opsets_of
from tests.laws.test_generated import INPUTS

BOUNDED = sorted(name for name in INPUTS if "bound" in TABLE[name].readings)
EXAMPLES = 5
POINTS = 5
PROGRAMS = 3
SAMPLES = 3


def assert_bounded(name: str, inputs: Mapping[str, Any], types: Any, seed: int, tally: Tally) -> None:
    """One call in random boxes, on every unit."""
    rng = np.random.default_rng(seed)
    boxed = boxed_call(TABLE[name], inputs, types, rng)
    points = boxed.points(rng, POINTS)
    for unit in UNITS:
        for fault in check(boxed, points, unit, tally):
            raise AssertionError(fault)


@pytest.mark.parametrize("name", BOUNDED)
def test_generated_calls_stay_in_their_bounds(name: str) -> None:
    tally = Tally()

    @budget(EXAMPLES)
    @given(INPUTS[name], st.sampled_from(opsets_of(name)), seeds)
    def law(inputs: Inputs, opset: str, seed: int) -> None:
        try:
            inferred = infer(name, inputs, opset)
        except RejectedError:
            return
        assert_bounded(name, inputs, inferred.types, seed, tally)

    law()


def _some_samples() -> list[Call]:
    """The first samples of each op in each float type; all of them in a thorough run."""
    every = (*calls(), *calls(half=True))
    return [call for call in every if call.record.name in BOUNDED and (THOROUGH or call.index < SAMPLES)]


@pytest.mark.parametrize("call", _some_samples(), ids=str)
def test_samples_stay_in_their_bounds(call: Call) -> None:
    if not call.accepted:
        pytest.skip("coremltools does not accept it")
    assert_bounded(call.record.name, call.inputs, call.inferred().types, zlib.crc32(str(call).encode()), Tally())


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("half", [True, False], ids=["fp16", "fp32"])
def test_programs_stay_in_their_bounds(name: str, half: bool) -> None:
    """All values of small programs in the patterns of real models, with their balls and the links between them."""
    tally = Tally()
    for seed in range(PROGRAMS):
        boxed = boxed_program(PATTERNS[name], seed, half=half)
        points = boxed.points(np.random.default_rng(seed), POINTS)
        for unit in UNITS:
            for fault in check(boxed, points, unit, tally):
                raise AssertionError(fault)
    assert tally.proved, f"nothing was proved: {tally.reasons}"
