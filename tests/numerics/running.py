"""One op, run through the executor under a numerics."""

from __future__ import annotations

from typing import Any

import numpy as np

import nanproof
from nanproof.numerics import Numerics
from nanproof.program import Block, DType, Function, Op, Program, Type, Value

Half = np.float16


def program_of(op_type: str, result: DType = DType.FP16, **inputs: Any) -> Program:
    """A program of one op. Floating-point arrays of rank 1 and more are its inputs, the rest constants."""
    values = {name: _value(name, given) for name, given in inputs.items()}
    given = {name: v for name, v in values.items() if v.const is None}
    results = (Value("result", Type(result, (1,))),)
    arguments = {name: (value,) for name, value in values.items()}
    block = Block(tuple(given.values()), (Op(op_type, "op", arguments, results),), results)
    return Program({"main": Function("main", given, block)})


def _value(name: str, given: Any) -> Value:
    if isinstance(given, str):
        return Value(name, Type(DType.STRING, ()), given)
    array = np.asarray(given)
    type_ = Type(DType.of_numpy(array.dtype), array.shape)
    constant = array.ndim == 0 or array.dtype.kind not in "f"
    return Value(name, type_, array) if constant else Value(name, type_)


def run(
    op_type: str, numerics: str | Numerics, result: DType = DType.FP16, *, exact: bool = False, **inputs: Any
) -> Any:
    """The result of one op, stored in the dtype ``result``."""
    program = program_of(op_type, result, **inputs)
    feeds = {name: inputs[name] for name in program.inputs}
    return nanproof.predict(program, feeds, numerics=numerics, exact=exact)["result"]


def halves_from_bits(bits: list[int]) -> np.ndarray:
    """Binary16 numbers by their bit patterns."""
    return np.array(bits, np.uint16).view(Half)


def all_halves() -> np.ndarray:
    """Every finite binary16 number."""
    every = np.arange(65536).astype(np.uint16).view(Half)
    return every[np.isfinite(every)]


def pointwise(x_bits: list[int], w_bits: list[int], bias: float, numerics: str, exact: bool = True) -> float:
    """A 1x1 convolution of one place with one output channel, as measured: a dot product plus a bias."""
    x, weight = (halves_from_bits(bits).reshape(1, -1, 1, 1) for bits in (x_bits, w_bits))
    return float(run("conv", numerics, exact=exact, x=x, weight=weight, bias=np.array([bias], Half)).item())
