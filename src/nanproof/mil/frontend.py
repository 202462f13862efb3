"""``ExportedProgram`` or TorchScript → MIL program in float32 → ``MLModel``, through coremltools' own passes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.export import ExportedProgram

from nanproof.errors import ConversionError, UsageError
from nanproof.mil import control_flow as control_flow  # importing registers them
from nanproof.mil import lowered_attention as lowered_attention
from nanproof.mil import lowered_convolution as lowered_convolution
from nanproof.mil import lowered_normalisation as lowered_normalisation
from nanproof.mil import lowered_recurrence as lowered_recurrence
from nanproof.mil import lowerings as lowerings
from nanproof.mil.checkpoints import Visitor, visited, with_checkpoints
from nanproof.mil.coreml import ct, quiet, types
from nanproof.mil.names import base_name
from nanproof.mil.narrowing import SOUND_PASS
from nanproof.mil.pipeline import Halves, Selector, halves
from nanproof.mil.reflect import reflect
from nanproof.mil.sources import KEY, encode, sources_of
from nanproof.mil.states import check_states, checked_states
from nanproof.program import Source

__all__ = ["Options", "Packaged", "Typing", "lower", "package"]

_VALID_NAMES = "mil_backend::sanitize_name_strings"
"""Names of TorchScript are numbers and the like, and the file has others: without this, ops could not be told apart."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``coremltools.convert`` that nanproof passes on. Their meaning is coremltools' own.

    Attributes:
        minimum_deployment_target: ``coremltools.target``, or its name (``"iOS17"``).
        inputs: List of ``coremltools.TensorType`` and ``ImageType``: names, dtypes, flexible shapes, images. It is
            copied before coremltools completes it in place.
        outputs: List of ``coremltools.TensorType`` and ``ImageType``, to name outputs or to set their dtype.
        compute_units: ``coremltools.ComputeUnit`` that the returned ``MLModel`` carries.
        without_passes: Names of graph passes to leave out.
        classifier_config: ``coremltools.ClassifierConfig``.
        pass_pipeline: ``coremltools.PassPipeline``; the default one without it.
        selector: Which MIL ops may become FP16 at all; all without it.
        debug: Whether coremltools prints the missing operators.
        states: List of ``coremltools.StateType``: the buffers of the module that the program keeps.
        default_shapes: The shapes to name first where a range of shapes comes from torch.export, one for each input.
    """

    minimum_deployment_target: Any = "iOS17"
    inputs: Any = None
    outputs: Any = None
    compute_units: Any = None
    without_passes: frozenset[str] = frozenset()
    classifier_config: Any = None
    pass_pipeline: Any = None
    selector: Selector | None = None
    debug: bool = False
    states: Any = None
    default_shapes: Sequence[Sequence[int]] = ()

    def check(self) -> None:
        """Tell what coremltools would refuse only at the end.

        Raises:
            UsageError: The target, the classifier, the states or the pass pipeline is wrong.
        """
        _ = self.target, self.passes
        check_states(self.states)
        given = self.classifier_config
        if given is not None and not isinstance(given, ct.ClassifierConfig):
            raise UsageError(
                f"`classifier_config` is a coremltools.ClassifierConfig, and not a {type(given).__name__}:\n"
                "  for example coremltools.ClassifierConfig(['cat', 'dog'])"
            )

    @property
    def passes(self) -> Halves:
        """The passes before and after the point at which nanproof looks at the program.

        Raises:
            UsageError: See :func:`nanproof.mil.pipeline.halves`.
        """
        return halves(self.pass_pipeline, self.without_passes)

    def with_states(self, changed: Mapping[str, Sequence[int]]) -> Options:
        """The options with the states of a model, of which the shapes are given by name.

        Raises:
            UsageError: The target has no states, or others are declared.
        """
        if not changed and not self.states:
            return self
        if changed and self.target < ct.target.iOS18:
            raise UsageError(
                f"forward changes the buffer{'s' * (len(changed) > 1)} {', '.join(changed)} in place: they are states "
                f"of the Core ML model, which\n  iOS18 is the first to have, and the deployment target is "
                f"{self.target.name}. Pass minimum_deployment_target='iOS18'\n  (on the command line --target iOS18); "
                "or pass the old values in and return the new ones."
            )
        return replace(self, states=checked_states(self.states, changed))

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


def lower(model: Any, options: Options, visitor: Visitor | None = None) -> Any:
    """Lower an exported program or a TorchScript module to a MIL program in float32, by the passes up to the FP16 cast.

    ``visitor`` is shown the program before the first pass and after each one.

    Raises:
        ConversionError: coremltools cannot lower an operator, or one of its passes fails.
        UsageError: A classifier is to take its probabilities from a tensor that is no output.
    """
    given: dict[str, Any] = {"inputs": options.inputs, "outputs": options.outputs, "states": options.states}
    keywords = {k: copy.deepcopy(v) for k, v in given.items() if v}
    names = options.passes.before if isinstance(model, ExportedProgram) else (*options.passes.before, _VALID_NAMES)
    pymil = _convert(
        model,
        visitor,
        names,
        options.passes,
        convert_to="milinternal",
        compute_precision=ct.precision.FLOAT32,
        debug=options.debug,
        **options.keywords(),
        **keywords,
    )
    if options.inputs is None:
        _name_defaults(pymil, options.default_shapes)
    _require_classified(pymil, options.classifier_config)
    return pymil


def _require_classified(pymil: Any, config: Any) -> None:
    """A classifier's probabilities are an output; the names of other tensors change when they become FP16.

    Raises:
        UsageError: They are not.
    """
    name = None if config is None else config.predicted_probabilities_output
    outputs = [var.name for var in pymil.functions["main"].outputs]
    if name and name not in outputs:
        raise UsageError(
            f"predicted_probabilities_output='{name}' is no output of the model, which has {', '.join(outputs)}.\n"
            "  Name one of these; `outputs=[coremltools.TensorType(name=...)]` gives them names of your own."
        )


def _name_defaults(pymil: Any, shapes: Sequence[Sequence[int]]) -> None:
    """The shape that the file names first: coremltools takes the smallest, where torch.export knows the example's."""
    flexible = [declared.shape for declared in pymil.functions["main"].input_types]
    for shape, sizes in zip(flexible, shapes, strict=False):
        if any(isinstance(dim, ct.RangeDim) for dim in shape.shape):
            for dim, size in zip(shape.shape, sizes, strict=True):
                if isinstance(dim, ct.RangeDim):
                    dim.default = size
            shape.default = tuple(sizes)


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


@dataclass(frozen=True, slots=True)
class Packaged:
    """An ``MLModel``, and the source of each of its ops by name."""

    model: Any
    sources: Mapping[str, Source]


def package(
    pymil: Any,
    typing: Typing,
    options: Options,
    sources: Mapping[int, Source] | None = None,
    visitor: Visitor | None = None,
) -> Packaged:
    """Type a float32 MIL program and make an ``MLModel`` of it. ``pymil`` is consumed: its passes work in place.

    The model is not loaded by Core ML, so this works on any OS. Its metadata hold the source map (see
    :mod:`nanproof.mil.sources`) of what ``sources`` knows by ``debug_handle``. ``visitor`` is as for :func:`lower`.

    Raises:
        ConversionError: A coremltools pass fails.
    """
    precision: Any = ct.precision.FLOAT32
    if typing.fp16:
        kept = frozenset(typing.fp32_ops)

        def selected(op: Any) -> bool:
            return base_name(op.name) not in kept and (options.selector is None or bool(options.selector(op)))

        precision = ct.transform.FP16ComputePrecision(op_selector=selected)
        if options.target >= ct.target.iOS16:
            _type_outputs(pymil, typing.fp32_outputs, options.outputs)
    if options.classifier_config is not None:
        _untype_outputs(pymil)
    model = _convert(
        pymil,
        visitor,
        # As coremltools does with its own cast of integers: a program in FP32 is left in int32.
        [name for name in options.passes.after if typing.fp16 or name != SOUND_PASS],
        options.passes,
        source="milinternal",
        convert_to="mlprogram",
        compute_precision=precision,
        skip_model_load=True,
        classifier_config=options.classifier_config,
        **options.keywords(),
    )
    for key, value in typing.metadata.items():
        model.user_defined_metadata[key] = value
    named = sources_of(reflect(model._mil_program, sources))
    if named:
        model.user_defined_metadata[KEY] = encode(named)
    # With the program, `save` would write a map of its own beside the manifest, and fail for one with nested blocks.
    model._mil_program = None
    return Packaged(model, named)


def _type_outputs(pymil: Any, fp32_outputs: Collection[str], declared: Sequence[Any] | None) -> None:
    """From iOS16 on coremltools gives an FP16 program FP16 outputs; do the same, but for those that must not be.

    An image, or an output for which the user has declared a dtype, stays what it is.
    """
    function = pymil.functions["main"]
    typed = list(function.output_types or [None] * len(function.outputs))
    for i, var in enumerate(function.outputs):
        theirs = declared[i] if declared else None
        if theirs is None or not (isinstance(theirs, ct.ImageType) or getattr(theirs, "dtype", None) is not None):
            dtype = types.fp16 if var.dtype == types.fp32 and var.name not in fp32_outputs else var.dtype
            typed[i] = ct.TensorType(dtype=dtype)
    function.output_types = typed


def _untype_outputs(pymil: Any) -> None:
    """coremltools 9.0 adds a classifier's label to the outputs and not to their types, and fails for a second output.

    Names and dtypes are in the program by now, so that the types can go unless they tell of an image.
    """
    function = pymil.functions["main"]
    if len(function.outputs) > 1 and not any(isinstance(t, ct.ImageType) for t in function.output_types or ()):
        function.output_types = None


def _convert(model: Any, visitor: Visitor | None, passes: Sequence[str], given: Halves, **keywords: Any) -> Any:
    convert: Callable[..., Any] = ct.convert
    try:
        with quiet():
            if visitor is None:
                return convert(model, pass_pipeline=given.pipeline(passes), **keywords)
            pipeline = with_checkpoints(passes)
            pipeline._pass_options = given.pipeline(passes).get_all_options()
            with visited(visitor, passes):
                return convert(model, pass_pipeline=pipeline, **keywords)
    except Exception as error:  # coremltools raises ValueError, RuntimeError, AssertionError, KeyError, ... alike
        text = str(error).strip() or type(error).__name__
        raise ConversionError(
            f"coremltools {ct.__version__} cannot convert this program: {text}\n"
            "  If an operator is missing, replace it in the model or register a lowering for it with coremltools'\n"
            "  register_torch_op. `nanproof doctor` shows whether the installed versions are known to work together."
        ) from error
