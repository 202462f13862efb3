"""Running two things on the same inputs and comparing what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch, as_batch
from nanproof.capture.conversation import Reference
from nanproof.comparison.criteria import Criteria, Criterion
from nanproof.comparison.metrics import Difference, difference
from nanproof.errors import CouldNotCheckError, InputError
from nanproof.interpret.execute import Executor
from nanproof.interpret.state import Turn
from nanproof.program import DType, Program, Type

__all__ = [
    "Comparison",
    "OutputComparison",
    "as_array",
    "as_batches",
    "compare",
    "compare_outputs",
    "measured",
    "named_inputs",
]


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """One output over all batches: the worst batch decides.

    ``worst.error`` is the distance by ``criterion``, if there is one.
    """

    name: str
    worst: Difference
    worst_batch: int
    criterion: Criterion | None = None

    def within(self, tolerance: float) -> bool:
        """Whether it is finite where it should be, and within its own tolerance, or the one given."""
        return self.worst.within(tolerance if self.criterion is None else self.criterion.tolerance)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a program under some numerics is from its reference, per output."""

    numerics: str
    outputs: tuple[OutputComparison, ...]
    batches: int

    def within(self, tolerance: float) -> bool:
        """Whether every output is finite where it should be and within ``tolerance`` of the reference's range."""
        return all(o.within(tolerance) for o in self.outputs)

    @property
    def error(self) -> float:
        """The largest error of any output, relative to its range."""
        return max((o.worst.error for o in self.outputs), default=0.0)

    @property
    def nonfinite(self) -> int:
        """Inf and NaN elements that the reference does not have, in the worst batches."""
        return sum(o.worst.nonfinite for o in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        outputs = [{"name": o.name, "worst_batch": o.worst_batch, **o.worst.to_dict()} for o in self.outputs]
        return {"numerics": self.numerics, "batches": self.batches, "outputs": outputs}


def as_batches(inputs: Any, module: nn.Module | ExportedProgram | None = None) -> list[Batch]:
    """One or several calls' arguments.

    A list of tuples, mappings or batches means several calls; all else is one call (see ``capture.as_batch``).

    Raises:
        InputError: There are no inputs.
    """
    if not isinstance(inputs, Iterable) or isinstance(inputs, (Tensor, Mapping, tuple, np.ndarray)):
        return [as_batch(inputs, module)]
    items: list[Any] = list(inputs)
    if items and all(isinstance(item, Tensor) for item in items):
        return [as_batch(items, module)]
    if not items:
        raise InputError("There are no inputs: pass at least one batch.")
    return [as_batch(item, module) for item in items]


def named_inputs(program: Program, batch: Batch) -> dict[str, np.ndarray]:
    """The tensors of a call by the program's input names, in order.

    Raises:
        InputError: The number of tensors differs from the number of inputs.
    """
    names, tensors = list(program.inputs), batch.tensors
    if len(names) != len(tensors):
        raise InputError(
            f"The program takes {len(names)} inputs ({', '.join(names)}), but the call has {len(tensors)} tensors."
        )
    return {n: _shaped(t.detach().numpy(), type) for (n, type), t in zip(program.inputs.items(), tensors, strict=True)}


def _shaped(array: np.ndarray, type: Type) -> np.ndarray:
    """coremltools makes a tensor of one element of a 0-d input, since Core ML has no scalars there."""
    return array.reshape(1) if array.shape == () and type.shape == (1,) else array


def compare_outputs(
    names: Sequence[str],
    actual: Sequence[Mapping[str, Any]],
    expected: Sequence[Sequence[Any]],
    numerics: str,
    criteria: Criteria | None = None,
) -> Comparison:
    """Compare outputs of several batches, by position. The probabilities of a classifier are an array in their order.

    With ``criteria`` the error of an output is the distance by its metric.

    Raises:
        InputError: The number or the shapes of the outputs differ.
        CouldNotCheckError: An output is the label of a classifier.
    """
    worst: dict[str, OutputComparison] = {}
    for i, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        if len(theirs) != len(names):
            raise InputError(f"The program has {len(names)} outputs ({', '.join(names)}), the reference {len(theirs)}.")
        for name, reference in zip(names, theirs, strict=True):
            if not isinstance(ours[name], np.ndarray | dict):
                raise CouldNotCheckError(f"Output '{name}' is a label, which has no distance from another.")
            right = as_array(reference)
            try:
                # PyTorch has a batch dimension around the scores, of which a classifier knows nothing.
                right = right.reshape(-1) if isinstance(ours[name], dict) else right
                found = difference(as_array(ours[name]), right)
            except ValueError as error:
                raise InputError(f"Output '{name}' cannot be compared: {error}.") from error
            criterion = criteria.of(name) if criteria is not None else None
            if criterion is not None and criterion.metric != "max":
                found = replace(found, error=criterion.distance(as_array(ours[name]), right, found))
            if name not in worst or _badness(found) > _badness(worst[name].worst):
                worst[name] = OutputComparison(name, found, i, criterion)
    return Comparison(numerics, tuple(worst.values()), len(actual))


def measured(program: Program) -> list[str]:
    """The outputs that are numbers: of a classifier the probabilities, and not the label that follows from them."""
    return [n for n, t in program.outputs.items() if t.dtype is not DType.STRING and t != Type(DType.INT64)]


def as_array(output: Any) -> np.ndarray:
    """An output as an array; the probabilities of a classifier in the order of its labels."""
    return np.array(list(output.values())) if isinstance(output, Mapping) else np.asarray(output)


def compare(
    program: Program, reference: nn.Module | ExportedProgram | Program, inputs: Any, *, numerics: str = "reference"
) -> Comparison:
    """Run a program and its reference on the same inputs. What keeps states has one conversation, in their order.

    Args:
        program: The ML Program.
        reference: A PyTorch module, an exported program, or another ML Program (run under ``reference`` numerics).
        inputs: Arguments of one call (a tensor, a tuple, or a dict by keyword), or a list of such for several calls.
            For another ML Program: a mapping from input name to array, or a list of such.
        numerics: How ``program`` computes.

    Raises:
        InputError: Inputs or outputs do not fit each other.
        CouldNotCheckError: An op cannot be executed.
    """
    executor = Executor(program, numerics)
    names = measured(program)
    if isinstance(reference, Program):
        feeds: list[Mapping[str, Any]] = [inputs] if isinstance(inputs, Mapping) else list(inputs)
        theirs, other = Executor(reference), measured(reference)
        expected = [[answer[name] for name in other] for answer in map(theirs.once, feeds)]
        return compare_outputs(names, [executor.once(feed) for feed in feeds], expected, executor.numerics.name)
    batches = as_batches(inputs, reference)
    theirs = Reference(reference, program.states)
    start = {name: value.numpy() for name, value in theirs.start.items()}
    feeds = [Turn(named_inputs(program, batch), None if i else start) for i, batch in enumerate(batches)]
    actual = [executor.once(feed) for feed in feeds]
    answers = [[t.numpy() for t in theirs(batch, goes_on=i > 0)] for i, batch in enumerate(batches)]
    return compare_outputs(names, actual, answers, executor.numerics.name)


def _badness(d: Difference) -> tuple[int, float]:
    return d.nonfinite, d.error
