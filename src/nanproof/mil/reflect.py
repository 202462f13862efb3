"""coremltools' in-memory MIL program → :class:`nanproof.program.Program`, without going through a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanproof.errors import ConversionError
from nanproof.mil.coreml import ScopeSource, types
from nanproof.program import Block, DType, Function, Kind, Op, Program, Source, Type, Value

__all__ = ["handles_of", "reflect"]

_DTYPES = {"str": DType.STRING, "string": DType.STRING}


def reflect(pymil: Any, sources: Mapping[int, Source] | None = None) -> Program:
    """The same program as our data. Constants are shared with ``pymil``, not copied; op and value names are kept.

    Args:
        pymil: A coremltools ``Program``.
        sources: The source of each node of the exported program by its ``debug_handle``. Without it, or for an op of
            another handle, the stack trace that coremltools has kept says less: it knows no module.

    Raises:
        ConversionError: The program uses a kind of value that nanproof cannot represent.
    """
    functions = {name: _Scope(sources or {}, {}).function(name, f) for name, f in pymil.functions.items()}
    return Program(functions, pymil.default_function_name)


def handles_of(pymil: Any) -> dict[str, int]:
    """By op name, the ``debug_handle`` of the exported node of which the op was made. Passes hand it on."""
    found: dict[str, int] = {}

    def collect(block: Any) -> None:
        for operation in block.operations:
            handle = _handle(operation.scopes)
            if handle is not None:
                found[operation.name] = handle
            for inner in operation.blocks:
                collect(inner)

    for function in pymil.functions.values():
        collect(function)
    return found


def _handle(scopes: Mapping[Any, Any]) -> int | None:
    *_, handle = scopes.get(ScopeSource.EXIR_DEBUG_HANDLE) or (None,)  # inside a block the last is the op's own
    return handle


@dataclass(frozen=True, slots=True)
class _Scope:
    """The values that a block sees, by coremltools' own, and the sources of all ops by ``debug_handle``."""

    sources: Mapping[int, Source]
    values: dict[Any, Value]

    def function(self, name: str, function: Any) -> Function:
        inputs = {n: self.define(var) for n, var in function.inputs.items()}
        return Function(name, inputs, self.block(function), getattr(function.opset_version, "name", ""))

    def block(self, block: Any) -> Block:
        inputs = tuple(self.define(var) for var in getattr(block, "_block_inputs", ()) if var not in self.values)
        ops: list[Op] = []
        for operation in block.operations:
            if operation.op_type == "const":
                var = operation.outputs[0]
                self.values[var] = Value(var.name, _type(var), _constant(var.val))
            elif operation.op_type == "coreml_update_state":
                ops.extend(self.update_state(operation))
            else:
                ops.append(self.op(operation))
        return Block(inputs, tuple(ops), tuple(self.values[var] for var in block.outputs))

    def op(self, operation: Any) -> Op:
        inputs: dict[str, tuple[Value, ...]] = {}
        for name, given in operation.inputs.items():
            if name.startswith("_"):  # the Python functions that made the blocks of a cond or a while_loop
                continue
            inputs[name] = tuple(self.values[v] for v in (given if isinstance(given, (list, tuple)) else (given,)))
        blocks = tuple(_Scope(self.sources, dict(self.values)).block(b) for b in operation.blocks)
        outputs = tuple(self.define(var) for var in operation.outputs)
        return Op(operation.op_type, operation.name, inputs, outputs, blocks, source=self.source(operation.scopes))

    def update_state(self, operation: Any) -> list[Op]:
        """The two ops that coremltools writes for its ``coreml_update_state``; the second only if it is read."""
        state, value = self.values[operation.state], self.values[operation.value]
        source = self.source(operation.scopes)
        inputs = {"input": (state,), "data": (value,)}
        written = Op("write_state", f"{operation.name}_write_state", inputs, (), source=source)
        var = operation.outputs[0]
        result = self.define(var)
        if not var.child_ops and not var.consuming_blocks:
            return [written]
        return [written, Op("read_state", operation.name, {"input": (state,)}, (result,), source=source)]

    def define(self, var: Any) -> Value:
        value = Value(var.name, _type(var))
        self.values[var] = value
        return value

    def source(self, scopes: Mapping[Any, Any]) -> Source | None:
        """What torch.export recorded about the node of which an op was made; coremltools' passes hand it on."""
        handle = _handle(scopes)
        traces = scopes.get(ScopeSource.EXIR_STACK_TRACE, ())
        known = None if handle is None else self.sources.get(handle)
        return known or Source.of_trace("\n".join(t for t in traces if isinstance(t, str)))


def _type(var: Any) -> Type:
    given = var.sym_type
    if types.is_list(given):
        if given.T[0] is types.unknown:
            raise ConversionError(f"The list '{var.name}' holds elements of a type that coremltools does not know.")
        element, length = _tensor_type(given.T[0]), given.T[1]
        return Type(
            element.dtype,
            element.shape,
            Kind.LIST,
            length=int(length) if isinstance(length, (int, np.integer)) else None,
        )
    if types.is_state(given):
        wrapped = _tensor_type(given.wrapped_type())
        return Type(wrapped.dtype, wrapped.shape, Kind.STATE)
    if types.is_dict(given):
        return Type(_dtype(given.T[1]), kind=Kind.DICTIONARY, keys=_dtype(given.T[0]))
    return _tensor_type(given)


def _tensor_type(given: Any) -> Type:
    if not types.is_tensor(given):
        return Type(_dtype(given))
    shape = tuple(int(d) if isinstance(d, (int, np.integer)) else str(d) for d in given.get_shape())
    return Type(_dtype(given.get_primitive()), shape)


def _dtype(primitive: Any) -> DType:
    name = types.builtin_to_string(primitive)
    return _DTYPES.get(name) or DType(name)


def _constant(val: Any) -> np.ndarray | str:
    # A list stands in coremltools' own wrapper, `mil_list`.
    return val if isinstance(val, str) else np.asarray(getattr(val, "ls", val))
