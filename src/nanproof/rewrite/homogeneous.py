"""How powers of two pass through ops: for each op type, which exponents of operands give which exponent of the result.

An op is homogeneous of degree ``d`` if ``f(c * x) = c**d * f(x)`` for ``c > 0``. With ``c = 2**-e`` both sides are
equal bit for bit in binary floating point, as long as nothing overflows or becomes subnormal. What is not homogeneous
reads its operands unscaled. A rule looks at the exponents at which its operands are carried, chooses those at which it
reads them, and says at which one its result is carried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from nanproof.ops import TABLE
from nanproof.program import DType, Op, Value
from nanproof.rewrite.exponents import Exponents, GivenUpError, Known

__all__ = ["apply_rule", "overflows", "passes_on"]

Rule = Callable[[Exponents, Op], None]
_MOVES = frozenset(
    {"gather", "gather_along_axis", "gather_nd", "identity", "slice_by_index", "slice_by_size", "split"}
) | {
    *("abs", "leaky_relu", "max_pool", "prelu", "reduce_max", "reduce_min", "relu"),
    *("upsample_bilinear", "upsample_nearest_neighbor"),
}
"""Ops of degree 1 whose result is no larger than their data."""


def passes_on(op: Op) -> str:
    """The name of the input whose exponent an op of this type hands on unchanged, or an empty string."""
    record = TABLE.get(op.type)
    structural = record is not None and record.family == "structural" and op.type not in _JOINS
    if op.type in _MOVES or op.type in _SUMS or structural or (op.type == "cast" and _keeps_float(op)):
        return "x" if "x" in op.inputs else ""
    return ""


def apply_rule(state: Exponents, op: Op) -> None:
    """Take an op into account.

    Raises:
        GivenUpError: A value would have to be carried at an exponent at which it does not fit or loses precision.
    """
    floats = [v for v in op.operands if v.type.dtype.is_float]
    scaled = any(state.of(v) for v in floats)
    rule = _RULES.get(op.type)
    if rule is None and passes_on(op):
        rule = _pass
    frozen = op.name in state.known.frozen or op.name in state.plain or bool(op.blocks)
    if rule is None or frozen or op.dtype is not DType.FP32:
        _unscaled(state, op)
    elif scaled or _is_hazard(state, op) or any(state.wishes.get(v) for v in op.outputs):
        rule(state, op)
    else:
        _unscaled(state, op)


def overflows(known: Known, op: Op) -> bool:
    """Whether a float result of an op, or what it adds up inside, was seen to leave the range."""
    floats = [v for v in op.outputs if v.type.dtype.is_float]
    if op.name in known.frozen or not floats:
        return False
    largest = max(known.ranges[v.name].magnitude for v in floats)
    squares = op.type == "reduce_l2_norm" and known.limits.narrow_squares and largest**2 > known.limits.stored
    inside = max(_inside(known, op), known.inside.get(op.name, 0.0))
    return largest > known.limits.of_result(op) or inside > known.limits.stored or squares


def _is_hazard(state: Exponents, op: Op) -> bool:
    return op.name not in state.given_up and overflows(state.known, op)


def _inside(known: Known, op: Op) -> float:
    """The largest sum inside of an op that scales as its result does; 0 if none matters."""
    if known.limits.narrow_sums and op.type == "reduce_mean":
        return known.ranges[op.outputs[0].name].magnitude * _count(op)
    return 0.0


def _count(op: Op) -> int:
    """How many elements a reduction adds up for each result; 1 where shapes are not known."""
    read, made = ([d for d in v.type.shape if isinstance(d, int)] for v in (op.inputs["x"][0], op.outputs[0]))
    return max(math.prod(read) // max(math.prod(made), 1), 1)


def _unscaled(state: Exponents, op: Op) -> None:
    for name, values in op.inputs.items():
        for index, value in enumerate(values):
            if value.type.dtype.is_float and not state.constant(value):
                state.read(op, name, 0, index)


# -- degree 1 ---------------------------------------------------------------------------------------------------------


def _pass(state: Exponents, op: Op) -> None:
    """Movements, reductions, ``relu``: the result is carried as the data is."""
    value = op.inputs["x"][0]
    if state.constant(value):  # a table of embeddings
        exponent = _target(state, op)
        exponent = exponent if state.scalable(value, exponent) else 0
    else:
        exponent = state.needed(op, state.of(value), _inside(state.known, op))
    state.read(op, "x", exponent)
    state.write(op, exponent)


def _pad(state: Exponents, op: Op) -> None:
    """``pad``: what is padded with is scaled as well."""
    _pass(state, op)
    if "constant_val" in op.inputs:
        state.scale_constant(op, "constant_val", state.of(op.outputs[0]))


def _clip(state: Exponents, op: Op) -> None:
    """``clip``: the bounds are scaled as well; FP16 keeps a small one above 0."""
    _pass(state, op)
    for name in ("alpha", "beta"):
        if name in op.inputs:
            state.scale_constant(op, name, state.of(op.outputs[0]))


def _l2_norm(state: Exponents, op: Op) -> None:
    """``reduce_l2_norm``: degree 1, through squares whose sum has to fit as well."""
    exponent, square = state.of(op.inputs["x"][0]), state.magnitude(op.outputs[0]) ** 2
    limit = state.known.limits.stored
    if state.known.limits.narrow_squares and square * 4.0**-exponent > limit and op.name not in state.given_up:
        exponent = math.ceil(math.log2(square / limit) / 2) + 1
        state.hazards[op] = exponent
    exponent = state.needed(op, exponent)
    state.read(op, "x", exponent)
    state.write(op, exponent)


def _alike(*names: str) -> Rule:
    """Operands that have to be carried at one exponent, at which the result is carried, too."""

    def rule(state: Exponents, op: Op) -> None:
        places = [(n, i, v) for n in names for i, v in enumerate(op.inputs.get(n, ())) if v.type.dtype.is_float]
        computed = [v for _, _, v in places if not state.constant(v)]
        is_float = op.outputs[0].type.dtype.is_float
        exponent = _common(state, op, computed) if is_float else max(map(state.of, computed), key=abs, default=0)
        for name, index, value in places:
            if is_float or exponent or not state.constant(value):
                state.read(op, name, exponent, index)
        state.write(op, exponent if is_float else 0)

    return rule


def _common(state: Exponents, op: Op, values: Sequence[Value]) -> int:
    """The exponent for operands of one sum: one at which it fits and fewest of them have to be scaled."""
    found = [e for v in values for e in state.available(v)]
    found = [e for e in dict.fromkeys([*found, 0]) if state.fits(op, e) and all(_readable(state, v, e) for v in values)]
    if not found:
        return state.needed(op, max((state.of(v) for v in values), default=0))
    wish = next((state.wishes[v] for v in op.outputs if v in state.wishes), None)
    return min(found, key=lambda e: (sum(e not in state.available(v) for v in values), e != wish, abs(e)))


def _readable(state: Exponents, value: Value, exponent: int) -> bool:
    return state.magnitude(value) * 2.0**-exponent <= state.known.limits.stored


# -- products and quotients -------------------------------------------------------------------------------------------


def _mul(state: Exponents, op: Op) -> None:
    """``x * y``: exponents add up. A constant factor takes what is left over."""
    x, y = op.inputs["x"][0], op.inputs["y"][0]
    if x is y:
        _power(state, op, 2)
    elif state.constant(x) or state.constant(y):
        data, factor = ("y", "x") if state.constant(x) else ("x", "y")
        _by_constant(state, op, data, factor)
    else:
        _combined(state, op, "x", "y", sign=1)


def _real_div(state: Exponents, op: Op) -> None:
    """``x / y``: exponents are subtracted. What is divided by has to stay precise."""
    x, y = op.inputs["x"][0], op.inputs["y"][0]
    if state.constant(y):
        _by_constant(state, op, "x", "y", sign=-1)
        return
    if state.constant(x):
        exponent = state.of(y)
        _require_precise(state, op, y, exponent)
        state.read(op, "y", exponent)
        if state.scalable(x, -exponent):
            state.scale_constant(op, "x", -exponent)
            state.write(op, 0)
        else:
            state.write(op, state.needed(op, -exponent))
        return
    _combined(state, op, "x", "y", sign=-1)


def _by_constant(state: Exponents, op: Op, data: str, factor: str, sign: int = 1) -> None:
    """A product with a constant: the constant is scaled so that the result is carried as its readers want it."""
    value, constant = op.inputs[data][0], op.inputs[factor][0]
    carried, target = state.of(value), _target(state, op)
    if state.scalable(constant, sign * (target - carried)):
        state.read(op, data, carried)
        state.scale_constant(op, factor, sign * (target - carried))
        state.write(op, target)
        return
    _pass_as(state, op, data)


def _pass_as(state: Exponents, op: Op, data: str) -> None:
    exponent = state.needed(op, state.of(op.inputs[data][0]))
    state.read(op, data, exponent)
    state.write(op, exponent)


def _target(state: Exponents, op: Op) -> int:
    """The exponent for a result that may have any: the one that its readers wish, or the smallest that fits."""
    smallest = state.needed(op, 0)
    wish = next((state.wishes[v] for v in op.outputs if v in state.wishes), 0)
    return wish if wish and state.fits(op, wish) else smallest


def _combined(state: Exponents, op: Op, x: str, y: str, *, sign: int) -> None:
    """A product or a quotient of two computed values: versions of them whose exponents come out nearest to 0."""
    left, right = op.inputs[x][0], op.inputs[y][0]
    pairs = [(a, b) for a in state.available(left) for b in state.available(right) if state.fits(op, a + sign * b)]
    if pairs:
        first, second = min(pairs, key=lambda p: (abs(p[0] + sign * p[1]), abs(p[0]) + abs(p[1])))
    else:
        first, second = state.of(left), state.of(right)
        missing = state.needed(op, first + sign * second) - (first + sign * second)
        sizes = state.magnitude(left) * 2.0**-first, state.magnitude(right) * 2.0**-second
        if sign < 0 or sizes[0] >= sizes[1]:
            first += missing
        else:
            second += missing
    if sign < 0:
        _require_precise(state, op, right, second)
    state.read(op, x, first)
    state.read(op, y, second)
    state.write(op, first + sign * second)


def _contraction(weight: str, bias: str = "bias") -> Rule:
    """``linear`` and ``conv`` with constant weights: these are scaled, and the bias with the result."""

    def rule(state: Exponents, op: Op) -> None:
        carried, target = state.of(op.inputs["x"][0]), _target(state, op)
        factor, added = op.inputs[weight][0], op.input(bias)
        if not state.constant(factor) or (added is not None and not state.constant(added)):
            raise GivenUpError(f"the weight of '{op.name}' ({op.type}) is no constant")
        if target != carried and not state.scalable(factor, target - carried):
            raise GivenUpError(f"the weight of '{op.name}' ({op.type}) would leave the range")
        state.read(op, "x", carried)
        state.scale_constant(op, weight, target - carried)
        if added is not None:
            state.scale_constant(op, bias, target)
        state.write(op, target)

    return rule


def _matmul(state: Exponents, op: Op) -> None:
    x, y = op.inputs["x"][0], op.inputs["y"][0]
    if state.constant(x) or state.constant(y):
        data, factor = ("y", "x") if state.constant(x) else ("x", "y")
        _by_constant(state, op, data, factor)
    elif x is y:
        _power(state, op, 2)
    else:
        _combined(state, op, "x", "y", sign=1)


# -- powers, roots, logarithms ----------------------------------------------------------------------------------------


def _power(state: Exponents, op: Op, degree: int) -> None:
    """``x**degree``, for a whole degree above 0, or a product of ``x`` and itself."""
    carried = state.of(op.inputs["x"][0])
    exponents = [e for e in state.available(op.inputs["x"][0]) if state.fits(op, degree * e)]
    exponent = min(exponents, key=abs) if exponents else math.ceil(state.needed(op, degree * carried) / degree)
    state.read(op, "x", exponent)
    if op.type in ("mul", "matmul"):
        state.read(op, "y", exponent)
    state.write(op, degree * exponent)


def _square(state: Exponents, op: Op) -> None:
    _power(state, op, 2)


def _pow(state: Exponents, op: Op) -> None:
    """``x**c`` with a constant ``c``. A broken one leaves a factor ``2**(e c)``, rounded once, behind the op."""
    power = op.inputs["y"][0].const
    if not isinstance(power, np.ndarray) or power.size != 1:
        raise GivenUpError(f"the exponent of '{op.name}' (pow) is no constant")
    degree, carried = float(power.reshape(())), state.of(op.inputs["x"][0])
    if degree == int(degree) and degree >= 1:
        _power(state, op, int(degree))
        return
    _require_precise(state, op, op.inputs["x"][0], carried)
    state.read(op, "x", carried)
    if carried:
        if not state.fits(op, 0):
            raise GivenUpError(f"'{op.name}' (pow) takes a broken power that does not fit")
        state.append(op, "mul", 2.0 ** (degree * carried))
    state.write(op, 0)


def _root(numerator: int) -> Rule:
    """``sqrt`` (1) and ``rsqrt`` (-1): half the exponent, which has to be even."""

    def rule(state: Exponents, op: Op) -> None:
        value = op.inputs["x"][0]
        carried = state.of(value)
        exponent = carried if carried % 2 == 0 else carried + 1
        _require_precise(state, op, value, exponent)
        result = numerator * exponent // 2
        if not state.fits(op, result):
            raise GivenUpError(f"the result of '{op.name}' ({op.type}) would leave the range")
        state.read(op, "x", exponent)
        if "epsilon" in op.inputs:
            state.scale_constant(op, "epsilon", exponent, floor=0.0)
        state.write(op, result)

    return rule


def _inverse(state: Exponents, op: Op) -> None:
    """``1 / (x + epsilon)``."""
    value = op.inputs["x"][0]
    carried = state.of(value)
    _require_precise(state, op, value, carried)
    if not state.fits(op, -carried):
        raise GivenUpError(f"the result of '{op.name}' (inverse) would leave the range")
    state.read(op, "x", carried)
    state.scale_constant(op, "epsilon", carried, floor=0.0)
    state.write(op, -carried)


def _log(state: Exponents, op: Op) -> None:
    """``log(2**-e x) + e log(2) = log(x)``: the sum is rounded once more."""
    value = op.inputs["x"][0]
    carried = state.of(value)
    if carried > 0 and not state.precise(value, carried, also_at_its_lowest=True):
        raise GivenUpError(f"'{op.name}' (log) reads values that would become subnormal")
    state.read(op, "x", carried)
    state.scale_constant(op, "epsilon", carried, floor=0.0)
    if carried:
        state.append(op, "add", carried * math.log(2))
    state.write(op, 0)


def _require_precise(state: Exponents, op: Op, value: Value, exponent: int) -> None:
    if not state.precise(value, exponent):
        raise GivenUpError(
            f"'{op.name}' ({op.type}) reads '{value.name}', of which small values would become subnormal"
        )


# -- norms ------------------------------------------------------------------------------------------------------------


def _norm(state: Exponents, op: Op) -> None:
    """``layer_norm``, ``instance_norm``, ``l2_norm``: degree 0, if the epsilon is scaled by the square."""
    carried = state.of(op.inputs["x"][0])
    over = state.known.inside.get(op.name, 0.0) / state.known.limits.stored
    if over * 4.0**-carried > 1 and op.name not in state.given_up:
        carried = math.ceil(math.log2(over) / 2) + 1
        state.hazards[op] = carried
    _require_variance(state, op, carried)
    state.read(op, "x", carried)
    state.scale_constant(op, "epsilon", 2 * carried, floor=0.0)
    target = _target(state, op)
    if target and not all(n in op.inputs and state.scalable(op.inputs[n][0], target) for n in ("gamma",)):
        target = 0
    if target:
        for name in ("gamma", "beta"):
            state.scale_constant(op, name, target)
    state.write(op, target)


def _require_variance(state: Exponents, op: Op, exponent: int) -> None:
    """An epsilon that would vanish becomes 2**-24 when it is cast: the variance has to stay far above it.

    Raises:
        GivenUpError: It may not.
    """
    if exponent > 0 and state.known.variance.get(op.name, math.inf) * 4.0**-exponent < 2.0**-13:
        raise GivenUpError(f"the variance that '{op.name}' ({op.type}) divides by would come near to 2^-24")


def _batch_norm(state: Exponents, op: Op) -> None:
    """``(x - mean) * gamma / sqrt(variance + epsilon) + beta``: mean, gamma and beta take all powers."""
    carried, target = state.of(op.inputs["x"][0]), _target(state, op)
    if "gamma" not in op.inputs or not state.scalable(op.inputs["gamma"][0], target - carried):
        _pass_as(state, op, "x")
        if state.of(op.outputs[0]):
            raise GivenUpError(f"'{op.name}' (batch_norm) has no gamma to scale")
        return
    state.read(op, "x", carried)
    state.scale_constant(op, "mean", carried)
    state.scale_constant(op, "gamma", target - carried)
    if "beta" in op.inputs:
        state.scale_constant(op, "beta", target)
    state.write(op, target)


def _keeps_float(op: Op) -> bool:
    return all(v.type.dtype is DType.FP32 for v in (op.inputs["x"][0], op.outputs[0]))


_JOINS = frozenset({"concat", "stack", "pad", "slice_update"})
_SUMS = frozenset({"reduce_sum", "reduce_mean", "reduce_l1_norm", "avg_pool", "cumsum"})
_RULES: dict[str, Rule] = {
    "pad": _pad,
    "clip": _clip,
    "reduce_l2_norm": _l2_norm,
    **dict.fromkeys(("add", "sub", "maximum", "minimum"), _alike("x", "y")),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"), _alike("x", "y")),
    "select": _alike("a", "b"),
    "concat": _alike("values"),
    "stack": _alike("values"),
    "mul": _mul,
    "real_div": _real_div,
    "linear": _contraction("weight"),
    "conv": _contraction("weight"),
    "matmul": _matmul,
    "square": _square,
    "pow": _pow,
    "sqrt": _root(1),
    "rsqrt": _root(-1),
    "inverse": _inverse,
    "log": _log,
    "layer_norm": _norm,
    "instance_norm": _norm,
    "batch_norm": _batch_norm,
}
