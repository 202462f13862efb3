"""nanproof: Core ML ML Programs that run in FP16 without NaN, Inf or silent damage, checked on any machine.

The public names are loaded when they are first used, so that ``import nanproof`` loads neither PyTorch nor coremltools.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanproof.comparison.compare import Comparison, compare
    from nanproof.conductor import convert
    from nanproof.diagnosing import Reproducer, diagnose, reproduce
    from nanproof.diagnosis.culprit import Culprit, Diagnosis
    from nanproof.dissecting import Dissection, by_module
    from nanproof.interpret.accumulators import Accumulation, accumulations
    from nanproof.interpret.execute import predict
    from nanproof.interpret.proof import Proof, prove
    from nanproof.interpret.range import Range, Ranges
    from nanproof.interpret.ranging import ranges
    from nanproof.interpret.state import State, make_state
    from nanproof.mil.predict import enable_predict
    from nanproof.mil.read import load
    from nanproof.program import Pipeline, Program
    from nanproof.refutation.refute import refute
    from nanproof.refutation.witness import Budget, Refutation, Witness
    from nanproof.repairing import repair
    from nanproof.result import Conversion
    from nanproof.watching import Log, watch

__version__ = "0.1.0"
__all__ = [
    "Accumulation",
    "Budget",
    "Comparison",
    "Conversion",
    "Culprit",
    "Diagnosis",
    "Dissection",
    "Log",
    "Pipeline",
    "Program",
    "Proof",
    "Range",
    "Ranges",
    "Refutation",
    "Reproducer",
    "State",
    "Witness",
    "accumulations",
    "by_module",
    "compare",
    "convert",
    "diagnose",
    "enable_predict",
    "load",
    "make_state",
    "predict",
    "prove",
    "ranges",
    "refute",
    "repair",
    "reproduce",
    "watch",
]

_HOMES = {
    "Accumulation": "nanproof.interpret.accumulators",
    "Budget": "nanproof.refutation.witness",
    "Comparison": "nanproof.comparison.compare",
    "Conversion": "nanproof.result",
    "Culprit": "nanproof.diagnosis.culprit",
    "Diagnosis": "nanproof.diagnosis.culprit",
    "Dissection": "nanproof.dissecting",
    "Log": "nanproof.watching",
    "Pipeline": "nanproof.program",
    "Program": "nanproof.program",
    "Proof": "nanproof.interpret.proof",
    "Range": "nanproof.interpret.range",
    "Ranges": "nanproof.interpret.range",
    "Refutation": "nanproof.refutation.witness",
    "Reproducer": "nanproof.diagnosing",
    "State": "nanproof.interpret.state",
    "Witness": "nanproof.refutation.witness",
    "accumulations": "nanproof.interpret.accumulators",
    "by_module": "nanproof.dissecting",
    "compare": "nanproof.comparison.compare",
    "convert": "nanproof.conductor",
    "diagnose": "nanproof.diagnosing",
    "enable_predict": "nanproof.mil.predict",
    "load": "nanproof.mil.read",
    "make_state": "nanproof.interpret.state",
    "predict": "nanproof.interpret.execute",
    "prove": "nanproof.interpret.proof",
    "refute": "nanproof.refutation.refute",
    "repair": "nanproof.repairing",
    "ranges": "nanproof.interpret.ranging",
    "reproduce": "nanproof.diagnosing",
    "watch": "nanproof.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nanproof' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # a submodule of the same name (nanproof.convert) must not hide the function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
