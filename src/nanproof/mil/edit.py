"""Applying edits to a MIL program, as a coremltools graph pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nanproof.errors import ConversionError
from nanproof.mil.coreml import AbstractGraphPass, ScopeInfo, ScopeSource, block_context_manager, mb, types
from nanproof.mil.edits import Edit, Saturate, SetConstant

__all__ = ["ApplyEdits"]


class ApplyEdits(AbstractGraphPass):
    """Graph pass that applies edits by op name.

    Raises:
        ConversionError: An edit names an op that the program does not hold; nothing is skipped silently.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self._edits = tuple(edits)

    def apply(self, prog: Any) -> None:
        """Apply all edits to all functions of ``prog``, in place."""
        done: set[int] = set()
        for function in prog.functions.values():
            self._apply_to_block(function, done)
        for i, edit in enumerate(self._edits):
            if i not in done:
                raise ConversionError(f"The edit {type(edit).__name__} names the op '{edit.op}', which does not exist.")

    @block_context_manager
    def _apply_to_block(self, block: Any, done: set[int]) -> None:
        operations = list(block.operations)
        for op, following in zip(operations, [*operations[1:], None], strict=True):
            for nested in op.blocks:
                self._apply_to_block(nested, done)
            for i, edit in enumerate(self._edits):
                if edit.op == op.name and op.op_type != "const":
                    _apply(edit, op, following)
                    done.add(i)


def _apply(edit: Edit, op: Any, following: Any) -> None:
    # New ops inherit the scopes of the op that they serve: coremltools insists on the stack trace of each. The passes
    # that an op has been through are no scope to enter: coremltools allows one, and an op may have several.
    kept = (item for item in op.scopes.items() if item[0] is not ScopeSource.COREMLTOOLS_GRAPH_PASS)
    with mb.scope(*(ScopeInfo(source=source, data=data) for source, data in kept)):
        _build(edit, op, following)


def _build(edit: Edit, op: Any, following: Any) -> None:
    match edit:
        case SetConstant():
            given = op.inputs[edit.input]
            several = isinstance(given, (list, tuple))
            old = given[edit.index] if several else given
            new = mb.const(val=edit.value.astype(old.val.dtype), name=f"{op.name}_{edit.input}_finite", before_op=op)
            replaced = [new if i == edit.index else v for i, v in enumerate(given)] if several else new
            op.set_inputs(no_check_var_types=True, **{edit.input: replaced})
        case Saturate():
            out = op.outputs[0]
            bound = np.array(edit.bound, types.nptype_from_builtin(out.dtype))
            build = getattr(mb, edit.with_op)
            bounded = build(x=out, y=bound, name=f"{out.name}_bounded", before_op=following)
            op.enclosing_block.replace_uses_of_var_after_op(anchor_op=bounded.op, old_var=out, new_var=bounded)
