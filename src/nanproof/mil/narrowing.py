"""int32 → int16 and uint16, only where every value fits: coremltools' ``add_int16_cast``, made sound.

The Neural Engine takes indices of 16 bits, so coremltools 9.0 casts the integers of ``gather``, ``gather_along_axis``,
``gather_nd``, ``topk`` and ``squeeze``. It looks at the sizes that indices refer to, but for ``gather_nd``; it never
looks at integers that are data, so that a token id of 40,000 becomes -25,536; and it keeps the type that it chose for
another tensor, so that of two gathers with the same indices the second reads -1 as 65,535.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nanproof.mil.coreml import add_int16_cast, register_pass, types

__all__ = ["COREMLTOOLS_PASS", "SOUND_PASS", "SoundNarrowing"]

COREMLTOOLS_PASS = "common::add_int16_cast"
SOUND_PASS = "nanproof::add_int16_cast"
_NAMESPACE, _, _CLASS = SOUND_PASS.partition("::")
_INT16, _UINT16 = np.iinfo(np.int16), np.iinfo(np.uint16)
_NARROW = (types.bool, types.int8, types.uint8, types.int16, types.uint16)


@register_pass(namespace=_NAMESPACE, name=_CLASS)
class SoundNarrowing(add_int16_cast):
    """coremltools' cast of integers, without the casts that can change a value."""

    def should_cast_parameter(self, op: Any, param_name: str) -> bool:
        """Whether the input becomes 16 bits wide, in which case ``target_dtype`` says how."""
        self.target_dtype = "int16"
        given = op.inputs[param_name]
        if given.dtype == types.str:
            fits = _largest_index(op, [op.axis.val]) <= _UINT16.max
        elif param_name == "indices" and not _is_constant(given):
            fits = _largest_index(op, _indexed_axes(op)) <= _INT16.max
        else:
            fits = _holds_narrow(given)
        theirs: Any = super()
        return fits and bool(theirs.should_cast_parameter(op, param_name))


def _is_constant(var: Any) -> bool:
    return var.op is not None and var.op.op_type == "const"


def _holds_narrow(var: Any) -> bool:
    """Whether all values fit into 16 bits: coremltools looks at constants itself; of data, only their source tells."""
    if _is_constant(var):
        return True
    if var.val is not None:
        return bool(np.min(var.val) >= _INT16.min and np.max(var.val) <= _INT16.max)
    return var.op is not None and var.op.op_type == "cast" and var.op.x.dtype in _NARROW


def _indexed_axes(op: Any) -> list[int]:
    """The axes of ``x`` that the indices of a gather refer to."""
    if op.op_type == "gather_nd":
        first = int(op.batch_dims.val) if "batch_dims" in op.inputs else 0
        return list(range(first, first + int(op.indices.shape[-1])))
    return [op.axis.val]


def _largest_index(op: Any, axes: list[int]) -> float:
    """The largest valid index along any of the axes of ``x``; infinite where a size is not known."""
    sizes = [op.x.shape[axis] for axis in axes]
    return max((s - 1 if isinstance(s, (int, np.integer)) else float("inf") for s in sizes), default=0)
