"""A conversion as plain data. The terminal and the HTML page show this and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nanproof.findings import KINDS, Finding
from nanproof.mil.edits import Edit, Replace, Saturate, SetConstant
from nanproof.report.census import program_data
from nanproof.report.encoding import SCHEMA, encoded
from nanproof.report.modules import modules_data
from nanproof.report.places import source_data
from nanproof.report.proof import proof_data
from nanproof.report.versions import versions
from nanproof.report.wording import plural

if TYPE_CHECKING:
    from nanproof.comparison.compare import Comparison
    from nanproof.diagnosis.births import Birth
    from nanproof.plan.plan import Plan
    from nanproof.result import Conversion, UnitResult

__all__ = ["birth_data", "comparison_data", "conversion_data", "kind_data", "rests_on"]


def conversion_data(conversion: Conversion) -> dict[str, Any]:
    """Everything that is known about a conversion, ready for ``json.dumps``.

    NaN and infinities are the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
    """
    given = conversion.fidelity.batches
    stress = [s.what for s in conversion.stress]
    codes = sorted({f.code for f in conversion.findings})
    data = {
        "schema": SCHEMA,
        "kind": "conversion",
        "verdict": conversion.verdict,
        "rests_on": {
            "given_inputs": given,
            "stress_inputs": len(stress),
            "units": list(conversion.units),
            "statement": rests_on(
                conversion.verdict,
                given,
                len(stress),
                len(conversion.program.states),
                drawn=conversion.original is not None and conversion.original.generated,
            ),
        },
        "reference": "PyTorch" if conversion.original is None else "the float32 twin",
        "original": _original(conversion),
        "functions": {name: one.verdict for name, one in conversion.functions.items()},
        "tolerance": conversion.tolerance,
        "units": {name: _unit(unit, conversion.tolerance) for name, unit in conversion.units.items()},
        "fidelity": comparison_data(conversion.fidelity, conversion.tolerance),
        "findings": [_finding(f) for f in conversion.findings],
        "kinds": {code: kind_data(code) for code in codes},
        "plan": _plan(conversion.plan),
        "stress": stress,
        "inputs": [
            {"name": n, "kind": k.name, "low": k.low, "high": k.high, "integral": k.integral, "reason": k.reason}
            for n, k in conversion.kinds.items()
        ],
        "proof": None if conversion.proof is None else proof_data(conversion.proof),
        "program": program_data(conversion.program),
        "modules": modules_data(conversion),
        "seconds": dict(conversion.seconds),
        "versions": versions(),
    }
    return encoded(data)


def _original(conversion: Conversion) -> dict[str, Any] | None:
    """The package that was repaired, as it was; ``None`` for a conversion."""
    original = conversion.original
    if original is None:
        return None
    return {
        "file": str(original.path),
        "healthy": original.healthy,
        "drawn_inputs": original.generated,
        "units": {name: _unit(unit, conversion.tolerance) for name, unit in original.units.items()},
    }


def rests_on(verdict: str, given: int, stress: int, states: int = 0, *, drawn: bool = False) -> str:
    """What a verdict rests on, in one sentence.

    >>> rests_on("tested", 1, 4)
    'tested on 1 given input and 4 stress inputs; not proved for all inputs'
    >>> rests_on("tested", 3, 0, states=2)
    'tested on 3 calls in a row (2 states kept); not proved for all inputs'
    >>> rests_on("failed", 3, 1, drawn=True)
    'failed on 3 inputs drawn at random and 1 stress input'
    """
    inputs = f"{given} given input{'s' if given != 1 else ''}"
    if states:
        inputs = f"{plural(given, 'call')} in a row ({plural(states, 'state')} kept)"
    if drawn:
        inputs = f"{inputs.replace(' given', '')} drawn at random"
    if stress:
        inputs += f" and {stress} stress input{'s' if stress != 1 else ''}"
    if verdict == "proved":
        return f"proved finite for all inputs that are assumed, and tested on {inputs}"
    if verdict == "tested":
        return f"tested on {inputs}; not proved for all inputs"
    return f"{verdict} on {inputs}"


def kind_data(code: str) -> dict[str, str]:
    """The record of a finding code.

    Raises:
        KeyError: There is no such code.
    """
    kind = KINDS[code]
    return {
        "code": kind.code,
        "name": kind.name,
        "what": kind.what,
        "why": kind.why,
        "example": kind.example,
        "fix": kind.fix,
    }


def comparison_data(comparison: Comparison, tolerance: float) -> dict[str, Any]:
    """A comparison, with the answer to each output's question: is it within the tolerance?"""
    data = comparison.to_dict()
    within = {o.name: o.within(tolerance) for o in comparison.outputs}
    data["outputs"] = [{**output, "within": within[output["name"]]} for output in data["outputs"]]
    for output, compared in zip(data["outputs"], comparison.outputs, strict=True):
        if compared.criterion is not None:
            output |= {"metric": compared.criterion.name, "tolerance": compared.criterion.tolerance}
    return data


def birth_data(birth: Birth) -> dict[str, Any]:
    """A birth of Inf or NaN."""
    return {
        "op": birth.op,
        "op_type": birth.op_type,
        "infinities": birth.infinities,
        "nans": birth.nans,
        "largest_operand": birth.largest_operand,
        "described": birth.described,
    }


def _unit(unit: UnitResult, tolerance: float) -> dict[str, Any]:
    return {
        "verdict": unit.verdict,
        "reasons": list(unit.reasons),
        "outputs": comparison_data(unit.comparison, tolerance)["outputs"],
        "births": [birth_data(b) for b in unit.births],
        "stress": [
            {"what": s.what, "nonfinite": s.nonfinite, "error": s.error, "compared": s.compared} for s in unit.stress
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "name": finding.kind.name,
        "op": finding.op,
        "op_type": finding.op_type,
        "detail": finding.detail,
        "remedy": finding.remedy,
        "source": source_data(finding.source),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "rewrites": [
            {
                "name": r.name,
                "ops": list(r.ops),
                "statement": r.statement,
                "condition": r.condition,
                "edits": [_edit(e) for e in r.edits],
            }
            for r in plan.rewrites
        ],
        "islands": [{"ops": list(i.ops), "reason": i.reason, "evidence": i.evidence} for i in plan.islands],
        "fp32_outputs": list(plan.fp32_outputs),
        "fp32_ops": plan.fp32_ops,
        "author_fp32_ops": plan.author_fp32_ops,
    }


def _edit(edit: Edit) -> str:
    """One edit in words."""
    if isinstance(edit, SetConstant):
        value = edit.value
        low, high = (float(value.min()), float(value.max())) if value.size else (0.0, 0.0)
        span = f"{low:g}" if low == high else f"values from {low:g} to {high:g}"
        return f"{edit.op}: the constant input '{edit.input}' becomes {span}"
    if isinstance(edit, Saturate):
        return f"{edit.op}: followed by {edit.with_op} with {edit.bound:g}"
    steps = ", ".join(f"{step.name} ({step.type})" for step in edit.steps)
    if isinstance(edit, Replace):
        return f"{edit.op}: in its place {steps}"
    return f"{edit.op}: the input '{edit.input}' reads '{edit.value.name}'" + (f", from {steps}" if steps else "")
