"""What was seen of values: bounds, counts and a histogram of magnitudes. Ranges form a commutative monoid."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from torch import Tensor

from nanproof.interpret.tally import Tally

__all__ = ["NOTHING", "Range", "Ranges"]

_LOST = -25
"""FP16 rounds magnitudes up to 2^-25 to zero: half of its smallest subnormal, ties to even."""
_SMALLEST_NORMAL = -14
_BF16_OVERFLOW = float.fromhex("0x1.ffp127")
"""From here on bfloat16 rounds to infinity: half a step above its largest number, 0x1.fep127."""


@dataclass(frozen=True, slots=True)
class Range:
    """What was seen of one value. Ranges form a commutative monoid under :meth:`__or__`, with :data:`NOTHING`.

    Attributes:
        low: The least finite element, ``inf`` if there was none.
        high: The largest finite element, ``-inf`` if there was none.
        infinities: How many elements were infinite.
        nans: How many elements were NaN.
        smallest: The smallest magnitude but zero, ``inf`` if there was none.
        zeros: How many elements were zero.
        overflows: How many finite elements FP16 rounds to infinity: magnitudes from 65520 on.
        histogram: ``(k, n)``, sorted: n elements had a magnitude in (2^(k-1), 2^k]. The lowest k, -126, reaches down to
            zero. Elements that are zero or not finite are not among them.
    """

    low: float = math.inf
    high: float = -math.inf
    infinities: int = 0
    nans: int = 0
    smallest: float = math.inf
    zeros: int = 0
    overflows: int = 0
    histogram: tuple[tuple[int, int], ...] = ()

    def __or__(self, other: Range) -> Range:
        return Range(
            min(self.low, other.low),
            max(self.high, other.high),
            self.infinities + other.infinities,
            self.nans + other.nans,
            min(self.smallest, other.smallest),
            self.zeros + other.zeros,
            self.overflows + other.overflows,
            tuple(sorted((Counter(dict(self.histogram)) + Counter(dict(other.histogram))).items())),
        )

    @property
    def magnitude(self) -> float:
        """The largest finite absolute value seen, 0 if none was."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def finite(self) -> bool:
        """Whether no Inf and no NaN was seen."""
        return self.infinities == 0 and self.nans == 0

    @property
    def binary(self) -> bool:
        """Whether every element was 0 or 1, or 0 or -1. The bounds tell whether the signs were mixed."""
        return self.finite and self.magnitude in (0.0, 1.0) and self.smallest >= 1.0

    @property
    def count(self) -> int:
        """How many elements were seen."""
        return self.zeros + self.infinities + self.nans + sum(n for _, n in self.histogram)

    @property
    def lost(self) -> int:
        """How many elements that are not zero FP16 rounds to zero."""
        return sum(n for k, n in self.histogram if k <= _LOST)

    @property
    def subnormals(self) -> int:
        """How many elements FP16 keeps with less than its eleven bits: 2^-25 < magnitude <= 2^-14.

        2^-14 is the smallest normal number, and counted here since the histogram has it in the same bucket.
        """
        return sum(n for k, n in self.histogram if _LOST < k <= _SMALLEST_NORMAL)

    @property
    def survives_fp16(self) -> bool:
        """Whether FP16 holds every element: none was or becomes Inf or NaN. Small ones may have been lost."""
        return self.finite and self.overflows == 0

    @property
    def survives_bf16(self) -> bool:
        """Whether bfloat16 holds every element, in its eight bits: none was or becomes Inf or NaN."""
        return self.finite and self.magnitude < _BF16_OVERFLOW

    @classmethod
    def of(cls, x: Tensor) -> Range:
        """The range of one tensor of numbers or truth values."""
        tally = Tally()
        tally.add(x)
        return cls.tallied(tally)

    @classmethod
    def tallied(cls, tally: Tally) -> Range:
        """What a tally has counted."""
        return cls(
            tally.low,
            tally.high,
            tally.infinities,
            tally.nans,
            tally.smallest,
            tally.zeros,
            tally.overflows,
            tally.histogram(),
        )


NOTHING = Range()
"""The range of a value that was never seen."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges by value name, over a number of runs. Integer values are included: masks are often integers.

    Attributes:
        by_name: What was seen of each value.
        runs: On how many inputs.
        channels: Of values that were asked for by channel, what was seen of each of theirs, in order.
    """

    by_name: Mapping[str, Range] = field(default_factory=dict[str, Range])
    runs: int = 0
    channels: Mapping[str, tuple[Range, ...]] = field(default_factory=dict[str, tuple[Range, ...]])

    def __getitem__(self, name: str) -> Range:
        return self.by_name.get(name, NOTHING)

    def __or__(self, other: Ranges) -> Ranges:
        names = self.by_name.keys() | other.by_name.keys()
        split = self.channels.keys() | other.channels.keys()
        return Ranges(
            {n: self[n] | other[n] for n in sorted(names)},
            self.runs + other.runs,
            {n: _side_by_side(self.channels.get(n, ()), other.channels.get(n, ())) for n in sorted(split)},
        )

    def renamed(self, names: Mapping[str, str]) -> Ranges:
        """The same under other names, those of one new name together."""
        merged: dict[str, Range] = {}
        for name, found in self.by_name.items():
            new = names.get(name, name)
            merged[new] = merged.get(new, NOTHING) | found
        return replace(self, by_name=merged)


def _side_by_side(ours: tuple[Range, ...], theirs: tuple[Range, ...]) -> tuple[Range, ...]:
    """Channel by channel; where sizes are flexible one may have more."""
    return tuple(a | b for a, b in zip_longest(ours, theirs, fillvalue=NOTHING))
