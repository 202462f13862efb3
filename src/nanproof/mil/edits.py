"""Edits of a MIL program as data: what a rewrite asks for, by op name. Applied by :mod:`nanproof.mil.edit`.

An edit that computes something new names its ops as :class:`Step`. What a step reads is an input of the op that is
edited (:class:`Operand`), its result (:data:`OUTPUT`), a value by its name (:class:`Named`: of the program, or of an
earlier step, here or in an earlier edit), or a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "OUTPUT",
    "Argument",
    "Edit",
    "Feed",
    "Named",
    "Operand",
    "Output",
    "Replace",
    "Saturate",
    "SetConstant",
    "Step",
]


@dataclass(frozen=True, slots=True)
class Operand:
    """What the edited op reads as ``input[index]`` at that moment."""

    input: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Output:
    """What the edited op returns."""


OUTPUT = Output()


@dataclass(frozen=True, slots=True)
class Named:
    """A value by its name, which has to be computed before it is read."""

    name: str


Argument = Operand | Output | Named | float | bool | str | np.ndarray | tuple[int, ...]
"""What a step reads. A float becomes a constant of the dtype of the other operands."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A new op: its MIL type, its name, which is that of its result, and its inputs."""

    type: str
    name: str
    inputs: Mapping[str, Argument]


@dataclass(frozen=True, slots=True, eq=False)
class SetConstant:
    """Give one constant input of one op another value (same shape and dtype)."""

    op: str
    input: str
    index: int
    value: np.ndarray


@dataclass(frozen=True, slots=True)
class Saturate:
    """Bound the first output of an op from below (``maximum``) or above (``minimum``)."""

    op: str
    with_op: Literal["maximum", "minimum"]
    bound: float


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """Let all that reads the output of an op read the result of the last step instead.

    The steps stand behind the op. An op that nobody reads any more disappears. An output of the program keeps its name.
    """

    op: str
    steps: tuple[Step, ...]
    output: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """Let one input of an op read another value; the steps that compute it stand before the op."""

    op: str
    input: str
    index: int
    value: Named
    steps: tuple[Step, ...] = ()


Edit = SetConstant | Saturate | Replace | Feed
