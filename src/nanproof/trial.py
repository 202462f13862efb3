"""The trial of a written program: the inputs it is judged on, PyTorch's answers, and the verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch
from nanproof.capture.conversation import Reference
from nanproof.capture.examples import as_images, resized, shape_sets
from nanproof.comparison.compare import Comparison, as_array, compare_outputs, named_inputs
from nanproof.comparison.criteria import Criteria
from nanproof.diagnosis.births import Birth
from nanproof.errors import CaptureError, UsageError
from nanproof.interpret.state import Turn
from nanproof.mil.declared import Declared
from nanproof.program import Color, Program
from nanproof.result import StressOutcome, UnitResult, Verdict
from nanproof.stress.inputs import StressInput, stress_inputs
from nanproof.stress.kinds import InputKind, Stated, input_kinds
from nanproof.stress.variations import varied

__all__ = ["Trial", "gather", "worst"]

Arrays = Mapping[str, np.ndarray]
_ORDER: tuple[Verdict, ...] = ("failed", "unknown", "tested", "proved")


@dataclass(frozen=True, slots=True)
class Trial:
    """Batches by input name with PyTorch's answers, and stress variants of the first batch with theirs.

    Of a model that keeps states the batches are a conversation, in their order; each stress variant is a first call.

    Stress inputs that the module itself refuses are ``refused``, and not run: the file may do anything with them.
    Inputs are what the module sees, and ``images`` are those of them for which the written file takes pixels. ``kinds``
    are what inputs were taken for, and ``reference`` is whose answers are expected.
    """

    outputs: tuple[str, ...]
    inputs: Sequence[Arrays]
    expected: Sequence[Sequence[np.ndarray]]
    stress: Sequence[StressInput]
    stress_expected: Sequence[Sequence[np.ndarray]]
    images: Mapping[str, Declared] = field(default_factory=dict[str, Declared])
    kinds: Mapping[str, InputKind] = field(default_factory=dict[str, InputKind])
    refused: Sequence[StressInput] = ()
    reference: str = "PyTorch"

    @property
    def all_inputs(self) -> list[Arrays]:
        """Given inputs, then stress inputs."""
        return [*self.inputs, *(s.inputs for s in self.stress)]

    @property
    def file_inputs(self) -> list[Arrays]:
        """:attr:`all_inputs` as the written file takes them: images as pixels, before scale and bias."""
        return [self._of_file(arrays) for arrays in self.all_inputs]

    def _of_file(self, arrays: Arrays) -> Arrays:
        pixels = {n: self.images[n].pixels(array) if n in self.images else array for n, array in arrays.items()}
        return arrays.with_inputs(pixels) if isinstance(arrays, Turn) else pixels

    def answers(self, program: Program, outputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the written file gave, by the names of :attr:`outputs`: a classifier has another for its probabilities.

        Raises:
            UsageError: The classifier's probabilities are no output of the module.
        """
        probabilities = program.interface.probabilities
        if not probabilities or probabilities in self.outputs:
            return [dict(given) for given in outputs]
        classified = [name for name in self.outputs if name not in program.outputs]
        if len(classified) != 1:
            raise UsageError(
                "The classifier takes its probabilities from a tensor that the module does not return, so they cannot "
                "be\n  compared. Name one of its outputs: coremltools.ClassifierConfig(labels, "
                f"predicted_probabilities_output={self.outputs[0]!r})."
            )
        return [{classified[0] if name == probabilities else name: v for name, v in o.items()} for o in outputs]

    def judge(self, unit: str, births: Sequence[Birth], actual: Sequence[Arrays], criteria: Criteria) -> UnitResult:
        """The verdict on one unit.

        Args:
            unit: Name of the numerics.
            births: Births of Inf and NaN that were seen.
            actual: Outputs for :attr:`all_inputs`, in order.
            criteria: When an output on the given inputs counts as the same.
        """
        count = len(self.inputs)
        comparison = compare_outputs(self.outputs, actual[:count], self.expected, unit, criteria)
        found = [self.compared(unit, i, actual[i], criteria) for i in range(count, len(actual))]
        outcomes = tuple(
            StressOutcome(stress.what, found.nonfinite, found.error, compared=True)
            for stress, found in zip(self.stress, found, strict=True)
        )
        outcomes += tuple(StressOutcome(s.what, 0, 0.0, compared=False) for s in self.refused)
        reasons: list[str] = []
        for output in comparison.outputs:
            if output.worst.nonfinite:
                reasons.append(
                    f"output '{output.name}' has {output.worst.nonfinite} Inf or NaN where {self.reference} has none"
                )
            elif not output.within(criteria.default.tolerance):
                criterion = criteria.of(output.name)
                told = criterion.told(output.worst.error)
                reasons.append(f"output '{output.name}' {told} (tolerance {criterion.tolerance:g})")
        reasons += [f"{o.nonfinite} Inf or NaN on the stress input '{o.what}'" for o in outcomes if o.nonfinite]
        return UnitResult(unit, "failed" if reasons else "tested", tuple(reasons), comparison, tuple(births), outcomes)

    def compared(self, unit: str, i: int, actual: Arrays, criteria: Criteria) -> Comparison:
        """The outputs for one of :attr:`all_inputs` against PyTorch's.

        On a stress input the places where PyTorch itself is not finite do not count: every unit has its own there.
        """
        count = len(self.inputs)
        if i < count:
            return compare_outputs(self.outputs, [actual], [self.expected[i]], unit, criteria)
        expected = self.stress_expected[i - count]
        ours = [as_array(actual[name]) for name in self.outputs]
        # The probabilities of a classifier are a row without PyTorch's batch dimension around it.
        ours = [
            a.reshape(b.shape) if isinstance(actual[n], dict) and a.size == b.size else a
            for n, a, b in zip(self.outputs, ours, expected, strict=True)
        ]
        told = [
            np.where(np.isfinite(theirs), array, theirs) if array.shape == theirs.shape else array
            for array, theirs in zip(ours, expected, strict=True)
        ]
        return compare_outputs(self.outputs, [dict(zip(self.outputs, told, strict=True))], [expected], unit, criteria)


def gather(
    module: nn.Module | ExportedProgram,
    program: Program,
    batches: Sequence[Batch],
    declared: Sequence[Declared],
    *,
    with_stress: bool,
    states: Collection[str] = (),
    stated: Stated | None = None,
) -> Trial:
    """Ask PyTorch for its answers to all batches and their stress variants. The module's buffers stay as they are.

    Args:
        module: The module.
        program: The lowered program.
        batches: The given calls. Where inputs may have several shapes, the first is also run at the default, the
            smallest and the largest. If states are kept, they are the calls of a conversation, which goes on by
            one or two calls like the last one.
        declared: What the lowered program's inputs are declared to be.
        with_stress: Whether to run stress variants.
        states: Names of the states that the program keeps.
        stated: What the user says of the kinds of inputs.

    Raises:
        UsageError: The user says what cannot be.
        InputError: A batch does not fit the program's inputs.
        CaptureError: The module fails at a shape that its inputs are declared to have.
    """
    reference = Reference(module, states)
    images = {name: one for name, one in zip(program.inputs, declared, strict=False) if one.color is not None}
    talk = [*batches, *(_further(batches) if states else [])]
    calls = [*talk, *_shaped(reference, batches[0], declared)]
    calls = [as_images(batch, declared) if images else batch for batch in calls]
    goes_on = [bool(states) and 0 < i < len(talk) for i in range(len(calls))]
    named = [_turn(named_inputs(program, batch), reference, on) for batch, on in zip(calls, goes_on, strict=True)]
    expected = [_arrays(reference(batch, goes_on=on)) for batch, on in zip(calls, goes_on, strict=True)]
    kinds = input_kinds(program, named, stated)
    kinds |= {name: _image_kind(one) for name, one in images.items()}
    stress = _stressed(kinds, named[0], images) if with_stress else []
    stress = [replace(s, inputs=_turn({**named[0], **s.inputs}, reference, goes_on=False)) for s in stress]
    answers = [(s, _answer(reference, program, calls[0], s)) for s in stress]
    taken = [(s, answer) for s, answer in answers if answer is not None]
    return Trial(
        outputs=tuple(program.outputs),
        inputs=named,
        expected=expected,
        stress=[s for s, _ in taken],
        stress_expected=[answer for _, answer in taken],
        images=images,
        kinds=kinds,
        refused=[s for s, answer in answers if answer is None],
    )


def _image_kind(declared: Declared) -> InputKind:
    if declared.color is Color.GRAYSCALE_FLOAT16:
        return InputKind("image", 0, 1, False, "is declared an image of half-precision pixels")
    return InputKind("image", 0, 255, True, "is declared an image of 8-bit pixels, before scale and bias")


def _stressed(kinds: Mapping[str, InputKind], given: Arrays, images: Mapping[str, Declared]) -> list[StressInput]:
    """Stress variants of a call of the module; an image is driven to the limits of its pixels."""
    pixels = {name: images[name].pixels(array) if name in images else array for name, array in given.items()}
    seen = {name: one.seen for name, one in images.items()}
    return [
        replace(
            s, inputs={n: given[n] if a is pixels[n] else seen[n](a) if n in seen else a for n, a in s.inputs.items()}
        )
        for s in stress_inputs(kinds, pixels)
    ]


def _further(batches: Sequence[Batch]) -> list[Batch]:
    """Calls that read what the given ones have written: like the last one, with other floats, up to three in all."""
    last = batches[-1]
    arrays = {str(i): t.detach().numpy() for i, t in enumerate(last.tensors)}
    more = [varied(arrays, seed) for seed in range(max(1, 3 - len(batches)))]
    return [last.with_tensors([torch.from_numpy(a) for a in other.values()]) for other in more]


def _turn(arrays: Arrays, reference: Reference, goes_on: bool) -> Arrays:
    """The call as one of a conversation, if the module keeps anything."""
    if not reference.start:
        return arrays
    return Turn(arrays, None if goes_on else {name: value.numpy() for name, value in reference.start.items()})


def _shaped(reference: Reference, batch: Batch, declared: Sequence[Declared]) -> list[Batch]:
    """The call at the other shapes that its inputs are declared to have.

    Raises:
        CaptureError: The module fails there.
    """
    known = [tuple(t.shape) for t in batch.tensors]
    more: list[Batch] = []
    for what, shapes in shape_sets(declared).items():
        if shapes == known or shapes in ([tuple(t.shape) for t in b.tensors] for b in more):
            continue
        other = resized(batch, shapes)
        try:
            reference(other)
        except Exception as error:  # the module is the user's code: it may raise anything
            first = (str(error).strip().splitlines() or [""])[0]
            raise CaptureError(
                f"The module fails at the {what} of the shapes that its inputs are declared to have: "
                f"{type(error).__name__}: {first}\n"
                f"  Shapes: {', '.join(str(list(s)) for s in shapes)}. Declare the shapes that its forward takes."
            ) from error
        more.append(other)
    return more


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on all units together."""
    return min(verdicts, key=_ORDER.index)


def _answer(reference: Reference, program: Program, example: Batch, stress: StressInput) -> list[np.ndarray] | None:
    changed = [
        t.new_tensor(stress.inputs[name]).reshape(t.shape)
        for name, t in zip(program.inputs, example.tensors, strict=True)
    ]
    try:
        return _arrays(reference(example.with_tensors(changed)))
    except Exception:  # the module is the user's code and need not accept what it was not given
        return None


def _arrays(tensors: Sequence[Any]) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]
