"""ML Program files and coremltools' in-memory MIL programs → :class:`nanproof.program.Program`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.mil.blob import BlobFile, byte_count, unpacked
from nanproof.mil.description import class_labels, function_description, interface
from nanproof.mil.package import PackageParts, open_package
from nanproof.mil.proto import MIL
from nanproof.mil.sources import KEY, decode, with_sources
from nanproof.program import (
    Block,
    Constant,
    DType,
    Feature,
    Function,
    Interface,
    Kind,
    Op,
    Pipeline,
    Program,
    Type,
    Value,
)

__all__ = ["load", "load_program"]

_DTYPES = {
    MIL.FLOAT16: DType.FP16,
    MIL.FLOAT32: DType.FP32,
    MIL.FLOAT64: DType.FP64,
    MIL.INT8: DType.INT8,
    MIL.INT16: DType.INT16,
    MIL.INT32: DType.INT32,
    MIL.INT64: DType.INT64,
    MIL.UINT8: DType.UINT8,
    MIL.UINT16: DType.UINT16,
    MIL.UINT32: DType.UINT32,
    MIL.UINT64: DType.UINT64,
    MIL.BOOL: DType.BOOL,
    MIL.STRING: DType.STRING,
    MIL.INT4: DType.INT4,
    MIL.UINT1: DType.UINT1,
    MIL.UINT2: DType.UINT2,
    MIL.UINT3: DType.UINT3,
    MIL.UINT4: DType.UINT4,
    MIL.UINT6: DType.UINT6,
}
_MOST_ELEMENTS = 2**40
"""No constant of a real model is larger; a declared shape beyond it is damage or malice."""
_MOST_DIMENSIONS = 32
"""Core ML allows 5, and NumPy no more than this in every version; a rank beyond it is damage or malice."""

_Scope = ChainMap[str, Value]
"""The values that are visible in a block, its own first. A map for each block, since copies of many would be slow."""


def load(model: Any, function_name: str | None = None) -> Program | Pipeline:
    """Read an ML Program, or a pipeline of ML Programs. Weights are mapped, not copied.

    Args:
        model: Path (``str`` or ``os.PathLike``) of an ``.mlpackage``, or a coremltools ``MLModel``. Nothing in the
            file is executed.
        function_name: Which function of a multifunction program is the default one of the result; without it the one
            that the file (or the ``MLModel``) names.

    Raises:
        ModelFileError: The file holds no ML Program, is damaged, or uses a part of the format that is not supported;
            or a stage of a pipeline is no ML Program.
        UsageError: There is no such function.
    """
    path = model
    if hasattr(model, "package_path"):  # an MLModel; to ask for its class would import coremltools
        path, function_name = model.package_path, function_name or model.function_name
    if not path:
        raise ModelFileError("This MLModel holds no ML Program (no .mlpackage stands behind it).")
    parts = open_package(path)
    with _undamaged(parts):
        if parts.spec.WhichOneof("Type") == "mlProgram":
            found: Program | Pipeline = _Reader(parts, parts.spec, {}, f"'{parts.path}'").program()
            found = with_sources(found, decode(parts.spec.description.metadata.userDefined.get(KEY, "")))
        else:
            found = _pipeline(parts)
    return found.using(function_name)


@contextmanager
def _undamaged(parts: PackageParts) -> Generator[None]:
    """Turn what Python and NumPy raise on parts that do not fit each other into the error of a damaged file.

    The common ways to be damaged have an error of their own, which names the place.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"Damaged model: '{parts.path}' does not hold together: {type(error).__name__}: {error}."
        ) from error


def load_program(model: Any, function_name: str | None = None) -> Program:
    """Read one ML Program, as :func:`load` does.

    Raises:
        ModelFileError: As :func:`load`; or it is a pipeline.
        UsageError: There is no such function.
    """
    program = load(model, function_name)
    if isinstance(program, Pipeline):
        raise ModelFileError(
            f"This is a pipeline of {len(program.stages)} programs ({', '.join(program.stages)}), and one program is "
            "needed.\n  nanproof.predict, `nanproof run` and `nanproof inspect` take pipelines. For all else save its "
            "stages as packages of their own."
        )
    return program


def _pipeline(parts: PackageParts) -> Pipeline:
    kind = parts.spec.WhichOneof("Type")
    proto = parts.spec.pipeline if kind == "pipeline" else getattr(parts.spec, kind).pipeline
    if not proto.models:
        raise ModelFileError(f"'{parts.path}' is a pipeline without stages.")
    named = len(set(proto.names)) == len(proto.models)
    names = list(proto.names) if named else [f"stage_{i}" for i in range(len(proto.models))]
    blobs: dict[str, BlobFile] = {}
    stages: dict[str, Program] = {}
    for name, spec in zip(names, proto.models, strict=True):
        found = spec.WhichOneof("Type")
        if found != "mlProgram":
            raise ModelFileError(
                f"'{parts.path}' is a pipeline whose stage '{name}' is a model of type '{found}', not an ML Program.\n"
                "  nanproof runs pipelines of ML Programs only. The stages are "
                + ", ".join(f"{n} ({m.WhichOneof('Type')})" for n, m in zip(names, proto.models, strict=True))
                + "."
            )
        stages[name] = _Reader(parts, spec, blobs, f"stage '{name}' of '{parts.path}'").program()
        if stages[name].states:
            raise ModelFileError(
                f"Stage '{name}' of the pipeline '{parts.path}' keeps the state {', '.join(stages[name].states)}.\n"
                "  Whether Core ML keeps states in a pipeline is not documented, so that it cannot be executed here."
            )
    return Pipeline(stages, _pipeline_interface(parts, stages))


def _pipeline_interface(parts: PackageParts, stages: Mapping[str, Program]) -> Interface:
    """What the pipeline takes and gives.

    An input has the type that the first stage which takes it has for it, an output that of the last one which gives it.
    """
    description = parts.spec.description
    given, taken = {f.name for f in description.input}, dict[str, Type]()
    made: dict[str, Feature] = {}
    for name, stage in stages.items():
        for feature in stage.interface.inputs.values():
            if feature.name in given and feature.name not in made:
                taken.setdefault(feature.name, feature.type)
            elif feature.name not in made and not feature.optional:
                raise ModelFileError(
                    f"Damaged model: stage '{name}' of the pipeline '{parts.path}' takes '{feature.name}', which is no "
                    "input of the pipeline and no output of an earlier stage."
                )
        made |= stage.interface.outputs
    outputs = {f.name: made[f.name].type for f in description.output if f.name in made}
    described = interface(description, taken, outputs, f"the pipeline '{parts.path}'")
    return replace(described, classes=list(stages.values())[-1].interface.classes)


class _Reader:
    """Reads one program of a package. Values of all functions live in scopes that mirror the nesting of blocks."""

    def __init__(self, parts: PackageParts, spec: Any, blobs: dict[str, BlobFile], where: str) -> None:
        self._parts = parts
        self._spec = spec
        self._blobs = blobs
        self._where = where

    def program(self) -> Program:
        proto, description = self._spec.mlProgram, self._spec.description
        if not proto.functions:
            raise ModelFileError(f"{self._where} holds an ML Program without functions.")
        default = description.defaultFunctionName or "main"
        if default not in proto.functions:
            raise ModelFileError(f"{self._where} names '{default}' as its default function, which it does not hold.")
        order = [f.name for f in description.functions]  # that of the map is not the author's
        names = sorted(proto.functions, key=lambda n: (order.index(n) if n in order else len(order), n))
        functions = {n: self._function(n, proto.functions[n], default) for n in names}
        return Program(functions, default)

    def _function(self, name: str, proto: Any, default: str) -> Function:
        if proto.opset not in proto.block_specializations:
            raise ModelFileError(f"Function '{name}' of {self._where} has no block for its opset '{proto.opset}'.")
        if proto.block_specializations[proto.opset].inputs:
            raise ModelFileError(f"Damaged model: the block of function '{name}' of {self._where} has own inputs.")
        inputs = {v.name: Value(v.name, self._type(v.type)) for v in proto.inputs}
        block = self._block(proto.block_specializations[proto.opset], ChainMap({}, dict(inputs)))
        described = function_description(self._spec.description, name, default)
        if described is None:
            return Function(name, inputs, block, proto.opset)
        types = {n: v.type for n, v in inputs.items() if v.type.kind is not Kind.STATE}
        outputs = {v.name: v.type for v in block.outputs}
        said = interface(described, types, outputs, f"function '{name}' of {self._where}")
        # In the order that Core ML shows, which is that of the description.
        states = {n: v for n, v in inputs.items() if n not in types}
        listed = [f.name for f in described.state]
        ordered = sorted(states, key=lambda n: listed.index(n) if n in listed else len(listed))
        inputs = {**{n: inputs[n] for n in said.inputs}, **{n: states[n] for n in ordered}}
        return Function(name, inputs, block, proto.opset, replace(said, classes=class_labels(block)))

    def _block(self, proto: Any, scope: _Scope) -> Block:
        inputs = tuple(self._define(v, scope) for v in proto.inputs)
        ops: list[Op] = []
        for operation in proto.operations:
            if operation.type == "const":
                self._define_const(operation, scope)
            else:
                ops.append(self._op(operation, scope))
        return Block(inputs, tuple(ops), tuple(self._lookup(name, scope) for name in proto.outputs))

    def _op(self, proto: Any, scope: _Scope) -> Op:
        inputs = {name: self._arguments(argument, scope) for name, argument in sorted(proto.inputs.items())}
        attributes = {name: self._constant(value) for name, value in proto.attributes.items()}
        blocks = tuple(self._block(b, scope.new_child()) for b in proto.blocks)
        outputs = tuple(self._define(v, scope) for v in proto.outputs)
        name = attributes.pop("name", None)
        if proto.type.startswith("constexpr_"):  # up to iOS17 their parameters are attributes, later inputs
            inputs |= {n: (Value(n, _type_of(c), c),) for n, c in attributes.items() if n not in inputs}
        label = name if isinstance(name, str) else (outputs[0].name if outputs else proto.type)
        return Op(proto.type, label, inputs, outputs, blocks, attributes)

    def _define(self, proto: Any, scope: _Scope, constant: Constant | None = None) -> Value:
        if proto.name in scope.maps[0]:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' defines the value '{proto.name}' twice.")
        scope[proto.name] = Value(proto.name, self._type(proto.type), constant)
        return scope[proto.name]

    def _define_const(self, proto: Any, scope: _Scope) -> None:
        if len(proto.outputs) != 1 or "val" not in proto.attributes:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' holds a const without one value and one name.")
        constant = self._constant(proto.attributes["val"])
        value = self._define(proto.outputs[0], scope, constant)
        text = isinstance(constant, str) or constant.dtype.kind == "U"
        if text != (value.type.dtype is DType.STRING):
            raise ModelFileError(
                f"Damaged model: '{self._parts.path}' declares the constant '{value}', which it is not."
            )

    def _lookup(self, name: str, scope: Mapping[str, Value]) -> Value:
        if name not in scope:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' uses the value '{name}' before it is defined.")
        return scope[name]

    def _arguments(self, proto: Any, scope: Mapping[str, Value]) -> tuple[Value, ...]:
        values: list[Value] = []
        if not proto.arguments:
            raise ModelFileError(f"Damaged model: '{self._parts.path}' holds an op with an argument of no values.")
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
            if wrapped.dtype is DType.STRING or wrapped.kind is not Kind.TENSOR:
                raise ModelFileError(f"Damaged model: '{self._parts.path}' keeps a state of type {wrapped}.")
            return Type(wrapped.dtype, wrapped.shape, Kind.STATE)
        if kind == "dictionaryType":
            value = self._type(proto.dictionaryType.valueType)
            keys = self._type(proto.dictionaryType.keyType).dtype
            return Type(value.dtype, value.shape, Kind.DICTIONARY, keys=keys)
        if kind != "tensorType":
            raise ModelFileError(f"'{self._parts.path}' uses a value of kind '{kind}', which this version cannot read.")
        tensor = proto.tensorType
        if tensor.dataType not in _DTYPES:
            known = tensor.dataType in MIL.DataType.values()
            name = MIL.DataType.Name(tensor.dataType) if known else str(tensor.dataType)
            raise ModelFileError(f"'{self._parts.path}' uses the element type {name}, which this version cannot read.")
        if len(tensor.dimensions) > _MOST_DIMENSIONS:
            raise ModelFileError(
                f"Damaged model: '{self._parts.path}' declares a tensor of {len(tensor.dimensions)} dimensions."
            )
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
    if field is None or (field == "strings") != (dtype is DType.STRING):
        raise ModelFileError(
            f"Damaged model: '{path}' holds a constant of type {dtype.value}{list(shape)} "
            + ("without a value." if field is None else f"whose value is given as {field}.")
        )
    data = getattr(tensor, field).values
    count = 1
    for dim in shape:
        count *= dim
    if field == "strings":
        if not shape and len(data) == 1:
            return str(data[0])
        flat = np.array(list(data), np.str_)
    elif field != "bytes":
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
