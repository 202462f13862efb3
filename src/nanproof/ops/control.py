"""Control flow: ops that run blocks of other ops. Also ``const``, which computes nothing.

A block reads the values around it by itself; what an op passes to it are the variables of a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops.bound_movement import moves
from nanproof.ops.bounding import Reading, UnboundedError
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, op, structural
from nanproof.program import Block

__all__ = ["OPS", "Flow"]


@dataclass(frozen=True, slots=True)
class Flow:
    """What the rule of a control-flow op gets in place of an arithmetic: the op's blocks, and how to run one.

    ``call(block, arguments)`` runs a block with values for its inputs and returns its results.
    """

    blocks: tuple[Block, ...]
    call: Callable[[Block, Sequence[Any]], list[Any]]


def _cond(flow: Flow, pred: Tensor) -> list[Any]:
    then, otherwise = flow.blocks
    return flow.call(then if flag(pred) else otherwise, ())


def _while_loop(flow: Flow, loop_vars: Sequence[Any]) -> list[Any]:
    condition, body = flow.blocks
    variables = list(loop_vars)
    while flag(flow.call(condition, variables)[0]):
        variables = flow.call(body, variables)
    return variables


def _no_samples() -> Iterable[Sample]:
    return ()


def _const(arithmetic: Arithmetic, val: Any) -> Any:
    return val


def _const_samples() -> Iterable[Sample]:
    yield Sample({"val": float_block(2, 3)})
    yield Sample({"val": np.array([[1, -2], [3, 4]], np.int32)})


def _by_blocks(reading: Reading, **inputs: Any) -> Any:
    """The loop that reads a program reads the blocks itself: the hull of both branches, and of all iterations."""
    raise UnboundedError("only the loop that reads a program can read its blocks")


_FOREVER = Note(
    "No bound on the iterations: a loop that never ends runs until it is interrupted.",
    "a choice: every bound would refuse some long but valid loop, and Core ML has none",
)
_READ = Note(
    "Readers make a constant value of it (Value.const), so it does not run by itself.",
    "nanproof.mil.read, nanproof.mil.reflect",
)

OPS: tuple[OpDef, ...] = (
    # Samples cannot hold blocks; tests/laws/test_programs.py builds programs.
    op("cond", "control", _cond, _no_samples, bound=_by_blocks),
    op(
        "while_loop",
        "control",
        _while_loop,
        _no_samples,
        variadic=frozenset({"loop_vars"}),
        bound=_by_blocks,
        notes=(_FOREVER,),
    ),
    structural("const", _const, _const_samples, bound=moves(_const, data="val"), notes=(_READ,)),
)
