"""``ExportedProgram`` → MIL program in float32 → ``MLModel``, through coremltools' own passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nanproof.errors import ConversionError, UsageError
from nanproof.mil import lowerings as lowerings  # importing registers them
from nanproof.mil.coreml import ct, quiet, types
from nanproof.mil.names import base_name

__all__ = ["Options", "Typing", "lower", "package"]

_CAST_PASS = "common::add_fp16_cast"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``coremltools.convert`` that nanproof passes on. Their meaning is coremltools' own.

    Attributes:
        minimum_deployment_target: ``coremltools.target``, or its name (``"iOS17"``).
        inputs: List of ``coremltools.TensorType``, to rename inputs or to set their dtype.
        outputs: List of ``coremltools.TensorType``, to name outputs or to set their dtype.
        compute_units: ``coremltools.ComputeUnit`` that the returned ``MLModel`` carries.
    """

    minimum_deployment_target: Any = "iOS17"
    inputs: Any = None
    outputs: Any = None
    compute_units: Any = None

    @property
    def target(self) -> Any:
        """The deployment target as coremltools' enumeration.

        Raises:
            UsageError: There is no such target, or it predates ML Programs.
        """
        target = self.minimum_deployment_target
        if isinstance(target, str):
            known = {t.name: t for t in ct.target}
            if target not in known:
                raise UsageError(f"Unknown deployment target '{target}'. Known: {', '.join(known)}.")
            target = known[target]
        if target < ct.target.iOS15:
            raise UsageError(f"ML Programs need iOS15 or later; the deployment target is {target.name}.")
        return target

    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of ``coremltools.convert``."""
        given: dict[str, Any] = {"minimum_deployment_target": self.target}
        if self.compute_units is not None:
            given["compute_units"] = self.compute_units
        return given


def lower(exported: Any, options: Options) -> Any:
    """Lower an exported program to a MIL program in float32, by coremltools' passes up to the FP16 cast.

    Raises:
        ConversionError: coremltools cannot lower an operator, or one of its passes fails.
    """
    given: dict[str, Any] = {"inputs": options.inputs, "outputs": options.outputs}
    keywords = {k: v for k, v in given.items() if v is not None}
    return _convert(
        exported,
        convert_to="milinternal",
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=_passes(before_cast=True),
        **options.keywords(),
        **keywords,
    )


@dataclass(frozen=True, slots=True)
class Typing:
    """Which ops and outputs of a MIL program become FP16.

    Attributes:
        fp16: Whether to type the program FP16 at all.
        fp32_ops: Names of the ops that stay FP32.
        fp32_outputs: Names of the outputs that stay FP32 where coremltools would make them FP16.
        metadata: User-defined metadata to write into the package.
    """

    fp16: bool = True
    fp32_ops: Collection[str] = ()
    fp32_outputs: Collection[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def package(pymil: Any, typing: Typing, options: Options) -> Any:
    """Type a float32 MIL program and make an ``MLModel`` of it. ``pymil`` is consumed: its passes work in place.

    The model is not loaded by Core ML, so this works on any OS.

    Raises:
        ConversionError: A coremltools pass fails.
    """
    precision: Any = ct.precision.FLOAT32
    if typing.fp16:
        kept = frozenset(typing.fp32_ops)

        def selected(op: Any) -> bool:
            return base_name(op.name) not in kept

        precision = ct.transform.FP16ComputePrecision(op_selector=selected)
        if options.outputs is None and options.target >= ct.target.iOS16:
            _type_outputs(pymil, typing.fp32_outputs)
    model = _convert(
        pymil,
        source="milinternal",
        convert_to="mlprogram",
        compute_precision=precision,
        pass_pipeline=_passes(before_cast=False),
        skip_model_load=True,
        **options.keywords(),
    )
    for key, value in typing.metadata.items():
        model.user_defined_metadata[key] = value
    return model


def _passes(*, before_cast: bool) -> Any:
    """coremltools' default pipeline, cut in two at the FP16 cast."""
    names = list(ct.PassPipeline().passes)
    cut = names.index(_CAST_PASS)
    return ct.PassPipeline(names[:cut] if before_cast else names[cut:], "nanproof")


def _type_outputs(pymil: Any, fp32_outputs: Collection[str]) -> None:
    """From iOS16 on coremltools gives an FP16 program FP16 outputs; do the same, but for those that must not be."""
    function = pymil.functions["main"]
    function.output_types = [
        ct.TensorType(dtype=types.fp16 if var.dtype == types.fp32 and var.name not in fp32_outputs else var.dtype)
        for var in function.outputs
    ]


def _convert(model: Any, **keywords: Any) -> Any:
    convert: Callable[..., Any] = ct.convert
    try:
        with quiet():
            return convert(model, **keywords)
    except Exception as error:  # coremltools raises ValueError, RuntimeError, AssertionError, KeyError, ... alike
        text = str(error).strip() or type(error).__name__
        raise ConversionError(
            f"coremltools {ct.__version__} cannot convert this program: {text}\n"
            "  If an operator is missing, replace it in the model or register a lowering for it with coremltools'\n"
            "  register_torch_op. `nanproof doctor` shows whether the installed versions are known to work together."
        ) from error
