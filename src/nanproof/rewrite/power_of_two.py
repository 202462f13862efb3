"""Values beyond the range → the same values divided by powers of two, carried that way until they fit again.

Let ``v`` be a value that overflows: the square of ``x`` in a norm, a score before it is scaled, a residual stream, the
sum of a thousand pixels. The program computes ``v * 2**-e`` in its place, all the way to where the power cancels: into
a constant (a weight, a scale), against the other operand of a product or a quotient (``x * rsqrt(mean(x**2) + eps)`` is
of degree 0), or into a multiplication by ``2**e`` once the value fits.

* **Exact**: a product with a power of two changes the exponent alone (IEEE 754-2019, 4.3), and the ops of
  :mod:`nanproof.rewrite.homogeneous` then return the same significands, as long as nothing becomes subnormal. A
  logarithm and a broken power get one more rounding.
* **Constants that are added** (an epsilon, a bias, a bound) are divided as well. One that would vanish becomes the
  smallest FP16 number, so that a sum that was above 0 stays above 0.
* **Condition**: most elements of what is scaled stay normal FP16 numbers, in each run on given inputs. What an
  overflowing value is computed from, and all that is computed from it up to that place, has a rule. What divides, or
  goes into a root or a logarithm, keeps its precision at its smallest observed element above 0: ``2**-15`` or more,
  where half an ulp is ``2**-10`` of it. Where a condition fails, the op stays FP32.

How far to scale rests on the observed ranges: 8 times below the limit. All exponents follow from one walk through the
program in execution order, and from a few more in which readers say at which exponent they would like to have a value
(so that a weight takes the power, and no op is added).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nanproof.findings import Finding
from nanproof.interpret.execute import Executor
from nanproof.mil.edits import OUTPUT, Edit, Replace, Step
from nanproof.program import Op, Program, Value
from nanproof.rewrite.exponents import Exponents, GivenUpError, Known
from nanproof.rewrite.homogeneous import apply_rule, overflows, passes_on
from nanproof.rewrite.rewrite import Proposal, Rewrite

__all__ = ["propose"]

_MOST_WALKS = 6
_MOST_TRIALS = 64


class _FailedError(Exception):
    """An op cannot be had at any exponent; ``origins`` are the overflows that would ask it to."""

    def __init__(self, op: Op, origins: frozenset[str], reason: str) -> None:
        super().__init__(reason)
        self.op, self.origins = op, origins


def propose(known: Known, batches: Sequence[Mapping[str, Any]], given: int) -> Proposal:
    """One rewrite for all overflows of a float32 program that can be scaled away.

    Args:
        known: What is known of the program; its small values are filled in here, if they are needed.
        batches: Inputs of the runs on which its ranges were observed.
        given: How many of them the precision has to hold on. The others are stress inputs, which have to stay finite.
    """
    known = replace(known, inside=_deviations(known, batches))
    if not any(overflows(known, op) for op in known.program.main.block.ops):
        return Proposal()
    known = _with_small(known, batches[:given])
    given_up: set[str] = set()
    plain: set[str] = set()
    for _ in range(_MOST_TRIALS):
        try:
            state = _settled(known, frozenset(given_up), frozenset(plain))
        except _FailedError as failure:
            if failure.op.name not in plain and failure.op.name not in failure.origins:
                plain.add(failure.op.name)
            else:
                given_up |= failure.origins or {failure.op.name}
            continue
        return _proposal(known, state) if state.hazards else Proposal()
    return Proposal()


def _deviations(known: Known, batches: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the norms whose sum of squared deviations may leave the range, the largest one on all runs."""
    found: dict[str, float] = {}

    def see(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        if _normalised(op):
            squares, _ = _squares(op, operands)
            found[op.name] = max(found.get(op.name, 0.0), float(squares.max()))

    if not known.limits.narrow_sums or not any(_may_overflow_inside(known, op) for op in known.makers.values()):
        return {}
    executor = Executor(known.program)
    for batch in batches:
        executor.once(batch, [see])
    return found


def _may_overflow_inside(known: Known, op: Op) -> bool:
    if not _normalised(op):
        return False
    x = op.inputs["x"][0]
    count = math.prod(d for d in x.type.shape if isinstance(d, int))
    return known.ranges[x.name].magnitude ** 2 * count > known.limits.stored


def _squares(op: Op, operands: Sequence[Tensor]) -> tuple[Tensor, int]:
    """The sums of squared deviations in a norm as it ran, and how many deviations each adds up."""
    axes, x = _normalised(op), operands[op.tensors.index(op.inputs["x"][0])].double()
    squares = (x - x.mean(axes, keepdim=True)).square().sum(axes)
    return squares, x.numel() // max(squares.numel(), 1)


def _normalised(op: Op) -> list[int]:
    """The axes over which a norm takes its mean and deviation; none for other ops."""
    if op.type == "instance_norm":
        return list(range(2, len(op.inputs["x"][0].type.shape)))
    axes = op.input("axes") if op.type == "layer_norm" else None
    return [] if axes is None or isinstance(axes.const, str | None) else [int(a) for a in axes.const]


def _with_small(known: Known, batches: Sequence[Mapping[str, Any]]) -> Known:
    """What is known, and of each computed float the smallest magnitude above 0, the smallest median, and variances."""
    smallest: dict[str, float] = {}
    typical: dict[str, float] = {}
    variance: dict[str, float] = {}

    def see(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for value, result in zip(op.outputs, results, strict=True):
            sizes = _sizes(result)
            if sizes.numel():
                smallest[value.name] = min(smallest.get(value.name, math.inf), float(sizes.min()))
                typical[value.name] = min(typical.get(value.name, math.inf), float(sizes.median()))
        if _normalised(op):
            squares, count = _squares(op, operands)
            sizes = _sizes(squares)
            if sizes.numel():
                variance[op.name] = min(variance.get(op.name, math.inf), float(sizes.min()) / count)

    executor = Executor(known.program)
    for batch in batches:
        executor.once(batch, [see])
    return replace(known, smallest=smallest, typical=typical, variance=variance)


def _sizes(x: Tensor) -> Tensor:
    """The magnitudes of the finite elements that are not 0; none of what holds no floats."""
    return x[(x != 0) & x.isfinite()].abs() if x.is_floating_point() else torch.empty(0)


def _settled(known: Known, given_up: frozenset[str], plain: frozenset[str]) -> Exponents:
    """The exponents once readers and writers agree, or after a few walks."""
    wishes: dict[Value, int] = {}
    best = _walk(known, given_up, plain, wishes)
    for _ in range(_MOST_WALKS):
        wishes = {**wishes, **_wishes(known.program, best)}
        state = _walk(known, given_up, plain, wishes)
        if len(state.edits) >= len(best.edits):
            break
        best = state
    return best


def _walk(known: Known, given_up: frozenset[str], plain: frozenset[str], wishes: Mapping[Value, int]) -> Exponents:
    state = Exponents(known, given_up, plain, wishes)
    block = known.program.main.block
    for op in block.ops:
        try:
            apply_rule(state, op)
        except GivenUpError as reason:
            raise _FailedError(op, state.origins(op), str(reason)) from reason
    for value in block.outputs:
        state.wanted.setdefault(value, set()).add(0)
    return state


def _wishes(program: Program, state: Exponents) -> dict[Value, int]:
    """The exponent at which all readers of a value want it, where that is not the one at which it is carried."""
    wishes: dict[Value, int] = {}
    for op in reversed(program.main.block.ops):
        for value in op.outputs:
            wanted = {wishes[value]} if value in wishes else state.wanted.get(value, set())
            if len(wanted) != 1 or len(op.outputs) != 1:
                continue
            (exponent,) = wanted
            if exponent != state.of(value):
                wishes[value] = exponent
                source = op.input(passes_on(op)) if passes_on(op) else None
                if source is not None and state.known.readers(source) == 1:
                    wishes[source] = exponent
    return wishes


def _proposal(known: Known, state: Exponents) -> Proposal:
    edits: list[Edit] = list(state.edits)
    makers = {v: op for op in known.program.main.block.ops for v in op.outputs}
    for value in dict.fromkeys(known.program.main.block.outputs):
        if state.of(value):
            maker = makers[value]
            step = Step("mul", f"{value.name}_restored", {"x": OUTPUT, "y": 2.0 ** state.of(value)})
            edits.append(Replace(maker.name, (step,), maker.outputs.index(value)))
    worst = max(state.hazards.values())
    largest = max(state.magnitude(v) for op in state.hazards for v in op.outputs)
    statement = (
        f"{len(state.hazards)} overflowing result{'s' if len(state.hazards) > 1 else ''}, up to {largest:.3g}, "
        f"divided by powers of two up to 2^{worst}"
    )
    condition = (
        "exact but for subnormal numbers; scaled 8 times below the limits of the units on the given inputs, where "
        "divisors and the operands of roots stay above 2^-15"
    )
    rewrite = Rewrite("power-of-two", tuple(state.touched), statement, condition, tuple(edits))
    born = [op for op in state.hazards if not any(state.magnitude(v) > known.limits.stored for v in op.operands)]
    return Proposal(tuple(_finding(state, op) for op in born), (rewrite,))


def _finding(state: Exponents, op: Op) -> Finding:
    size = max(state.magnitude(v) for v in op.outputs)
    limit = state.known.limits.of_result(op)
    detail = f"it has values up to {size:.4g} on the given inputs; the limit is {limit:.0f}"
    if size <= limit:
        detail = f"the sum inside of it goes beyond {state.known.limits.stored:.0f} on the given inputs"
    return Finding.at(_code(op), op, detail, f"rewritten: carried as 2^{-state.hazards[op]} of itself")


def _code(op: Op) -> str:
    """The class of an overflow, by the op in which it comes to be."""
    x, y = op.input("x"), op.input("y")
    if op.type in ("square", "pow", "reduce_l2_norm", "layer_norm", "instance_norm") or (op.type == "mul" and x is y):
        return "NP111"
    if op.type in ("matmul", "linear", "conv", "einsum", "conv_transpose"):
        return "NP112"
    if op.type.startswith("reduce_") or op.type in ("avg_pool", "cumsum"):
        return "NP113"
    if op.type in ("add", "sub"):
        return "NP114"
    return "NP110"
