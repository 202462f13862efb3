"""The shadow of a run: own errors, inherited ones, and the births, flows and deaths of Inf and NaN."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from nanproof.diagnosis.twins import exact_constants
from nanproof.interpret.execute import Executor
from nanproof.interpret.shadow import Shadows, shadow
from nanproof.interpret.state import Turn
from nanproof.interpret.sweep import Executed, Sweep
from nanproof.program import Block, DType, Function, Kind, Op, Program, Type, Value

INT = Type(DType.INT32)
FOUR = Type(DType.FP16, (4,))


def half(*shape: int) -> Type:
    return Type(DType.FP16, shape)


def const(value: Any, dtype: DType = DType.FP16) -> Value:
    return Value("c", Type(dtype), value if isinstance(value, str) else np.asarray(value, dtype.numpy))


def op(kind: str, name: str, type: Type | tuple[Type, ...] = FOUR, blocks: tuple[Block, ...] = (), **inputs: Any) -> Op:
    given = {k: v if isinstance(v, tuple) else (v,) for k, v in inputs.items()}
    types = type if isinstance(type, tuple) else (type,)
    outputs = tuple(Value(name if len(types) == 1 else f"{name}_{i}", t) for i, t in enumerate(types))
    return Op(kind, name, given, outputs, blocks)


def program(inputs: list[Value], ops: list[Op], outputs: tuple[Value, ...] | None = None) -> Program:
    block = Block((), tuple(ops), outputs or ops[-1].outputs)
    return Program({"main": Function("main", {v.name: v for v in inputs}, block)})


def sigmoid_like(x: Value) -> list[Op]:
    """``1000 / (1 + exp(x))``, whose exponential overflows at 12, step by step."""
    exp = op("exp", "exp", half(1), x=x)
    more = op("add", "more", half(1), x=exp.outputs[0], y=const(1))
    inverse = op("inverse", "inverse", half(1), x=more.outputs[0], epsilon=const(0, DType.FP32))
    return [exp, more, inverse, op("mul", "thousand", half(1), x=inverse.outputs[0], y=const(1000))]


@pytest.mark.parametrize("numerics", ["gpu", "strict", "ane"])
def test_an_infinity_that_dies_on_its_way_is_seen_although_the_output_is_finite(numerics: str) -> None:
    x = Value("x", half(1))
    seen = shadow(program([x], sigmoid_like(x)), {"x": [12.0]}, numerics)
    assert [(name, s.infinities, s.flowed, s.died, s.killed) for name, s in seen.items()] == [
        ("exp", 1, 0, 0, 0),
        ("more", 0, 1, 0, 0),
        ("inverse", 0, 0, 1, 1),
        ("thousand", 0, 0, 0, 0),
    ]
    assert seen.outputs["thousand"] == 0
    assert seen.exact["thousand"] == pytest.approx(1000 / (1 + math.exp(12)), rel=1e-6)
    assert seen["exp"].own_error == math.inf
    assert seen["thousand"].own_error == 0 < seen["thousand"].total_error == seen["thousand"].inherited_error


def test_a_death_that_changes_nothing_kills_nothing() -> None:
    """The tangent is 1 either way where the exponential overflows."""
    x = Value("x", half(1))
    exp = op("exp", "exp", half(1), x=x)
    seen = shadow(program([x], [exp, op("tanh", "tanh", half(1), x=exp.outputs[0])]), {"x": [12.0]})
    assert (seen["tanh"].died, seen["tanh"].killed) == (1, 0)


def test_own_and_inherited_errors_are_those_of_a_computation_by_hand() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 8)).astype(np.float32), rng.standard_normal((4, 8)).astype(np.float16)
    weight, bias = Value("w", half(4, 8), w), Value("b", half(4), np.zeros(4, np.float16))
    given = Value("x", Type(DType.FP32, (2, 3, 8)))
    narrow = op("cast", "narrow", half(2, 3, 8), x=given, dtype=const("fp16", DType.STRING))
    linear = op("linear", "linear", half(2, 3, 4), x=narrow.outputs[0], weight=weight, bias=bias)
    square = op("mul", "square", half(2, 3, 4), x=linear.outputs[0], y=linear.outputs[0])
    seen = shadow(program([given], [narrow, linear, square]), {"x": x}, "gpu")

    x16 = x.astype(np.float16).astype(np.float32)
    exact, again = x @ w.T.astype(np.float32), x16 @ w.T.astype(np.float32)
    stored = again.astype(np.float16).astype(np.float32)
    assert seen["narrow"].own.largest == pytest.approx(np.abs(x16 - x).max(), rel=1e-6)
    assert seen["linear"].own.largest == pytest.approx(np.abs(stored - again).max(), rel=1e-3)
    assert seen["linear"].inherited.rms == pytest.approx(np.sqrt(np.mean((again - exact) ** 2)), rel=1e-2)
    assert seen["linear"].total.largest == pytest.approx(np.abs(stored - exact).max(), rel=1e-2)
    assert seen["square"].total.largest == pytest.approx(
        np.abs((stored**2).astype(np.float16) - exact**2).max(), rel=1e-2
    )
    assert seen["square"].inherited.largest == pytest.approx(np.abs(stored**2 - exact**2).max(), rel=1e-2)
    assert (seen["linear"].low, seen["linear"].high) == pytest.approx((exact.min(), exact.max()), rel=1e-5)


def test_a_program_in_fp32_has_no_error() -> None:
    x = Value("x", Type(DType.FP32, (1,)))
    wide = [
        Op(
            o.type,
            o.name,
            {k: tuple(_widened(v, x) for v in vs) for k, vs in o.inputs.items()},
            (_widened(o.outputs[0], x),),
        )
        for o in sigmoid_like(Value("x", half(1)))
    ]
    values = {v.name: v for o in wide for v in o.outputs} | {"x": x}
    wired = [
        Op(o.type, o.name, {k: tuple(values.get(v.name, v) for v in vs) for k, vs in o.inputs.items()}, o.outputs)
        for o in wide
    ]
    seen = shadow(program([x], wired), {"x": [12.0]}, "strict")
    assert [s.total_error for s in seen.values()] == [0, 0, 0, 0]
    assert seen.outputs["thousand"] == seen.exact["thousand"] > 0


def _widened(value: Value, x: Value) -> Value:
    const = None if value.const is None else np.asarray(value.const, np.float32)
    return Value(value.name, Type(DType.FP32, value.type.shape), const)


def test_what_a_constant_lost_is_charged_to_its_reader() -> None:
    x, tiny = Value("x", half(2)), const(1e-12)
    floor = op("add", "floor_cast_fp16", half(2), x=x, y=tiny)
    log = op("log", "log_cast_fp16", half(2), x=floor.outputs[0], epsilon=const(0, DType.FP32))
    narrow = program([x], [floor, log])
    wide, eps = Value("x", Type(DType.FP32, (2,))), Value("e", Type(DType.FP32), np.array(1e-12, np.float32))
    twin = program([wide], [op("add", "floor", Type(DType.FP32, (2,)), x=wide, y=eps)])

    blind = shadow(narrow, {"x": [0.0, 1.0]})
    assert blind["floor_cast_fp16"].zeroed == 0
    assert blind["log_cast_fp16"].total_error == 0  # log(0) in float32 as well
    seen = shadow(narrow, {"x": [0.0, 1.0]}, constants=exact_constants(narrow, twin))
    assert seen["floor_cast_fp16"].zeroed == 1
    assert (seen["log_cast_fp16"].flowed, seen["log_cast_fp16"].infinities) == (1, 0)


def test_a_term_that_vanishes_in_a_sum_is_absorbed() -> None:
    x, y = Value("x", half(3)), Value("y", half(3))
    seen = shadow(
        program([x, y], [op("add", "sum", half(3), x=x, y=y)]), {"x": [2048.0, 1.0, 0.0], "y": [0.5, 0.5, 3.0]}
    )
    assert seen["sum"].absorbed == 1


def counted_loop(step: float) -> Program:
    """``while total < 1: total += step`` in FP16: with 2**-12 it stalls at 1/2, where a turn is half a step."""
    total, turns = Value("t", half()), Value("n", INT)
    low = op("less", "low", Type(DType.BOOL), x=total, y=const(1))
    left = op("less", "left", Type(DType.BOOL), x=turns, y=const(6000, DType.INT32))
    both = op("logical_and", "both", Type(DType.BOOL), x=low.outputs[0], y=left.outputs[0])
    more = op("add", "more", half(), x=total, y=const(step))
    turn = op("add", "turn", INT, x=turns, y=const(1, DType.INT32))
    start = Value("start", half())
    loop = op(
        "while_loop",
        "loop",
        (half(), INT),
        (
            Block((total, turns), (low, left, both), both.outputs),
            Block((total, turns), (more, turn), (*more.outputs, *turn.outputs)),
        ),
        loop_vars=(start, const(0, DType.INT32)),
    )
    return program([start], [loop])


def test_a_loop_is_seen_turn_by_turn_until_the_executions_part() -> None:
    stalls = counted_loop(2.0**-12)
    seen = shadow(stalls, {"start": np.float16(0)}, "gpu")
    alone = Executor(stalls, "gpu").once({"start": np.float16(0)})
    assert list(seen) == ["low", "left", "both", "more", "turn", "loop"]
    assert seen["loop"].parted == 1
    assert seen["more"].runs == 4096
    assert seen["more"].absorbed == 2048 - 1 + 1  # from 1/2 on
    assert seen.outputs["loop_0"] == alone["loop_0"] == 0.5
    assert (seen.outputs["loop_1"], seen.exact["loop_1"], seen.exact["loop_0"]) == (6000, 4096, 1.0)


def test_a_loop_that_ends_alike_does_not_part() -> None:
    seen = shadow(counted_loop(0.25), {"start": np.float16(0)})
    assert (seen["loop"].parted, seen["more"].runs, seen["more"].total_error) == (0, 4, 0)


def test_branches_that_part_meet_behind_the_op() -> None:
    """2049 rounds to 2048 in FP16, so the unit takes the other branch."""
    x = Value("x", Type(DType.FP32))
    narrow = op("cast", "narrow", half(), x=x, dtype=const("fp16", DType.STRING))
    large = op("greater", "large", Type(DType.BOOL), x=narrow.outputs[0], y=const(2048))
    left, right = op("mul", "left", half(), x=narrow.outputs[0], y=const(2)), op("exp", "right", half(), x=const(0))
    blocks = (Block((), (left,), left.outputs), Block((), (right,), right.outputs))
    chosen = op("cond", "chosen", half(), blocks, pred=large.outputs[0])
    last = op("mul", "last", half(), x=chosen.outputs[0], y=const(1))
    seen = shadow(program([x], [narrow, large, chosen, last]), {"x": np.float32(2049)})
    assert (seen["large"].changed, seen["chosen"].parted) == (1, 1)
    assert (seen.outputs["last"], seen.exact["last"]) == (1.0, 4098.0)
    assert "left" not in seen
    same = shadow(program([x], [narrow, large, chosen, last]), {"x": np.float32(4000)})
    assert (same["chosen"].parted, same["left"].runs) == (0, 1)


def test_states_go_on_in_both_executions() -> None:
    """A follower whose step is below half a step of FP16 never moves; in float32 it does, call by call."""
    state, x = Value("s", Type(DType.FP16, (1,), Kind.STATE)), Value("x", half(1))
    read = op("read_state", "read", half(1), input=state)
    more = op("add", "more", half(1), x=read.outputs[0], y=x)
    write = Op("write_state", "write", {"input": (state,), "data": more.outputs}, ())
    again = op("read_state", "again", half(1), input=state)
    keeps = program([state, x], [read, more, write, again])
    sweep = Sweep(keeps, "gpu")
    start = {"s": np.array([1024.0])}
    turns = (Turn({"x": [0.25]}, start), Turn({"x": [0.25]}), Turn({"x": [0.25]}))
    seen = [sweep(turn, lambda done: None) for turn in turns]
    assert [(float(a["again"][0]), float(e["again"][0])) for a, e in seen] == [
        (1024, 1024.25),
        (1024, 1024.5),
        (1024, 1024.75),
    ]


def test_integers_stay_as_wide_as_they_were() -> None:
    ids = Value("ids", Type(DType.INT32, (2,)))
    narrow = op("cast", "narrow", Type(DType.INT16, (2,)), x=ids, dtype=const("int16", DType.STRING))
    back = op("cast", "back", Type(DType.INT32, (2,)), x=narrow.outputs[0], dtype=const("int32", DType.STRING))
    seen = shadow(program([ids], [narrow, back]), {"ids": np.array([7, 40_000], np.int32)})
    assert seen.outputs["back"].tolist() == [7, 40_000 - 2**16]
    assert seen.exact["back"].tolist() == [7, 40_000]
    assert (seen["narrow"].changed, seen["back"].changed) == (1, 1)
    assert seen["narrow"].own_error > 0 == seen["back"].own_error


def test_shadows_of_several_batches_join() -> None:
    x = Value("x", half(1))
    p = program([x], sigmoid_like(x))
    both: Shadows = shadow(p, {"x": [12.0]}) | shadow(p, {"x": [1.0]})
    assert (both["exp"].runs, both["exp"].infinities, both["exp"].own.count) == (2, 1, 1)
    assert both["exp"].low == pytest.approx(math.e, rel=1e-6)


@pytest.mark.parametrize(("numerics", "most"), [("gpu", 2), ("strict", 3), ("ane", 3)])
def test_an_op_costs_at_most_three_evaluations(numerics: str, most: int) -> None:
    x = Value("x", half(1))
    sweep = Sweep(program([x], sigmoid_like(x)), numerics)
    sweep({"x": [12.0]}, lambda done: None)
    assert sweep.executed == 4
    assert sweep.executed <= sweep.evaluations <= most * sweep.executed


def test_values_die_after_their_last_use() -> None:
    x = Value("x", half(4))
    first = op("relu", "first", x=x)
    second = op("exp", "second", x=first.outputs[0])
    third = op("abs", "third", x=second.outputs[0])
    made: dict[str, Any] = {}
    alive: dict[str, list[str]] = {}

    def watch(done: Executed) -> None:
        gc.collect()
        alive[done.op.name] = [name for name, there in made.items() if there() is not None]
        actual = done.results[0].actual
        assert isinstance(actual, torch.Tensor)
        made[done.op.name] = weakref.ref(actual)

    Sweep(program([x], [first, second, third]), "strict")({"x": np.full(4, 0.3)}, watch)
    assert alive == {"first": [], "second": ["first"], "third": ["second"]}
