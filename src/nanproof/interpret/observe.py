"""Observed ranges: what values every float tensor of a program took on the given inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.inputs import check_inputs
from nanproof.program import Op, Program

__all__ = ["Range", "Ranges", "observe"]


@dataclass(frozen=True, slots=True)
class Range:
    """What was seen of one value: bounds of its finite elements, and how many elements were not finite.

    ``binary`` tells that every element was 0 or 1, or every element 0 or -1. Ranges form a commutative monoid under
    :meth:`__or__` with
    :data:`NOTHING` as the neutral element.
    """

    low: float = math.inf
    high: float = -math.inf
    infinities: int = 0
    nans: int = 0
    binary: bool = True

    def __or__(self, other: Range) -> Range:
        return Range(
            min(self.low, other.low),
            max(self.high, other.high),
            self.infinities + other.infinities,
            self.nans + other.nans,
            self.binary and other.binary,
        )

    @property
    def magnitude(self) -> float:
        """The largest finite absolute value seen, 0 if none was."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def finite(self) -> bool:
        """Whether no Inf and no NaN was seen."""
        return self.infinities == 0 and self.nans == 0

    @classmethod
    def of(cls, x: Tensor) -> Range:
        """The range of one tensor."""
        if x.numel() == 0:
            return NOTHING
        x = x.float()
        low, high = torch.aminmax(x)
        if math.isfinite(float(low)) and math.isfinite(float(high)):
            extremes = (float(low), float(high))
            binary = all(e in {-1.0, 0.0, 1.0} for e in extremes) and bool(((x == 0) | (x == low) | (x == high)).all())
            return cls(float(low), float(high), binary=binary)
        finite = torch.isfinite(x)
        nans = int(torch.isnan(x).sum())
        infinities = int((~finite).sum()) - nans
        inner = cls.of(x[finite])
        return cls(inner.low, inner.high, infinities, nans, binary=False)


NOTHING = Range()
"""The range of a value that was never seen."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges by value name, over a number of runs. Integer values are included: masks are often integers."""

    by_name: Mapping[str, Range] = field(default_factory=dict[str, Range])
    runs: int = 0

    def __getitem__(self, name: str) -> Range:
        return self.by_name.get(name, NOTHING)

    def __or__(self, other: Ranges) -> Ranges:
        names = self.by_name.keys() | other.by_name.keys()
        return Ranges({n: self[n] | other[n] for n in sorted(names)}, self.runs + other.runs)


class _Recorder:
    """Observer of one run."""

    def __init__(self) -> None:
        self.seen: dict[str, Range] = {}

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for value, result in zip(op.outputs, results, strict=True):
            # A value of a loop's body is seen once for each turn.
            self.seen[value.name] = self.seen.get(value.name, NOTHING) | Range.of(result)


def observe(
    program: Program, batches: Iterable[Mapping[str, Any]], *, numerics: str = "reference"
) -> tuple[Ranges, list[dict[str, np.ndarray]]]:
    """Run a program on every batch; the range of every value, inputs included, and the outputs of each run.

    Args:
        program: The program.
        batches: For each run one array for each input name.
        numerics: How to compute.

    Raises:
        InputError, CouldNotCheckError: As :func:`nanproof.predict`.
    """
    executor = Executor(program, numerics)
    total, outputs = Ranges(), list[dict[str, np.ndarray]]()
    for batch in batches:
        recorder = _Recorder()
        outputs.append(executor.once(batch, [recorder]))
        arrays = check_inputs(program.interface, batch)  # images are tensors there, and defaults are filled in
        inputs = {name: Range.of(torch.as_tensor(array)) for name, array in arrays.items()}
        total |= Ranges(inputs | recorder.seen, 1)
    return total, outputs
