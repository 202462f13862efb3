"""Executor: what it takes, what it refuses, and in whose words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nanproof
from nanproof.errors import ExecutionError, InputError, NumericsError, UnsupportedOpError
from nanproof.interpret.execute import Executor
from nanproof.program import Block, DType, Function, Op, Program, Source, Type, Value


def program(op_type="add", dtype=DType.FP32, **constants):
    """``y = op(x=a, y=b)`` of ``a: dtype[2, 3]`` and ``b: int32[2, 3]`` cast by hand."""
    a, b = Value("a", Type(dtype, (2, 3))), Value("b", Type(dtype, (3,)))
    y = Value("out", Type(dtype, (2, 3)))
    op = Op(op_type, "op_0", {"x": (a,), "y": (b,)}, (y,), source=Source("net.py", 7, "a + b", "body"))
    return Program({"main": Function("main", {"a": a, "b": b}, Block((a, b), (op,), (y,)), "CoreML7")})


GOOD = {"a": np.ones((2, 3), np.float32), "b": np.arange(3, dtype=np.float32)}


def test_outputs_by_name_in_the_declared_dtype():
    outputs = nanproof.predict(program(dtype=DType.FP16), GOOD, numerics="gpu")
    assert list(outputs) == ["out"]
    assert outputs["out"].dtype == np.float16
    assert np.array_equal(outputs["out"], [[1, 2, 3], [1, 2, 3]])


def test_tensors_and_lists_are_fine():
    outputs = nanproof.predict(program(), {"a": torch.ones(2, 3), "b": [0, 1, 2]})
    assert np.array_equal(outputs["out"], [[1, 2, 3], [1, 2, 3]])


def test_reference_ignores_fp16():
    feeds = {"a": np.full((2, 3), 60000.0), "b": np.full(3, 60000.0)}
    half = program(dtype=DType.FP16)
    assert np.isinf(nanproof.predict(half, feeds, numerics="gpu")["out"]).all()
    wide = Executor(half, "reference")
    seen = []
    wide(feeds, [lambda op, operands, results: seen.append(float(results[0].max()))])
    assert seen == [120000.0]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"a": GOOD["a"]}, r"the input 'b' is missing.\n  The program takes\n    a: fp32\[2, 3\]"),
        ({**GOOD, "c": 1}, "there is no input 'c'"),
        ({**GOOD, "a": np.ones((3, 2))}, r"Input 'a' has shape \(3, 2\), but the program takes fp32\[2, 3\]"),
        ({**GOOD, "a": np.ones(3)}, r"Input 'a' has shape \(3,\)"),
        ({**GOOD, "b": np.array(["x", "y", "z"])}, "Input 'b' has dtype <U1.*pass numbers"),
    ],
)
def test_wrong_inputs(feeds, message):
    with pytest.raises(InputError, match=message):
        nanproof.predict(program(), feeds)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 2**40], "holds values from 1 to 1099511627776, beyond the range of int32"),
        ([0.5, 1, 2], "holds fractions"),
        ([np.nan, 1, 2], "holds fractions or non-finite numbers"),
    ],
)
def test_integers_are_not_bent(values, message):
    with pytest.raises(InputError, match=message):
        nanproof.predict(program(dtype=DType.INT32), {"a": np.ones((2, 3)), "b": np.array(values)})


def test_wide_integers_and_whole_floats_fit():
    feeds = {"a": np.ones((2, 3), np.int64), "b": np.array([0.0, 1.0, 2.0])}
    assert nanproof.predict(program(dtype=DType.INT32), feeds)["out"].dtype == np.int32


def test_unknown_ops_are_all_named():
    with pytest.raises(UnsupportedOpError, match=r"(?s)function 'main': frobnicate \(1x\).*Nothing was checked"):
        nanproof.predict(program("frobnicate"), GOOD)


def test_unknown_numerics():
    with pytest.raises(NumericsError, match="Unknown numerics 'tpu'"):
        nanproof.predict(program(), GOOD, numerics="tpu")


def test_a_failing_op_says_which_and_where():
    """A program whose declared types lie."""
    broken = program()
    object.__setattr__(broken.main.inputs["b"].type, "shape", (4,))
    with pytest.raises(ExecutionError, match=r"(?s)'op_0' \(add\) failed.*It comes from body at net.py:7"):
        nanproof.predict(broken, {"a": GOOD["a"], "b": np.ones(4)})


def test_same_input_same_bytes():
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Softmax(-1))
    x = torch.randn(8, 64)
    result = nanproof.convert(module, (x,))
    feeds = dict(zip(result.program.inputs, [x], strict=True))
    first = nanproof.predict(result.program, feeds, numerics="gpu")
    for _ in range(3):
        again = nanproof.predict(result.program, feeds, numerics="gpu")
        assert all(first[k].tobytes() == again[k].tobytes() for k in first)
