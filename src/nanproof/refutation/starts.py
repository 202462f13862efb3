"""Where a search starts: the given inputs, corners and centres of the assumed box, and random points inside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanproof.interpret.proof import Proof
from nanproof.program import Program
from nanproof.stress.inputs import stress_inputs
from nanproof.stress.kinds import InputKind, input_kinds

__all__ = ["Box", "Start", "boxes", "kinds_within", "starts"]

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Start:
    """Inputs, and where they come from."""

    what: str
    inputs: Arrays


@dataclass(frozen=True, slots=True)
class Box:
    """The values that one input may take.

    Attributes:
        shape: Its shape.
        dtype: Its NumPy dtype.
        low: The least value of an element.
        high: The largest.
        whole: Whether elements are whole numbers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    low: float
    high: float
    whole: bool

    @property
    def binary(self) -> bool:
        """Whether elements are 0 or 1."""
        return self.whole and self.low == 0 and self.high == 1

    def inside(self, values: np.ndarray) -> np.ndarray:
        """The nearest values that the input may take, in its dtype and shape."""
        values = np.nan_to_num(np.broadcast_to(values, self.shape), nan=self.low, posinf=self.high, neginf=self.low)
        kept = np.clip(values.astype(np.float64), self.low, self.high)
        if self.whole:
            return np.rint(kept).astype(self.dtype)
        cast = np.array(kept).astype(self.dtype)
        # Rounded to its dtype, a bound may come to lie outside: then the next number inside is taken.
        cast = np.where(cast > self.high, np.nextafter(cast, cast.dtype.type(-np.inf)), cast)
        return np.where(cast < self.low, np.nextafter(cast, cast.dtype.type(np.inf)), cast)

    def holds(self, values: np.ndarray) -> bool:
        """Whether the input may take these values."""
        return values.shape == self.shape and bool(((values >= self.low) & (values <= self.high)).all())

    @property
    def rest(self) -> float:
        """The value nearest to zero."""
        return min(max(0.0, self.low), self.high)


def boxes(program: Program, proof: Proof) -> dict[str, Box]:
    """What the assumptions of a proof allow for each input; states are not searched, and start as zeros."""
    return {
        a.name: Box(proof.shapes[a.name], np.dtype(program.inputs[a.name].dtype.numpy), a.low, a.high, a.whole)
        for a in proof.assumptions
        if a.name in program.inputs
    }


def kinds_within(
    program: Program, box: Mapping[str, Box], batches: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, InputKind]:
    """What each input is taken to be, its bounds being those of the box."""
    return input_kinds(program, batches, {name: (one.low, one.high) for name, one in box.items()})


def starts(
    box: Mapping[str, Box], kinds: Mapping[str, InputKind], batches: Sequence[Mapping[str, np.ndarray]], seed: int
) -> Iterator[Start]:
    """Inputs to try, the plainest first, without end: from some point on they are random.

    Args:
        box: What each input may be.
        kinds: What each input is, for the stress inputs of its kind.
        batches: Inputs to begin with; those that are not within the box are brought there.
        seed: The same seed gives the same inputs.
    """
    rng = np.random.default_rng(seed)
    given = [{n: b.inside(np.asarray(batch[n])) for n, b in box.items()} for batch in batches]
    yield from (Start(f"given input {i}", batch) for i, batch in enumerate(given))
    base = given[0] if given else {n: b.inside(np.asarray(b.rest)) for n, b in box.items()}
    for stress in stress_inputs(kinds, base):
        yield Start(stress.what, {n: b.inside(np.asarray(stress.inputs[n])) for n, b in box.items()})
    for what in _SHAPES:
        yield Start(what, {n: _filled(b, what, rng) for n, b in box.items()})
    for name, one in box.items() if len(box) > 1 else ():
        for what in _SHAPES:
            yield Start(f"{what} in '{name}'", {**base, name: _filled(one, what, rng)})
    for factor in (8.0, 64.0, 0.125, 1e-3) if given else ():
        floats = {n: b.inside(base[n].astype(np.float64) * factor) for n, b in box.items() if not b.whole}
        yield Start(f"given input 0 times {factor:g}", {**base, **floats})
    while True:
        for what in _RANDOM:
            yield Start(what, {n: _filled(b, what, rng) for n, b in box.items()})
        if given:
            source = given[int(rng.integers(len(given)))]
            yield Start("disturbed input", {n: _disturbed(b, source[n], rng) for n, b in box.items()})


_SHAPES = ("lowest", "highest", "zero", "alternating", "one high", "one low", "tiny", "corner", "left half high")
_RANDOM = ("uniform", "corner", "magnitudes", "constant", "sparse", "rows")


def _filled(box: Box, what: str, rng: np.random.Generator) -> np.ndarray:
    """One of the shapes, inside the box."""
    low, high, shape = box.low, box.high, box.shape
    width = high - low
    index = np.indices(shape).sum(0) if shape else np.zeros(())
    values: dict[str, Callable[[], Any]] = {
        "lowest": lambda: low,
        "highest": lambda: high,
        "zero": lambda: box.rest,
        "alternating": lambda: np.where(index % 2 == 0, low, high),
        "one high": lambda: _one(box, high),
        "one low": lambda: _one(box, low),
        "tiny": lambda: box.rest + 1e-6 * width * np.where(index % 2 == 0, 1.0, -1.0),
        "left half high": lambda: _left(box),
        "corner": lambda: np.where(rng.random(shape) < 0.5, low, high),
        "uniform": lambda: low + width * rng.random(shape),
        "magnitudes": lambda: np.where(rng.random(shape) < 0.5, low, high) * 2.0 ** (-24 * rng.random()),
        "constant": lambda: low + width * rng.random(),
        "sparse": lambda: np.where(rng.random(shape) < 0.1, np.where(rng.random(shape) < 0.5, low, high), box.rest),
        "rows": lambda: np.where(rng.random((*shape[:-1], 1) if shape else ()) < 0.5, low, high),
    }
    return box.inside(np.asarray(values[what](), dtype=np.float64))


def _one(box: Box, value: float) -> np.ndarray:
    """One element of each last axis at a value, the others nearest to zero."""
    array = np.full(box.shape, box.rest)
    if array.ndim:
        array[..., 0] = value
    else:
        array[()] = value
    return array


def _left(box: Box) -> np.ndarray:
    """The first half of the last axis as high as can be, the other as low."""
    array = np.full(box.shape, box.low)
    if array.ndim:
        array[..., : (array.shape[-1] + 1) // 2] = box.high
    return array


def _disturbed(box: Box, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A given input with some of its elements drawn anew, or all of them scaled."""
    values = source.astype(np.float64)
    if box.whole:
        drawn = rng.integers(int(box.low), int(box.high), box.shape, endpoint=True)
        return box.inside(np.where(rng.random(box.shape) < 0.3, drawn, values))
    factor = 2.0 ** rng.uniform(-6, 6)
    noise = rng.standard_normal(box.shape) * (float(values.std()) if values.size else 0.0) * 0.3
    return box.inside(values * factor + noise)
