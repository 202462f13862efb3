"""Points at which the values of a program come as near to their bounds as a search without gradients can bring them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.interpret.loop import Runner
from nanproof.numerics import get
from nanproof.values.floats import to_carrier
from tests.laws.bounded import Boxed

Point = Mapping[str, np.ndarray]


def climbed(boxed: Boxed, unit: str, rng: np.random.Generator, steps: int) -> Iterator[dict[str, np.ndarray]]:
    """The points of a search by coordinates: each time some elements move to an end of their box, or back.

    What is made larger is one element of one value, chosen at random; after a quarter of the steps it is another.
    """
    runner, names = Runner(boxed.program, get(unit)), list(boxed.boxes)
    best = boxed.points(rng, 4)[-1]
    target: tuple[str, int, float] | None = None
    highest = -np.inf
    for step in range(steps):
        if step % max(steps // 4, 1) == 0:
            target, highest = None, -np.inf
        name = names[int(rng.integers(len(names)))]
        point = {**best, name: _moved(boxed, name, best[name], rng)}
        yield point
        results = _run(runner, boxed, point)
        if target is None:
            target = _chosen(results, rng)
        reached = float(results[target[0]].reshape(-1)[target[1]]) * target[2]
        if reached > highest:
            best, highest = point, reached


def _run(runner: Runner, boxed: Boxed, point: Point) -> dict[str, Tensor]:
    types = boxed.program.main.inputs
    carried: dict[str, Any] = {n: to_carrier(a, types[n].type.dtype) for n, a in point.items()}
    results = {n: t for n, t in runner(carried).items() if isinstance(t, Tensor) and t.numel()}
    return {n: torch.nan_to_num(t.to(torch.float64)) for n, t in results.items()}


def _chosen(results: Mapping[str, Tensor], rng: np.random.Generator) -> tuple[str, int, float]:
    """An element of one of the later values, and the sign towards which it is pushed."""
    names = list(results)[-12:]
    name = names[int(rng.integers(len(names)))]
    return name, int(rng.integers(results[name].numel())), float(rng.choice([-1.0, 1.0]))


def _moved(boxed: Boxed, name: str, array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    box = boxed.boxes[name]
    low, high = (np.broadcast_to(v, array.shape).astype(array.dtype) for v in (box.low, box.high))
    share = float(rng.choice([0.02, 0.2, 0.6]))
    return np.where(rng.random(array.shape) < share, np.where(rng.random(array.shape) < 0.5, low, high), array)
