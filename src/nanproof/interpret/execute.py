"""Execution of a program on NumPy arrays: ``MLModel.predict`` on any machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanproof.errors import InputError
from nanproof.interpret.loop import Observer, Runner
from nanproof.numerics import Numerics, get
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

    def __call__(self, inputs: Mapping[str, Any], observers: Sequence[Observer] = ()) -> dict[str, np.ndarray]:
        """Run on arrays, one for each input by name, and return the outputs in the order of ``program.outputs``.

        Raises:
            InputError: An input is missing, unknown, of another shape, or not representable in the input's dtype.
            ExecutionError: An op failed.
        """
        arrays = check_inputs(self.program.inputs, inputs)
        carried = {name: to_carrier(a, self.program.inputs[name].dtype) for name, a in arrays.items()}
        outputs = self._runner({k: v for k, v in carried.items() if not isinstance(v, str)}, observers)
        types = self.program.outputs
        return {name: from_carrier(t, types[name].dtype) for name, t in outputs.items()}


def predict(
    program: Program, inputs: Mapping[str, Any], *, numerics: str | Numerics = "reference"
) -> dict[str, np.ndarray]:
    """Run an ML Program on this machine.

    Args:
        program: From :func:`nanproof.load`, or ``result.program``.
        inputs: One array (or anything ``numpy.asarray`` takes, CPU tensors included) for each input name.
        numerics: How to compute: ``"reference"`` (float32 throughout), ``"strict"`` (IEEE binary16 everywhere),
            ``"gpu"`` (binary16 storage, float32 inside an op).

    Returns:
        One array for each output, in the order of ``program.outputs``, in the dtype of the output.

    Raises:
        InputError: An input is missing, unknown, or has a wrong shape, dtype or value.
        NumericsError: No such numerics.
        CouldNotCheckError: The program holds an op that cannot be executed.
    """
    return Executor(program, numerics)(inputs)


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
