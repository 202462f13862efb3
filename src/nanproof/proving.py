"""The proof of a conversion: what was tested is also proved, where it can be, for all inputs that are assumed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nanproof.interpret.proof import Proof, prove
from nanproof.request import Request
from nanproof.result import Conversion, UnitResult, Verdict
from nanproof.trial import Trial, worst

__all__ = ["with_proof"]


def with_proof(conversion: Conversion, request: Request, trial: Trial) -> Conversion:
    """The conversion with a proof for the units on which it was tested, and their verdicts.

    What failed stays failed: a proof says that no Inf and no NaN occurs, and not that results are near. Shapes are
    those of the first given input.

    Args:
        conversion: What was tested.
        request: Its kinds of inputs, and what is assumed of them beside.
        trial: The inputs: one of no known kind is assumed to stay in the range that it has in the given ones.

    Raises:
        UsageError: An assumption names no input or state, or is no range.
    """
    tested = [name for name, unit in conversion.units.items() if unit.verdict == "tested"]
    if not request.prove or not tested:
        return conversion
    given = trial.file_inputs[: len(trial.inputs)]
    sizes = {name: array.shape for name, array in given[0].items() if name in conversion.program.main.inputs}
    with request.clock("prove"):
        proof = prove(
            conversion.program,
            {**_stated(request, trial), **(request.assume or {})},
            units=tested,
            batches=given,
            shapes=sizes,
        )
    units = {name: replace(unit, verdict=_verdict(unit, proof)) for name, unit in conversion.units.items()}
    return replace(conversion, units=units, verdict=worst([u.verdict for u in units.values()]), proof=proof)


def _stated(request: Request, trial: Trial) -> dict[str, Any]:
    """What the user says of kinds; of an image the file's own declaration says more."""
    return {name: kind for name, kind in (request.kinds or {}).items() if name not in trial.images}


def _verdict(unit: UnitResult, proof: Proof) -> Verdict:
    proved = unit.unit in proof.units and proof.units[unit.unit].verdict == "proved"
    return "proved" if proved else unit.verdict
