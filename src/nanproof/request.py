"""What the user asks of a conversion: every option, checked before any work is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from nanproof.capture.examples import dynamic_axes
from nanproof.comparison.criteria import Criteria, Metric, criteria_of
from nanproof.errors import UsageError
from nanproof.mil.declared import Declared, declared
from nanproof.mil.frontend import Options
from nanproof.mil.package import check_destination
from nanproof.mil.pipeline import precision_of
from nanproof.numerics import get
from nanproof.stress.kinds import Stated

__all__ = ["Clock", "CoremltoolsOptions", "Precision", "Progress", "Request", "checked"]

_LOG = logging.getLogger("nanproof")
Precision = Literal["auto", "float16", "float32"]
Progress = Callable[[str], None]


@dataclass(slots=True)
class Clock:
    """Wall time by stage; tells ``progress`` what begins."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        """Measure what happens within as part of a stage."""
        _LOG.info("%s", stage)
        if self.progress is not None:
            self.progress(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, checked.

    Attributes:
        precision: ``"auto"``, ``"float16"`` or ``"float32"``.
        numerics: Names of the numerics to judge under.
        tolerance: Largest error that counts as the same, of outputs that have no own.
        stress: Whether to run stress inputs.
        kinds: What the user says of the kinds of inputs, by input name.
        prove: Whether to prove what was tested.
        assume: What a proof assumes of inputs and states beside their kinds, by name.
        options: What coremltools is given.
        declared: The inputs as the user has declared them; empty if they are not.
        dynamic_shapes: As for ``torch.export.export``; from the declared inputs where the user has given none.
        verify_passes: Whether to check every graph pass.
        package_dir: Where to save, if anywhere.
        skip_model_load: Whether the model of the result is not to be loaded by Core ML.
        clock: Tells and keeps the time.
        criteria: When an output counts as the same.
        keep_fp32: What stays FP32 in any case; see :mod:`nanproof.plan.pins`.
        keep_fp16: What becomes FP16 in any case.
    """

    precision: Precision
    numerics: Sequence[str]
    tolerance: float
    stress: bool
    kinds: Stated | None
    prove: bool
    assume: Stated | None
    options: Options
    declared: Sequence[Declared]
    dynamic_shapes: Any
    verify_passes: bool
    package_dir: Path | None
    skip_model_load: bool
    clock: Clock
    criteria: Criteria = field(default_factory=Criteria)
    keep_fp32: tuple[str, ...] = ()
    keep_fp16: tuple[str, ...] = ()


class CoremltoolsOptions(TypedDict, total=False):
    """The options of ``coremltools.convert``. They mean the same here; what differs is said.

    Attributes:
        source: ``"auto"`` or ``"pytorch"``.
        inputs: A list of ``coremltools.TensorType`` and ``ImageType``: names, dtypes, flexible shapes, images.
        outputs: A list of ``coremltools.TensorType`` and ``ImageType``.
        classifier_config: ``coremltools.ClassifierConfig``.
        minimum_deployment_target: ``coremltools.target``; a name such as ``"iOS17"`` will do. That is the default, and
            not coremltools', since from iOS17 on small epsilons stay FP32 beside FP16 data.
        convert_to: ``"mlprogram"``, or nothing.
        compute_precision: ``FLOAT16`` is ``precision="float16"``, ``FLOAT32`` is ``"float32"``;
            ``FP16ComputePrecision(op_selector)`` keeps FP32 also what ``precision="auto"`` would not.
        skip_model_load: Whether ``result.model`` is not to be loaded by Core ML, on a Mac.
        compute_units: ``coremltools.ComputeUnit`` of ``result.model``.
        package_dir: A ``.mlpackage`` to save the result to, as ``result.save`` does, whatever the verdict is.
        debug: Whether coremltools prints which operators it lacks.
        pass_pipeline: ``coremltools.PassPipeline``. Without ``common::add_fp16_cast`` in it the program is FP32.
        states: A list of ``coremltools.StateType``, by the names of the buffers that forward changes in place. Without
            it these become states as well.
    """

    source: str
    inputs: Any
    outputs: Any
    classifier_config: Any
    minimum_deployment_target: Any
    convert_to: str | None
    compute_precision: Any
    skip_model_load: bool
    compute_units: Any
    package_dir: Any
    debug: bool
    pass_pipeline: Any
    states: Any


def checked(
    given: CoremltoolsOptions,
    *,
    precision: str,
    units: Sequence[str],
    dynamic_shapes: Any,
    progress: Progress | None,
    tolerance: float | Mapping[str, float] = 1e-2,
    metric: Metric | Mapping[str, Metric] = "max",
    keep_fp32: str | Sequence[str] = (),
    keep_fp16: str | Sequence[str] = (),
    **others: Any,
) -> Request:
    """A request, checked as far as it can be without the model. ``others`` are taken over as they are.

    Raises:
        TypeError: There is no option of this name.
        UsageError: Options are wrong or contradict each other.
        NumericsError: There is no such numerics.
        ModelFileError: Nothing can be saved in ``package_dir``.
    """
    unknown = [name for name in given if name not in CoremltoolsOptions.__annotations__]
    if unknown:
        raise TypeError(f"nanproof.convert got an unexpected keyword argument '{unknown[0]}'")
    _check_kind(given.get("source", "auto"), given.get("convert_to"))
    options = Options(
        given.get("minimum_deployment_target") or "iOS17",
        given.get("inputs"),
        given.get("outputs"),
        given.get("compute_units"),
        classifier_config=given.get("classifier_config"),
        pass_pipeline=given.get("pass_pipeline"),
        debug=given.get("debug", False),
        states=given.get("states"),
    )
    numerics = _numerics(units)
    options.check()
    asked, selector = _precision(precision, options, given.get("compute_precision"))
    package_dir = given.get("package_dir")
    declarations = declared(options.inputs)
    criteria = criteria_of(metric, tolerance)
    if asked != "auto" and (keep_fp32 or keep_fp16):
        raise UsageError(f"keep_fp32 and keep_fp16 choose within precision='auto', and this is '{asked}'.")
    return Request(
        precision=asked,
        numerics=numerics,
        options=replace(options, selector=selector),
        declared=declarations,
        dynamic_shapes=dynamic_axes(declarations) if dynamic_shapes is None else dynamic_shapes,
        package_dir=None if package_dir is None else check_destination(package_dir),
        skip_model_load=given.get("skip_model_load", False),
        clock=Clock(progress),
        tolerance=criteria.default.tolerance,
        criteria=criteria,
        keep_fp32=_patterns(keep_fp32),
        keep_fp16=_patterns(keep_fp16),
        **others,
    )


def _patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _numerics(units: Sequence[str]) -> list[str]:
    """The names of numerics.

    Raises:
        UsageError: There are none.
        NumericsError: There is no such numerics.
    """
    if not units:
        raise UsageError("No units were given, so nothing could be checked. Pass units=('gpu',), for example.")
    return [get(unit).name for unit in ([units] if isinstance(units, str) else units)]


def _precision(precision: str, options: Options, compute_precision: Any) -> tuple[Precision, Any]:
    """The precision that is asked for in one of three ways, and which ops may become FP16 (``None`` for all).

    Raises:
        UsageError: They contradict each other, or one is unknown.
    """
    if precision not in ("auto", "float16", "float32"):
        raise UsageError(f"Unknown precision '{precision}'. Use 'auto', 'float16' or 'float32'.")
    theirs, selector = precision_of(compute_precision)
    if compute_precision is not None and precision not in ("auto", theirs):
        raise UsageError(
            f"precision='{precision}' and compute_precision ask for two things. Pass one of them: "
            "compute_precision=FLOAT16\n  is precision='float16', FLOAT32 is 'float32'."
        )
    asked: Any = theirs if precision == "auto" else precision
    passes = options.passes
    if not passes.casts:
        if asked == "float16":
            raise UsageError(
                "FP16 is asked for, but the pass pipeline has no common::add_fp16_cast, which makes it.\n"
                "  Leave the pass in, or pass precision='float32'."
            )
        return "float32", None
    if selector is not None and passes.selector is not None:
        raise UsageError(
            "Both compute_precision and the pass pipeline's common::add_fp16_cast select the ops for FP16. Use one."
        )
    return asked, selector or passes.selector


def _check_kind(source: str, convert_to: str | None) -> None:
    """Options of ``coremltools.convert`` that leave nanproof no choice.

    Raises:
        UsageError: They ask for what nanproof does not do; the message says what to do.
    """
    if str(source).lower() not in ("auto", "pytorch"):
        raise UsageError(
            f"source='{source}': nanproof converts PyTorch models. Leave source out, or convert with "
            "coremltools.convert\n  and look at the file with nanproof.load and `nanproof check`."
        )
    if convert_to == "neuralnetwork":
        raise UsageError(
            "convert_to='neuralnetwork' is a type of model before ML Programs, which nanproof does not execute.\n"
            "  Leave convert_to out: ML Programs run from iOS15 on."
        )
    if convert_to not in (None, "mlprogram"):
        raise UsageError(
            f"convert_to='{convert_to}': nanproof makes ML Programs alone. Leave convert_to out;\n"
            "  for a MIL program use coremltools.convert."
        )
