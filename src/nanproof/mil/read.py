"""ML Program files and coremltools' in-memory MIL programs → :class:`nanproof.program.Program`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.mil.blob import BlobFile, byte_count, unpacked
from nanproof.mil.coreml import ct
from nanproof.mil.package import PackageParts, open_package
from nanproof.program import Block, Constant, DType, Function, Kind, Op, Program, Type, Value

__all__ = ["load"]

_MIL: Any = ct.proto.MIL_pb2
_DTYPES = {
    _MIL.FLOAT16: DType.FP16,
    _MIL.FLOAT32: DType.FP32,
    _MIL.FLOAT64: DType.FP64,
    _MIL.INT8: DType.INT8,
    _MIL.INT16: DType.INT16,
    _MIL.INT32: DType.INT32,
    _MIL.INT64: DType.INT64,
    _MIL.UINT8: DType.UINT8,
    _MIL.UINT16: DType.UINT16,
    _MIL.UINT32: DType.UINT32,
    _MIL.UINT64: DType.UINT64,
    _MIL.BOOL: DType.BOOL,
    _MIL.STRING: DType.STRING,
    _MIL.INT4: DType.INT4,
    _MIL.UINT1: DType.UINT1,
    _MIL.UINT2: DType.UINT2,
    _MIL.UINT3: DType.UINT3,
    _MIL.UINT4: DType.UINT4,
    _MIL.UINT6: DType.UINT6,
}
_MOST_ELEMENTS = 2**40
"""No constant of a real model is larger; a declared shape beyond it is damage or malice."""


def load(model: Any) -> Program:
    """Read an ML Program.

    Args:
        model: Path (``str`` or ``os.PathLike``) of an ``.mlpackage``, or a coremltools ``MLModel``. Nothing in the
            file is executed.

    Raises:
        ModelFileError: The file is no ML Program, is damaged, or uses a part of the format that is not supported.
    """
    path = model.package_path if isinstance(model, ct.models.MLModel) else model
    if not path:
        raise ModelFileError("This MLModel holds no ML Program (no .mlpackage stands behind it).")
    return _Reader(open_package(path)).program()


class _Reader:
    """Reads one package. Values of all functions live in scopes that mirror the nesting of blocks."""

    def __init__(self, parts: PackageParts) -> None:
        self._parts = parts
        self._blobs: dict[str, BlobFile] = {}

    def program(self) -> Program:
        proto = self._parts.spec.mlProgram
        if not proto.functions:
            raise ModelFileError(f"'{self._parts.path}' holds an ML Program without functions.")
        functions = {name: self._function(name, f) for name, f in proto.functions.items()}
        default = self._parts.spec.description.defaultFunctionName or "main"
        if default not in functions:
            raise ModelFileError(
                f"'{self._parts.path}' names '{default}' as its default function, which it does not hold."
            )
        return Program(functions, default)

    def _function(self, name: str, proto: Any) -> Function:
        if proto.opset not in proto.block_specializations:
            raise ModelFileError(
                f"Function '{name}' of '{self._parts.path}' has no block for its opset '{proto.opset}'."
            )
        inputs = {v.name: Value(v.name, self._type(v.type)) for v in proto.inputs}
        block = self._block(proto.block_specializations[proto.opset], dict(inputs))
        return Function(name, self._in_described_order(name, inputs), block, proto.opset)

    def _in_described_order(self, function: str, inputs: dict[str, Value]) -> dict[str, Value]:
        """The inputs in the order that Core ML shows, which is that of the description, where it names them all."""
        description = self._parts.spec.description
        described = [f.name for f in (*description.input, *description.state)]
        return {n: inputs[n] for n in described} if function == "main" and set(described) == set(inputs) else inputs

    def _block(self, proto: Any, scope: dict[str, Value]) -> Block:
        inputs = tuple(self._define(v, scope) for v in proto.inputs)
        ops: list[Op] = []
        for operation in proto.operations:
            if operation.type == "const":
                self._define_const(operation, scope)
            else:
                ops.append(self._op(operation, scope))
        return Block(inputs, tuple(ops), tuple(self._lookup(name, scope) for name in proto.outputs))

    def _op(self, proto: Any, scope: dict[str, Value]) -> Op:
        inputs = {name: self._arguments(argument, scope) for name, argument in sorted(proto.inputs.items())}
        attributes = {name: self._constant(value) for name, value in proto.attributes.items()}
        blocks = tuple(self._block(b, dict(scope)) for b in proto.blocks)
        outputs = tuple(self._define(v, scope) for v in proto.outputs)
        name = attributes.pop("name", None)
        if proto.type.startswith("constexpr_"):  # up to iOS17 their parameters are attributes, later inputs
            inputs |= {n: (Value(n, _type_of(c), c),) for n, c in attributes.items() if n not in inputs}
        label = name if isinstance(name, str) else (outputs[0].name if outputs else proto.type)
        return Op(proto.type, label, inputs, outputs, blocks, attributes)

    def _define(self, proto: Any, scope: dict[str, Value]) -> Value:
        value = Value(proto.name, self._type(proto.type))
        scope[proto.name] = value
        return value

    def _define_const(self, proto: Any, scope: dict[str, Value]) -> None:
        output = proto.outputs[0]
        constant = self._constant(proto.attributes["val"])
        scope[output.name] = Value(output.name, self._type(output.type), constant)

    def _lookup(self, name: str, scope: Mapping[str, Value]) -> Value:
        if name not in scope:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' uses the value '{name}' before it is defined.")
        return scope[name]

    def _arguments(self, proto: Any, scope: Mapping[str, Value]) -> tuple[Value, ...]:
        values: list[Value] = []
        for binding in proto.arguments:
            if binding.WhichOneof("binding") == "name":
                values.append(self._lookup(binding.name, scope))
            else:
                values.append(Value("", self._type(binding.value.type), self._constant(binding.value)))
        return tuple(values)

    def _type(self, proto: Any) -> Type:
        kind = proto.WhichOneof("type")
        if kind == "listType":
            element, size = self._type(proto.listType.type), proto.listType.length
            length = size.constant.size if size.WhichOneof("dimension") == "constant" else None
            return Type(element.dtype, element.shape, Kind.LIST, length=length)
        if kind == "stateType":
            wrapped = self._type(proto.stateType.wrappedType)
            return Type(wrapped.dtype, wrapped.shape, Kind.STATE)
        if kind == "dictionaryType":
            value = self._type(proto.dictionaryType.valueType)
            keys = self._type(proto.dictionaryType.keyType).dtype
            return Type(value.dtype, value.shape, Kind.DICTIONARY, keys=keys)
        if kind != "tensorType":
            raise ModelFileError(f"'{self._parts.path}' uses a value of kind '{kind}', which this version cannot read.")
        tensor = proto.tensorType
        if tensor.dataType not in _DTYPES:
            name = _MIL.DataType.Name(tensor.dataType)
            raise ModelFileError(f"'{self._parts.path}' uses the element type {name}, which this version cannot read.")
        dims = tuple(d.constant.size if d.WhichOneof("dimension") == "constant" else "?" for d in tensor.dimensions)
        return Type(_DTYPES[tensor.dataType], dims)

    def _constant(self, proto: Any) -> Constant:
        type = self._type(proto.type)
        if type.kind is Kind.LIST:
            values = [self._constant(v) for v in proto.immediateValue.list.values]
            return np.array(values, None if type.dtype is DType.STRING else type.dtype.numpy)
        shape = tuple(d for d in type.shape if isinstance(d, int))
        count = 1
        for dim in shape:
            count *= dim
        if len(shape) != len(type.shape) or count > _MOST_ELEMENTS:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' declares a constant of type {type}.")
        if proto.WhichOneof("value") == "blobFileValue":
            blob = proto.blobFileValue
            return self._blob(blob.fileName).read(blob.offset, type.dtype, shape)
        return _immediate(proto.immediateValue.tensor, type.dtype, shape, str(self._parts.path))

    def _blob(self, file_name: str) -> BlobFile:
        if file_name not in self._blobs:
            self._blobs[file_name] = BlobFile(self._parts.resolve(file_name))
        return self._blobs[file_name]


def _immediate(tensor: Any, dtype: DType, shape: tuple[int, ...], path: str) -> Constant:
    field = tensor.WhichOneof("value")
    if field == "strings":
        values: Iterable[str] = tensor.strings.values
        text = list(values)
        return text[0] if not shape and text else np.array(text)
    if field is None:
        raise ModelFileError(
            f"Damaged model: '{path}' holds a constant of type {dtype.value}{list(shape)} without a value."
        )
    data = getattr(tensor, field).values
    count = 1
    for dim in shape:
        count *= dim
    if field != "bytes":
        flat = np.array(data, dtype.numpy)
    elif dtype.packed_bits is not None and len(data) == byte_count(count, dtype):
        flat = unpacked(np.frombuffer(data, np.uint8), dtype, count)
    else:
        flat = np.frombuffer(data, dtype.numpy)
    if flat.size != count:
        raise ModelFileError(
            f"Damaged model: '{path}' holds a constant with {flat.size} values, declared {list(shape)}."
        )
    return flat.reshape(shape)


def _type_of(constant: Constant) -> Type:
    if isinstance(constant, str):
        return Type(DType.STRING)
    return Type(DType.of_numpy(constant.dtype), tuple(constant.shape))
