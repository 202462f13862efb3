"""A :class:`nanproof.program.Program` → a package, op by op through coremltools' builder, without any pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from nanproof.errors import CouldNotCheckError
from nanproof.mil.coreml import Function, MILProgram, ct, mb, quiet, types
from nanproof.mil.package import write_model
from nanproof.ops import TABLE
from nanproof.program import Block, Op, Program, Value

__all__ = ["write_program"]

_FIRST = 6
"""CoreML6 is iOS16, the first with FP16 inputs and outputs."""


def write_program(program: Program, path: Path) -> None:
    """Write a program as it is, types included, to an ``.mlpackage``. Its default function is that of the file.

    Raises:
        CouldNotCheckError: coremltools refuses it, or it keeps states.
    """
    if program.states:
        raise CouldNotCheckError("The program keeps states, and such a one cannot be written.")
    target = _target(program.main.opset)
    try:
        with quiet():
            made = MILProgram()
            inputs = {v.name: _placeholder(v) for v in program.main.inputs.values()}
            with Function(inputs, opset_version=target) as function:
                given = {v: function.inputs[v.name] for v in program.main.inputs.values()}
                function.set_outputs(_Builder(given).block(program.main.block))
            made.add_function("main", function)
            model = ct.convert(
                made,
                source="milinternal",
                convert_to="mlprogram",
                minimum_deployment_target=target,
                compute_precision=ct.precision.FLOAT32,
                pass_pipeline=ct.PassPipeline.EMPTY,
                skip_model_load=True,
            )
    except Exception as error:  # coremltools raises ValueError, RuntimeError, AssertionError, KeyError, ... alike
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CouldNotCheckError(f"coremltools {ct.__version__} cannot build this program: {first}") from error
    write_model(model, path)


def _target(opset: str) -> Any:
    """The deployment target of an opset; ``CoreML7`` is iOS17."""
    number = int(opset.removeprefix("CoreML") or _FIRST) if opset.startswith("CoreML") else _FIRST + 1
    return getattr(ct.target, f"iOS{max(number, _FIRST) + 10}", ct.target.iOS17)


def _placeholder(value: Value) -> Any:
    return mb.placeholder(value.type.shape, dtype=types.string_to_builtin(value.type.dtype.value))


@final
class _Builder:
    def __init__(self, known: Mapping[Value, Any]) -> None:
        self._known = dict(known)

    def block(self, block: Block) -> list[Any]:
        for op in block.ops:
            made = self._op(op)
            self._known |= zip(op.outputs, made if isinstance(made, (list, tuple)) else [made], strict=True)
        return [self._argument(value) for value in block.outputs]

    def _op(self, op: Op) -> Any:
        given: dict[str, Any] = {}
        for name, values in op.inputs.items():
            arguments = tuple(self._argument(value) for value in values)
            given[name] = arguments if name in TABLE[op.type].variadic else arguments[0]
        if op.blocks:
            names = ("_true_fn", "_false_fn") if op.type == "cond" else ("_cond", "_body")
            given |= {name: self._inner(block) for name, block in zip(names, op.blocks, strict=True)}
        return getattr(mb, op.type)(**given, name=op.name)

    def _inner(self, block: Block) -> Any:
        def build(*variables: Any) -> Any:
            made = _Builder({**self._known, **dict(zip(block.inputs, variables, strict=True))}).block(block)
            return made if len(made) > 1 else made[0]

        return build

    def _argument(self, value: Value) -> Any:
        if value.const is None:
            return self._known[value]
        const = value.const
        if isinstance(const, str):
            return const
        if const.dtype.kind in "US":
            return [str(text) for text in const.reshape(-1)]
        return const[()] if const.shape == () else np.ascontiguousarray(const)
