"""Births: who made the first Inf, and who is excused."""

from __future__ import annotations

import numpy as np

from nanproof.diagnosis.births import find_births
from nanproof.interpret.observe import Range, Ranges, observe
from nanproof.program import Block, DType, Function, Op, Program, Type, Value


def half(shape=(3,), name="x", const=None):
    return Value(name, Type(DType.FP16, shape), const)


def program(*ops, inputs, output):
    return Program({"main": Function("main", {v.name: v for v in inputs}, Block(inputs, ops, (output,)), "CoreML7")})


def test_the_first_is_named_and_its_heirs_are_not():
    x, square, root = half(name="x"), half(name="square"), half(name="root")
    ops = (
        Op("mul", "square_cast_fp16", {"x": (x,), "y": (x,)}, (square,)),
        Op("sqrt", "root_cast_fp16", {"x": (square,)}, (root,)),
    )
    births, outputs = find_births(program(*ops, inputs=(x,), output=root), [{"x": [1, 300, 2]}], Ranges(), "gpu")
    assert [(b.op, b.op_type, b.infinities, b.nans, b.largest_operand) for b in births] == [
        ("square", "mul", 1, 0, 300.0)
    ]
    assert "mul made 1 Inf of operands up to 300 under 'gpu'" in births[0].described
    assert np.isinf(outputs[0]["root"][1])


def test_what_fp32_makes_as_well_is_excused():
    x, log = half(name="x"), half(name="log")
    p = program(
        Op("log", "log_0", {"x": (x,), "epsilon": (Value("e", Type(DType.FP32), np.float32(0)),)}, (log,)),
        inputs=(x,),
        output=log,
    )
    ranges, _ = observe(p, [{"x": [0, 1, 2]}])
    assert not ranges["log"].finite
    assert find_births(p, [{"x": [0, 1, 2]}], ranges, "gpu")[0] == []


def test_a_constant_that_became_infinite_is_no_excuse():
    x, y = half(name="x"), half(name="y")
    minimum = half((), "c", np.array(-np.inf, np.float16))
    p = program(Op("mul", "mask", {"x": (x,), "y": (minimum,)}, (y,)), inputs=(x,), output=y)
    births, _ = find_births(p, [{"x": [0, 1, 0]}], Ranges({"y": Range(-3.4e38, 0.0)}), "gpu")
    assert [(b.op, b.infinities, b.nans) for b in births] == [("mask", 1, 2)]


def test_an_overflowing_cast_is_charged_to_its_readers():
    x, narrow, y = Value("x", Type(DType.FP32, (2,))), half((2,), "narrow"), half((2,), "y")
    ops = (
        Op("cast", "cast_0", {"x": (x,), "dtype": (Value("d", Type(DType.STRING), "fp16"),)}, (narrow,)),
        Op("relu", "relu_cast_fp16", {"x": (narrow,)}, (y,)),
    )
    births, _ = find_births(program(*ops, inputs=(x,), output=y), [{"x": [1e5, 1.0]}], Ranges(), "gpu")
    assert [(b.op, b.op_type) for b in births] == [("relu", "relu")]
