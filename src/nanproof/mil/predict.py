"""``MLModel.predict`` on any machine: coremltools' own calls, answered by nanproof's runtime.

coremltools reaches Core ML through one class, ``_MLModelProxy``, which its wheels hold on macOS alone. While
predictions are enabled, :class:`ModelProxy` stands in its place. Arguments and results follow coremltools' binding
(``coremlpython/CoreMLPython.mm`` and ``CoreMLPythonUtils.mm`` in its repository):

- a ``float16`` output comes back as ``float32`` and a scalar one with the shape ``(1,)``, as no MLMultiArray of Core ML
  is without dimensions; an image comes back as a Pillow image, a classifier's label as ``str`` or ``int`` beside a
  ``dict`` of probabilities;
- numbers of any dtype are taken for an input and converted to its own;
- what fails while predicting is a ``RuntimeError``.
"""

from __future__ import annotations

import functools
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, final

import numpy as np

from nanproof.errors import ExecutionError, ModelFileError, NanproofError, UsageError
from nanproof.interpret.execute import Executor, PipelineExecutor, executor
from nanproof.interpret.images import with_images
from nanproof.interpret.state import State, make_state
from nanproof.mil.coreml import CompiledMLModel, ct
from nanproof.mil.coreml import mlmodel as model
from nanproof.mil.read import load
from nanproof.numerics import Numerics, get

__all__ = ["ModelProxy", "Predictions", "enable_predict"]

_MODEL: Any = model
_COMPILED: Any = sys.modules[CompiledMLModel.__module__]
_UNITS = tuple(unit.name for unit in ct.ComputeUnit)
_DEFAULT = "gpu"
_OWN = {"CPU_ONLY": "cpu", "CPU_AND_GPU": "gpu", "CPU_AND_NE": "ane", "ALL": "ane"}
_MACOS = (26, 0)
"""The macOS whose Core ML reads every specification that coremltools 9.0 writes; states need 15."""

_NO_PROGRAM = (
    "nanproof executes ML Programs, and this is a model of an older type. Convert it again with convert_to='mlprogram'."
)
_NO_ASSETS = "There are no compiled assets without Core ML: make an MLModel of the package, which nanproof executes."
_FAILED = "Unable to compute the prediction using ML Program."
"""How Core ML's own errors begin, by which tests know them."""

NumericsByUnit = str | Numerics | Mapping[Any, str | Numerics]


def enable_predict(numerics: NumericsByUnit = _DEFAULT, *, replace: bool = False) -> Predictions:
    """Make coremltools' ``MLModel.predict`` and ``make_state`` work on this machine, for ML Programs.

    Scripts and tests that were written for a Mac run unchanged: single inputs and lists of them, states, images,
    classifiers, functions of multifunction models, ``compute_units``, models that were made before this call or with
    ``skip_model_load=True``. Models that are no ML Programs can be made and saved as before, but not run.

    Args:
        numerics: How to compute: a name or a numerics for all models, or a mapping from compute units (the members of
            ``coremltools.ComputeUnit``, or their names) to them, in which those left out compute as ``"gpu"``. That is
            the default for all, because it shows what FP16 does to a model on any unit: values are stored in binary16,
            with its infinities and NaN. ``"reference"`` would hide the overflows that a test should find. A program in
            FP32 computes alike under both. ``"units"`` follows the compute units of each model: ``CPU_ONLY`` computes
            as ``"cpu"``, ``CPU_AND_GPU`` as ``"gpu"``, ``CPU_AND_NE`` and ``ALL`` as ``"ane"``, every op of it, where
            Core ML would place each op by itself.
        replace: Whether to take the place of Core ML itself where it is present, on a Mac. Models that Core ML has
            loaded before stay with it.

    Returns:
        A handle: ``disable()`` undoes this call, and so does leaving a ``with`` block that it opened. Models that were
        loaded meanwhile keep predicting. Calls may be nested; the last one counts.

    Raises:
        UsageError: Core ML is present and ``replace`` is not set, or a compute unit is unknown.
        NumericsError: There is no such numerics.
    """
    if numerics == "units":
        numerics = _OWN
    given = {unit: get(numerics) for unit in _UNITS} if isinstance(numerics, (str, Numerics)) else _by_unit(numerics)
    if _ORIGINALS.proxy is not None and not replace:
        raise UsageError(
            "Core ML itself makes the predictions on this machine.\n"
            "  Pass replace=True to enable_predict to have them made by nanproof instead."
        )
    return Predictions(given)


def _by_unit(numerics: Mapping[Any, str | Numerics]) -> dict[str, Numerics]:
    named = {getattr(unit, "name", unit): get(n) for unit, n in numerics.items()}
    unknown = [str(unit) for unit in named if unit not in _UNITS]
    if unknown:
        raise UsageError(f"There is no compute unit {', '.join(map(repr, unknown))}. Known: {', '.join(_UNITS)}.")
    return {unit: named.get(unit, get(_DEFAULT)) for unit in _UNITS}


@final
class Predictions:
    """Predictions that are enabled until :meth:`disable`, or until the end of a ``with`` block."""

    def __init__(self, numerics: Mapping[str, Numerics]) -> None:
        self.numerics = dict(numerics)
        self.lent: weakref.WeakSet[Any] = weakref.WeakSet()
        """Models that were made without a proxy, and have one from here."""
        if not _ENABLED:
            _ORIGINALS.cover()
        _ENABLED.append(self)

    def disable(self) -> None:
        """Put coremltools back as it was before. Once is enough; more does no harm."""
        if self not in _ENABLED:
            return
        _ENABLED.remove(self)
        for mlmodel in self.lent:
            mlmodel.__proxy__ = None
        if not _ENABLED:
            _ORIGINALS.restore()

    def __enter__(self) -> Predictions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disable()


@final
class ModelProxy:
    """One loaded model, with the methods that coremltools calls on its ``_MLModelProxy``.

    A model that cannot be executed loads nevertheless, so that it can be made, inspected and saved as without
    predictions; :meth:`predict` says why it fails.

    Args:
        path: The package, or the file of an older model.
        compute_units: Name of a compute unit, which decides the numerics.
        function_name: Function of a multifunction model; ``""`` for the default one.
        optimization_hints: Ignored: they change the speed on a device, not what is computed here.
        asset: Ignored: there are none without Core ML.
    """

    def __init__(
        self,
        path: str,
        compute_units: str,
        function_name: str = "",
        optimization_hints: Mapping[str, str] | None = None,
        asset: object = None,
    ) -> None:
        start = time.perf_counter_ns()
        self._failure: NanproofError | None = None
        self._predicting: int | None = None
        try:
            if Path(path).is_file():
                raise ModelFileError(_NO_PROGRAM)
            self._program = load(path).using(function_name or None)
            self._run = executor(self._program, _ENABLED[-1].numerics[compute_units])
        except NanproofError as error:
            self._failure = error
        self._loading = time.perf_counter_ns() - start

    def predict(self, inputs: Mapping[str, Any], state: StateProxy | None = None) -> dict[str, Any]:
        """One prediction. Raises ``RuntimeError`` with the text of what went wrong."""
        run, start = self._ready(), time.perf_counter_ns()
        try:
            outputs = run(inputs, state=None if state is None else state.state)
            results = with_images(outputs, run.interface)
        except ExecutionError as error:
            raise RuntimeError(f"{_FAILED} {error}") from error
        except NanproofError as error:
            raise RuntimeError(str(error)) from error
        finally:
            self._predicting = time.perf_counter_ns() - start
        return {name: _returned(value) for name, value in results.items()}

    def batchPredict(self, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:  # noqa: N802 (coremltools' name)
        """One prediction for each of the inputs, in order."""
        start = time.perf_counter_ns()
        results = [self.predict(each) for each in inputs]
        self._predicting = time.perf_counter_ns() - start
        return results

    def newState(self) -> StateProxy:  # noqa: N802 (coremltools' name)
        """A fresh state, all zeros."""
        try:
            self._ready()
            return StateProxy(make_state(self._program))
        except NanproofError as error:
            raise RuntimeError(str(error)) from error

    def get_load_duration_in_nano_seconds(self) -> int:
        """How long reading the model took, in nanoseconds."""
        return self._loading

    def get_last_predict_duration_in_nano_seconds(self) -> int | None:
        """How long the last call took, in nanoseconds; ``None`` before the first."""
        return self._predicting

    def get_compiled_model_path(self) -> str:
        """Raises ``RuntimeError``: only Core ML compiles."""
        raise RuntimeError("There is no compiled model: nanproof executes the ML Program as it is.")

    @staticmethod
    def maximum_supported_specification_version() -> int:
        """The newest specification that coremltools itself writes."""
        return max(ct._OPSET)

    @staticmethod
    def get_available_compute_devices() -> list[Any]:
        """Raises ``RuntimeError``: only Core ML knows devices."""
        raise RuntimeError("There is no Core ML here, whose devices could be listed: nanproof makes the predictions.")

    @staticmethod
    def create_model_asset_from_path(compiled_model_path: str) -> Any:
        """Raises ``RuntimeError``: only Core ML compiles."""
        raise RuntimeError(_NO_ASSETS)

    @staticmethod
    def create_model_asset_from_memory(spec_data: bytes, blob_mapping: Mapping[str, bytes]) -> Any:
        """Raises ``RuntimeError``: only Core ML compiles."""
        raise RuntimeError(_NO_ASSETS)

    def _ready(self) -> Executor | PipelineExecutor:
        if self._failure is not None:
            raise RuntimeError(str(self._failure)) from self._failure
        return self._run


@final
class StateProxy:
    """What stands behind coremltools' ``MLState``."""

    def __init__(self, state: State) -> None:
        self.state = state

    def read_state(self, name: str) -> np.ndarray:
        """A copy of one state; ``float16`` as ``float32``, as outputs are."""
        try:
            return _returned(self.state.read_state(name))
        except NanproofError as error:
            raise RuntimeError(str(error)) from error

    def write_state(self, name: str, value: np.ndarray) -> None:
        """Replace one state by an array of the same shape."""
        try:
            self.state.write_state(name, value)
        except NanproofError as error:
            raise RuntimeError(str(error)) from error


def _returned(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    array = value.astype(np.float32) if value.dtype == np.float16 else value
    return array.reshape(1) if array.shape == () else array


class _Originals:
    """What coremltools looks up by name at each call, so that it can be covered and put back."""

    def __init__(self) -> None:
        self.proxy = _MODEL._MLModelProxy
        self._covered: list[tuple[ModuleType | type, str, Any]] = []

    def cover(self) -> None:
        """Put our own in place."""
        for module in (_MODEL, _COMPILED):
            self._set(module, "_MLModelProxy", ModelProxy)
            self._set(module, "_macos_version", lambda: _MACOS)
        # The module's own name, not that of coremltools.utils, which asks about more than predictions.
        self._set(_MODEL, "_is_macos", lambda: True)
        for name in ("predict", "make_state"):
            self._set(_MODEL.MLModel, name, _lending(getattr(_MODEL.MLModel, name)))

    def restore(self) -> None:
        """Put coremltools' own back."""
        while self._covered:
            owner, name, value = self._covered.pop()
            setattr(owner, name, value)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        self._covered.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)


def _lending(method: Any) -> Any:
    """A method of ``MLModel`` that first gives a proxy to a model that was made without one."""

    @functools.wraps(method)
    def lent(self: Any, *args: Any, **keywords: Any) -> Any:
        if self.__proxy__ is None and self.package_path:
            self.__proxy__ = ModelProxy(self.package_path, self.compute_unit.name, self.function_name or "")
            _ENABLED[-1].lent.add(self)
        return method(self, *args, **keywords)

    return lent


_ORIGINALS = _Originals()
_ENABLED: list[Predictions] = []
"""The calls in effect, the newest last."""
