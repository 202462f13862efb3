"""The float32 twin of a function in a package: as a MIL program to be edited, and written as a package again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanproof.errors import ConversionError
from nanproof.mil.blob import BlobFile
from nanproof.mil.coreml import (
    MILProgram,
    ScopeSource,
    TranscriptionContext,
    ct,
    load_function,
    mil_convert,
    quiet,
    types,
)
from nanproof.mil.description import function_description
from nanproof.mil.frontend import Packaged, Typing
from nanproof.mil.names import base_name
from nanproof.mil.package import PackageParts
from nanproof.mil.proto import FeatureTypes, Model
from nanproof.mil.reflect import reflect
from nanproof.mil.sources import KEY, encode, sources_of
from nanproof.mil.widening import Stored, Widened, finite, widened
from nanproof.program import DType, Program, Source

__all__ = ["Twin"]

_PASSES = (
    "common::update_output_dtypes",
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::cast_optimization",
    "common::dead_code_elimination",
    "common::const_elimination",
    "common::const_deduplication",
    "common::dead_code_elimination",
    "common::dedup_op_and_var_names",
)
"""What cleans up behind the FP16 cast. The program has been through all others when it was made."""


@dataclass(frozen=True, slots=True)
class Twin:
    """A function of a package, with all that it takes to make its float32 program, and a package of that.

    Attributes:
        parts: The package.
        old: The program as it is in the file, with this function as the default one.
        wide: The function in float32, as a message.
        sources: Where ops come from, as far as the package knows, each by a number that coremltools' passes hand on.
    """

    parts: PackageParts
    old: Program
    wide: Widened
    sources: Mapping[int, Source] = field(default_factory=dict[int, Source])

    @classmethod
    def of(cls, parts: PackageParts, old: Program) -> Twin:
        """The twin of the default function of ``old``.

        Raises:
            ModelFileError: The function holds something that cannot be read back.
        """
        wide = widened(parts.spec.mlProgram.functions[old.default], str(parts.path))
        known = {op.name: op.source for op in old.main.block.walk() if op.source is not None}
        sources = {i: known[name] for i, name in enumerate(wide.old_names.values()) if name in known}
        return cls(parts, old, wide, sources)

    def pymil(self) -> Any:
        """coremltools' MIL program in float32, made anew each time: the function is its ``main``.

        Raises:
            ConversionError: coremltools cannot read the function.
        """
        version = self.parts.spec.specificationVersion
        context = TranscriptionContext()
        context.blob_reader_from_filename["weight.bin"] = _Weights(self.parts, self.wide.stored)
        program = MILProgram()
        try:
            with quiet():
                program.add_function("main", load_function(context, self.wide.function, version))
        except Exception as error:  # coremltools raises ValueError, KeyError, AssertionError, ... alike
            text = str(error).strip() or type(error).__name__
            raise ConversionError(
                f"coremltools {ct.__version__} cannot read the program in '{self.parts.path}' back: {text}\n"
                "  `nanproof check` executes and checks it all the same. To repair it, convert it from its source."
            ) from error
        self._number(program.functions["main"], {name: i for i, name in enumerate(self.wide.old_names)})
        return program

    def _number(self, block: Any, numbers: Mapping[str, int]) -> None:
        for operation in block.operations:
            if operation.name in numbers:
                operation.scopes[ScopeSource.EXIR_DEBUG_HANDLE] = [numbers[operation.name]]
            for inner in operation.blocks:
                self._number(inner, numbers)

    def package(self, pymil: Any, typing: Typing) -> Packaged:
        """Type a MIL program of :meth:`pymil`, perhaps edited, and make an ``MLModel`` of it. ``pymil`` is used up.

        The model's description and deployment target are those of the package.

        Raises:
            ConversionError: A coremltools pass fails.
        """
        kept = frozenset(typing.fp32_ops)

        def selected(op: Any) -> bool:
            return op.op_type != "classify" and base_name(op.name) not in kept  # it has inputs of which no dtype is

        try:
            with quiet():
                if typing.fp16:
                    ct.transform.FP16ComputePrecision(op_selector=selected).apply(pymil)
                pymil.functions["main"].output_types = self._output_types(pymil, typing)
                description = self._description(typing)
                model = mil_convert(
                    pymil,
                    convert_from="milinternal",
                    convert_to="mlprogram",
                    compute_units=ct.ComputeUnit.ALL,
                    specification_version=self.parts.spec.specificationVersion,
                    model_description=description,
                    pass_pipeline=ct.PassPipeline(list(_PASSES), "nanproof"),
                    skip_model_load=True,
                )
        except Exception as error:
            text = str(error).strip() or type(error).__name__
            raise ConversionError(
                f"coremltools {ct.__version__} cannot write the repaired program of '{self.parts.path}': {text}"
            ) from error
        for key, value in typing.metadata.items():
            model.user_defined_metadata[key] = value
        named = sources_of(reflect(model._mil_program, self.sources))
        if named:
            model.user_defined_metadata[KEY] = encode(named)
        model._mil_program = None  # else `save` writes a map of its own beside the manifest
        return Packaged(model, named)

    def _output_types(self, pymil: Any, typing: Typing) -> list[Any]:
        """Outputs have the types that they have in the file, but for those that FP16 cannot hold."""
        half = {n for n, t in self.old.outputs.items() if t.dtype is DType.FP16} - set(typing.fp32_outputs)
        outputs = pymil.functions["main"].outputs
        # Without a dtype an output, such as the label of a classifier, stays what it is.
        return [ct.TensorType(dtype=types.fp16 if var.name in half else None) for var in outputs]

    def _description(self, typing: Typing) -> Any:
        """The description of the package, for this function alone, with the types of outputs that have changed."""
        whole, name = self.parts.spec.description, self.old.default
        made = Model.ModelDescription()
        made.CopyFrom(whole)
        if whole.functions:
            described = function_description(whole, name, name)
            made = Model.ModelDescription(
                input=described.input,
                output=described.output,
                state=described.state,
                predictedFeatureName=described.predictedFeatureName,
                predictedProbabilitiesName=described.predictedProbabilitiesName,
                metadata=whole.metadata,
            )
        for output in made.output:
            half = FeatureTypes.ArrayFeatureType.FLOAT16
            if output.name in typing.fp32_outputs and output.type.multiArrayType.dataType == half:
                output.type.multiArrayType.dataType = FeatureTypes.ArrayFeatureType.FLOAT32
        return made


class _Weights:
    """What coremltools' loader asks for the constants of a file, by their number in place of an offset.

    The bytes go through our own reader, which checks every offset.
    """

    def __init__(self, parts: PackageParts, stored: list[Stored]) -> None:
        self._parts = parts
        self._stored = stored
        self._files: dict[str, BlobFile] = {}

    def __getattr__(self, name: str) -> Callable[[int], np.ndarray]:
        if not (name.startswith("read_") and name.endswith("_data")):
            raise AttributeError(name)
        return self._float32 if name == "read_float_data" else self._as_stored

    def _as_stored(self, number: int) -> np.ndarray:
        one = self._stored[number]
        if one.file_name not in self._files:
            self._files[one.file_name] = BlobFile(self._parts.resolve(one.file_name))
        return self._files[one.file_name].read(one.offset, one.dtype, one.shape)

    def _float32(self, number: int) -> np.ndarray:
        array = self._as_stored(number)
        return finite(array) if array.dtype == np.float16 else array
