"""Generated programs and calls of ops on blocks, lists, states and labels. Python is the oracle."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.state import make_state
from nanproof.mil.coreml import ct, mb
from nanproof.mil.read import load
from nanproof.mil.reflect import reflect
from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops import TABLE, StateCell, TensorList
from nanproof.program import Program
from tests.laws.draws import arrays, budget, flags, seeds, shapes
from tests.laws.programs import CASES, INT, Case, number, spec, stateful

SINGLE = SingleInside()
BY_NAME = {case.name: case for case in CASES}


@cache
def _program(name: str) -> Program:
    return reflect(BY_NAME[name].build())


def _assert_case(case: Case, inputs: dict[str, Any]) -> None:
    ours = Executor(_program(case.name))(inputs)
    for mine, theirs in zip(ours.values(), case.expected(**inputs), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Control flow


@budget(60)
@given(arrays((2, 3)), arrays((2, 3)), st.integers(-12, 12))
def test_branches_nest_as_in_python(x: np.ndarray, y: np.ndarray, shift: int) -> None:
    x = np.round(x * 8) / 8 + np.float32(shift / 4)  # sums that no order of the terms moves past a branch
    _assert_case(BY_NAME["cond"], {"x": x, "y": y})


@budget(30)
@given(arrays((3,)), st.integers(-2, 7))
def test_loops_nest_as_in_python(x: np.ndarray, n: int) -> None:
    _assert_case(BY_NAME["loops"], {"x": x / 4, "n": number(n)})


@cache
def _collatz() -> Program:
    """A loop whose end depends on its data, with a branch in it that changes two of its three variables."""

    @mb.program(input_specs=[spec(1, dtype=INT)], opset_version=ct.target.iOS16)
    def program(n):
        start = mb.squeeze(x=n)

        def body(n, steps, highest):
            odd = mb.equal(x=mb.mod(x=n, y=2), y=1)
            n = mb.cond(
                pred=odd,
                _true_fn=lambda: mb.add(x=mb.mul(x=n, y=3), y=1),
                _false_fn=lambda: mb.floor_div(x=n, y=2),
            )
            return n, mb.add(x=steps, y=1), mb.maximum(x=highest, y=n)

        _, steps, highest = mb.while_loop(
            _cond=lambda n, steps, highest: mb.greater(x=n, y=1), _body=body, loop_vars=(start, 0, start)
        )
        return mb.add(x=steps, y=0), mb.add(x=highest, y=0)

    return reflect(program)


@budget(30)
@given(st.integers(-3, 200))
def test_a_loop_ends_when_its_data_say_so(n: int) -> None:
    now, steps, highest = n, 0, n
    while now > 1:
        now = 3 * now + 1 if now % 2 else now // 2
        steps, highest = steps + 1, max(highest, now)
    assert [int(v) for v in Executor(_collatz())({"n": number(n)}).values()] == [steps, highest]


# ---------------------------------------------------------------------------------------------------------------------
# Lists


@budget(30)
@given(arrays((4, 3), kinds=("ordinary", "whole", "broken")))
def test_lists_grow_in_loops(x: np.ndarray) -> None:
    with np.errstate(invalid="ignore"):
        _assert_case(BY_NAME["lists"], {"x": x})


@budget(120)
@given(st.data(), st.integers(0, 4), flags, shapes(0, 2))
def test_list_ops_are_those_of_a_python_list(
    data: st.DataObject, length: int, grows: bool, shape: tuple[int, ...]
) -> None:
    """Random writes, scatters, reads and gathers; places that were never written hold zeros."""
    sizes = tuple(torch.tensor(n) for n in shape)
    ours: TensorList = TABLE["make_list"].run(SINGLE, sizes, torch.tensor(length), torch.tensor(grows), "fp32")
    model = [np.zeros(shape, np.float32) for _ in range(length)]
    places = st.integers(0, length + 2)
    for _ in range(data.draw(st.integers(1, 6))):
        targets = data.draw(st.lists(places, min_size=1, max_size=3, unique=True))
        values = data.draw(arrays((len(targets), *shape)))
        before, snapshot = ours, copy.deepcopy(model)
        if not grows and max(targets) >= len(model):
            with pytest.raises(IndexError, match="cannot grow"):
                _written(ours, targets, values)
            continue
        ours = _written(ours, targets, values)
        for target, value in zip(targets, values, strict=True):
            model += [np.zeros(shape, np.float32)] * (target + 1 - len(model))
            model[target] = value
        _assert_list(ours, model)
        _assert_list(before, snapshot)  # a list that was read before is as it was


def _written(ours: TensorList, targets: list[int], values: np.ndarray) -> TensorList:
    """By `list_write` if there is one place, else by `list_scatter`."""
    if len(targets) == 1:
        return TABLE["list_write"].run(SINGLE, ours, torch.tensor(targets[0]), torch.from_numpy(np.asarray(values[0])))
    return TABLE["list_scatter"].run(SINGLE, ours, torch.tensor(targets), torch.from_numpy(values))


def _assert_list(ours: TensorList, model: list[np.ndarray]) -> None:
    assert int(TABLE["list_length"].run(SINGLE, ours)) == len(model)
    for index, value in enumerate(model):
        np.testing.assert_array_equal(TABLE["list_read"].run(SINGLE, ours, torch.tensor(index)).numpy(), value)
    if model:
        order = torch.arange(len(model)).flip(0)
        gathered = TABLE["list_gather"].run(SINGLE, ours, order)
        np.testing.assert_array_equal(gathered.numpy(), np.stack(model[::-1]))
    for beyond in (-1, len(model)):
        with pytest.raises(IndexError, match="outside the list"):
            TABLE["list_read"].run(SINGLE, ours, torch.tensor(beyond))


# ---------------------------------------------------------------------------------------------------------------------
# States and labels


@cache
def _stateful() -> Program:
    """The program of a file: only there are states written by an op of their own."""
    case = Case("stateful", stateful, [], list, opset="iOS18")
    with TemporaryDirectory() as folder:
        return load(case.convert(Path(folder) / "model.mlpackage"))


@budget(20)
@given(st.lists(arrays((4,), ("float16",)), min_size=1, max_size=6))
def test_states_are_variables(steps: list[np.ndarray]) -> None:
    program = _stateful()
    executor, state = Executor(program, "gpu"), make_state(program)
    total = np.zeros(4, np.float16)
    for x in steps:
        before, total = total, total * np.float16(0.5) + x
        doubled, kept = executor({"x": x}, state=state).values()
        np.testing.assert_array_equal(doubled, total * np.float16(2))
        np.testing.assert_array_equal(kept, before)


@budget(30)
@given(arrays((2, 3), kinds=("ordinary", "broken")), arrays((2, 3)))
def test_a_cell_holds_what_was_written_last(first: np.ndarray, second: np.ndarray) -> None:
    cell = StateCell(torch.zeros(2, 3))
    for value in (first, second):
        assert list(TABLE["write_state"].run(SINGLE, cell, torch.from_numpy(value))) == []
        np.testing.assert_array_equal(TABLE["read_state"].run(SINGLE, cell).numpy(), value)


@budget(60)
@given(st.integers(1, 6), seeds, flags)
def test_the_label_is_that_of_the_largest_probability(count: int, seed: int, words: bool) -> None:
    values = np.random.default_rng(seed).permutation(count).astype(np.float32) / count
    names: list[Any] = [f"label {i}" for i in range(count)] if words else [7 * i - 5 for i in range(count)]
    classes: Any = tuple(names) if words else torch.tensor(names)
    label, probabilities = TABLE["classify"].run(SINGLE, torch.from_numpy(values).reshape(1, -1), classes)
    expected = dict(zip(names, values.tolist(), strict=True))
    assert (label.item() if isinstance(label, Tensor) else label) == max(expected, key=expected.__getitem__)
    assert probabilities == expected
