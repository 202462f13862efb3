"""The trace of a run: what every op had and made, kept in memory as far as it reaches back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import final

from torch import Tensor

from nanproof.interpret.loop import Carried
from nanproof.interpret.shadow import ShadowObserver
from nanproof.interpret.sweep import Executed, Pair

__all__ = ["Trace"]

_MOST_BYTES = 2 << 30
"""Of a longer run the end is kept: what an output is made of is searched from there."""


@final
class Trace:
    """Keeps what ran, with its values, and counts the shadows of all ops.

    Args:
        most_bytes: How much memory the values may take. Beyond it the oldest are forgotten.
    """

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self.shadows = ShadowObserver()
        self.forgotten = 0
        self._most = most_bytes
        self._bytes = 0
        self._kept: deque[tuple[Executed, int]] = deque()
        self._makers: dict[int, tuple[int, int]] = {}
        self._origins: dict[int, frozenset[str]] = {}
        self.harmful: set[str] = set()

    def __call__(self, executed: Executed) -> None:
        """Keep one op as it ran."""
        self.shadows(executed)
        self._follow(executed)
        place = self.forgotten + len(self._kept)
        size = sum(_bytes(p.actual) + (0 if p.same else _bytes(p.exact)) for p in executed.results)
        self._kept.append((executed, size))
        for i, pair in enumerate(executed.results):
            self._makers.setdefault(id(pair), (place, i))  # what a loop returns was made by an op inside
        self._bytes += size
        while self._bytes > self._most and len(self._kept) > 1:
            oldest, freed = self._kept.popleft()
            self._bytes -= freed
            self.forgotten += 1
            for pair in oldest.results:
                if self._makers.get(id(pair), (self.forgotten, 0))[0] < self.forgotten:
                    self._makers.pop(id(pair))  # its number may be that of another object from now on

    @property
    def kept(self) -> int:
        """How many ops are kept."""
        return len(self._kept)

    def maker(self, pair: Pair) -> tuple[int, int] | None:
        """The place of the op that made a value, and which of its outputs it is; ``None`` if that is not known."""
        return self._makers.get(id(pair))

    def maker_of_cast(self, executed: Executed) -> Executed | None:
        """What made the value that a cast read; ``None`` for another op, or if that is not known."""
        given = executed.operand("x") if executed.op.type == "cast" else None
        place = None if given is None else self.maker(given)
        return None if place is None else self.at(place[0])

    def at(self, place: int) -> Executed:
        """The op at a place."""
        return self._kept[place - self.forgotten][0]

    def before(self, place: int) -> Iterator[Executed]:
        """What is kept of the ops that ran before a place, the latest first."""
        for i in range(place - self.forgotten - 1, -1, -1):
            yield self._kept[i][0]

    def arrived(self, pair: Pair) -> None:
        """Say that a value is an output: births of Inf and NaN that are in it have done harm."""
        self.harmful |= self._origins.get(id(pair), frozenset())

    def _follow(self, executed: Executed) -> None:
        """Where Inf and NaN come from that are in a value: the names of the ops that made the first ones."""
        came: frozenset[str] = frozenset()
        for pair in executed.operands:
            came |= self._origins.get(id(pair), frozenset())
        shadow = self.shadows.by_op[executed.op.name]
        if shadow.killed:
            self.harmful |= came
        for pair, again in zip(executed.results, executed.recomputed, strict=True):
            if pair.exceptional is None or id(pair) in self._makers:
                continue
            born = executed.op.name if not came or _finite(again) else ""
            self._origins[id(pair)] = came | {born} if born else came


def _finite(carried: Carried) -> bool:
    return isinstance(carried, Tensor) and bool(carried.isfinite().all())


def _bytes(carried: Carried) -> int:
    return carried.numel() * carried.itemsize if isinstance(carried, Tensor) else 0
