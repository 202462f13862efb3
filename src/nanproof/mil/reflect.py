"""coremltools' in-memory MIL program → :class:`nanproof.program.Program`, without going through a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from coremltools.converters.mil.mil.scope import ScopeSource

from nanproof.errors import ConversionError
from nanproof.mil.coreml import types
from nanproof.program import Block, DType, Function, Kind, Op, Program, Source, Type, Value

__all__ = ["reflect"]

_DTYPES = {"str": DType.STRING, "string": DType.STRING}


def reflect(pymil: Any) -> Program:
    """The same program as our data. Constants are shared with ``pymil``, not copied; op and value names are kept.

    Raises:
        ConversionError: The program uses a kind of value that nanproof cannot represent.
    """
    return Program({name: _function(name, f) for name, f in pymil.functions.items()}, pymil.default_function_name)


def _function(name: str, function: Any) -> Function:
    scope: dict[Any, Value] = {}
    inputs = {n: _define(var, scope) for n, var in function.inputs.items()}
    return Function(name, inputs, _block(function, scope), getattr(function.opset_version, "name", ""))


def _block(block: Any, scope: dict[Any, Value]) -> Block:
    inputs = tuple(_define(var, scope) for var in getattr(block, "_block_inputs", ()) if var not in scope)
    ops: list[Op] = []
    for operation in block.operations:
        if operation.op_type == "const":
            var = operation.outputs[0]
            scope[var] = Value(var.name, _type(var), _constant(var.val))
        elif operation.op_type == "coreml_update_state":
            ops.extend(_update_state(operation, scope))
        else:
            ops.append(_op(operation, scope))
    return Block(inputs, tuple(ops), tuple(scope[var] for var in block.outputs))


def _op(operation: Any, scope: dict[Any, Value]) -> Op:
    inputs: dict[str, tuple[Value, ...]] = {}
    for name, given in operation.inputs.items():
        if name.startswith("_"):  # the Python functions that made the blocks of a cond or a while_loop
            continue
        inputs[name] = tuple(scope[v] for v in given) if isinstance(given, (list, tuple)) else (scope[given],)
    blocks = tuple(_block(b, dict(scope)) for b in operation.blocks)
    outputs = tuple(_define(var, scope) for var in operation.outputs)
    return Op(operation.op_type, operation.name, inputs, outputs, blocks, source=_source(operation.scopes))


def _update_state(operation: Any, scope: dict[Any, Value]) -> list[Op]:
    """The two ops that coremltools writes for its own ``coreml_update_state``; the second only if it is read."""
    state, value, source = scope[operation.state], scope[operation.value], _source(operation.scopes)
    inputs = {"input": (state,), "data": (value,)}
    written = Op("write_state", f"{operation.name}_write_state", inputs, (), source=source)
    var = operation.outputs[0]
    result = _define(var, scope)
    if not var.child_ops and not var.consuming_blocks:
        return [written]
    return [written, Op("read_state", operation.name, {"input": (state,)}, (result,), source=source)]


def _define(var: Any, scope: dict[Any, Value]) -> Value:
    value = Value(var.name, _type(var))
    scope[var] = value
    return value


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


def _source(scopes: Mapping[Any, Any]) -> Source | None:
    """The innermost frame of the stack trace that torch.export recorded and coremltools carried through its passes."""
    traces = scopes.get(ScopeSource.EXIR_STACK_TRACE, ())
    return Source.of_trace("\n".join(trace for trace in traces if isinstance(trace, str)))
