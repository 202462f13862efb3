"""Steps for inputs of whole numbers, which have no slope: other rows of a table, other bits of a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.gradient import Slopes, Tap
from nanproof.program import Op, Program, Value
from nanproof.refutation.starts import Box

__all__ = ["Exchange"]

Arrays = Mapping[str, np.ndarray]


class Exchange:
    """Proposes other whole numbers by the slope of the goal along what was made of them.

    To first order the goal changes by ``slope . (new - old)``. For a gathered row, all rows of the table are compared
    (Ebrahimi et al., "HotFlip", 2018); for anything else, the results of the lowest and of the highest input.

    Args:
        program: The program.
        box: What each input may be.
    """

    def __init__(self, program: Program, box: Mapping[str, Box]) -> None:
        self._executor = Executor(program, "reference")
        self._box = box
        self._makers = {value: op for op in program.main.block.walk() for value in op.outputs}
        self._inputs = {program.main.inputs[name]: name for name, one in box.items() if one.whole}
        self._extremes: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}

    def step(self, inputs: Arrays, slopes: Slopes, share: float) -> tuple[dict[str, np.ndarray], int]:
        """The inputs with the most promising of their whole numbers exchanged.

        Args:
            inputs: The inputs.
            slopes: Slopes at these inputs.
            share: Which part of the elements may be exchanged, at least one.

        Returns:
            The new inputs, and how many runs of the program it took to find them.
        """
        changed, runs = dict(inputs), 0
        for tap in slopes.taps:
            for name in self._sources(tap):
                if tap.op.type == "gather" and len(tap.operands) >= 2 and tap.operands[0].dim() == 2:
                    found = self._rows(name, tap, inputs)
                else:
                    runs += 0 if name in self._extremes else 2
                    found = self._ends(name, tap, inputs)
                if found is not None:
                    changed[name] = _exchanged(changed[name], *found, share)
        return changed, runs

    def _sources(self, tap: Tap) -> list[str]:
        """The whole inputs that a tap is made of."""
        pending: list[Value] = list(tap.op.operands)
        seen: set[Value] = set()
        found: list[str] = []
        while pending:
            value = pending.pop()
            if value in seen:
                continue
            seen.add(value)
            if value in self._inputs:
                found.append(self._inputs[value])
            elif value in self._makers:
                pending += self._makers[value].operands
        return sorted(found)

    def _rows(self, name: str, tap: Tap, inputs: Arrays) -> tuple[np.ndarray, np.ndarray] | None:
        """For each element the best row, and what it promises."""
        table, indices = tap.operands[0], tap.operands[1].reshape(-1)
        given, box = inputs[name].reshape(-1).astype(np.int64), self._box[name]
        if indices.numel() != given.size or tap.result.numel() != indices.numel() * table.shape[1]:
            return None
        offset = int(indices[0]) - int(given[0]) if given.size else 0
        first, last = max(int(box.low) + offset, 0), min(int(box.high) + offset, table.shape[0] - 1)
        if last < first:
            return None
        slope = tap.slope.reshape(indices.numel(), -1)
        rows = table[first : last + 1]
        promise = slope @ rows.T - (slope * tap.result.reshape(indices.numel(), -1)).sum(-1, keepdim=True)
        best = promise.max(-1)
        return (best.indices.numpy() + first - offset).reshape(inputs[name].shape), best.values.numpy()

    def _ends(self, name: str, tap: Tap, inputs: Arrays) -> tuple[np.ndarray, np.ndarray] | None:
        """For each element its lowest or highest value, whichever promises more than it has."""
        if name not in self._extremes:
            self._extremes[name] = (self._at(name, inputs, high=False), self._at(name, inputs, high=True))
        low, high = (end.get(tap.op.name) for end in self._extremes[name])
        box = self._box[name]
        if low is None or high is None or low.shape != tap.slope.shape or high.shape != tap.slope.shape:
            return None
        towards = (tap.slope * (high - low).nan_to_num(0.0, 0.0, 0.0)).numpy()
        rising = _folded(towards, box.shape)
        if rising is None:
            return None
        wanted = np.where(rising > 0, box.high, box.low)
        return wanted, np.where(wanted == inputs[name], 0.0, np.abs(rising)).reshape(-1)

    def _at(self, name: str, inputs: Arrays, *, high: bool) -> dict[str, Tensor]:
        """Float results by op, with one input at an end."""
        seen: dict[str, Tensor] = {}

        def see(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
            if results and results[0].is_floating_point() and results[0].numel() <= _LARGEST:
                seen[op.name] = results[0].clone()

        box = self._box[name]
        self._executor.once({**inputs, name: box.inside(np.asarray(box.high if high else box.low))}, [see])
        return seen


_LARGEST = 1 << 20
"""Results with more elements than this are not kept to be compared."""


def _folded(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """What a tensor says of each element of an input: as many elements, or broadcast between first and last axis."""
    if x.size == np.prod(shape, dtype=int):
        return x.reshape(shape)
    if len(shape) == 2 and x.ndim > 2 and x.shape[0] == shape[0] and x.shape[-1] == shape[1]:
        return x.sum(tuple(range(1, x.ndim - 1)))
    return None


def _exchanged(current: np.ndarray, wanted: np.ndarray, promise: np.ndarray, share: float) -> np.ndarray:
    """The current values, the most promising elements exchanged."""
    flat, target = current.reshape(-1).copy(), wanted.reshape(-1)
    order = np.argsort(-promise.reshape(-1), kind="stable")[: max(1, round(share * flat.size))]
    order = order[promise.reshape(-1)[order] > 0]
    flat[order] = target[order].astype(flat.dtype)
    return flat.reshape(current.shape)
