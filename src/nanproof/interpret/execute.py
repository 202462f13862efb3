"""Execution of a program on NumPy arrays: ``MLModel.predict`` on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nanproof.errors import InputError
from nanproof.interpret.loop import Carried, Observer, Runner
from nanproof.interpret.state import State, make_state
from nanproof.numerics import Numerics, get
from nanproof.ops import StateCell
from nanproof.program import DType, Program, Type
from nanproof.values.floats import from_carrier, to_carrier

__all__ = ["Executor", "predict"]


class Executor:
    """A program made ready to run under one numerics. Checks inputs, converts to and from NumPy.

    Args:
        program: The program.
        numerics: A name (``"reference"``, ``"strict"``, ``"gpu"``) or a numerics.

    Raises:
        NumericsError: No such numerics.
        UnsupportedOpError: The program holds ops that nanproof cannot execute.
    """

    def __init__(self, program: Program, numerics: str | Numerics = "reference") -> None:
        self.program = program
        self.numerics = get(numerics)
        self._runner = Runner(program, self.numerics)

    def __call__(
        self, inputs: Mapping[str, Any], observers: Sequence[Observer] = (), *, state: State | None = None
    ) -> dict[str, Any]:
        """Run on arrays, one for each input by name, and return the outputs in the order of ``program.outputs``.

        The outputs are arrays; a classifier has a label (``str`` or ``int``) and a ``dict`` of probabilities beside
        them. ``state`` is changed in place; if an op fails on the way, it holds what was written until then.

        Raises:
            InputError: An input is missing, unknown, of another shape, or not representable in the input's dtype, or
                the program keeps states and ``state`` is missing or that of another program.
            ExecutionError: An op failed.
        """
        arrays = check_inputs(self.program.inputs, inputs)
        cells = check_state(self.program, state)
        carried = {name: to_carrier(a, self.program.inputs[name].dtype) for name, a in arrays.items()}
        tensors = {name: tensor for name, tensor in carried.items() if isinstance(tensor, Tensor)}
        outputs = self._runner({**tensors, **cells}, observers)
        types = self.program.outputs
        return {name: _returned(t, types[name]) for name, t in outputs.items()}

    def once(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, Any]:
        """Run as the first prediction of a conversation: states, if there are any, are zeros and forgotten after.

        Raises:
            InputError, ExecutionError: As calling the executor.
        """
        return self(inputs, observers, state=make_state(self.program))


def predict(
    program: Program,
    inputs: Mapping[str, Any],
    *,
    numerics: str | Numerics = "reference",
    state: State | None = None,
) -> dict[str, Any]:
    """Run an ML Program on this machine.

    Args:
        program: From :func:`nanproof.load`, or ``result.program``.
        inputs: One array (or anything ``numpy.asarray`` takes, CPU tensors included) for each input name.
        numerics: How to compute: ``"reference"`` (float32 throughout), ``"strict"`` (IEEE binary16 everywhere),
            ``"gpu"`` (binary16 storage, float32 inside an op).
        state: For a program with states: what :func:`nanproof.make_state` made, changed in place.

    Returns:
        One array for each output, in the order of ``program.outputs``, in the dtype of the output. Of a classifier, as
        from Core ML, the label and a ``dict`` from label to probability.

    Raises:
        InputError: An input is missing, unknown, or has a wrong shape, dtype or value.
        NumericsError: No such numerics.
        CouldNotCheckError: The program holds an op that cannot be executed.
    """
    return Executor(program, numerics)(inputs, state=state)


def _returned(carried: Carried, type: Type) -> Any:
    if isinstance(carried, Tensor):
        # A copy, since the carrier may be a constant or a state, and what the caller does to the array is his own.
        array = np.array(from_carrier(carried, type.dtype))
        return array.item() if type == Type(DType.INT64) else array  # the label of a classifier
    return dict(carried) if isinstance(carried, Mapping) else carried


def check_state(program: Program, state: State | None) -> Mapping[str, StateCell]:
    """The cells of a state, after all checks; none for a program without states.

    Raises:
        InputError: See :func:`predict`.
    """
    kept = ", ".join(f"'{name}' ({type})" for name, type in program.states.items())
    if state is None and kept:
        raise InputError(
            f"The program keeps the state {kept} from one prediction to the next, and none was passed.\n"
            "  Make one with nanproof.make_state(program) and pass it as state= to each prediction."
        )
    if state is not None and state.types != program.states:
        raise InputError(
            f"The state that was passed was made for another program: it holds {', '.join(state.types) or 'nothing'}, "
            f"this program keeps {kept or 'no state'}."
        )
    return state.cells if state is not None else {}


def check_inputs(types: Mapping[str, Type], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs as arrays of the declared dtypes, after all checks.

    Raises:
        InputError: See :func:`predict`.
    """
    declared = "\n".join(f"    {name}: {type}" for name, type in types.items())
    unknown, missing = sorted(set(inputs) - set(types)), sorted(set(types) - set(inputs))
    if unknown or missing:
        parts = [f"there is no input {', '.join(map(repr, unknown))}"] if unknown else []
        parts += [f"the input {', '.join(map(repr, missing))} is missing"] if missing else []
        raise InputError(f"Wrong inputs: {' and '.join(parts)}.\n  The program takes\n{declared}")
    return {name: _check_input(name, types[name], inputs[name]) for name in types}


def _check_input(name: str, type: Type, given: Any) -> np.ndarray:
    array = np.asarray(given)
    fits = len(array.shape) == len(type.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(type.shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(f"Input '{name}' has shape {tuple(array.shape)}, but the program takes {type}.")
    if array.dtype.kind not in "biuf":
        raise InputError(f"Input '{name}' has dtype {array.dtype}, but the program takes {type}: pass numbers.")
    if type.dtype.is_float or type.dtype is DType.BOOL:
        return array.astype(type.dtype.numpy)
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise InputError(f"Input '{name}' holds fractions or non-finite numbers, but the program takes {type}.")
    limits = np.iinfo(type.dtype.value)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError(
            f"Input '{name}' holds values from {array.min()} to {array.max()}, beyond the range of {type.dtype.value} "
            f"({limits.min} to {limits.max}), which the program takes."
        )
    return array.astype(type.dtype.numpy)
