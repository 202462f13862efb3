"""Bounds of random numbers: those of their distribution, whatever is drawn."""

from __future__ import annotations

from nanproof.ops.bounding import Reading, UnboundedError, parameter
from nanproof.ops.record import ints
from nanproof.values.bound import Bound

__all__ = ["bernoulli", "categorical", "uniform"]


def _shape(shape: Bound) -> tuple[int, ...]:
    return tuple(ints(parameter(shape, "the shape")))


def bernoulli(reading: Reading, shape: Bound, prob: Bound | None = None, seed: Bound | None = None) -> Bound:
    """Zeros and ones."""
    return Bound.interval(_shape(shape), 0.0, 1.0, whole=True)


def uniform(
    reading: Reading, shape: Bound, low: Bound | None = None, high: Bound | None = None, seed: Bound | None = None
) -> Bound:
    """Between two numbers; their difference is taken on the way, in float32."""
    ends = [Bound.interval((), v, v) if b is None else b for b, v in ((low, 0.0), (high, 1.0))]
    if not all(end.finite for end in ends):
        raise UnboundedError("an end may be Inf or NaN")
    least, most = min(end.least for end in ends), max(end.most for end in ends)
    if not reading.machine.holds(2 * max(abs(least), abs(most))):
        reading.doubt(f"the difference of its ends may be {most - least:.4g}")
    room = max(abs(least), abs(most)) * 2.0**-9
    # Between ends of one sign nothing is rounded across zero.
    lower, upper = least - room, most + room
    return Bound.interval(
        _shape(shape), max(lower, 0.0) if least >= 0 else lower, min(upper, 0.0) if most <= 0 else upper
    )


def categorical(
    reading: Reading, x: Bound, mode: str = "logits", size: Bound | None = None, seed: Bound | None = None
) -> Bound:
    """Numbers of categories."""
    count = 1 if size is None else int(parameter(size, "size"))
    return Bound.interval((*x.shape[:-1], count), 0.0, max(x.shape[-1] - 1, 0), whole=True)
