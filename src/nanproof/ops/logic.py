"""Comparisons, connectives and the choice between two tensors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_binary
from nanproof.ops.record import Note, OpDef, Sample, comparison, float_block, float_specials, int_block, logical, op

__all__ = ["OPS"]


def _select(arithmetic: Arithmetic, cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def _select_samples() -> Iterable[Sample]:
    cond = np.array([[True], [False], [True]])
    yield Sample({"cond": cond, "a": float_block(2, 3, 4), "b": float_block(3, 4, seed=1)})
    yield Sample({"cond": cond, "a": int_block(3, 4), "b": np.int32(-1)})
    # The branch that is not taken must not leak.
    specials = float_specials()
    yield Sample({"cond": np.isfinite(specials), "a": specials, "b": np.float32(0)})
    yield Sample({"cond": np.array([True, False]), "a": np.array([True, True]), "b": np.array([False, False])})


OPS: tuple[OpDef, ...] = (
    comparison("equal", torch.eq),
    comparison("not_equal", torch.ne),
    comparison("less", torch.lt),
    comparison("less_equal", torch.le),
    comparison("greater", torch.gt),
    comparison("greater_equal", torch.ge),
    logical("logical_and", torch.logical_and),
    logical("logical_or", torch.logical_or),
    logical("logical_xor", torch.logical_xor, bound=bound_binary.either),
    op(
        "select",
        "select",
        _select,
        _select_samples,
        bound=bound_binary.select,
        notes=(
            Note(
                "The documentation broadcasts cond, a and b; the declared type ignores the shape of cond, and is wrong "
                "where cond is larger than both.",
                "coremltools 9.0, iOS15/control_flow.py, select.type_inference",
            ),
        ),
    ),
)
