"""Bounds of elementwise functions of one tensor.

A binary16 operand takes 65536 values. So the bound of a function of one is no estimate: all its results under the
unit's own arithmetic, tables included, are computed once, and a box is the lowest and the highest of those between its
ends. In float32, where there are too many, the ends and the turning points between them are enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.numerics.neural_engine import NeuralEngine
from nanproof.ops.bound_links import inverse_link, kept_links, root_link, self_link
from nanproof.ops.bounding import BoundRule, Reading, UnboundedError
from nanproof.program import DType
from nanproof.values.bound import Ball, Bound, Link, once

__all__ = ["Curve", "absolute", "clipped", "elementwise", "inverted", "rooted", "squared", "turns"]

_SINGLE = SingleInside()

_SINGLE_ERROR = 2.0**-18
"""Relative error of a float32 function of a library, with much to spare."""


_SUBNORMAL = 2.0**-126
"""Results below it are flushed to zero by some libraries."""


@dataclass(frozen=True, slots=True)
class _Results:
    """All results of a function of one binary16 number, in the order of the operands; ``low[k]`` covers ``2**k``."""

    operands: np.ndarray
    low: Tensor
    high: Tensor
    nans: Tensor

    def between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lowest and highest result between two operands, elementwise, and whether one of them is NaN."""
        first = torch.as_tensor(np.searchsorted(self.operands, low.numpy(), side="left"))
        last = torch.as_tensor(np.searchsorted(self.operands, high.numpy(), side="right"))
        last = torch.maximum(last, first + 1).clamp(max=len(self.operands))
        first = torch.minimum(first, last - 1)
        level = torch.log2((last - first).double()).floor().long()
        other = last - (1 << level)
        nan = self.nans[last] > self.nans[first]
        return (
            torch.minimum(self.low[level, first], self.low[level, other]).double(),
            torch.maximum(self.high[level, first], self.high[level, other]).double(),
            nan,
        )


@cache
def _all_halves() -> tuple[np.ndarray, Tensor]:
    """All binary16 numbers but NaN in ascending order, -0 before +0, as float64 and as carrier."""
    bits = np.arange(65536, dtype=np.uint16)
    halves = bits.view(np.float16)
    halves = halves[~np.isnan(halves)]
    order = np.lexsort((~np.signbit(halves), halves.astype(np.float64)))
    return halves[order].astype(np.float64), torch.from_numpy(halves[order].astype(np.float32))


_TABLES: dict[tuple[int, Any, tuple[tuple[str, Any], ...]], tuple[Arithmetic, _Results]] = {}
_MOST_TABLES = 256


def _tabulated(arithmetic: Arithmetic, run: Callable[..., Tensor], settings: Mapping[str, Any]) -> _Results:
    """The results of a function under an arithmetic; made once for each setting of its constants."""
    key = (id(arithmetic), run, tuple(sorted(settings.items())))
    if key not in _TABLES:
        if len(_TABLES) >= _MOST_TABLES:
            _TABLES.clear()
        _TABLES[key] = arithmetic, _evaluated(arithmetic, run, settings)  # which keeps its identity alive
    return _TABLES[key][1]


def _evaluated(arithmetic: Arithmetic, run: Callable[..., Tensor], settings: Mapping[str, Any]) -> _Results:
    operands, carried = _all_halves()
    given = {name: value if isinstance(value, str) else torch.tensor(value) for name, value in settings.items()}
    with torch.inference_mode():
        results = arithmetic.store(run(arithmetic, x=carried, **given), (carried,)).clone()
    nan = results.isnan()
    nans = torch.cat([torch.zeros(1, dtype=torch.int32), nan.to(torch.int32).cumsum(0)])
    low, high = [results.masked_fill(nan, math.inf)], [results.masked_fill(nan, -math.inf)]
    for level in range(1, 17):
        step = 1 << (level - 1)
        for table, pick in ((low, torch.minimum), (high, torch.maximum)):
            before = table[-1]
            table.append(before.clone())
            if step < len(before):
                table[-1][:-step] = pick(before[:-step], before[step:])
    return _Results(operands, torch.stack(low), torch.stack(high), nans)


Settings = Mapping[str, Any]
"""The constant inputs of a function beside its operand: numbers and text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What has to be known of a function of one tensor to bound it where not all its results can be computed.

    Attributes:
        turning: Where it turns, in ascending order, from its settings: it is monotone between.
        domain: Where it is defined, from its settings, both ends included.
        codomain: Bounds of all its results, used in ``fp32`` instead of its ends.
        contracts: Whether ``|f(x)| <= |x|`` for all ``x``, so that a norm does not grow.
        loose: Absolute error in ``fp32``, beside the relative one.
        link: Makes the links of the result.
    """

    turning: Callable[[Settings], Sequence[float]] = lambda settings: ()
    domain: Callable[[Settings], tuple[float, float]] = lambda settings: (-math.inf, math.inf)
    codomain: tuple[float, float] | None = None
    contracts: Callable[[Settings], bool] = lambda settings: False
    loose: float = 0.0
    link: Callable[[Bound, Settings], Sequence[Link]] = lambda x, settings: ()


def turns(*places: float) -> Callable[[Settings], Sequence[float]]:
    """A function that turns at the same places whatever its settings are."""
    return lambda settings: places


def elementwise(run: Callable[..., Tensor], curve: Curve, *, exact: bool = False, rising: bool = False) -> BoundRule:
    """The rule of a function of one tensor ``x``, whose other inputs are constant scalars or text.

    Args:
        run: The rule by which the op is executed.
        curve: The shape of the function.
        exact: Whether the function makes no error of its own (``relu``, ``floor``): nothing is added to its results.
        rising: Whether the function is increasing.
    """

    def rule(reading: Reading, x: Bound, **others: Any) -> Bound:
        settings = {name: _setting(name, value) for name, value in others.items() if value is not None}
        if _of_halves(reading):
            result = _by_table(reading, run, x, settings, exact=exact)
        else:
            result = _by_ends(run, x, settings, curve, 0.0 if exact else _SINGLE_ERROR)
        balls = (
            tuple(_contracted(make, x, reading, exact=exact) for make in x.balls) if curve.contracts(settings) else ()
        )
        root = x if reading.op.type == "square" else None
        peak = None if x.peak is None else _peak(reading, run, x, settings, rising=rising)
        return replace(result, balls=balls, links=tuple(curve.link(x, settings)), peak=peak, root=root)

    return rule


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, Bound) and value.value is not None and value.value.numel() == 1:
        return value.value.reshape(()).item()
    raise UnboundedError(f"{name} is no constant scalar")


def _by_table(
    reading: Reading, run: Callable[..., Tensor], x: Bound, settings: Mapping[str, Any], *, exact: bool
) -> Bound:
    results = _tabulated(reading.machine.arithmetic, run, settings)
    low, high, nan = results.between(x.low, x.high)
    if not exact:
        low, high = _spread(low, up=False), _spread(high, up=True)
    return Bound(x.shape, low, high, x.nan or bool(nan.any()))


def _spread(x: Tensor, *, up: bool) -> Tensor:
    """Two units in the last place outward, since libraries differ by that much; not beyond zero."""
    _, exponent = torch.frexp(x)
    ulp = torch.exp2((exponent.clamp(min=-13) - 10).to(torch.float64))
    moved = torch.where(x.isfinite(), x + ulp if up else x - ulp, x)
    return torch.where((x > 0) & (moved < 0) | (x < 0) & (moved > 0) | (x == 0), torch.where(x == 0, x, 0 * x), moved)


def _by_ends(run: Callable[..., Tensor], x: Bound, settings: Settings, curve: Curve, error: float) -> Bound:
    first, last = curve.domain(settings)
    if x.least < first or x.most > last:
        raise UnboundedError(f"its operand, in [{x.least:.4g}, {x.most:.4g}], may lie outside of [{first:g}, {last:g}]")
    if curve.codomain is not None:
        return replace(Bound.interval(x.shape, *curve.codomain), nan=x.nan or not x.finite)
    given = {k: v if isinstance(v, str) else torch.tensor(v, dtype=torch.float64) for k, v in settings.items()}
    turning = [torch.minimum(torch.maximum(x.low, x.low.new_tensor(t)), x.high) for t in curve.turning(settings)]
    results = [run(_SINGLE, x=place, **given).double() for place in (x.low, x.high, *turning)]
    if any(bool(r.isnan().any()) for r in results):
        raise UnboundedError("it is not defined on all of its operand's range")
    low, high = results[0], results[0]
    for other in results[1:]:
        low, high = torch.minimum(low, other), torch.maximum(high, other)
    loose = curve.loose
    tiny = _SUBNORMAL if error else 0.0
    wider = low - low.abs() * error - loose - tiny, high + high.abs() * error + loose + tiny
    # An error is relative: it does not change the sign, unless it is an absolute one.
    low, high = wider if loose else (torch.where(a * b < 0, 0 * a, b) for a, b in zip((low, high), wider, strict=True))
    return Bound(x.shape, low.nan_to_num(nan=-math.inf), high.nan_to_num(nan=math.inf), x.nan)


def _peak(
    reading: Reading, run: Callable[..., Tensor], x: Bound, settings: Mapping[str, Any], *, rising: bool
) -> tuple[int, float] | None:
    """What is left of the knowledge that some element along an axis is at least so large."""
    axis, least = x.peak or (0, 0.0)
    beyond = Bound.interval((1,), least, math.inf)
    if _of_halves(reading):
        return axis, _by_table(reading, run, beyond, settings, exact=False).least
    if not rising:
        return None
    return axis, _by_ends(run, beyond, settings, Curve(), _SINGLE_ERROR).least


def _of_halves(reading: Reading) -> bool:
    return reading.op.inputs["x"][0].type.dtype is DType.FP16 and reading.machine.half


_TABLE_ERROR = 2.0**-6
"""Absolute error of the tables of gated functions, with room: 1.5e-2 was measured for ``silu`` (device facts L3)."""


def _contracted(
    make: Callable[[], Ball | None], x: Bound, reading: Reading, *, exact: bool
) -> Callable[[], Ball | None]:
    """The ball around zero of ``f(x)`` where ``|f(x)| <= |x|``, but for the error of ``f``."""
    engine = isinstance(reading.machine.arithmetic, NeuralEngine)

    def made() -> Ball | None:
        ball = make()
        if ball is None:
            return None
        zero = torch.zeros([1] * len(x.shape), dtype=torch.float64)
        slack = zero if exact else x.magnitude * 2.0**-9 + (_TABLE_ERROR if engine else 2.0**-24)
        return Ball(ball.axes, zero, zero + 1, x.norm(ball.axes), slack)

    return once(made)


# ---------------------------------------------------------------------------------------------------------------------
# Links


def squared(x: Bound, settings: Mapping[str, Any]) -> Sequence[Link]:
    """``x**2`` is a square of each element."""
    return [self_link(x, "over", power=2)]


def absolute(x: Bound, settings: Mapping[str, Any]) -> Sequence[Link]:
    """``|x|`` is neither more nor less."""
    return [self_link(x, "over"), self_link(x, "under"), *kept_links(x, "under", "inverse")]


def rooted(x: Bound, settings: Mapping[str, Any]) -> Sequence[Link]:
    """What a root keeps."""
    return [made for link in x.links if (made := root_link(link)) is not None]


def inverted(epsilon: float, *, root: bool = False) -> Callable[[Bound, Mapping[str, Any]], Sequence[Link]]:
    """What ``1 / (x + epsilon)`` or ``1 / sqrt(x + epsilon)`` makes of links from below, with a default epsilon."""

    def link(x: Bound, settings: Mapping[str, Any]) -> Sequence[Link]:
        made = (inverse_link(link, x.low, settings.get("epsilon", epsilon), root) for link in x.links)
        return [link for link in made if link is not None]

    return link


def clipped(x: Bound, settings: Mapping[str, Any]) -> Sequence[Link]:
    """A lower bound makes nothing less, but may make it more; an upper bound must not be reached."""
    lowest, highest = settings.get("alpha", -math.inf), settings.get("beta", math.inf)
    if x.most > highest:
        return []
    return kept_links(x, "over") if x.least < lowest else x.links
