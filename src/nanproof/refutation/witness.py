"""Witnesses: inputs on which a unit makes Inf or NaN, in a file that anyone can run; and what a search came to."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

import numpy as np

from nanproof.errors import UsageError
from nanproof.program import Op

__all__ = ["Budget", "Refutation", "What", "Witness"]

What = Literal["Inf", "NaN", "sum", "error"]
"""How an input fails; see :class:`Witness`."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a search may cost.

    Attributes:
        executions: Runs of the program, over all units; a run that is differentiated counts as three.
        seconds: Wall-clock time. A search that this ends finds less on a slower machine; by executions alone it finds
            the same anywhere.
    """

    executions: int = 400
    seconds: float = math.inf


@dataclass(frozen=True, slots=True)
class Witness:
    """Inputs within the assumptions on which a unit fails: it was executed, and it did.

    Attributes:
        inputs: One array for each input of the program, in its declared dtype.
        op: Name of the op that fails.
        op_type: Its MIL type.
        unit: Name of the numerics.
        what: ``"Inf"`` or ``"NaN"``, where float32 stays finite; ``"sum"``: a partial sum of products that reaches the
            end of the unit's accumulator, in some order of them; ``"error"``: outputs are off, though all is finite.
        value: The largest value of the op in float32, before it is stored; the partial sum; or the error.
        harm: How far the outputs are off, relative to their range; infinite where they are Inf or NaN.
        start: What the search started from.
    """

    inputs: Mapping[str, np.ndarray]
    op: str
    op_type: str
    unit: str
    what: What
    value: float
    harm: float
    start: str

    def __str__(self) -> str:
        damage = "outputs are Inf or NaN" if math.isinf(self.harm) else f"outputs are off by {self.harm:.2g}"
        event = {
            "sum": f"may overflow, a partial sum of its products reaching {self.value:.5g}",
            "error": "ends a program that is finite and wrong",
        }.get(self.what, f"makes {self.what} where float32 has {self.value:.5g}")
        return f"{self.op_type} '{self.op}' {event}, on {self.unit}; {damage} ({self.start})"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the inputs as an ``.npz`` that ``nanproof run`` and ``nanproof check`` take. All of it, or nothing.

        Raises:
            UsageError: The name does not end in ``.npz``, or the disk refuses.
        """
        path = Path(path)
        if path.suffix != ".npz":
            raise UsageError(f"A witness is saved as .npz, and not as '{path}'.")
        try:
            with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=path.parent) as scratch:
                fresh = Path(scratch) / "fresh.npz"
                with ZipFile(fresh, "w") as archive:  # numpy.savez cannot take an array of the name "file"
                    for name, array in self.inputs.items():
                        with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                            np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
                fresh.replace(path)
        except OSError as error:
            raise UsageError(f"Cannot write '{path}': {error}.") from error
        return path

    def reproduction(self, model: str = "MODEL", file: str = "witness.npz") -> str:
        """The command that shows it again: what to run on the saved file."""
        return f"nanproof check {model} --inputs {file} --unit {self.unit}"


@dataclass(frozen=True, slots=True)
class Refutation:
    """What a search came to for one obstacle of a proof on one unit.

    Attributes:
        unit: Name of the numerics.
        op: The op at which the proof was lost.
        reason: Why it was lost.
        witness: An input that shows Inf or NaN, or ``None``.
        verdict: ``"refuted"`` if the witness does harm; an Inf that no output shows refutes nothing. ``"unknown"``
            proves nothing.
        reached: The largest value of the op, before it is stored, on any input tried (the largest partial sum, where
            these are what was not proved); 0 if the op never ran.
        limit: What it would have to pass; infinite where the failure is no matter of size.
        executions: How many runs were spent by then, on all obstacles together.
        exhausted: Whether the budget ended the search.
    """

    unit: str
    op: Op
    reason: str
    witness: Witness | None
    verdict: Literal["refuted", "unknown"]
    reached: float
    limit: float
    executions: int
    exhausted: bool

    @property
    def margin(self) -> float:
        """How much of the limit was reached: 1 and more is an overflow; 0 where there is no limit."""
        return self.reached / self.limit

    def __str__(self) -> str:
        if self.verdict == "refuted":
            return f"refuted: {self.witness}"
        if self.witness is not None:
            return f"unknown: {self.witness}, which is no harm"
        searched = f"after {self.executions} executions" + (", the whole budget" if self.exhausted else "")
        reach = f"largest value reached {self.reached:,.6g}"
        if math.isfinite(self.limit):
            reach += f" of {self.limit:,.6g} ({100 * self.margin:.0f} %)"
        return f"unknown: {self.op.type} '{self.op.name}' on {self.unit}, {reach} {searched}"
