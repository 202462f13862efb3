"""Control flow, lists, states, labels, compressed weights: from coremltools' memory and from real files alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nanproof
from nanproof.errors import ExecutionError, InputError
from nanproof.interpret.execute import Executor
from nanproof.interpret.state import make_state
from nanproof.mil.coreml import ct, mb, quiet
from nanproof.mil.reflect import reflect
from nanproof.ops import TABLE
from nanproof.program import Kind, Program
from tests.laws.programs import CASES, INT, Case, data, number, spec, stateful

WITHOUT_SAMPLES = sorted(name for name, record in TABLE.items() if not list(record.samples()))


def each(cases: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


def assert_outputs(ours: dict[str, Any], expected: Any) -> None:
    for ours_, theirs in zip(ours.values(), expected, strict=True):
        if isinstance(theirs, dict):
            assert ours_ == pytest.approx(theirs, rel=1e-5)
        elif isinstance(theirs, str | int):
            assert type(ours_) is type(theirs)
            assert ours_ == theirs
        else:
            assert ours_.shape == np.shape(theirs)
            np.testing.assert_allclose(ours_, theirs, rtol=2e-5, atol=2e-6)


@each([c for c in CASES if not c.labels])  # a classifier gets its last op only when it is converted
def test_programs_in_memory(case: Case) -> None:
    program = reflect(case.build())
    for inputs in case.inputs:
        assert_outputs(nanproof.predict(program, inputs), case.expected(**inputs))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case once through a file."""
    programs: dict[str, Program] = {}

    def load(case: Case) -> Program:
        if case.name not in programs:
            folder: Path = tmp_path_factory.mktemp("programs")
            programs[case.name] = nanproof.load(case.convert(folder / "m.mlpackage"))
        return programs[case.name]

    return load


@each(CASES)
def test_programs_in_files(case: Case, loaded: Any) -> None:
    program = loaded(case)
    for inputs in case.inputs:
        assert_outputs(nanproof.predict(program, inputs), case.expected(**inputs))


@each([c for c in CASES if not c.labels])
def test_programs_in_fp16_storage_stay_close(case: Case, loaded: Any) -> None:
    """fp32 programs: every numerics computes them in float32, blocks included."""
    for inputs in case.inputs:
        reference, strict = (nanproof.predict(loaded(case), inputs, numerics=n) for n in ("reference", "strict"))
        for name in reference:
            np.testing.assert_array_equal(reference[name], strict[name])


def test_records_without_samples_stand_in_these_programs(loaded: Any) -> None:
    used = {op.type for case in CASES for op in loaded(case).walk()}
    used |= {op.type for op in reflect(stateful()).walk()}
    assert set(WITHOUT_SAMPLES) <= used


# ---------------------------------------------------------------------------------------------------------------------
# Control flow


def test_observers_see_the_ops_of_blocks_each_time_they_run() -> None:
    case = next(c for c in CASES if c.name == "loops")
    program, seen = reflect(case.build()), []
    Executor(program)(
        {"x": data(3), "n": number(4)}, [lambda op, operands, results: seen.append((op.type, len(results)))]
    )
    kinds = [kind for kind, _ in seen]
    assert kinds.count("while_loop") == 5  # the outer one, and the inner one in each of 4 iterations
    assert kinds.count("cast") == 0 + 1 + 2 + 3
    assert kinds.index("less") < kinds.index("while_loop"), "the ops of a block come before the op that owns it"
    assert all(count == 2 for kind, count in seen if kind == "while_loop")


def test_an_op_in_a_block_that_fails_is_named() -> None:
    @mb.program(input_specs=[spec(2), spec(1, dtype=INT)], opset_version=ct.target.iOS16)
    def program(x, n):
        index = mb.squeeze(x=n)
        ls = mb.make_list(init_length=2, dynamic_length=False, elem_shape=(2,))

        def body(i, ls):
            return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=x, name="write")

        _, ls = mb.while_loop(_cond=lambda i, ls: mb.less(x=i, y=index), _body=body, loop_vars=(0, ls))
        return mb.list_read(ls=ls, index=0)

    assert_outputs(nanproof.predict(reflect(program), {"x": data(2), "n": number(2)}), [data(2)])
    with pytest.raises(ExecutionError, match=r"'write' \(list_write\) failed.*index 2 lies outside.*cannot grow"):
        nanproof.predict(reflect(program), {"x": data(2), "n": number(3)})


def test_an_endless_loop_can_be_interrupted() -> None:
    @mb.program(input_specs=[spec(1)], opset_version=ct.target.iOS16)
    def program(x):
        return mb.while_loop(
            _cond=lambda x: mb.squeeze(x=mb.less(x=x, y=1e9)), _body=lambda x: mb.mul(x=x, y=0.5), loop_vars=(x,)
        )

    steps = 0

    def interrupt(op: Any, operands: Any, results: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Executor(reflect(program))({"x": data(1)}, [interrupt])


# ---------------------------------------------------------------------------------------------------------------------
# Lists


def test_a_list_of_unknown_shape_takes_it_from_the_first_write() -> None:
    @mb.program(input_specs=[spec(2, 3)], opset_version=ct.target.iOS16)
    def program(x):
        ls = mb.make_list(init_length=3, elem_shape=("rows", 3), dtype="fp32")
        ls = mb.list_write(ls=ls, index=1, value=x)
        return mb.list_read(ls=ls, index=1), mb.list_read(ls=ls, index=2)

    with pytest.raises(ExecutionError, match="element 2 of the list was never written, and its shape is not known"):
        nanproof.predict(reflect(program), {"x": data(2, 3)})


# ---------------------------------------------------------------------------------------------------------------------
# States


@pytest.fixture(scope="module", params=["memory", "file"])
def keeper(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    if request.param == "memory":
        return reflect(stateful())
    path = tmp_path_factory.mktemp("state") / "m.mlpackage"
    with quiet():
        target = ct.target.iOS18
        model = ct.convert(
            stateful(),
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        model.save(str(path))
    return nanproof.load(path)


@pytest.mark.parametrize("numerics", ["reference", "gpu", "strict"])
def test_states_are_kept_between_predictions(keeper: Program, numerics: str) -> None:
    assert list(keeper.inputs) == ["x"]
    assert {n: (str(t), t.kind) for n, t in keeper.states.items()} == {
        "total": ("state<fp16[4]>", Kind.STATE),
        "count": ("state<fp16[1]>", Kind.STATE),
    }
    executor, state, other = Executor(keeper, numerics), make_state(keeper), make_state(keeper)
    total = np.zeros(4)
    for step in range(3):
        x = np.full(4, step + 1, np.float16)
        outputs = list(executor({"x": x}, state=state).values())
        before, total = total, total / 2 + x
        np.testing.assert_array_equal(outputs[0], total * 2)
        np.testing.assert_array_equal(outputs[1], before)
    np.testing.assert_array_equal(state.read_state("total"), total)
    assert state.read_state("total").dtype == np.float16
    assert state.read_state("count").tolist() == [3]
    assert other.read_state("count").tolist() == [0]


def test_a_state_can_be_written(keeper: Program) -> None:
    state = make_state(keeper)
    state.write_state("total", [2.0, 4.0, 6.0, 8.0])
    outputs = list(nanproof.predict(keeper, {"x": np.zeros(4, np.float16)}, state=state).values())
    assert outputs[0].tolist() == [2, 4, 6, 8]
    outputs[1][:] = 99  # an output is the caller's own
    assert state.read_state("total").tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match=r"State 'total' is state<fp16\[4\]>, but the value has shape \(5,\)"):
        state.write_state("total", np.zeros(5))
    with pytest.raises(InputError, match=r"no state 'cache'. The program keeps total, count"):
        state.read_state("cache")


def test_a_missing_or_foreign_state_is_an_input_error(keeper: Program) -> None:
    with pytest.raises(InputError, match=r"keeps the state 'total' \(state<fp16\[4\]>\), 'count'.*none was passed"):
        nanproof.predict(keeper, {"x": np.zeros(4, np.float16)})
    stateless = reflect(CASES[1].build())
    with pytest.raises(
        InputError, match="made for another program: it holds total, count, this program keeps no state"
    ):
        nanproof.predict(stateless, {"x": data(3), "n": number(1)}, state=make_state(keeper))
    outputs = nanproof.predict(stateless, {"x": data(3), "n": number(1)}, state=make_state(stateless))
    assert len(outputs) == 1
