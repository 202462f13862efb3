"""Laws that every record of the table obeys. They name no op; the samples are the records' own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from torch import Tensor

from nanproof.ops import TABLE
from nanproof.program import DType
from nanproof.values.floats import round_fp16
from tests.laws.calls import Call, arrays_of, calls
from tests.laws.inference import OPSETS, Inferred, RejectedError, input_names, opsets_of, revisions_of
from tests.laws.ulps import (
    FLOAT32_MAX,
    FLOAT32_SMALLEST_NORMAL,
    condition,
    exact_value,
    float32_ulp,
    is_finite,
    ordinals,
    points,
)

Oracle = Callable[..., Any]

CALLS = calls()
HALF_CALLS = calls(half=True)
EXACT = [c for c in CALLS if c.record.exact is not None and c.floats]
HALF_EXACT = [c for c in HALF_CALLS if c.record.exact is not None]
MONOTONE = [c for c in HALF_EXACT if c.record.increasing is not None and np.isfinite(c.inputs["x"]).all()]
MOVING = [c for c in CALLS if c.record.family in ("structural", "select")]


def _collected(table: str) -> dict[str, Any]:
    """The union of one table of all ``oracle_*.py``; each op may stand in one of them."""
    union: dict[str, Any] = {}
    for file in sorted(Path(__file__).parent.glob("oracle_*.py")):
        found: dict[str, Any] = getattr(importlib.import_module(f"tests.laws.{file.stem}"), table, {})
        assert not union.keys() & found.keys(), f"{file.name} repeats {union.keys() & found.keys()}"
        union |= found
    return union


ORACLES: dict[str, Oracle] = _collected("ORACLES")
"""Name of an op → the op on a sample's inputs, in float64 or by PyTorch's functions, without its record."""

STATISTICS: dict[str, Oracle] = _collected("STATISTICS")
"""Name of a random op → what must hold of its draws. There is no oracle: Core ML's numbers are not known."""

PROGRAMS = {name for name, record in TABLE.items() if not list(record.samples())}
"""Ops whose inputs a sample cannot hold. ``test_programs.py`` makes sure that each stands in a program it checks."""

DISPUTED: dict[str, str] = _collected("DISPUTED")
"""Name of an op → where coremltools folds it against its own documentation. Such an op needs an oracle."""


def each(items: list[Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", items, ids=str)


def assert_same(ours: np.ndarray, expected: np.ndarray, relative: float) -> None:
    """Equal integers and booleans; floats within a relative distance, or that distance of the largest of them."""
    assert ours.shape == expected.shape
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, expected)
        return
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    # Oracles cancel in their own float32: their error is one of the size of the intermediate results.
    absolute = relative * float(np.median(finite)) if finite.size else 0.0
    np.testing.assert_allclose(ours.astype(np.float64), expected.astype(np.float64), rtol=relative, atol=absolute)


# ---------------------------------------------------------------------------------------------------------------------
# The exact function


@each(EXACT)
def test_reference_agrees_with_the_exact_function(call: Call) -> None:
    (result,) = call.run("reference")
    for point, got in zip(points(call.record, call.inputs), result.reshape(-1).tolist(), strict=True):
        if not is_finite(point):
            continue
        value = exact_value(call.record, point)
        if value is None:
            assert not np.isfinite(got), f"{point}: {got} where the function is not defined"
        elif abs(value) > FLOAT32_MAX:
            assert abs(got) == np.inf or abs(got) == FLOAT32_MAX, f"{point}: {got} instead of an overflow"
            assert (got > 0) == (value > 0)
        else:
            # An inner result may underflow, as sigmoid(x) does in x * sigmoid(x).
            underflow = FLOAT32_SMALLEST_NORMAL * max(1, abs(point[0]))
            allowed = (4 + condition(call.record, point, value)) * float32_ulp(value) + underflow
            assert abs(got - value) <= allowed, f"{point}: {got} instead of {value}"


@each(HALF_EXACT)
def test_gpu_stores_the_nearest_binary16(call: Call) -> None:
    (result,) = call.run("gpu")
    assert result.dtype == np.float16
    for point, got in zip(points(call.record, call.inputs), result.reshape(-1), strict=True):
        if not is_finite(point):
            continue
        value = exact_value(call.record, point)
        if value is None:
            assert not np.isfinite(got), f"{point}: {got} where the function is not defined"
            continue
        with np.errstate(over="ignore"):
            nearest = np.float64(value).astype(np.float16)
        assert not np.isnan(got), f"{point}: NaN instead of {nearest}"
        assert abs(ordinals(got) - ordinals(nearest)) <= 1, f"{point}: {got} instead of {nearest}"


@each(MONOTONE)
def test_monotone_records_are_monotone_on_all_halves(call: Call) -> None:
    low, high = np.sort(call.inputs["x"].reshape(-1))[[0, -1]]
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = np.sort(halves[np.isfinite(halves) & (halves >= low) & (halves <= high)])
    call = Call(call.record, call.index, {**call.inputs, "x": halves}, half=True)
    (result,) = call.run("gpu")
    steps = np.diff(ordinals(result))
    assert not np.isnan(result).any()
    assert (steps >= 0).all() if call.record.increasing else (steps <= 0).all()
    assert steps.any(), "a constant is monotone both ways: these samples show nothing"


# ---------------------------------------------------------------------------------------------------------------------
# Storage


@each(HALF_CALLS)
@pytest.mark.parametrize("numerics", ["gpu", "strict"])
def test_stored_fp16_lies_on_the_binary16_grid(call: Call, numerics: str) -> None:
    for result, type in zip(call.carried(numerics), call.inferred().types, strict=True):
        if type.dtype is DType.FP16:
            assert torch.equal(result.nan_to_num(7.0), round_fp16(result).nan_to_num(7.0))


@each(MOVING)
def test_moving_ops_make_no_new_elements(call: Call) -> None:
    sources = [np.asarray(a, np.float64).reshape(-1) for v in call.inputs.values() for a in arrays_of(v)]
    parameters = inspect.signature(call.record.run).parameters.values()
    defaults = [float(p.default) for p in parameters if isinstance(p.default, int | float)]
    known = np.concatenate([*sources, np.array(defaults)])
    for result in call.run("reference"):
        new = ~np.isin(result.astype(np.float64), known) & ~np.isnan(result)
        assert not new.any(), f"new elements {result[new]}"
        assert np.isnan(known).any() or not np.isnan(result).any()


@each([c for c in HALF_CALLS if c.record.family in ("structural", "select")])
def test_moving_ops_are_the_same_under_every_numerics(call: Call) -> None:
    reference, gpu, strict = (call.run(n) for n in ("reference", "gpu", "strict"))
    for a, b, c in zip(reference, gpu, strict, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


# ---------------------------------------------------------------------------------------------------------------------
# coremltools and other independent oracles


@each(CALLS)
def test_some_opset_accepts_every_sample(call: Call) -> None:
    call.inferred()


@each(CALLS + HALF_CALLS)
def test_type_is_that_of_coremltools(call: Call) -> None:
    results = call.carried("reference")
    for result, type in zip(results, call.inferred().types, strict=True):
        assert len(type.shape) == result.dim()
        assert all(want in ("?", have) for want, have in zip(type.shape, result.shape, strict=True))


@each(CALLS)
def test_rule_returns_the_kind_of_its_type(call: Call) -> None:
    """Before the executor stores it: a float must not turn into an integer on the way, or the other way round."""
    want = ["b" if t.dtype is DType.BOOL else "f" if t.dtype.is_float else "i" for t in call.inferred().types]
    assert [_kind(r) for r in call.computed()] == want


def _kind(result: Tensor) -> str:
    if result.dtype == torch.bool:
        return "b"
    return "f" if result.dtype.is_floating_point else "i"


@pytest.mark.parametrize("opset", OPSETS)
@each([c for c in CALLS if c.record.name not in DISPUTED])
def test_values_are_those_coremltools_folds(call: Call, opset: str) -> None:
    inferred = _inferred(call, opset)
    if inferred is not None:
        assert_folded(call, inferred)


@pytest.mark.parametrize("name", sorted(DISPUTED))
def test_disputed_ops_are_folded_wrongly_and_have_an_oracle(name: str) -> None:
    assert name in ORACLES
    wrong = 0
    for call in (c for c in CALLS if c.record.name == name):
        try:
            assert_folded(call, call.inferred())
        except AssertionError:
            wrong += 1
    assert wrong, "coremltools folds all samples as we do: the dispute is over"


def assert_folded(call: Call, inferred: Inferred) -> None:
    for ours, type, expected in zip(call.run("reference"), inferred.types, inferred.values, strict=True):
        if expected is not None:
            assert ours.dtype == type.dtype.numpy
            assert_same(ours, expected, relative=1e-3 if ours.dtype == np.float16 else 1e-5)


@each([c for c in CALLS if c.record.name in ORACLES])
def test_values_are_those_of_the_oracle(call: Call) -> None:
    with np.errstate(all="ignore"):
        expected = ORACLES[call.record.name](**call.inputs)
    expected = list(expected) if isinstance(expected, list | tuple) else [expected]
    for ours, oracle in zip(call.run("reference"), expected, strict=True):
        assert_same(ours, np.asarray(oracle), relative=1e-3 if ours.dtype == np.float16 else 1e-5)


def _inferred(call: Call, opset: str) -> Inferred | None:
    """What coremltools infers, or ``None`` where the opset lacks the op or this use of it."""
    try:
        return call.inferred(opset) if opset in opsets_of(call.record.name) else None
    except RejectedError:
        return None


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers


@each([c for c in CALLS if c.record.name in STATISTICS])
@pytest.mark.parametrize("numerics", ["reference", "strict"])
def test_draws_follow_the_distribution_and_the_seed(call: Call, numerics: str) -> None:
    (draws,) = call.run(numerics)
    STATISTICS[call.record.name](draws, **call.inputs)
    np.testing.assert_array_equal(draws, call.run(numerics)[0])
    (others,) = Call(call.record, call.index, {**call.inputs, "seed": 12345}).run(numerics)
    assert (draws != others).any() or draws.size < 10


# ---------------------------------------------------------------------------------------------------------------------
# Completeness


def test_the_table_is_complete() -> None:
    """All ops of coremltools' registry that a file can hold, and the one that stands in files alone."""
    serialized = {*SSAOpRegistry.core_ops, "write_state"} - {"_const_symbolic"}
    assert len(serialized) == 168
    assert set(TABLE) == serialized


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_only_what_a_sample_cannot_hold_has_none(name: str) -> None:
    assert TABLE[name].family in ("control", "list", "state", "classifier")


@pytest.mark.parametrize("name", sorted(TABLE.keys() - PROGRAMS))
def test_every_record_is_checked_by_something_independent(name: str) -> None:
    mine = [c for c in CALLS if c.record.name == name]
    assert mine, "no samples"
    inferred = [i for c in mine for opset in OPSETS if (i := _inferred(c, opset)) is not None]
    folded = any(v is not None for i in inferred for v in i.values)
    exact = any(c in EXACT for c in mine)
    random = TABLE[name].family == "random"
    assert random == (name in STATISTICS)
    assert exact or random or (folded and name not in DISPUTED) or name in ORACLES, (
        "no exact function, no oracle, and coremltools folds no sample"
    )


REGISTERED = sorted(TABLE.keys() - {"write_state"})


@pytest.mark.parametrize("name", REGISTERED)
def test_run_takes_exactly_the_inputs_of_mil(name: str) -> None:
    record, opsets = TABLE[name], opsets_of(name)
    assert record.since == opsets[0]
    # Names with an underscore are Python functions that build blocks; they never reach a file.
    inputs = {i for opset in opsets for i in input_names(name, opset) if not i.startswith("_")}
    assert set(record.parameters) == inputs


@pytest.mark.parametrize("name", REGISTERED)
def test_revisions_are_those_of_the_registry(name: str) -> None:
    assert TABLE[name].revisions == revisions_of(name)


@pytest.mark.parametrize("name", sorted(TABLE.keys() - PROGRAMS))
def test_every_opset_accepts_a_sample(name: str) -> None:
    mine = [c for c in CALLS if c.record.name == name]
    for opset in opsets_of(name):
        assert any(_inferred(c, opset) is not None for c in mine), f"{opset} accepts no sample"


def test_every_oracle_has_a_record() -> None:
    assert ORACLES.keys() <= TABLE.keys()
