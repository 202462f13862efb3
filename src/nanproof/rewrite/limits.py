"""Where the numbers of the requested units end: what a rewrite has to stay below."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nanproof.program import Op
from nanproof.values.floats import FP16_MAX

__all__ = ["PRODUCTS", "Limits"]

PRODUCTS = frozenset({"conv", "conv_transpose", "einsum", "linear", "matmul"})
"""Ops that sum products in the unit's accumulator."""
_ACCUMULATOR_END = 2.0**15
"""Where the accumulator of every Neural Engine becomes infinite (device facts A3, A4)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest magnitudes that may be.

    Attributes:
        stored: Of a stored result.
        products: Of a sum of products.
        narrow_sums: Whether a mean adds up in binary16, so that its sum is bounded as well as its result.
        narrow_squares: Whether a norm keeps its sum of squares in binary16.
        engine: Whether a Neural Engine is among the units.
    """

    stored: float = FP16_MAX
    products: float = FP16_MAX
    narrow_sums: bool = False
    narrow_squares: bool = False
    engine: bool = False

    @classmethod
    def of(cls, units: Iterable[str]) -> Limits:
        """The strictest of some numerics, by name."""
        names = set(units)
        engine = any(name.startswith("ane") for name in names)
        return cls(
            products=_ACCUMULATOR_END if engine else FP16_MAX,
            narrow_sums=bool(names & {"strict", "ane_pessimistic"}),
            narrow_squares=engine or "strict" in names,
            engine=engine,
        )

    def of_result(self, op: Op) -> float:
        """The largest magnitude that the result of an op may have."""
        return self.products if op.type in PRODUCTS else self.stored
