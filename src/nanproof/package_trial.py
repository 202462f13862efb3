"""The trial of a package without PyTorch: given inputs or drawn ones, with the answers of its float32 twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nanproof.capture.batch import Batch
from nanproof.capture.examples import resized, shape_sets
from nanproof.comparison.compare import as_array, measured
from nanproof.errors import InputError
from nanproof.interpret.inputs import check_inputs
from nanproof.interpret.observe import Ranges, observe
from nanproof.interpret.state import Turn
from nanproof.mil.declared import Declared
from nanproof.program import Interface, Program
from nanproof.stress.draws import drawn
from nanproof.stress.inputs import stress_inputs
from nanproof.stress.kinds import InputKind, Stated, input_kinds
from nanproof.trial import Trial

__all__ = ["Tried", "tried"]

Arrays = Mapping[str, np.ndarray]
_DRAWS = 3
"""Calls that are drawn where none are given; of a program that keeps states, one after the other."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial, and what the float32 twin does in it: ranges of its values, and outputs of each run."""

    trial: Trial
    ranges: Ranges
    answers: Sequence[Mapping[str, np.ndarray]]


def tried(
    twin: Program,
    interface: Interface,
    calls: Sequence[Mapping[str, Any]],
    *,
    with_stress: bool,
    stated: Stated | None = None,
) -> Tried:
    """Run the float32 twin of a file on all inputs of its trial.

    Args:
        twin: The float32 program, with the interface of the file.
        interface: What the file takes.
        calls: The given inputs; none, and inputs are drawn by their kinds. If states are kept, they are the calls of a
            conversation. Where inputs may have several shapes, the first is also run at the default, the smallest and
            the largest.
        with_stress: Whether to run inputs at the limits of their kinds.
        stated: What the user says of the kinds of inputs.

    Raises:
        InputError: A call does not fit; or none is given, and the file names no shape for an input.
        UsageError: The user says what cannot be.
        CouldNotCheckError: The program holds an op that cannot be executed.
    """
    given = [check_inputs(interface, call) for call in calls]
    kinds = input_kinds(twin, given, stated)
    given = given or _drawn(interface, kinds)
    kinds = input_kinds(twin, given, stated)
    keeps = bool(twin.states)
    talk = [Turn(call, None if i else {}) if keeps else call for i, call in enumerate(given)]
    batches = [*talk, *(Turn(c, {}) if keeps else c for c in _shaped(interface, given[0]))]
    stress = stress_inputs(kinds, given[0]) if with_stress else []
    stress = [replace(s, inputs=Turn(s.inputs, {})) if keeps else s for s in stress]
    ranges, outputs = observe(twin, [*batches, *(s.inputs for s in stress)])
    names = measured(twin)
    answers = [{name: as_array(output[name]) for name in names} for output in outputs]
    expected = [list(answer.values()) for answer in answers]
    trial = Trial(
        outputs=tuple(names),
        inputs=batches,
        expected=expected[: len(batches)],
        stress=stress,
        stress_expected=expected[len(batches) :],
        kinds=kinds,
        reference="the float32 twin",
    )
    return Tried(trial, ranges, answers)


def _drawn(interface: Interface, kinds: Mapping[str, InputKind]) -> list[dict[str, np.ndarray]]:
    """Calls drawn at random, the same each time.

    Raises:
        InputError: The file names no shape for an input.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, feature in interface.inputs.items():
        if feature.shapes.default is None:
            raise InputError(
                f"The file names no shape for the input '{name}' ({feature}), and no inputs are given. Pass some."
            )
        shapes[name] = feature.shapes.default
    calls: list[dict[str, np.ndarray]] = []
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        dtypes = {name: feature.type.dtype.numpy for name, feature in interface.inputs.items()}
        calls.append({name: drawn(kinds[name], shape, dtypes[name], rng) for name, shape in shapes.items()})
    return [check_inputs(interface, call) for call in calls]


def _shaped(interface: Interface, call: Arrays) -> list[dict[str, np.ndarray]]:
    """The call at the other shapes that the file takes."""
    declared = [Declared(n, f.type.dtype.numpy, f.shapes) for n, f in interface.inputs.items()]
    known = [tuple(np.shape(call[name])) for name in interface.inputs]
    tensors = tuple(torch.from_numpy(np.asarray(call[name])) for name in interface.inputs)
    found: dict[tuple[tuple[int, ...], ...], dict[str, np.ndarray]] = {}
    for shapes in shape_sets(declared).values():
        if list(shapes) != known:
            arrays = resized(Batch(tensors, {}), shapes).tensors
            found[tuple(shapes)] = {n: t.numpy() for n, t in zip(interface.inputs, arrays, strict=True)}
    return list(found.values())
