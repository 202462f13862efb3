"""States: tensors that a program keeps from one prediction to the next.

In memory coremltools has ``coreml_update_state``; in a file it is ``write_state``, followed by ``read_state`` where the
result is used. The readers give the form of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_memory as bounds
from nanproof.ops.record import Note, OpDef, Sample, op

__all__ = ["OPS", "StateCell"]


@dataclass(slots=True, eq=False)
class StateCell:
    """The place of one state. It is the one thing that a running program changes."""

    tensor: Tensor


def _read_state(arithmetic: Arithmetic, input: StateCell) -> Tensor:
    return input.tensor


def _write_state(arithmetic: Arithmetic, input: StateCell, data: Tensor) -> tuple[()]:
    # Rules never change a tensor in place, so the cell can hold the value itself.
    input.tensor = data
    return ()


def _no_samples() -> Iterable[Sample]:
    return ()


_SERIALIZED = Note(
    "Has no class in coremltools: it is how coreml_update_state is written to a file.",
    "coremltools 9.0, backend/mil/load.py: translate_coreml_update_state_op",
)

OPS: tuple[OpDef, ...] = (
    # Samples cannot hold states; tests/laws/test_programs.py builds programs.
    op("read_state", "state", _read_state, _no_samples, since="iOS18", bound=bounds.read_state),
    op(
        "write_state", "state", _write_state, _no_samples, since="iOS18", bound=bounds.write_state, notes=(_SERIALIZED,)
    ),
)
