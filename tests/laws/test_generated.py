"""Every op on generated calls: against its oracles, mpmath, PyTorch, and what coremltools folds and infers.

The samples of a record are chosen by its author; these calls are not. `make thorough` runs many more of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanproof.ops import TABLE
from nanproof.program import DType, Type
from nanproof.values.floats import round_fp16
from tests.laws import (
    generated_elementwise,
    generated_image,
    generated_indexing,
    generated_layers,
    generated_shapes,
)
from tests.laws.calls import Call
from tests.laws.draws import Inputs, budget
from tests.laws.inference import Inferred, RejectedError, has_value_inference, infer, opsets_of
from tests.laws.peers import FOLDS_OTHERWISE, INFERS_OTHERWISE, PEERS
from tests.laws.test_ops import ORACLES, STATISTICS
from tests.laws.ulps import FLOAT32_MAX, FLOAT32_SMALLEST_NORMAL, condition, exact_value, float32_ulp, is_finite, points

INPUTS: dict[str, st.SearchStrategy[Inputs]] = {
    **generated_elementwise.INPUTS,
    **generated_shapes.INPUTS,
    **generated_indexing.INPUTS,
    **generated_layers.INPUTS,
    **generated_image.INPUTS,
}

ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("cond", "while_loop"), "against Python's own control flow, test_generated_programs.py"),
    **dict.fromkeys([n for n, r in TABLE.items() if r.family == "list"], "against a Python list, the same file"),
    **dict.fromkeys(("read_state", "write_state"), "against a Python variable, the same file"),
    "classify": "against Python's max and dict, the same file",
}
"""Ops whose inputs are no arrays: neither PyTorch nor coremltools can be asked. Their laws are generated elsewhere."""

NEVER_FOLDED = {"reverse_sequence": "its value_inference raises NotImplementedError for any known input"}
EXAMPLES = 25


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_generated_calls_give_what_the_references_say(name: str) -> None:
    tally: Counter[str] = Counter()

    @budget(EXAMPLES)
    @given(INPUTS[name], st.sampled_from(opsets_of(name)))
    def law(inputs: Inputs, opset: str) -> None:
        _check(Call(TABLE[name], 0, inputs), opset, tally)

    law()
    assert tally["compared"], "no reference could be asked"
    assert tally["accepted"], "coremltools accepted none of the calls: they are not those of real programs"
    assert bool(tally["folded"]) == (has_value_inference(name) and name not in NEVER_FOLDED), dict(tally)


def _check(call: Call, opset: str, tally: Counter[str]) -> None:
    with np.errstate(all="ignore"):
        results = [r.numpy() for r in call.computed()]
        for reference in _references(call):
            tally["compared"] += 1
            reference(results)
        inferred = _inferred(call, opset)
    if inferred is not None:
        tally["accepted"] += 1
        _check_declared(call, inferred, tally)


def _references(call: Call) -> list[Callable[[list[np.ndarray]], None]]:
    name, wide = call.record.name, {k: _widened(v) for k, v in call.inputs.items()}
    found: list[Callable[[list[np.ndarray]], None]] = []
    for oracle in (ORACLES.get(name), PEERS.get(name)):
        expected = None if oracle is None else oracle(**wide)
        if expected is not None:
            parts = list(expected) if isinstance(expected, list | tuple) else [expected]
            found.append(partial(_assert_all, parts=parts, relative=_distance(call)))
    if call.record.exact is not None and call.floats:
        found.append(lambda results: _assert_exact(call, results[0]))
    if name in STATISTICS:
        found.append(lambda results: _assert_random(call, results[0]))
    return found


def _distance(call: Call) -> float:
    """How far a result may lie from that of a reference in float64, relative to it."""
    # The mean that a normalisation subtracts leaves few digits where all elements are nearly the same.
    return 0.0 if _moves(call) else 1e-4 if call.record.family == "normalisation" else 1e-5


def _moves(call: Call) -> bool:
    """Whether every element of the result is one of an input, or a constant."""
    return call.record.family in ("structural", "select", "sort", "index", "generator")


def _assert_all(results: list[np.ndarray], parts: list[Any], relative: float) -> None:
    for result, part in zip(results, parts, strict=True):
        _assert_same(result, part, relative)


def _widened(value: Any) -> Any:
    """binary16 as binary32, in which `reference` computes and references can."""
    if isinstance(value, list):
        return [_widened(v) for v in value]
    half = isinstance(value, np.ndarray | np.generic) and value.dtype == np.float16
    return value.astype(np.float32) if half else value


def _assert_same(ours: np.ndarray, expected: Any, relative: float = 1e-5) -> None:
    """Equal integers, infinities and NaN; other floats within a distance of the size of the largest ones."""
    expected = np.asarray(expected)
    assert ours.shape == expected.shape
    if ours.dtype.kind != "f" or expected.dtype == np.float16:
        # What a rule returns is not stored yet: an integer may be wider than its type, a fp16 is not rounded.
        ours = ours.astype(expected.dtype) if expected.dtype.name in ("int32", "float16") else ours
        np.testing.assert_array_equal(ours, expected)
        return
    with np.errstate(over="ignore"):
        wanted = expected.astype(np.float32).astype(np.float64)
    finite = np.abs(wanted[np.isfinite(wanted)])
    # What cancels inside an op leaves an error of the size of its terms, which are of the size of the ordinary numbers.
    absolute = relative * min(float(np.max(finite, initial=1.0)), 100.0)
    np.testing.assert_allclose(ours.astype(np.float64), wanted, rtol=relative, atol=absolute)


def _assert_exact(call: Call, result: np.ndarray) -> None:
    # The sum x + epsilon is rounded before the function sees it, and may be as ill-conditioned in either of its terms.
    names = [n for n in call.record.parameters if n in call.inputs]
    places = [0, *(i for i, n in enumerate(names) if n == "epsilon")]
    for point, got in zip(points(call.record, call.inputs), result.reshape(-1).tolist(), strict=True):
        if not is_finite(point):
            continue
        value = exact_value(call.record, point)
        if value is None:
            assert not np.isfinite(got), f"{point}: {got} where the function is not defined"
        elif abs(value) > FLOAT32_MAX:
            assert abs(got) >= FLOAT32_MAX, f"{point}: {got} instead of an overflow"
            assert (got > 0) == (value > 0)
        else:
            underflow = FLOAT32_SMALLEST_NORMAL * max(1, abs(point[0]))
            amplified = max(condition(call.record, point, value, place) for place in places)
            allowed = (4 + amplified) * float32_ulp(value) + underflow
            assert abs(got - value) <= allowed, f"{point}: {got} instead of {value}"


def _assert_random(call: Call, draws: np.ndarray) -> None:
    STATISTICS[call.record.name](draws, **call.inputs)
    np.testing.assert_array_equal(draws, call.computed()[0].numpy())
    other = (call.inputs.get("seed", 0) + 1) % 2**31
    assert (draws != Call(call.record, 0, {**call.inputs, "seed": other}).computed()[0].numpy()).any()


# ---------------------------------------------------------------------------------------------------------------------
# coremltools


def _inferred(call: Call, opset: str) -> Inferred | None:
    try:
        return infer(call.record.name, call.inputs, opset)
    except RejectedError:
        return None


def _check_declared(call: Call, inferred: Inferred, tally: Counter[str]) -> None:
    """The results in their declared types: shapes, folded values, and storage under the other numerics."""
    name = call.record.name
    if INFERS_OTHERWISE.get(name, _never)(call.inputs):
        return
    reference = call.run("reference", inferred.types)
    for result, type in zip(reference, inferred.types, strict=True):
        assert result.dtype == type.dtype.numpy
        assert len(type.shape) == result.ndim
        assert all(want in ("?", have) for want, have in zip(type.shape, result.shape, strict=True))
    if not FOLDS_OTHERWISE.get(name, _never)(call.inputs):
        for result, type, value in zip(reference, inferred.types, inferred.values, strict=True):
            if value is not None:
                tally["folded"] += 1
                _assert_folded(call, result, type, value)
    if any(t.dtype is DType.FP16 for t in inferred.types):
        _check_half(call, inferred, reference)


def _never(inputs: Inputs) -> bool:
    return False


def _assert_folded(call: Call, result: np.ndarray, type: Type, value: np.ndarray) -> None:
    if type.dtype is DType.FP16 and not _moves(call):
        return  # folded in binary16 from step to step; the references above have judged the value
    _assert_same(result, value)


def _check_half(call: Call, inferred: Inferred, reference: list[np.ndarray]) -> None:
    """Stored halves lie on the grid of binary16, and the harsher numerics keep every shape."""
    for numerics in ("gpu", "strict"):
        stored = call.carried(numerics, inferred.types)
        assert [tuple(s.shape) for s in stored] == [r.shape for r in reference]
        for result, type, wanted in zip(stored, inferred.types, reference, strict=True):
            if type.dtype is DType.FP16:
                torch.testing.assert_close(result, round_fp16(result), rtol=0, atol=0, equal_nan=True)
            if call.record.family in ("structural", "select"):
                np.testing.assert_array_equal(result.numpy(), wanted)


# ---------------------------------------------------------------------------------------------------------------------
# Completeness


def test_every_op_has_a_generated_law() -> None:
    assert not INPUTS.keys() & ELSEWHERE.keys()
    assert INPUTS.keys() | ELSEWHERE.keys() == TABLE.keys()


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_generated_law_has_an_independent_reference(name: str) -> None:
    assert name in ORACLES or name in PEERS or name in STATISTICS or TABLE[name].exact is not None


def test_exceptions_name_ops_of_the_table() -> None:
    assert (FOLDS_OTHERWISE.keys() | INFERS_OTHERWISE.keys() | PEERS.keys()) <= TABLE.keys()
