"""Observed ranges: what values every tensor of a program took on the given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.inputs import check_inputs
from nanproof.interpret.range import NOTHING, Range, Ranges
from nanproof.interpret.tally import Tally
from nanproof.program import Block, Op, Program, Value

__all__ = ["NOTHING", "Observation", "Range", "Ranges", "observe"]

_SAME_ELEMENTS = frozenset(
    {"depth_to_space", "expand_dims", "flatten2d", "identity", "pixel_shuffle"}
    | {"pixel_unshuffle", "reshape", "reverse", "space_to_depth", "squeeze", "transpose"}
)
"""Ops whose result holds the elements of its operand, each once, in another order."""


@final
class Observation:
    """An observer that gathers the ranges of all values over any number of runs, in constant memory.

    Args:
        program: The program that runs.
        axis: Also count by channel: along this axis of every float value that has it. It may be negative.
    """

    def __init__(self, program: Program, axis: int | None = None) -> None:
        self.runs = 0
        self._axis = axis
        self._tallies: dict[str, Tally] = {}
        self._channels: dict[str, list[Tally]] = {}
        self._alike = _alike(program)

    def inputs(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Count the inputs of a run, as they go into the program."""
        self.runs += 1
        for name, array in arrays.items():
            self._add(name, torch.as_tensor(array))

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Count what an op has computed. A value of a loop's body is seen once for each turn."""
        for value, result in zip(op.outputs, results, strict=True):
            if value.name not in self._alike:
                self._add(value.name, result)
            if self._axis is not None and result.is_floating_point():
                self._split(value.name, result, self._axis)

    def ranges(self) -> Ranges:
        """All that was seen until now."""
        seen = {name: Range.tallied(tally) for name, tally in self._tallies.items()}
        for name, source in self._alike.items():
            if source in seen:
                seen[name] = seen[source]
        channels = {name: tuple(map(Range.tallied, tallies)) for name, tallies in self._channels.items()}
        return Ranges(seen, self.runs, channels)

    def _add(self, name: str, x: Tensor) -> None:
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = Tally()
        tally.add(x)

    def _split(self, name: str, x: Tensor, axis: int) -> None:
        if not -x.ndim <= axis < x.ndim:
            return
        tallies = self._channels.setdefault(name, [])
        for i, channel in enumerate(x.unbind(axis)):
            if i == len(tallies):
                tallies.append(Tally())
            tallies[i].add(channel)


def _alike(program: Program) -> dict[str, str]:
    """Values that hold the elements of another one of the same block, so that counting one of them will do."""
    found: dict[str, str] = {}

    def search(block: Block, known: set[Value]) -> None:
        for op in block.ops:
            source = op.input("x")
            if op.type in _SAME_ELEMENTS and source is not None and source in known:
                found[op.outputs[0].name] = found.get(source.name, source.name)
            known.update(op.outputs)
            for inner in op.blocks:
                search(inner, set())

    search(program.main.block, set(program.main.inputs.values()))
    return found


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
    executor, seen = Executor(program, numerics), Observation(program)
    outputs: list[dict[str, np.ndarray]] = []
    for batch in batches:
        outputs.append(executor.once(batch, [seen]))
        seen.inputs(check_inputs(program.interface, batch))  # images are tensors there, and defaults are filled in
    return seen.ranges(), outputs
