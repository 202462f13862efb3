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

    Args:
        program: The program that runs; a cast to FP16 that overflows is charged to the ops that read it.
        reference: Ranges of the float32 program by value name. Where it is not finite itself, or unknown, nothing is
            charged to FP16.
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
        if not all(bool(torch.isfinite(o).all()) for o in operands if o.is_floating_point()):
            return
        charged = self._readers.get(op.outputs[0].name, []) if op.type == "cast" else [op]
        nans = sum(int(torch.isnan(r).sum()) for r in floats)
        infinities = sum(int((~torch.isfinite(r)).sum()) for r in floats) - nans
        largest = max((float(o.abs().max()) for o in operands if o.is_floating_point() and o.numel()), default=0.0)
        for culprit in charged:
            name = base_name(culprit.name)
            if self._finite_in_fp32(op if op.type != "cast" else None, name, culprit):
                self.births.setdefault(name, Birth(name, culprit.type, self._numerics, infinities, nans, largest))

    def _finite_in_fp32(self, op: Op | None, name: str, culprit: Op) -> bool:
        if op is None:
            return True  # the operand of an overflowing cast is finite, so FP32 was
        return all(self._reference[base_name(v.name)].finite for v in culprit.outputs)


def find_births(
    program: Program, batches: Sequence[Mapping[str, Any]], reference: Ranges, numerics: str
) -> tuple[list[Birth], list[dict[str, Any]]]:
    """Run a program on every batch; the births that were seen, and the outputs of each run.

    Raises:
        InputError, CouldNotCheckError: As :func:`nanproof.predict`.
    """
    executor = Executor(program, numerics)
    observer = BirthObserver(program, reference, executor.numerics.name)
    outputs: list[dict[str, Any]] = [executor(batch, [observer]) for batch in batches]
    return list(observer.births.values()), outputs
