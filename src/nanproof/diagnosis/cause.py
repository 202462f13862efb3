"""The cause: what kind of fault a part of the blame is, at which op, and the values that show it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanproof.diagnosis.blame import Blame, Flow, relative_error, tensor_of
from nanproof.diagnosis.sample import Sample, number, sample_of
from nanproof.interpret.sweep import Executed
from nanproof.ops import TABLE
from nanproof.program import DType
from nanproof.values.floats import FP16_MAX, FP16_SMALLEST_NORMAL

__all__ = ["ACCUMULATED", "Cause", "cause_of"]

ACCUMULATED = "NP149"
"""The code of rounding that no single op makes worse."""

_ORDINARY = 2.0**-9
"""A relative error that storing in FP16 explains, with room for a few roundings."""
_AMPLIFIES = 8.0
"""An op that makes a relative error larger by this is where it becomes damage."""
_LARGE_CONSTANT = 32
"""Of constants with more elements only what overflows is looked at: small weights may vanish."""
_SUMS = frozenset({"bilinear", "reduction", "scan", "attention", "pooling", "normalisation", "softmax", "recurrent"})
_DECIDES = frozenset({"comparison", "logical", "index", "sort", "selection", "classifier"})
_DECIDING = frozenset({"round", "floor", "ceil", "sign", "floor_div", "mod", "cast", "one_hot", "cond", "while_loop"})
_DECIDING_TOO = frozenset({"reduce_argmax", "reduce_argmin", "select", "threshold", "thresholded_relu"})
_ANGLES = frozenset({"sin", "cos", "tan", "resample", "crop_resize", "affine", "gather", "atan"})
_BORN = {
    "exp": "NP115",
    "exp2": "NP115",
    "sinh": "NP115",
    "cosh": "NP115",
    "softplus": "NP115",
    "reduce_log_sum_exp": "NP115",
    "square": "NP111",
    "pow": "NP111",
    "reduce_sum_square": "NP111",
    "reduce_l2_norm": "NP111",
    "add": "NP114",
    "sub": "NP114",
}
_MASKS = frozenset({"add", "sub", "mul", "select", "fill", "fill_like", "pad"})
_DATA = frozenset({"x", "y", "a", "b", "data", "values", "query", "key", "value", "weight"})
_BOUNDS = frozenset({"clip", "maximum", "minimum"})


@dataclass(frozen=True, slots=True, eq=False)
class Cause:
    """A kind of fault at an op.

    Attributes:
        code: Key of :data:`nanproof.findings.KINDS`.
        executed: The op at which it is found, as it ran.
        sample: The element that shows it.
        text: What happened there, in words.
        sources: Whether the fault is in this op's own result; else the op makes damage of errors from before.
    """

    code: str
    executed: Executed
    sample: Sample | None
    text: str
    sources: bool


def cause_of(blame: Blame) -> Cause:
    """What a part of the blame is."""
    executed, op = blame.executed, blame.executed.op
    if executed.parted:
        return Cause("NP144", executed, None, f"{op.type} goes on otherwise than in float32", sources=True)
    elementwise = TABLE[op.type].family in ("unary", "binary", "cast", "comparison") or op.type == "select"
    sample = sample_of(executed, blame.output, blame.weights, elementwise=elementwise)
    if sample is None:
        return Cause(ACCUMULATED, executed, None, f"{op.type} has another result", sources=True)
    for kind in (_born, _integers, _absorbed, _vanished, _inexact):
        found = kind(blame, sample)
        if found is not None:
            at = executed if blame.maker is None or kind is not _born else blame.maker
            return Cause(found[0], at, sample, found[1], sources=True)
    if blame.flow.amplifier is not None and blame.flow.gain >= _AMPLIFIES:
        return _amplified(blame.flow.amplifier, blame.flow)
    return Cause(ACCUMULATED, executed, sample, f"the rounding of {op.type} adds up with that of others", sources=True)


_Found = tuple[str, str] | None


def _born(blame: Blame, sample: Sample) -> _Found:
    """Inf or NaN of numbers of which float32 makes a finite one."""
    op = blame.executed.op
    if math.isfinite(sample.actual) or not math.isfinite(sample.again):
        return None
    if blame.maker is not None:
        return _unfit(blame.maker, sample)
    made = f"{_call(blame.executed, sample)} is {number(sample.again)} in float32 and {number(sample.actual)} in FP16"
    lost = _lost_constant(blame.executed)
    if lost is not None and math.isinf(lost[1]):
        constant = f"the constant {number(lost[0])} becomes {number(lost[1])} in FP16"
        if op.type in _BOUNDS:
            return "NP102", f"{constant}, and bounds nothing: {made}"
        return ("NP101" if op.type in _MASKS and lost[0] < 0 else "NP103"), f"{constant}: {made}"
    if op.type == "mul" and len(set(op.operands)) == 1:
        return "NP111", made
    if TABLE[op.type].family in ("bilinear", "attention"):
        if abs(sample.again) <= FP16_MAX:
            made += ": the accumulator of the unit ends at 2^15"
        return "NP112", made
    if op.type in _BORN:
        return _BORN[op.type], made
    if TABLE[op.type].family in ("reduction", "pooling", "scan"):
        return "NP113", made
    if TABLE[op.type].family == "normalisation":
        return "NP111", made
    return "NP110", made


def _unfit(maker: Executed, sample: Sample) -> _Found:
    """A float32 number that an FP16 op is to read: a bound or a sentinel, or what an op made."""
    op, told = maker.op, f"{maker.op.type} gives {number(sample.again)} in FP32, and its FP16 readers get "
    told += number(sample.actual)
    constants = [p.exact for v, p in zip(op.operands, maker.operands, strict=True) if v.const is not None]
    if any(isinstance(c, Tensor) and bool((c == sample.again).any()) for c in constants):
        if op.type in _BOUNDS:
            return "NP102", told
        return ("NP101" if sample.again < 0 else "NP103"), told
    return _BORN.get(op.type, "NP112" if TABLE[op.type].family == "bilinear" else "NP110"), told


def _integers(blame: Blame, sample: Sample) -> _Found:
    """Whole numbers that a type does not hold."""
    op = blame.executed.op
    if op.type != "cast":
        return None
    given = op.inputs["x"][0].type.dtype
    if not given.is_integer or sample.actual == sample.again:
        return None
    into = op.outputs[0].type.dtype
    told = f"{number(sample.again) if abs(sample.again) < 1000 else f'{sample.again:.0f}'} becomes {sample.actual:.0f}"
    if into.is_integer:
        return "NP148", f"the cast to {into.value} wraps around: {told}"
    return "NP147", f"FP16 has not all whole numbers beyond 2048: {told}"


def _absorbed(blame: Blame, sample: Sample) -> _Found:
    """A term that vanishes in a sum."""
    executed = blame.executed
    amplifier = blame.flow.amplifier
    if executed.op.type not in ("add", "sub"):
        return None
    if amplifier is not None and blame.flow.gain >= _AMPLIFIES and amplifier.op.type not in ("add", "sub"):
        return None  # ordinary rounding, until something makes it large
    pairs = executed.operand("x"), executed.operand("y")
    x, y = (None if p is None else p.actual for p in pairs)
    actual, again = executed.results[0].actual, executed.recomputed[0]
    tensors = [t for t in (x, y, actual, again) if isinstance(t, Tensor) and t.is_floating_point()]
    if len(tensors) < 4:
        return None
    x, y, actual, again = tensors
    lone = ((actual == x) & (y != 0)) | ((actual.abs() == y.abs()) & (x != 0))
    gone = float((blame.weights * (lone & (actual != again))).sum()) / max(blame.mass, 1e-30)
    if gone < 0.5:
        return None
    terms = [value for _, value in sample.operands]
    small, large = sorted(terms, key=abs)[0], sorted(terms, key=abs)[-1]
    return "NP141", f"{number(small)} is lost beside {number(large)}, where one FP16 step is {number(_step(large))}"


def _vanished(blame: Blame, sample: Sample) -> _Found:
    """Numbers below the FP16 range, and constants that are."""
    executed, op = blame.executed, blame.executed.op
    lost = _lost_constant(executed)
    if lost is not None and abs(lost[0]) < FP16_SMALLEST_NORMAL and blame.error > _ORDINARY:
        return "NP117", f"the constant {number(lost[0])} becomes {number(lost[1])} in FP16"
    actual, again = tensor_of(executed.results[blame.output].actual), tensor_of(executed.recomputed[blame.output])
    gone = float((blame.weights * ((actual == 0) & (again != 0))).sum()) / max(blame.mass, 1e-30)
    tiny = abs(sample.again) < FP16_SMALLEST_NORMAL and blame.error > _ORDINARY
    if gone < 0.5 and not tiny:
        return None
    if abs(sample.again) >= FP16_SMALLEST_NORMAL:
        return "NP150", f"{_call(executed, sample)} is {number(sample.again)}, and 0 on this unit"
    told = f"{_call(executed, sample)} is {number(sample.again)}, and {number(sample.actual)} in FP16"
    logs = blame.flow.amplifier is not None and blame.flow.amplifier.op.type == "log"
    return ("NP116" if op.type == "softmax" and logs else "NP118"), told


def _inexact(blame: Blame, sample: Sample) -> _Found:
    """An error inside an op that storing the result does not explain."""
    op = blame.executed.op
    if blame.error <= _ORDINARY:
        return None
    lost = _lost_constant(blame.executed)
    if lost is not None:
        return "NP103", f"the constant {number(lost[0])} becomes {number(lost[1])} in FP16"
    told = f"{op.type} gives {number(sample.actual)}, and float32 {number(sample.again)} on the same operands"
    return ("NP142" if TABLE[op.type].family in _SUMS else "NP150"), told


def _amplified(executed: Executed, flow: Flow) -> Cause:
    """Ordinary rounding that an op makes damage of."""
    op, gain = executed.op, flow.gain
    elementwise = TABLE[op.type].family in ("unary", "binary", "cast", "comparison")
    output, weights = flow.weights or (0, torch.zeros(()))
    sample = sample_of(executed, output, weights, elementwise=elementwise)
    told = "" if sample is None else f", such as {number(sample.exact)} to {number(sample.actual)}"
    if _decides(executed):
        return Cause("NP144", executed, sample, f"rounding before {op.type} changes its answer{told}", sources=False)
    if op.type in _ANGLES:
        called = "" if sample is None else f"{_call(executed, sample)}: "
        text = f"{called}one FP16 step of the operand changes the result by much{told}"
        return Cause("NP145", executed, sample, text, sources=False)
    if op.type in ("add", "sub"):
        terms = "" if sample is None else " of " + " and ".join(number(v) for _, v in sample.operands)
        left = "" if sample is None else f" leaves {number(sample.exact)}, and {number(sample.actual)} in FP16:"
        text = f"{op.type}{terms}{left} the rounding of its operands is {gain:.0f} times larger in the result"
        return Cause("NP143", executed, sample, text, sources=False)
    text = f"{op.type} makes the relative rounding error of its operand {gain:.0f} times larger{told}"
    return Cause("NP146", executed, sample, text, sources=False)


def _decides(executed: Executed) -> bool:
    op = executed.op
    result = op.outputs[0].type.dtype
    if op.type in _DECIDING | _DECIDING_TOO or TABLE[op.type].family in _DECIDES:
        return op.type != "cast" or result.is_integer or result is DType.BOOL
    return False


def _call(executed: Executed, sample: Sample) -> str:
    """An op with the values that it had."""
    op = executed.op
    values = [value for name, value in sample.operands if name in _DATA]
    if not values:
        return op.type
    if not sample.elementwise:
        return f"{op.type} of operands up to {number(max(map(abs, values)))}"
    return f"{op.type}({', '.join(map(number, values))})"


def _lost_constant(executed: Executed) -> tuple[float, float] | None:
    """A constant operand that FP16 does not hold, as it was and as it is: what became infinite first."""
    worst: tuple[float, float, float] | None = None
    for value, pair in zip(executed.op.operands, executed.operands, strict=True):
        actual, exact = pair.actual, pair.exact
        if value.const is None or not isinstance(actual, Tensor) or not isinstance(exact, Tensor):
            continue
        if not actual.is_floating_point() or not actual.numel():
            continue
        if pair.same:  # what the constant was is not known, but that it is infinite is enough
            infinite = actual[actual.isinf()]
            if infinite.numel() and (worst is None or worst[2] < 1):
                worst = (float(infinite.reshape(-1)[0]), float(infinite.reshape(-1)[0]), 1.0)
            continue
        error = relative_error(actual, exact) if actual.numel() <= _LARGE_CONSTANT else (~actual.isfinite()).double()
        place = int(error.reshape(-1).argmax())
        largest = float(error.reshape(-1)[place])
        if largest > _ORDINARY and (worst is None or largest > worst[2]):
            worst = (float(exact.reshape(-1)[place]), float(actual.reshape(-1)[place]), largest)
    return None if worst is None else worst[:2]


def _step(x: float) -> float:
    """The distance of FP16 numbers around x."""
    return 2.0 ** (max(-14, math.frexp(abs(x))[1] - 1) - 10) if math.isfinite(x) else math.inf
