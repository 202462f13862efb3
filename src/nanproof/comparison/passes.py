"""Which of coremltools' passes changes what a program computes: execution before and after every pass."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanproof.comparison.metrics import difference
from nanproof.errors import NanproofError
from nanproof.interpret.execute import Executor
from nanproof.mil.reflect import reflect
from nanproof.program import Constant, DType, Program

__all__ = ["PassChange", "PassCheck"]

_ROUNDING = 1e-4
"""A pass may sum in another order or fold constants in float32; a wrong pass is far beyond that."""
_TYPING = 5e-3
"""In a program that is typed FP16 already, passes round weights and outputs, which is what they are for."""
_SMALL = 4096
"""Bytes of a constant up to which it is known by its content, and beyond which by its place in memory."""


@dataclass(frozen=True, slots=True)
class PassChange:
    """A pass after which a program computed something else than before.

    Attributes:
        name: The pass, as in ``coremltools.PassPipeline`` (``"common::fuse_linear_bias"``).
        output: The output that changed most, as it is called after the pass.
        error: By how much, relative to its range; ``inf`` if Inf or NaN came in or went.
    """

    name: str
    output: str
    error: float

    def __str__(self) -> str:
        return f"coremltools' pass '{self.name}' changed output '{self.output}' by {self.error:.3g} of its range"


@dataclass(slots=True)
class PassCheck:
    """Executes a MIL program, in ``reference`` numerics, as often as a pass has changed it.

    Attributes:
        inputs: What to execute it on, each with one array for each input name.
        changes: The passes that changed a result, in order.
        checked: How many passes were judged.
        unchecked: Passes after which the program could not be executed, with the reason.
    """

    inputs: Sequence[Mapping[str, Any]]
    changes: list[PassChange] = field(default_factory=list[PassChange])
    checked: int = 0
    unchecked: dict[str, str] = field(default_factory=dict[str, str])
    _seen: Hashable = None
    _kept: list[Constant] = field(default_factory=list[Constant])
    _results: list[dict[str, np.ndarray]] | None = None

    def __call__(self, name: str, pymil: Any) -> None:
        """Look at the program after the pass ``name``, or before the first one if that is empty."""
        try:
            program = reflect(pymil)
            seen = _identity(program)
            if seen == self._seen:
                self.checked += bool(name)
                return
            results = [Executor(program).once(batch) for batch in self.inputs]
        except NanproofError as error:
            # A program in between may hold ops and types that no file may hold.
            if name:
                self.unchecked[name] = str(error)
            return
        if name and self._results is not None:
            self.checked += 1
            typed = any(v.type.dtype is DType.FP16 for op in program.walk() for v in op.outputs)
            change = _change(name, self._results, results, _TYPING if typed else _ROUNDING)
            if change is not None:
                self.changes.append(change)
        # The arrays are kept so that no other one can get the address by which it is known here.
        self._seen, self._results, self._kept = seen, results, _constants(program)


def _identity(program: Program) -> Hashable:
    """Equal for programs of the same ops and the same constants, while the arrays of both are alive."""
    return str(program), tuple(_content(c) for c in _constants(program))


def _constants(program: Program) -> list[Constant]:
    return [v.const for op in program.walk() for v in op.operands if v.const is not None]


def _content(constant: Constant) -> Hashable:
    if isinstance(constant, str):
        return constant
    if constant.dtype.hasobject or constant.nbytes > _SMALL:
        return id(constant)
    return constant.dtype.str, constant.shape, constant.tobytes()


def _change(
    name: str,
    before: Sequence[Mapping[str, np.ndarray]],
    after: Sequence[Mapping[str, np.ndarray]],
    tolerance: float,
) -> PassChange | None:
    worst: PassChange | None = None
    for old, new in zip(before, after, strict=True):
        # Passes may rename outputs, and keep their order.
        for (_, reference), (output, actual) in zip(old.items(), new.items(), strict=True):
            same_shape = np.shape(reference) == np.shape(actual)
            found = difference(np.asarray(actual), np.asarray(reference)) if same_shape else None
            if found is not None and found.within(tolerance):
                continue
            error = found.error if found is not None and not found.nonfinite else np.inf
            if worst is None or error > worst.error:
                worst = PassChange(name, output, error)
    return worst
