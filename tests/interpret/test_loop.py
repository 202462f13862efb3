"""The loop: what it forgets, and what it runs once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import torch

from nanproof.interpret.execute import Executor
from nanproof.interpret.loop import Runner
from nanproof.numerics import get
from nanproof.program import Block, DType, Function, Op, Program, Type, Value

FP32 = Type(DType.FP32, (4,))


def op(kind: str, name: str, type: Type = FP32, blocks: tuple[Block, ...] = (), **inputs: Any) -> Op:
    given = {k: v if isinstance(v, tuple) else (v,) for k, v in inputs.items()}
    return Op(kind, name, given, (Value(name, type),), blocks)


def program(inputs: list[Value], ops: list[Op], outputs: tuple[Value, ...]) -> Program:
    function = Function("main", {v.name: v for v in inputs}, Block((), tuple(ops), outputs))
    return Program({"main": function})


def test_values_die_after_their_last_use() -> None:
    x = Value("x", FP32)
    first = op("relu", "first", x=x)
    second = op("exp", "second", x=first.outputs[0])
    third = op("abs", "third", x=second.outputs[0])
    alive: dict[str, list[str]] = {}
    made: dict[str, Any] = {}

    def watch(op: Op, operands: Any, results: Any) -> None:
        gc.collect()
        alive[op.name] = [name for name, there in made.items() if there() is not None]
        made[op.name] = weakref.ref(results[0])

    Executor(program([x], [first, second, third], third.outputs))({"x": np.ones(4, np.float32)}, [watch])
    assert alive == {"first": [], "second": ["first"], "third": ["second"]}


def test_values_that_only_a_nested_block_returns_or_reads_deep_inside_live_until_then() -> None:
    x, yes = Value("x", FP32), Value("yes", Type(DType.BOOL), np.array(True))
    made = op("relu", "made", x=x)
    inner = op("cond", "inner", pred=yes, blocks=(Block((), (), made.outputs), Block((), (), (x,))))
    outer = op("cond", "outer", pred=yes, blocks=(Block((), (inner,), inner.outputs), Block((), (), (x,))))
    between = op("exp", "between", x=made.outputs[0])
    last = op("add", "last", x=outer.outputs[0], y=between.outputs[0])
    result = Executor(program([x], [made, between, outer, last], last.outputs))({"x": np.ones(4, np.float32)})
    np.testing.assert_allclose(result["last"], 1 + np.exp(np.ones(4)), rtol=1e-6)


def test_an_input_that_a_loop_reads_again_is_not_forgotten() -> None:
    """In the body x is read by its last op; the next iteration reads it once more."""
    x, n = Value("x", FP32), Value("n", Type(DType.INT32))
    i, a = Value("i", Type(DType.INT32)), Value("a", FP32)
    more = op("less", "more", Type(DType.BOOL), x=i, y=n)
    one = Value("one", Type(DType.INT32), np.int32(1))
    step, total = op("add", "step", Type(DType.INT32), x=i, y=one), op("add", "total", x=a, y=x)
    blocks = (Block((i, a), (more,), more.outputs), Block((i, a), (step, total), (*step.outputs, *total.outputs)))
    zero = Value("zero", Type(DType.INT32), np.int32(0))
    out = (Value("steps", Type(DType.INT32)), Value("sum", FP32))
    loop = Op("while_loop", "loop", {"loop_vars": (zero, x)}, out, blocks)
    outputs = Executor(program([x, n], [loop], out))({"x": np.ones(4, np.float32), "n": np.int32(6)})
    assert outputs["steps"] == 6
    assert outputs["sum"].tolist() == [7] * 4


def test_compressed_weights_are_unpacked_once() -> None:
    x = Value("x", FP32)
    levels = Value("levels", Type(DType.INT8, (4,)), np.arange(4).astype(np.int8))
    scale = Value("scale", Type(DType.FP32, (1,)), np.array([0.5], np.float32))
    weight = op("constexpr_blockwise_shift_scale", "weight", data=levels, scale=scale)
    result = op("add", "result", x=x, y=weight.outputs[0])
    runner = Runner(program([x], [weight, result], result.outputs), get("reference"))
    seen: list[Any] = []
    for _ in range(2):
        runner({"x": torch.ones(4)}, [lambda o, operands, results: seen.append(results[0]) if o is weight else None])
    assert seen[0] is seen[1]


def test_outputs_belong_to_the_caller() -> None:
    x, weight = Value("x", FP32), Value("weight", FP32, np.ones(4, np.float32))
    same = op("identity", "same", x=weight)
    executor = Executor(program([x], [same], same.outputs))
    executor({"x": np.ones(4, np.float32)})["same"][:] = 9
    assert executor({"x": np.ones(4, np.float32)})["same"].tolist() == [1] * 4
