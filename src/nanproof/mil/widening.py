"""FP16 → FP32 in the messages of a file: what coremltools' FP16 cast has done to a function, undone.

Constants and types become float32, and casts between FP16 and FP32 disappear. Three things are FP16 by their nature and
stay so, each with one cast beside it: inputs that the caller passes in FP16, states, which Core ML keeps in no other
type, and weights that are stored compressed, so that what is stored stays what it is.

A cast that the model's author asked for cannot be told from one that the converter inserted, and disappears as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.mil.names import base_name
from nanproof.mil.proto import MIL
from nanproof.program import DType

__all__ = ["BEYOND", "Stored", "Widened", "finite", "widened"]

BEYOND = 1.5e38
"""What stands for infinity in float32: coremltools lets nothing below 1e38 become infinite; twice it is no overflow."""

_HALF, _SINGLE = MIL.FLOAT16, MIL.FLOAT32
_FLOATS = (_HALF, _SINGLE)
_STORED_TYPES = {
    MIL.FLOAT16: DType.FP16,
    MIL.FLOAT32: DType.FP32,
    MIL.INT4: DType.INT4,
    MIL.INT8: DType.INT8,
    MIL.INT16: DType.INT16,
    MIL.INT32: DType.INT32,
    MIL.UINT1: DType.UINT1,
    MIL.UINT2: DType.UINT2,
    MIL.UINT3: DType.UINT3,
    MIL.UINT4: DType.UINT4,
    MIL.UINT6: DType.UINT6,
    MIL.UINT8: DType.UINT8,
    MIL.UINT16: DType.UINT16,
    MIL.UINT32: DType.UINT32,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a constant lies in a weight file. ``dtype`` is the type that it has there."""

    file_name: str
    offset: int
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Widened:
    """A function in float32.

    Attributes:
        function: Its message. A constant in a weight file is referred to by its place in ``stored``.
        stored: The constants that lie in weight files.
        old_names: For each op, the name that it has in the file.
    """

    function: Any
    stored: list[Stored] = field(default_factory=list[Stored])
    old_names: dict[str, str] = field(default_factory=dict[str, str])


def finite(half: np.ndarray) -> np.ndarray:
    """FP16 constants in float32: what became infinite in FP16 is a huge number again. NaN stays NaN."""
    wide = half.astype(np.float32)
    return np.where(np.isinf(wide), np.copysign(np.float32(BEYOND), wide), wide)


def widened(function: Any, path: str) -> Widened:
    """Undo the FP16 cast of a function.

    Names lose the suffixes that the cast has given them. Inputs, states and outputs keep their names; inputs keep their
    types, and outputs become float32.

    Args:
        function: The message ``MILSpec.Function``; it stays as it is.
        path: The package, for errors.

    Raises:
        ModelFileError: The function holds something that coremltools does not read back into a program.
    """
    work = _Widening(function, path)
    made = MIL.Function()
    made.CopyFrom(function)
    made.block_specializations[function.opset].CopyFrom(work.function_block())
    return Widened(made, work.stored, work.old_names)


class _Names:
    """Names without the suffixes of the FP16 cast, each given once."""

    def __init__(self, reserved: Iterable[str]) -> None:
        self._taken = set(reserved)

    def fresh(self, name: str) -> str:
        wanted = _plain(name)
        found, count = wanted, 0
        while found in self._taken:
            count += 1
            found = f"{wanted}_{count}"
        self._taken.add(found)
        return found


def _plain(name: str) -> str:
    """A name without what the FP16 cast appends to it, to constants another suffix than to ops."""
    while True:
        shorter = base_name(name).removesuffix("_to_fp16")
        if shorter == name or not shorter:
            return name
        name = shorter


class _Widening:
    def __init__(self, function: Any, path: str) -> None:
        self._source = function.block_specializations[function.opset]
        self._inputs = {v.name: v.type for v in function.inputs}
        self._path = path
        self._names = _Names([*self._inputs, *self._source.outputs])
        self._op_names = _Names([])
        self._new: dict[str, str] = {name: name for name in self._inputs}
        self._raw: dict[str, str] = dict(self._new)
        self._types: dict[str, Any] = dict(self._inputs)
        self._texts: dict[str, str] = {}
        self._claimed: dict[str, str] = {}
        self.stored: list[Stored] = []
        self.old_names: dict[str, str] = {}

    def function_block(self) -> Any:
        """The block of the function, in float32."""
        self._claim_outputs()
        made = MIL.Block(outputs=list(self._source.outputs))
        for name, type in self._inputs.items():
            if type.WhichOneof("type") == "tensorType" and _element(type) == _HALF:
                self._new[name] = self._names.fresh(f"{name}_fp32")
                made.operations.append(self._cast(name, self._new[name], _typed(type, _SINGLE)))
        for operation in self._source.operations:
            made.operations.extend(self._widened(operation, self._source.outputs))
        return made

    def _claim_outputs(self) -> None:
        """Let a value that is cast to an output, and to no other, take its name: so the cast can disappear."""
        makers = {v.name: op for op in self._source.operations for v in op.outputs}
        outputs = set(self._source.outputs)
        for output in self._source.outputs:
            root = _root(output, makers, self._inputs)
            maker = makers.get(root)
            computed = maker is not None and maker.type not in ("const", "read_state") and "constexpr" not in maker.type
            if root not in outputs and root not in self._claimed and computed:
                self._claimed[root] = output

    def _widened(self, operation: Any, outputs: Iterable[str]) -> list[Any]:
        if operation.type == "const":
            return [self._constant(operation)]
        if operation.type.startswith("constexpr_"):
            return self._beside(operation, self._raw, "compressed")
        if operation.type == "read_state":
            return self._beside(operation, self._new, "state")
        if operation.type == "write_state":
            return self._state_written(operation)
        if _is_float_cast(operation, self._types):
            return self._cast_away(operation, outputs)
        return [self._generic(operation)]

    def _constant(self, operation: Any) -> Any:
        made, output = MIL.Operation(), operation.outputs[0]
        made.CopyFrom(operation)
        value = made.attributes["val"]
        if value.WhichOneof("value") == "blobFileValue":
            self._store(value)
        elif _element(value.type) == _HALF:
            _widen_immediate(value)
        elif _element(value.type) == MIL.STRING and len(value.immediateValue.tensor.strings.values) == 1:
            self._texts[output.name] = value.immediateValue.tensor.strings.values[0]
        value.type.CopyFrom(_typed(value.type, _SINGLE))
        self._named(made, operation)
        made.outputs[0].type.CopyFrom(_typed(output.type, _SINGLE))
        return made

    def _store(self, value: Any) -> None:
        """Refer to a constant in a weight file by its number."""
        type = value.type.tensorType
        if type.dataType not in _STORED_TYPES:
            raise ModelFileError(f"'{self._path}' stores a constant of an element type that no weight file has.")
        shape = tuple(int(d.constant.size) for d in type.dimensions)
        blob = value.blobFileValue
        self.stored.append(Stored(blob.fileName, int(blob.offset), _STORED_TYPES[type.dataType], shape))
        blob.fileName, blob.offset = "weight.bin", len(self.stored) - 1

    def _beside(self, operation: Any, scope: Mapping[str, str], what: str) -> list[Any]:
        """An op that stays as it is, and a cast to float32 of each FP16 result."""
        made = MIL.Operation()
        made.CopyFrom(operation)
        for value in [*made.attributes.values(), *(b.value for a in made.inputs.values() for b in a.arguments)]:
            if value.WhichOneof("value") == "blobFileValue":
                self._store(value)
        self._bind(made, scope)
        self._rename(made, operation)
        casts: list[Any] = []
        for output in made.outputs:
            old = output.name
            self._types[old] = output.type
            if _element(output.type) != _HALF:
                self._new[old] = self._raw[old] = output.name = self._result(old)
                continue
            self._new[old] = self._result(old)
            self._raw[old] = output.name = self._names.fresh(f"{_plain(old)}_{what}")
            casts.append(self._cast(output.name, self._new[old], _typed(output.type, _SINGLE)))
        return [made, *casts]

    def _state_written(self, operation: Any) -> list[Any]:
        made = MIL.Operation()
        made.CopyFrom(operation)
        self._rename(made, operation)
        state, data = _binding(operation, "input"), _binding(operation, "data")
        made.inputs["input"].arguments[0].name = self._new[state]
        if _element(self._types[state]) != _HALF:
            made.inputs["data"].arguments[0].name = self._new[data]
            return [made]
        narrow = self._names.fresh(f"{self._new[data]}_state")
        made.inputs["data"].arguments[0].name = narrow
        return [self._cast(self._new[data], narrow, _typed(self._types[data], _HALF)), made]

    def _cast_away(self, operation: Any, outputs: Iterable[str]) -> list[Any]:
        old, root = operation.outputs[0].name, _binding(operation, "x")
        self._types[old] = operation.outputs[0].type
        if old not in outputs or self._new[root] == old:
            self._new[old] = self._new[root]
            return []
        # The value has another name already, or is an input: the output needs an op of its own.
        made = MIL.Operation(type="identity")
        made.inputs["x"].arguments.add().name = self._new[root]
        self._rename(made, operation)
        self._new[old] = self._result(old)
        made.outputs.add(name=self._new[old], type=_typed(operation.outputs[0].type, _SINGLE))
        return [made]

    def _generic(self, operation: Any) -> Any:
        made = MIL.Operation()
        made.CopyFrom(operation)
        del made.blocks[:]
        for name, argument in made.inputs.items():
            for binding in argument.arguments:
                if name.endswith("dtype") and self._text_of(binding) == "fp16":
                    binding.value.CopyFrom(_text("fp32"))
                elif binding.WhichOneof("binding") == "value":
                    self._widen_argument(binding.value)
        self._bind(made, self._new)
        for block in operation.blocks:
            made.blocks.append(self._block(block))
        self._named(made, operation)
        for output in made.outputs:
            output.type.CopyFrom(_typed(output.type, _SINGLE))
        return made

    def _text_of(self, binding: Any) -> str:
        if binding.WhichOneof("binding") == "name":
            return self._texts.get(binding.name, "")
        texts = binding.value.immediateValue.tensor.strings.values
        return texts[0] if len(texts) == 1 else ""

    def _widen_argument(self, value: Any) -> None:
        if value.WhichOneof("value") == "blobFileValue":
            self._store(value)
        elif value.type.WhichOneof("type") == "tensorType" and _element(value.type) == _HALF:
            _widen_immediate(value)
        value.type.CopyFrom(_typed(value.type, _SINGLE))

    def _block(self, block: Any) -> Any:
        made = MIL.Block()
        for given in block.inputs:
            self._types[given.name] = given.type
            self._new[given.name] = self._names.fresh(given.name)
            made.inputs.add(name=self._new[given.name], type=_typed(given.type, _SINGLE))
        makers = {v.name: op for op in block.operations for v in op.outputs}
        roots = {name: _root(name, makers, self._types) for name in block.outputs}
        for operation in block.operations:
            made.operations.extend(self._widened(operation, [n for n, root in roots.items() if root not in makers]))
        made.outputs.extend(self._new[name] for name in block.outputs)
        return made

    def _bind(self, made: Any, scope: Mapping[str, str]) -> None:
        for argument in made.inputs.values():
            for binding in argument.arguments:
                if binding.WhichOneof("binding") == "name":
                    binding.name = scope[binding.name] if binding.name in scope else self._new[binding.name]

    def _named(self, made: Any, operation: Any) -> None:
        """Give an op and its results their new names."""
        self._rename(made, operation)
        for output in made.outputs:
            old = output.name
            self._types[old] = output.type
            self._new[old] = self._raw[old] = output.name = self._result(old)

    def _rename(self, made: Any, operation: Any) -> None:
        given = operation.attributes["name"].immediateValue.tensor.strings.values if operation.attributes else []
        old = given[0] if given else (operation.outputs[0].name if operation.outputs else operation.type)
        new = self._op_names.fresh(old)
        self.old_names[new] = old
        made.attributes["name"].CopyFrom(_text(new))

    def _result(self, old: str) -> str:
        """The name of a result: that of the output which it is, or is cast to."""
        if old in self._claimed:
            return self._claimed[old]
        return old if old in self._source.outputs else self._names.fresh(old)

    def _cast(self, x: str, name: str, type: Any) -> Any:
        made = MIL.Operation(type="cast")
        made.attributes["name"].CopyFrom(_text(self._op_names.fresh(name)))
        made.inputs["x"].arguments.add().name = x
        text = "fp16" if _element(type) == _HALF else "fp32"
        made.inputs["dtype"].arguments.add().value.CopyFrom(_text(text))
        made.outputs.add(name=name, type=type)
        return made


def _is_float_cast(operation: Any, types: Mapping[str, Any]) -> bool:
    """Whether an op only changes the width of floats."""
    if operation.type != "cast":
        return False
    given = types.get(_binding(operation, "x"))
    return given is not None and _element(given) in _FLOATS and _element(operation.outputs[0].type) in _FLOATS


def _root(name: str, makers: Mapping[str, Any], around: Mapping[str, Any]) -> str:
    """The value of which another is but a cast, as far as the ops of one block tell."""
    types = {**around, **{value.name: value.type for op in makers.values() for value in op.outputs}}
    while name in makers and _is_float_cast(makers[name], types):
        name = _binding(makers[name], "x")
    return name


def _binding(operation: Any, name: str) -> str:
    return operation.inputs[name].arguments[0].name


def _element(type: Any) -> int:
    """The element type of a tensor, of a state or of the elements of a list; 0 for all else."""
    kind = type.WhichOneof("type")
    if kind == "tensorType":
        return type.tensorType.dataType
    if kind == "stateType":
        return _element(type.stateType.wrappedType)
    return _element(type.listType.type) if kind == "listType" else 0


def _typed(type: Any, wanted: int) -> Any:
    """A type with another width of floats, as deep as it goes; states stay what they are."""
    made = MIL.ValueType()
    made.CopyFrom(type)
    pending: list[Any] = [made]
    parts: Mapping[str, Callable[[Any], list[Any]]] = {
        "listType": lambda t: [t.listType.type],
        "tupleType": lambda t: list(t.tupleType.types),
        "dictionaryType": lambda t: [t.dictionaryType.keyType, t.dictionaryType.valueType],
    }
    while pending:
        one = pending.pop()
        kind = one.WhichOneof("type")
        if kind == "tensorType" and one.tensorType.dataType in _FLOATS:
            one.tensorType.dataType = wanted
        elif kind in parts:
            pending += parts[kind](one)
    return made


def _widen_immediate(value: Any) -> None:
    """A constant that stands in the message itself: FP16 is bytes there, and float32 is numbers."""
    tensor = value.immediateValue.tensor
    numbers = finite(np.frombuffer(tensor.bytes.values, np.float16))
    tensor.Clear()
    tensor.floats.values.extend(numbers.tolist())


def _text(text: str) -> Any:
    value = MIL.Value()
    value.type.tensorType.dataType = MIL.STRING
    value.immediateValue.tensor.strings.values.append(text)
    return value
