"""The state of a program: tensors that it keeps from one prediction to the next, such as a key-value cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from nanproof.errors import InputError
from nanproof.ops import StateCell
from nanproof.program import Pipeline, Program, Type
from nanproof.values.floats import carrier, from_carrier, to_carrier
from nanproof.values.memory import affordable

__all__ = ["State", "Turn", "check_state", "make_state"]


@final
class Turn(dict[str, Any]):
    """The inputs of one call of a conversation with a program that keeps states.

    Args:
        inputs: Value by input name.
        start: The states that the call begins with, by name; ``None`` for those that the call before has left.
    """

    def __init__(self, inputs: Mapping[str, Any], start: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(inputs)
        self.start = start

    def with_inputs(self, inputs: Mapping[str, Any]) -> Turn:
        """The same turn with other inputs."""
        return Turn(inputs, self.start)


@final
class State:
    """The tensors that one conversation with a program keeps. Pass it to each prediction, which changes it in place.

    Two of them for one program are independent, as with Core ML. The names of the methods are those of coremltools'
    ``MLState``.

    Args:
        types: Name and type of every state of the program. All start as zeros.
    """

    def __init__(self, types: Mapping[str, Type]) -> None:
        self.types = dict(types)
        self.cells: Mapping[str, StateCell] = {name: StateCell(_zeros(name, type)) for name, type in types.items()}

    def read_state(self, name: str) -> np.ndarray:
        """A copy of one state, as an array in its declared dtype.

        Raises:
            InputError: There is no such state.
        """
        return from_carrier(self._cell(name).tensor, self.types[name].dtype).copy()

    def write_state(self, name: str, value: Any) -> None:
        """Replace one state by an array of the same shape.

        Raises:
            InputError: There is no such state, or the shape is another one.
        """
        cell, array = self._cell(name), np.asarray(value)
        if tuple(array.shape) != self.types[name].shape:
            raise InputError(f"State '{name}' is {self.types[name]}, but the value has shape {tuple(array.shape)}.")
        tensor = to_carrier(array, self.types[name].dtype)
        if isinstance(tensor, Tensor):
            cell.tensor = tensor

    def _cell(self, name: str) -> StateCell:
        if name not in self.cells:
            raise InputError(f"There is no state '{name}'. The program keeps {', '.join(self.cells) or 'none'}.")
        return self.cells[name]


def make_state(program: Program | Pipeline, function_name: str | None = None) -> State:
    """A fresh state for a program, all zeros (empty if the program keeps none).

    Args:
        program: The program.
        function_name: The function of a multifunction program whose states it holds, if not the default one.

    Raises:
        InputError: The program leaves a dimension of a state open, which Core ML does not allow, or a state is larger
            than the memory of this machine.
        UsageError: There is no such function.
    """
    return State(program.using(function_name).states)


def check_state(kept: Mapping[str, Type], state: State | None) -> Mapping[str, StateCell]:
    """The cells of a state, after all checks; none for a program without states.

    Args:
        kept: Name and type of every state of the program.
        state: What the caller passed.

    Raises:
        InputError: A state is needed and was not passed, or it is that of another program.
    """
    listed = ", ".join(f"'{name}' ({type})" for name, type in kept.items())
    if state is None and listed:
        raise InputError(
            f"The program keeps the state {listed} from one prediction to the next, and none was passed.\n"
            "  Make one with nanproof.make_state(program) and pass it as state= to each prediction."
        )
    if state is not None and state.types != dict(kept):
        raise InputError(
            f"The state that was passed was made for another program: it holds {', '.join(state.types) or 'nothing'}, "
            f"this program keeps {listed or 'no state'}."
        )
    return state.cells if state is not None else {}


def _zeros(name: str, type: Type) -> Tensor:
    shape = [d for d in type.shape if isinstance(d, int)]
    if len(shape) != len(type.shape):
        raise InputError(f"The state '{name}' is {type}: a state of unknown size cannot be made.")
    dtype = carrier(type.dtype)
    try:
        return torch.zeros(affordable(shape, dtype.itemsize), dtype=dtype)
    except (MemoryError, RuntimeError) as error:  # the second is what PyTorch's allocator raises
        raise InputError(f"The state '{name}' is {type}: {error}.") from error
