"""Three-valued overflow: what is safe overflows in no order, what is definite in every one."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nanproof.errors import NumericsError
from nanproof.interpret.accumulators import accumulations
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from tests.numerics.models import engine_dot
from tests.numerics.running import Half, halves_from_bits, program_of, run

examples = settings(max_examples=150, deadline=None, derandomize=True)

# Large and small numbers of both signs, so that sums are often near the limit.
large = st.builds(lambda sign, low: sign << 15 | low, st.integers(0, 1), st.integers(0x6C00, 0x7900))
small = st.integers(0, 0x6C00)
ones = st.sampled_from([0x3C00, 0xBC00, 0x3800, 0x3BFF])


def judge(pairs: list[tuple[int, int]], bias: int, unit: str = "ane") -> str:
    x, w = (halves_from_bits(list(side)).reshape(1, -1) for side in zip(*pairs, strict=True))
    inputs = {"x": x, "weight": w, "bias": halves_from_bits([bias])}
    (seen,) = accumulations(program_of("linear", **inputs), [inputs], numerics=unit)
    assert (seen.op, seen.op_type, seen.sums) == ("op", "linear", 1)
    return seen.level


@examples
@given(st.lists(st.tuples(large | small, ones), min_size=1, max_size=5), st.just(0) | large)
@example([(0x7400, 0x3C00), (0x73FF, 0x3C00), (0x4800, 0x3C00)], 0)  # 16384 + 16376 + 8 is the limit itself
@example([(0x77FF, 0x3C00), (0x4BFF, 0x3C00), (0x1800, 0x3C00)], 0)
@example([(0x7800, 0x3C00)], 0xD000)
def test_no_order_refutes_a_judgement(pairs: list[tuple[int, int]], bias: int) -> None:
    """Every order of the products, by the model in whole numbers."""
    results = [engine_dot([x for x, _ in order], [w for _, w in order], bias) for order in permutations(pairs)]
    overflows = [math.isinf(r) for r in results]
    level = judge(pairs, bias)
    if level == "safe":
        assert not any(overflows)
    if level == "definite":
        assert all(overflows)
    if any(overflows) and not all(overflows):
        assert level == "possible"


@examples
@given(st.lists(st.tuples(large | small, ones), min_size=1, max_size=5), st.just(0) | large)
def test_what_is_safe_on_an_m1_overflows_in_no_order(pairs: list[tuple[int, int]], bias: int) -> None:
    if judge(pairs, bias, "ane_m1") != "safe":
        return
    for order in permutations(pairs):
        x, w = (halves_from_bits(list(side)).reshape(1, -1) for side in zip(*order, strict=True))
        result = run("linear", "ane_m1", exact=True, x=x, weight=w, bias=halves_from_bits([bias]))
        assert math.isfinite(result.item()) or len(pairs) == 1  # one product has the range of fp16


def test_published_overflows_are_judged() -> None:
    one = 0x3C00
    assert judge([(0x7400, one), (0x7400, one)], 0) == "definite"  # 16384 twice
    assert judge([(0x7400, one), (0x73FF, one)], 0) == "safe"  # 32760, which rounds to 32768
    cancelling = [(0x7400, one), (0x7400, one), (0xF400, one), (0xF400, one), (one, one)]
    assert judge(cancelling, 0) == "possible"
    assert judge([(0x7400, one), (0x7400, one)], 0xF400) == "safe"  # A7: the bias keeps the sum low
    assert judge([(0x7800, one)], 0) == "definite"
    assert judge([(0x7800, one)], 0, "ane_m1") == "safe"  # A5: one product has the full range
    assert judge([(0x7400, one), (0x7400, one)], 0, "ane_m1") == "definite"


def two_steps() -> Program:
    """A matrix product of ``x`` with itself, and a convolution; between them an addition in fp32's place."""
    x, image = Value("x", Type(DType.FP16, (2, 2))), Value("image", Type(DType.FP16, (1, 2, 3)))
    weight = Value("weight", Type(DType.FP16, (1, 2, 2)), np.ones((1, 2, 2), Half))
    product, sums, doubled = (
        Value(n, Type(DType.FP16, s)) for n, s in (("p", (2, 2)), ("c", (1, 1, 2)), ("d", (2, 2)))
    )
    ops = (
        Op("matmul", "product", {"x": (x,), "y": (x,)}, (product,)),
        Op("add", "doubled", {"x": (product,), "y": (product,)}, (doubled,)),
        Op("conv", "sums", {"x": (image,), "weight": (weight,)}, (sums,)),
    )
    block = Block((x, image), ops, (doubled, sums))
    return Program({"main": Function("main", {"x": x, "image": image}, block)})


def test_ops_are_named_and_counted_over_all_runs() -> None:
    quiet = {"x": np.eye(2, dtype=Half), "image": np.ones((1, 2, 3), Half)}
    loud = {"x": np.full((2, 2), 200, Half), "image": np.array([[[1e4, 1e4, -1e4], [1e4, 1e4, -1e4]]], Half)}
    product, sums = accumulations(two_steps(), [quiet, loud])
    assert (product.op, product.op_type, product.sums) == ("product", "matmul", 8)
    assert (product.definite, product.possible, product.largest) == (4, 0, 80000)
    assert (sums.op, sums.op_type, sums.level) == ("sums", "conv", "definite")
    assert (sums.sums, sums.definite, sums.possible) == (4, 1, 0)
    assert sums.largest == 40000
    assert [a.level for a in accumulations(two_steps(), [quiet])] == ["safe", "safe"]


def test_judging_does_not_change_the_results() -> None:
    x = np.random.default_rng(0).normal(0, 100, (8, 32)).astype(Half)
    for unit in ("ane", "ane_m1"):
        before = run("matmul", unit, x=x, y=x.T.copy())
        accumulations(program_of("matmul", x=x, y=x.T.copy()), [{"x": x, "y": x.T.copy()}], numerics=unit)
        np.testing.assert_array_equal(run("matmul", unit, x=x, y=x.T.copy()), before)


def test_attention_and_einsum_are_judged() -> None:
    query = np.full((1, 2, 4), 120, Half)
    inputs = {"query": query, "key": query, "value": query}
    (attention,) = accumulations(program_of("scaled_dot_product_attention", **inputs), [inputs])
    assert (attention.level, attention.definite, attention.sums) == ("definite", 4, 4 + 8)


def test_other_units_have_no_such_limit() -> None:
    x = np.ones((2, 2), Half)
    with pytest.raises(NumericsError, match=r"accumulators of 'gpu' have no limit.*Ask for 'ane'"):
        accumulations(program_of("matmul", x=x, y=x), [{"x": x, "y": x}], numerics="gpu")
