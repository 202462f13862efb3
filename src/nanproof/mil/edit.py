"""Applying edits to a MIL program, as a coremltools graph pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nanproof.errors import ConversionError
from nanproof.mil.coreml import AbstractGraphPass, ScopeInfo, ScopeSource, block_context_manager, graph_pass, mb, types
from nanproof.mil.edits import Argument, Edit, Feed, Named, Operand, Output, Replace, Saturate, SetConstant, Step

__all__ = ["ApplyEdits"]


class ApplyEdits(AbstractGraphPass):
    """Graph pass that applies edits by op name, each after the ones before it; then ops that nobody reads disappear.

    Raises:
        ConversionError: An edit names an op or a value that the program does not hold, or asks for an op that
            coremltools refuses to build; nothing is skipped silently.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        super().__init__()
        self._edits = tuple(edits)

    def apply(self, prog: Any) -> None:
        """Apply all edits to all functions of ``prog``, in place."""
        for edit in self._edits:
            done = [self._apply_to_block(function, edit) for function in prog.functions.values()]
            if not any(done):
                raise ConversionError(f"The edit {type(edit).__name__} names the op '{edit.op}', which does not exist.")
        graph_pass("common::dead_code_elimination")(prog)

    @block_context_manager
    def _apply_to_block(self, block: Any, edit: Edit) -> bool:
        """Apply an edit wherever it fits, in the block or inside of it; whether it did."""
        operations, done = list(block.operations), False
        for op, following in zip(operations, [*operations[1:], None], strict=True):
            for nested in op.blocks:
                done |= self._apply_to_block(nested, edit)
            if edit.op == op.name and op.op_type != "const":
                _apply(edit, op, following)
                done = True
        return done


def _apply(edit: Edit, op: Any, following: Any) -> None:
    # New ops inherit the scopes of the op that they serve: coremltools insists on the stack trace of each. The passes
    # that an op has been through are no scope to enter: coremltools allows one, and an op may have several.
    kept = (item for item in op.scopes.items() if item[0] is not ScopeSource.COREMLTOOLS_GRAPH_PASS)
    with mb.scope(*(ScopeInfo(source=source, data=data) for source, data in kept)):
        _build(edit, op, following)


def _build(edit: Edit, op: Any, following: Any) -> None:
    match edit:
        case SetConstant():
            old = _given(op, edit.input, edit.index)
            new = mb.const(val=edit.value.astype(old.val.dtype), name=f"{op.name}_{edit.input}_finite", before_op=op)
            _set_input(op, edit.input, edit.index, new)
        case Saturate():
            bounded = Step(edit.with_op, f"{op.outputs[0].name}_bounded", {"x": Output(), "y": edit.bound})
            _replace(op, 0, _steps((bounded,), op, following, 0))
        case Replace():
            _replace(op, edit.output, _steps(edit.steps, op, following, edit.output))
        case Feed():
            made = _steps(edit.steps, op, op, 0)
            name = edit.value.name
            _set_input(op, edit.input, edit.index, made[name] if name in made else _named(name, op.enclosing_block))


def _given(op: Any, name: str, index: int) -> Any:
    given = op.inputs[name]
    return given[index] if isinstance(given, (list, tuple)) else given


def _set_input(op: Any, name: str, index: int, new: Any) -> None:
    given = op.inputs[name]
    several = isinstance(given, (list, tuple))
    replaced = [new if i == index else v for i, v in enumerate(given)] if several else new
    op.set_inputs(no_check_var_types=True, **{name: replaced})


def _replace(op: Any, output: int, made: Mapping[str, Any]) -> None:
    """Let the last result take the place, and the name, of an output: later edits mean it when they name the value."""
    old, new = op.outputs[output], list(made.values())[-1]
    name = old.name
    op.enclosing_block.replace_uses_of_var_after_op(anchor_op=new.op, old_var=old, new_var=new)
    old.name, new.name = f"{name}_replaced", name


def _steps(steps: Sequence[Step], op: Any, before: Any, output: int) -> dict[str, Any]:
    """Build the steps before an op (at the end of the block for ``None``); their results by name, in order."""
    made: dict[str, Any] = {}
    for step in steps:
        read = {name: _argument(argument, op, output, made) for name, argument in step.inputs.items()}
        floats = [v.dtype for v in read.values() if hasattr(v, "dtype") and hasattr(v, "sym_type")]
        dtype = types.nptype_from_builtin(next((d for d in floats if types.is_float(d)), types.fp32))
        arguments = {name: np.array(v, dtype) if isinstance(v, float) else v for name, v in read.items()}
        try:
            made[step.name] = getattr(mb, step.type)(**arguments, name=step.name, before_op=before)
        except (AttributeError, TypeError, ValueError) as error:
            raise ConversionError(
                f"The rewrite of '{op.name}' asks for an op '{step.name}' ({step.type}) that coremltools refuses: "
                f"{error}\n  This is a fault of nanproof: please report it with the model."
            ) from error
    return made


def _argument(argument: Argument, op: Any, output: int, made: Mapping[str, Any]) -> Any:
    match argument:
        case Operand():
            return _given(op, argument.input, argument.index)
        case Output():
            return op.outputs[output]
        case Named():
            return made[argument.name] if argument.name in made else _named(argument.name, op.enclosing_block)
        case _:
            return list(argument) if isinstance(argument, tuple) else argument


def _named(name: str, block: Any) -> Any:
    """The value of a name, in the block or around it.

    Raises:
        ConversionError: There is none.
    """
    around: Any = block
    while around is not None:
        for op in around.operations:
            for var in op.outputs:
                if var.name == name:
                    return var
        inputs = around.inputs.values() if isinstance(around.inputs, dict) else around.inputs
        found = next((var for var in inputs if var.name == name), None)
        if found is not None:
            return found
        around = around.outer_op.enclosing_block if around.outer_op is not None else None
    raise ConversionError(f"An edit reads the value '{name}', which does not exist.")
