"""Births of Inf and NaN: ops that make a non-finite number of finite operands, where FP32 stays finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.observe import Ranges
from nanproof.mil.names import base_name
from nanproof.program import Op, Program

__all__ = ["Birth", "BirthObserver", "find_births"]


@dataclass(frozen=True, slots=True)
class Birth:
    """One op that made Inf or NaN. ``op`` is the name of the op in the float32 program."""

    op: str
    op_type: str
    numerics: str
    infinities: int
    nans: int
    largest_operand: float

    @property
    def described(self) -> str:
        """The event in one line."""
        made = [f"{n} {what}" for n, what in ((self.infinities, "Inf"), (self.nans, "NaN")) if n]
        operands = f"operands up to {self.largest_operand:.4g}"
        return f"{self.op_type} made {' and '.join(made)} of {operands} under '{self.numerics}'"


class BirthObserver:
    """Collects births while a program runs.

    A constant that is infinite itself does not excuse the op that reads it: in FP32 it may have been finite.

    Args:
        program: The program that runs; a cast to FP16 that overflows is charged to the ops that read it.
        reference: Ranges of the float32 program by value name. Where FP32 is not finite either, nothing is charged to
            FP16; a value that is not known there counts as finite.
        numerics: Name of the numerics, for the record.
    """

    def __init__(self, program: Program, reference: Ranges, numerics: str) -> None:
        self.births: dict[str, Birth] = {}
        self._reference = reference
        self._numerics = numerics
        self._readers: dict[str, list[Op]] = {}
        for op in program.walk():
            for value in op.operands:
                self._readers.setdefault(value.name, []).append(op)

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Look at one op as it ran."""
        floats = [r for r in results if r.is_floating_point()]
        if all(bool(torch.isfinite(r).all()) for r in floats):
            return
        given = [t for v, t in zip(op.tensors, operands, strict=True) if v.const is None and t.is_floating_point()]
        if not all(bool(torch.isfinite(t).all()) for t in given):
            return
        nans = sum(int(torch.isnan(r).sum()) for r in floats)
        infinities = sum(int((~torch.isfinite(r)).sum()) for r in floats) - nans
        largest = max((float(t.abs().max()) for t in given if t.numel()), default=0.0)
        for culprit in self._charged(op):
            name = base_name(culprit.name)
            self.births.setdefault(name, Birth(name, culprit.type, self._numerics, infinities, nans, largest))

    def _charged(self, op: Op) -> list[Op]:
        if op.type == "cast":  # its operand is finite, so FP32 was: whoever reads the result needs FP32
            return self._readers.get(op.outputs[0].name, [])
        finite = all(self._reference[base_name(v.name)].finite for v in op.outputs)
        return [op] if finite else []


def find_births(
    program: Program, batches: Sequence[Mapping[str, Any]], reference: Ranges, numerics: str
) -> tuple[list[Birth], list[dict[str, Any]]]:
    """Run a program on every batch; the births that were seen, and the outputs of each run.

    Raises:
        InputError, CouldNotCheckError: As :func:`nanproof.predict`.
    """
    executor = Executor(program, numerics)
    observer = BirthObserver(program, reference, executor.numerics.name)
    outputs: list[dict[str, Any]] = [executor.once(batch, [observer]) for batch in batches]
    return list(observer.births.values()), outputs
