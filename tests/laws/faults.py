"""Seeded faults in the rules of bounds, to see that the laws catch them: each is an edit of the source of one module.

The edited source is compiled, and its functions lend their code to those that stand in the table already.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.laws.bounded import UNITS, Boxed, Tally, boxed_call, check
from tests.laws.bounded_programs import PATTERNS, boxed_program
from tests.laws.calls import Call, calls

POINTS = 6


@dataclass(frozen=True)
class Fault:
    """One fault: the module, what stands there, what takes its place, and the ops or patterns that should show it."""

    name: str
    module: str
    old: str
    new: str
    shown_by: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """The fault, for a while."""
        module = importlib.import_module(f"nanproof.{self.module}")
        source = inspect.getsource(module)
        if source.count(self.old) < 1:
            raise LookupError(f"{self.name}: '{self.old}' does not stand in {self.module}")
        changed = types.ModuleType(module.__name__)
        changed.__dict__.update({"__file__": module.__file__, "__name__": module.__name__})
        exec(compile(source.replace(self.old, self.new, 1), str(module.__file__), "exec"), changed.__dict__)
        before = {f: f.__code__ for f in _functions(module).values()}
        faulty = _functions(changed)
        try:
            for name, function in _functions(module).items():
                function.__code__ = faulty[name].__code__
            yield
        finally:
            for function, code in before.items():
                function.__code__ = code


def _functions(module: types.ModuleType) -> dict[str, types.FunctionType]:
    """The functions of a module and of its classes, without those that are made by others."""
    found: dict[str, types.FunctionType] = {}
    spaces: list[tuple[str, dict[str, Any]]] = [("", vars(module))]
    spaces += [(n, vars(c)) for n, c in vars(module).items() if isinstance(c, type) and c.__module__ == module.__name__]
    for prefix, space in spaces:
        for name, thing in space.items():
            own = isinstance(thing, types.FunctionType) and thing.__module__ == module.__name__
            if own and "<locals>" not in thing.__qualname__ and not thing.__code__.co_freevars:
                found[f"{prefix}.{name}"] = thing
    return found


def _boxed(name: str, turn: int) -> Iterator[Boxed]:
    if name in PATTERNS:
        yield boxed_program(PATTERNS[name], turn, half=turn % 3 != 0)
        return
    for half in (True, False):
        for call in _calls(name, half):
            yield boxed_call(call.record, call.inputs, call.inferred().types, np.random.default_rng(turn))


_CALLS: dict[tuple[str, bool], list[Call]] = {}


def _calls(name: str, half: bool) -> list[Call]:
    if not _CALLS:
        for wide in (True, False):
            for call in calls(half=wide):
                _CALLS.setdefault((call.record.name, wide), []).append(call)
    return [call for call in _CALLS.get((name, half), []) if call.accepted]


def first_violation(names: tuple[str, ...], turns: int) -> str | None:
    """What the laws say first of some ops or patterns; ``None`` if all holds for a number of turns."""
    for turn in range(turns):
        for name in names:
            for boxed in _boxed(name, turn):
                points = boxed.points(np.random.default_rng(turn), POINTS)
                for unit in UNITS:
                    for violation in check(boxed, points, unit, Tally()):
                        return violation
    return None


_C, _B, _R = "ops.bound_contraction", "ops.bound_binary", "ops.bound_reduction"
_N, _L, _M, _S = "ops.bound_normalisation", "ops.bound_links", "ops.bound_movement", "ops.bounding"

FAULTS: tuple[Fault, ...] = (
    Fault("no error of sums", _C, "outward(total * (count * reading.machine.unit))", "0 * total", ("linear", "matmul")),
    Fault("no lost products", _C, "+ count * lost +", "+", ("matmul", "conv", "linear", "sums")),
    Fault("limit of binary16", _S, "limit=2.0**15 if engine", "limit=65504.0 if engine", ("sums",)),
    Fault("no zero in padding", _C, "low, high = low.clamp(max=0), high.clamp(min=0)", "pass", ("convolutions",)),
    Fault(
        "wrong end of a weight",
        _C,
        "summed(up, low) + summed(down, high)",
        "summed(up, low) + summed(down, low)",
        ("conv",),
    ),
    Fault("no bias", _C, "low, high = low + offset, high + offset + spread", "pass", ("linear",)),
    Fault("ball not stretched", _C, "ball.radius * norm,", "ball.radius,", ("layer_norm", "attention")),
    Fault("ball without roundings", _C, "w, offset, spread + error) for", "w, offset, spread) for", ("wide_linear",)),
    Fault(
        "mixture swapped",
        _C,
        "torch.where(least < 0, least * mix.high, least * mix.low)",
        "torch.where(least < 0, least * mix.low, least * mix.high)",
        ("masked_softmax", "safe_softmax"),
    ),
    Fault(
        "last row",
        "ops.bound_lookup",
        "return min(int(low), size - 1), min(int(high), size - 1)",
        "return min(int(low), size - 1), min(int(low), size - 1)",
        ("positions", "attention"),
    ),
    Fault(
        "negative rows",
        "ops.bound_lookup",
        "return 0, size - 1",
        "return 0, min(max(int(high), 0), size - 1)",
        ("positions",),
    ),
    Fault(
        "length of rows",
        "ops.bound_lookup",
        "outward(one * math.sqrt(norm))",
        "one * math.sqrt(norm) * 0.7",
        ("attention",),
    ),
    Fault(
        "infinite row",
        _N,
        "sure = low.amax(dim).min() > -math.inf if low.numel() else True",
        "sure = True",
        ("softmax", "masked_softmax"),
    ),
    Fault("sign of a gap", _N, "gap = (low - high)", "gap = (high - low)", ("softmax", "masked_softmax")),
    Fault(
        "length of a normal row",
        _N,
        "math.sqrt(max(count - 1, 0)) * _ROOM",
        "math.sqrt(max(count - 1, 0)) * 0.8",
        ("layer_norm",),
    ),
    Fault(
        "ball of a normal row",
        _N,
        "return both, math.sqrt(count) * (_ROOM",
        "return both, math.sqrt(count) * (0.9",
        ("layer_norm", "moved"),
    ),
    Fault("level rows", _N, "x.reach / math.sqrt(epsilon) * _LOSS", "0 * x.reach", ("level_rows",)),
    Fault("no gamma", _N, "shift - scale.abs() * bound", "shift - bound", ("layer_norm",)),
    Fault("sign of a mean", _N, "ends = (x.low - middle) * scale", "ends = (x.low + middle) * scale", ("batch_norm",)),
    Fault(
        "subtraction not swapped",
        _B,
        "Bound(x.shape, -x.high, -x.low,",
        "Bound(x.shape, -x.low, -x.high,",
        ("sub", "log_softmax"),
    ),
    Fault(
        "choice of the larger",
        _B,
        "torch.where(false, b.low, torch.minimum(a.low, b.low))",
        "torch.where(false, b.low, torch.maximum(a.low, b.low))",
        ("select", "masked_softmax"),
    ),
    Fault(
        "peak too high",
        _B,
        "peak = (next(iter(link.axes)), 0.0)",
        "peak = (next(iter(link.axes)), 1.0)",
        ("log_softmax", "masked_softmax"),
    ),
    Fault(
        "square without zero",
        _B,
        ".masked_fill(crosses, 0.0), torch.maximum(low, high)",
        ", torch.maximum(low, high)",
        ("rms_norm",),
    ),
    Fault(
        "gamma not in the ball",
        _B,
        "ball.center * k, ball.scale * k,",
        "ball.center * k, ball.scale,",
        ("rms_norm", "layer_norm", "group_norm"),
    ),
    Fault(
        "center the wrong way",
        _B,
        "center=ball.center + by.low",
        "center=ball.center - by.low",
        ("layer_norm", "attention"),
    ),
    Fault(
        "one radius of two", _B, "scale, a.radius + b.radius,", "scale, a.radius * 0.5,", ("layer_norm", "attention")
    ),
    Fault("opposed infinities", _B, "or _opposed(x, y)", "", ("add", "masked_softmax")),
    Fault("sum of weights", _B, "return replace(weights.mix, low=0.0)", "return weights.mix", ("safe_softmax",)),
    Fault("remainder", _B, "(high - 1).clamp(min=0.0)", "(high - 2).clamp(min=0.0)", ("mod",)),
    Fault(
        "merged axis summed once",
        "values.bound",
        "else x * shape[dim]",
        "else x",
        ("reduce_sum", "reduce_mean", "rms_norm"),
    ),
    Fault(
        "prefixes",
        _R,
        "low = summed(x.low.clamp(max=0), [dim], x.shape)",
        "low = summed(x.low, [dim], x.shape)",
        ("cumsum",),
    ),
    Fault(
        "mean without divisor",
        _R,
        "factor = link.factor.amin() * kept / divisor",
        "factor = link.factor.amin() * kept",
        ("rms_norm", "group_norm"),
    ),
    Fault("logarithm of a count", _R, "+ math.log(max(count, 1))", "", ("reduce_log_sum_exp",)),
    Fault(
        "product of magnitudes", _R, "size = x.magnitude\n    for d", "size = x.low.abs()\n    for d", ("reduce_prod",)
    ),
    Fault(
        "inverted quotient",
        _L,
        "ratio = factor / link.factor *",
        "ratio = link.factor / factor *",
        ("normalised", "rms_norm"),
    ),
    Fault("inverted inverse", _L, "ratio = 1 / link.factor if", "ratio = link.factor if", ("rms_norm",)),
    Fault("reversed places", _M, " or not same:", ":", ("moved",)),
    Fault(
        "repeated rows",
        "ops.bound_joining",
        "if ball is None or any(times[a] != 1 for a in ball.axes):",
        "if ball is None:",
        ("moved",),
    ),
    Fault(
        "rounded instead of cut",
        _M,
        ".trunc() if given.is_float else t",
        ".round() if given.is_float else t",
        ("cast",),
    ),
    Fault(
        "rounded inward",
        _S,
        "torch.where(passed, narrow - ulp, narrow)",
        "narrow",
        ("add", "mul", "real_div"),
    ),
    Fault(
        "link not rounded", _S, "factor=link.factor * (1 - relative)", "factor=link.factor", ("rms_norm", "group_norm")
    ),
    Fault(
        "no turning point",
        "ops.bound_elementwise",
        "(x.low, x.high, *turning)",
        "(x.low, x.high)",
        ("square", "silu", "gelu"),
    ),
    Fault(
        "clip lifts",
        "ops.bound_elementwise",
        'return kept_links(x, "over") if x.least < lowest else x.links',
        "return x.links",
        ("normalised",),
    ),
    Fault(
        "norm halved",
        "ops.bound_elementwise",
        "zero + 1, x.norm(ball.axes), slack)",
        "zero + 1, x.norm(ball.axes) / 2, slack)",
        ("moved", "layer_norm"),
    ),
    Fault(
        "integers that wrap",
        "interpret.bounds",
        "if bound.least >= low and bound.most <= high:",
        "if True:",
        ("add", "mul"),
    ),
    Fault(
        "first turn of a loop",
        "interpret.bounds",
        "            if not any(grows):\n                break",
        "            break",
        ("loops",),
    ),
    Fault(
        "one branch of two",
        "interpret.bounds",
        "return hull([b.plain() for b in pair])",
        "return pair[0]",
        ("branches", "loops"),
    ),
)
