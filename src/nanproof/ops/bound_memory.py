"""Bounds of what a program keeps: lists of tensors, states, and the labels of a classifier.

A list is one number: the hull of all its elements, those never written (zeros) included. So its bound has no shape, and
a loop that writes a list grows it like any other variable.

A state is assumed to be inside a box whenever it is read. That has to be inductive: what is written must be inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nanproof.ops.bounding import Reading
from nanproof.values.bound import Bound

__all__ = [
    "classify",
    "list_gather",
    "list_length",
    "list_read",
    "list_scatter",
    "list_write",
    "make_list",
    "read_state",
    "write_state",
]

_MOST_ELEMENTS = 2.0**31 - 1


def make_list(
    reading: Reading,
    elem_shape: Sequence[Any],
    init_length: Bound | None = None,
    dynamic_length: Bound | None = None,
    dtype: str = "fp32",
) -> Bound:
    """Zeros."""
    return Bound.interval((), 0.0, 0.0, whole=True)


def list_length(reading: Reading, ls: Bound) -> Bound:
    """Any length: lists may grow."""
    return Bound.interval((), 0.0, _MOST_ELEMENTS, whole=True)


def _elements(reading: Reading, ls: Bound) -> Bound:
    result = Bound.interval(reading.shape(), ls.least, ls.most, whole=ls.whole)
    return replace(result, nan=ls.nan)


def list_read(reading: Reading, ls: Bound, index: Bound) -> Bound:
    """One element."""
    return _elements(reading, ls)


def list_gather(reading: Reading, ls: Bound, indices: Bound) -> Bound:
    """Some elements."""
    return _elements(reading, ls)


def _with(ls: Bound, value: Bound) -> Bound:
    low, high = min(ls.least, value.least), max(ls.most, value.most)
    return replace(Bound.interval((), low, high, whole=ls.whole and value.whole), nan=ls.nan or value.nan)


def list_write(reading: Reading, ls: Bound, index: Bound, value: Bound) -> Bound:
    """Another element."""
    return _with(ls, value)


def list_scatter(reading: Reading, ls: Bound, indices: Bound, value: Bound) -> Bound:
    """Other elements."""
    return _with(ls, value)


def read_state(reading: Reading, input: Bound) -> Bound:
    """What the state is assumed to hold."""
    return input.plain()


def write_state(reading: Reading, input: Bound, data: Bound) -> tuple[()]:
    """Nothing comes out; what goes in has to be what is assumed when the state is read."""
    inside = not data.nan and bool(((data.low >= input.low) & (data.high <= input.high)).all())
    if not inside:
        reading.doubt(
            f"what is written, from {data.least:.5g} to {data.most:.5g}, may lie outside of what the state is assumed "
            f"to hold, from {input.least:.5g} to {input.most:.5g}"
        )
    return ()


def classify(reading: Reading, probabilities: Bound, classes: Any) -> list[Bound]:
    """A label, and the probabilities as they are."""
    named = isinstance(classes, Bound)
    label = Bound.interval((), classes.least if named else 0.0, classes.most if named else 0.0, whole=True)
    dictionary = Bound.interval((), probabilities.least, probabilities.most)
    return [label, replace(dictionary, nan=probabilities.nan)]
