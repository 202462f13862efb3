"""``coremltools.StateType``: what a program keeps from one call to the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from nanproof.errors import UsageError
from nanproof.mil.coreml import ct, types

__all__ = ["check_states", "checked_states"]

_EXAMPLE = "coremltools.StateType(wrapped_type=coremltools.TensorType(shape=(...)), name='k_cache')"


def check_states(given: Any) -> None:
    """Tell what is wrong with ``states`` before the model is known.

    Raises:
        UsageError: It is no list of ``StateType``, or one has no name or another dtype than FP16.
    """
    if given is None:
        return
    several = isinstance(given, (list, tuple))
    wrong = next((s for s in given if not isinstance(s, ct.StateType)), None) if several else given
    if wrong is not None:
        what = f"{'holds' if several else 'is'} {type(wrong).__name__}"
        raise UsageError(
            f"`states` is a list of coremltools.StateType, and this {what}. For example\n  states=[{_EXAMPLE}]"
        )
    for state in given:
        if not state.name:
            raise UsageError(f"A state has no name. It is that of the buffer: {_EXAMPLE}.")
        if state.dtype not in (None, types.fp16):
            raise UsageError(
                f"The state '{state.name}' is declared as {types.builtin_to_string(state.dtype)}, and Core ML keeps "
                "states in FP16 alone.\n  Leave its dtype out, or pass numpy.float16."
            )


def checked_states(given: Sequence[Any] | None, changed: Mapping[str, Sequence[int]]) -> list[Any]:
    """The states of a program, as coremltools takes them; ``given`` is not changed.

    Args:
        given: The list of ``StateType`` of the user, if there is one.
        changed: Name and shape of each buffer that the model changes.

    Raises:
        UsageError: The declared states are not the buffers that change.
    """
    if not given:
        shapes = {name: ct.TensorType(shape=tuple(shape), dtype=types.fp16) for name, shape in changed.items()}
        return [ct.StateType(shape, name=name) for name, shape in shapes.items()]
    names = [state.name for state in given]
    if sorted(names) != sorted(changed):
        raise UsageError(
            f"`states` declares {', '.join(names)}, and forward changes {', '.join(changed) or 'no buffer'} in place.\n"
            "  Declare each buffer that forward changes, by its name in named_buffers(), and no other; or leave states "
            "out."
        )
    states = copy.deepcopy(list(given))
    for state in states:
        shape = tuple(state.shape.symbolic_shape)
        if shape != tuple(changed[state.name]):
            raise UsageError(
                f"The state '{state.name}' is declared with the shape {shape}, and the buffer has the shape "
                f"{tuple(changed[state.name])}. Declare that."
            )
        state.dtype = types.fp16
    return states
