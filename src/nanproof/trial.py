"""The trial of a written program: the inputs it is judged on, PyTorch's answers, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch, call
from nanproof.comparison.compare import compare_outputs, named_inputs
from nanproof.diagnosis.births import Birth
from nanproof.program import Program
from nanproof.result import StressOutcome, UnitResult, Verdict
from nanproof.stress.masks import StressInput, stress_masks

__all__ = ["Trial", "gather", "worst"]

Arrays = Mapping[str, np.ndarray]
_ORDER: tuple[Verdict, ...] = ("failed", "unknown", "tested", "proved")


@dataclass(frozen=True, slots=True)
class Trial:
    """Batches by input name with PyTorch's answers, and stress variants of the first batch with theirs.

    The answer to a stress input is ``None`` if the module itself refuses it.
    """

    outputs: tuple[str, ...]
    inputs: Sequence[Arrays]
    expected: Sequence[Sequence[np.ndarray]]
    stress: Sequence[StressInput]
    stress_expected: Sequence[Sequence[np.ndarray] | None]

    @property
    def all_inputs(self) -> list[Arrays]:
        """Given inputs, then stress inputs."""
        return [*self.inputs, *(s.inputs for s in self.stress)]

    def judge(self, unit: str, births: Sequence[Birth], actual: Sequence[Arrays], tolerance: float) -> UnitResult:
        """The verdict on one unit.

        Args:
            unit: Name of the numerics.
            births: Births of Inf and NaN that were seen.
            actual: Outputs for :attr:`all_inputs`, in order.
            tolerance: Largest error on the given inputs, relative to the range of an output.
        """
        count = len(self.inputs)
        comparison = compare_outputs(self.outputs, actual[:count], self.expected, unit)
        stressed = zip(self.stress, actual[count:], self.stress_expected, strict=True)
        outcomes = tuple(self._stress_outcome(unit, *run) for run in stressed)
        reasons: list[str] = []
        for output in comparison.outputs:
            if output.worst.nonfinite:
                reasons.append(f"output '{output.name}' has {output.worst.nonfinite} Inf or NaN where PyTorch has none")
            elif not output.worst.within(tolerance):
                reasons.append(
                    f"output '{output.name}' is off by {output.worst.error:.3g} of its range (tolerance {tolerance:g})"
                )
        reasons += [f"{o.nonfinite} Inf or NaN on the stress input '{o.what}'" for o in outcomes if o.nonfinite]
        return UnitResult(unit, "failed" if reasons else "tested", tuple(reasons), comparison, tuple(births), outcomes)

    def _stress_outcome(
        self, unit: str, stress: StressInput, actual: Arrays, expected: Sequence[np.ndarray] | None
    ) -> StressOutcome:
        if expected is None:
            return StressOutcome(stress.what, 0, 0.0, compared=False)
        found = compare_outputs(self.outputs, [actual], [expected], unit)
        return StressOutcome(stress.what, found.nonfinite, found.error, compared=True)


def gather(
    module: nn.Module | ExportedProgram, program: Program, batches: Sequence[Batch], *, with_stress: bool
) -> Trial:
    """Ask PyTorch for its answers to all batches and their stress variants.

    Raises:
        InputError: A batch does not fit the program's inputs.
    """
    named = [named_inputs(program, batch) for batch in batches]
    expected = [_arrays(call(module, batch)) for batch in batches]
    stress = stress_masks(named) if with_stress else []
    answers = [_answer(module, program, batches[0], s) for s in stress]
    return Trial(tuple(program.outputs), named, expected, stress, answers)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on all units together."""
    return min(verdicts, key=_ORDER.index)


def _answer(
    module: nn.Module | ExportedProgram, program: Program, example: Batch, stress: StressInput
) -> list[np.ndarray] | None:
    changed = [
        t.new_tensor(stress.inputs[name]).reshape(t.shape)
        for name, t in zip(program.inputs, example.tensors, strict=True)
    ]
    try:
        return _arrays(call(module, example.with_tensors(changed)))
    except Exception:  # the module is the user's code and need not accept what it was not given
        return None


def _arrays(tensors: Sequence[Any]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]
