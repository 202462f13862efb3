"""How rules of bounds are written, and what they stand on: a unit's roundings and limits, and the grids of types.

A rule gets the :class:`Reading` of its op and the op's MIL inputs by their names: a
:class:`~nanproof.values.bound.Bound` for a tensor (with its carrier where it is a constant), ``str`` for text, a tuple
where the input is variadic. It returns a bound for each output: of what the unit computes *before* it stores the
result, which the caller does with :func:`stored`.

Why endpoints are enough for ``+ - * /`` and roots: they are correctly rounded, and rounding to nearest is monotone,
so the stored result of every point of an interval lies between the grid points around the exact ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nanproof.numerics import Numerics
from nanproof.numerics.arithmetic import Arithmetic
from nanproof.numerics.neural_engine import NeuralEngine
from nanproof.program import DType, Op, Value
from nanproof.values.bound import Ball, Bound, Link
from nanproof.values.floats import FP16_MAX

__all__ = [
    "FLOAT32_MAX",
    "BoundRule",
    "Machine",
    "Reading",
    "Unbounded",
    "UnboundedError",
    "aligned",
    "broadcast_shape",
    "identity_places",
    "integer_range",
    "limit_of",
    "machine_of",
    "parameter",
    "stored",
    "unbounded",
]

BoundRule = Callable[..., Any]
"""``bound(reading, **mil_inputs)`` → a bound, or a sequence of bounds for several outputs."""


class UnboundedError(Exception):
    """A rule gives up; the text says why. The result is then taken to be anything its type can hold, and unproved."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the proof has to know of a unit for one op. Error terms cover the fast and the exact reading.

    Attributes:
        unit: Half the relative distance of neighbours in the accumulator of products: ``2**-24`` or ``2**-11``. Any
            order of ``n`` additions is off by at most ``n * unit * sum|x_i|`` (Jeannerod and Rump, 2013: without a
            condition on n).
        lost: The most that a single product can lose besides (A6, underflow).
        flushed: Operands below it are read as zero by the multiplier (A11); 0 where none are.
        limit: Where a partial sum of products becomes infinite, in any order.
        sums: As ``unit``, for plain sums.
        narrow: Whether the steps inside an op are rounded to binary16, and overflow there.
        table: Relative and absolute error of functions that go by the unit's tables, for FP32 formulas.
        infinities: Whether ``-inf`` means what IEEE says (E9, A12: on the Neural Engine it does not).
    """

    numerics: Numerics
    arithmetic: Arithmetic
    half: bool
    unit: float
    lost: float
    flushed: float
    limit: float
    sums: float
    narrow: bool
    infinities: bool

    @property
    def rounds(self) -> bool:
        """Whether what an op passes from one of its steps to the next is rounded to binary16."""
        return float(self.arithmetic.round(torch.tensor([1 + 2.0**-12]))) != 1 + 2.0**-12

    def holds(self, size: float) -> bool:
        """Whether a number of that size stays finite on the way from one step inside an op to the next."""
        return math.isfinite(float(self.arithmetic.round(torch.tensor([size]))))


FLOAT32_MAX = 3.4028234663852886e38
"""Largest finite binary32 number, (2 - 2**-23) * 2**127."""


def machine_of(numerics: Numerics, op: Op, *, of_integers: bool = False) -> Machine:
    """The machine on which an op runs under given numerics."""
    arithmetic = numerics.arithmetic(op.dtype, op.type, of_integers=of_integers)
    half = op.dtype is DType.FP16 and numerics.rounds_storage
    engine = isinstance(arithmetic, NeuralEngine)
    # `cpu` and `strict` have an exact reading that accumulates in binary16; the bound covers both readings.
    chained = half and not engine and numerics.name in ("cpu", "strict")
    narrow = half and (numerics.name == "strict" or (isinstance(arithmetic, NeuralEngine) and arithmetic.narrow))
    flushes = engine and numerics.name == "ane_m1"  # whose partial sums are rounded to binary16 from 4096 on (A10)
    return Machine(
        numerics=numerics,
        arithmetic=arithmetic,
        half=half,
        unit=2.0**-11 if chained or flushes else 2.0**-24,
        lost=2.0**-14 if engine else 2.0**-24 if chained else 0.0,
        flushed=2.0**-14 if flushes else 0.0,
        limit=2.0**15 if engine else FP16_MAX if chained else FLOAT32_MAX,
        sums=2.0**-11 if chained or narrow else 2.0**-24,
        narrow=narrow,
        infinities=not engine,
    )


@dataclass(slots=True)
class Reading:
    """One op being read: what rules need of it, and what they have to say besides their bounds.

    Attributes:
        op: The op.
        machine: How it computes.
        shapes: The sizes of values whose type leaves them open.
        states: What each state is assumed to hold.
        norms: Norms of matrices that were computed before, by their content.
        partial: The largest partial sum of products, in any order.
        doubts: Reasons why the result may be Inf or NaN although its bounds do not show it.
    """

    op: Op
    machine: Machine
    shapes: Mapping[Value, tuple[int, ...]] = field(default_factory=dict[Value, tuple[int, ...]])
    states: dict[Value, Bound] = field(default_factory=dict[Value, Bound])
    norms: dict[Any, float] = field(default_factory=dict[Any, float])
    partial: float = 0.0
    doubts: list[str] = field(default_factory=list[str])

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """The shape of an output.

        Raises:
            UnboundedError: It is not known.
        """
        sizes = self.shapes.get(self.op.outputs[output], self.op.outputs[output].type.shape)
        if not all(isinstance(size, int) for size in sizes):
            raise UnboundedError("the shape of the result is not known")
        return tuple(int(size) for size in sizes)

    def accumulated(self, partial: Tensor) -> None:
        """Take note of the largest partial sum of products."""
        if partial.numel():
            self.partial = max(self.partial, float(partial.max()))

    def doubt(self, reason: str) -> None:
        """Say that the result may not be finite."""
        if reason not in self.doubts:
            self.doubts.append(reason)


@dataclass(frozen=True, slots=True)
class Unbounded:
    """The rule of an op that has none, which says why: such ops are counted."""

    reason: str

    def __call__(self, reading: Reading, **inputs: Any) -> Any:
        """Gives up.

        Raises:
            UnboundedError: Always.
        """
        raise UnboundedError(self.reason)


def unbounded(reason: str) -> Unbounded:
    """Gives up on the bounds of an op, and says why."""
    return Unbounded(reason)


# ---------------------------------------------------------------------------------------------------------------------
# Storing


def stored(bound: Bound, dtype: DType, machine: Machine) -> Bound:
    """The bound of a result once it is stored in its type: outward to the grid. Overflow is left to be seen.

    Balls and links take the rounding as a loss: ``|x' - x| <= 2**-11 |x| + 2**-25`` for binary16 (IEEE 754).
    """
    if not dtype.is_float:
        return bound
    half = dtype is DType.FP16 and machine.numerics.rounds_storage
    if bound.value is not None:
        return bound
    low, high = _onto_grid(bound.low, bound.high, half)
    relative, absolute = (2.0**-10, 2.0**-24) if half else (2.0**-23, 2.0**-149)
    noise = bound.magnitude.clamp(max=FLOAT32_MAX) * relative + absolute
    balls = tuple(_noisy(make, noise) for make in bound.balls)
    links = tuple(_rounded_link(link, relative, absolute) for link in bound.links)
    mix = bound.mix
    if mix is not None:
        count = bound.shape[mix.axis]
        mix = replace(
            mix, low=mix.low * (1 - relative) - count * absolute, high=mix.high * (1 + relative) + count * absolute
        )
    return replace(bound, low=low, high=high, balls=balls, links=links, mix=mix, halves=half or bound.halves)


def _noisy(make: Callable[[], Ball | None], noise: Tensor) -> Callable[[], Ball | None]:
    def made() -> Ball | None:
        ball = make()
        return None if ball is None else replace(ball, slack=ball.slack + noise)

    return made


def _rounded_link(link: Link, relative: float, absolute: float) -> Link:
    if link.sense == "over":
        # A loss counts in full and more, a gain beyond the gauge is rounded with it.
        lost = link.lost * (1 + relative if link.lost > 0 else 1 - relative) + absolute
        return replace(link, factor=link.factor * (1 - relative), lost=lost)
    return replace(link, factor=link.factor * (1 + relative), lost=link.lost * (1 + relative) + absolute)


def _onto_grid(low: Tensor, high: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """The nearest numbers of the grid below ``low`` and above ``high``; beyond its range the bounds themselves."""
    if low.shape != high.shape:
        low, high = torch.broadcast_tensors(low, high)
    ends = torch.stack([low, -high])
    narrow = ends.to(torch.float16 if half else torch.float32).to(torch.float64)
    passed = narrow > ends
    if bool(passed.any()):
        _, exponent = torch.frexp(narrow)
        least, digits = (-13, 11) if half else (-125, 24)
        exponent = torch.where(narrow == 0, least, exponent.clamp(min=least))
        ulp = torch.exp2((exponent - digits).to(torch.float64))
        narrow = torch.where(passed, narrow - ulp, narrow)
    inside = ends.abs() <= (FP16_MAX if half else FLOAT32_MAX)
    below = torch.where(inside, narrow, ends)
    return below[0], -below[1]


def limit_of(dtype: DType, machine: Machine) -> float:
    """The largest finite number of a float type as it is stored."""
    return FP16_MAX if dtype is DType.FP16 and machine.numerics.rounds_storage else FLOAT32_MAX


def integer_range(dtype: DType) -> tuple[int, int]:
    """The least and the largest number of an integer type.

    >>> integer_range(DType.UINT8), integer_range(DType.INT16)
    ((0, 255), (-32768, 32767))
    """
    bits = int(dtype.value.removeprefix("u").removeprefix("int"))
    return (0, 2**bits - 1) if dtype.value.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def parameter(value: Any, name: str) -> Tensor:
    """The carrier of an input that has to be a constant.

    Raises:
        UnboundedError: It is computed.
    """
    if isinstance(value, Bound) and value.value is not None:
        return value.value
    raise UnboundedError(f"{name} is computed")


def broadcast_shape(*bounds: Bound) -> tuple[int, ...]:
    """The shape of a result of tensors that broadcast."""
    return tuple(torch.broadcast_shapes(*(b.shape for b in bounds)))


def aligned(bound: Bound, rank: int) -> Bound:
    """The bound with leading axes of size 1, up to a rank."""
    missing = rank - len(bound.shape)
    if missing <= 0:
        return bound

    def grown(x: Tensor) -> Tensor:
        return x.reshape(*(1,) * missing, *x.shape)

    def shifted(make: Callable[[], Ball | None]) -> Callable[[], Ball | None]:
        def made() -> Ball | None:
            ball = make()
            return (
                None
                if ball is None
                else ball.mapped(_if_shaped(grown, len(bound.shape)), (a + missing for a in ball.axes))
            )

        return made

    rank = len(bound.shape)
    itself = Link(
        "under", "self", bound.token, bound.shape, frozenset(), identity_places(rank), torch.ones(()).double()
    )
    links = tuple(
        replace(
            link,
            places=(*(None,) * missing, *link.places),
            factor=grown(link.factor) if link.factor.dim() == rank else link.factor,
            radius=None,
        )
        for link in (itself, *bound.links)
    )
    return replace(
        bound,
        shape=(*(1,) * missing, *bound.shape),
        low=grown(bound.low),
        high=grown(bound.high),
        balls=tuple(shifted(make) for make in bound.balls),
        links=links,
        mix=None if bound.mix is None else replace(bound.mix, axis=bound.mix.axis + missing),
        peak=None if bound.peak is None else (bound.peak[0] + missing, bound.peak[1]),
        value=None if bound.value is None else grown(bound.value),
        token=object(),
    )


def _if_shaped(move: Callable[[Tensor], Tensor], rank: int) -> Callable[[Tensor], Tensor]:
    return lambda x: move(x) if x.dim() == rank else x


def identity_places(rank: int) -> tuple[int | None, ...]:
    """The places of a value whose axes are those of its base."""
    return tuple(range(rank))
