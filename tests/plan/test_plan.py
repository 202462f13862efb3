"""Plans: islands are connected, and nothing is kept twice."""

from __future__ import annotations

import numpy as np

from nanproof.mil.edits import SetConstant
from nanproof.plan.plan import Island, Plan, connected
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from nanproof.rewrite.rewrite import Rewrite

X = np.float32(65504)
F32 = Type(DType.FP32, (2,))


def chain(*names):
    """``x -> names[0] -> names[1] -> ...``."""
    x = Value("x", F32)
    ops, last = [], x
    for name in names:
        out = Value(f"{name}_out", F32)
        ops.append(Op("relu", name, {"x": (last,)}, (out,)))
        last = out
    return Program({"main": Function("main", {"x": x}, Block((x,), tuple(ops), (last,)))})


def test_connected_regions():
    program = chain("a", "b", "c", "d", "e")
    assert connected(program, ["e", "a", "b", "d"]) == [("a", "b"), ("d", "e")]
    assert connected(program, ["c"]) == [("c",)]
    assert connected(program, ["unknown"]) == []


def test_islands_do_not_overlap():
    plan = Plan().with_islands([Island(("a", "b"), "r", "e")]).with_islands([Island(("b", "c"), "r", "e")], ["out"])
    assert [i.ops for i in plan.islands] == [("a", "b"), ("c",)]
    assert plan.with_islands([Island(("a",), "r", "e")]) == plan
    assert plan.fp32_outputs == ("out",)


def test_a_clip_in_fp32_keeps_its_bound():
    bound = Rewrite("clip-bound", ("a", "b"), "", "", (SetConstant("a", "beta", 0, X), SetConstant("b", "beta", 0, X)))
    plan = Plan(rewrites=(bound,))
    assert [e.op for e in plan.edits] == ["a", "b"]
    assert [e.op for e in plan.with_islands([Island(("a",), "r", "e")]).edits] == ["b"]
