"""Small programs, written down as they are."""

from __future__ import annotations

import numpy as np

from nanproof.program import Block, DType, Function, Op, Program, Type, Value


def half(name, shape=()):
    return Value(name, Type(DType.FP16, shape))


def number(value, dtype=DType.FP16, name="c"):
    array = np.asarray(value, dtype.numpy)
    return Value(name, Type(dtype, array.shape), array)


def text(value):
    return Value("text", Type(DType.STRING), value)


def op(type, result, **inputs):
    return Op(type, result.name, {name: (value,) for name, value in inputs.items()}, (result,))


def program(inputs, ops, output):
    main = Function("main", {v.name: v for v in inputs}, Block(tuple(inputs), tuple(ops), (output,)), "CoreML7")
    return Program({"main": main})


def dot(weight):
    """A linear layer with one output and the given weights."""
    weight = np.asarray(weight, np.float16).reshape(1, -1)
    x, y = half("x", (1, weight.shape[1])), half("y", (1, 1))
    return program([x], [op("linear", y, x=x, weight=number(weight), bias=number([0.0]))], y)


def lookup(table):
    """The sum of the table's row, by one id."""
    table = np.asarray(table, np.float16)
    ids = Value("ids", Type(DType.INT32, (1,)))
    row, total = half("row", (1, table.shape[1])), half("total", (1,))
    ops = [
        op("gather", row, x=number(table), indices=ids, axis=number(0, DType.INT32)),
        op("reduce_sum", total, x=row, axes=number([1], DType.INT32), keep_dims=number(False, DType.BOOL)),
    ]
    return program([ids], ops, total)


def masked(dtype, sentinel):
    """A softmax of zeros to which a mask of 0 and 1 adds ``(mask - 1) * sentinel``, twice."""
    mask = Value("mask", Type(dtype, (1, 4)))
    names = ("wide", "less", "scaled", "twice", "weights")
    wide, less, scaled, twice, weights = (half(name, (1, 4)) for name in names)
    ops = [
        op("cast", wide, x=mask, dtype=text("fp16")),
        op("sub", less, x=wide, y=number(1.0)),
        op("mul", scaled, x=less, y=number(sentinel)),
        op("add", twice, x=scaled, y=scaled),
        op("softmax", weights, x=twice, axis=number(-1, DType.INT32)),
    ]
    return program([mask], ops, weights)


def halves():
    """``60 relu(x) + 60 relu(-x)``, which is ``60 |x|``: twice as much for who bounds the two halves alone."""
    x = half("x", (1, 3))
    names = ("flipped", "right", "left", "right60", "left60", "y")
    flipped, right, left, right60, left60, y = (half(name, (1, 3)) for name in names)
    ops = [
        op("mul", flipped, x=x, y=number(-1.0)),
        op("relu", right, x=x),
        op("relu", left, x=flipped),
        op("mul", right60, x=right, y=number(60.0)),
        op("mul", left60, x=left, y=number(60.0)),
        op("add", y, x=right60, y=left60),
    ]
    return program([x], ops, y)
