"""The judgement on an ML Program file without its PyTorch model: execution, births, comparison, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.comparison.compare import as_array, compare_outputs, measured
from nanproof.diagnosis.births import find_births
from nanproof.interpret.accumulators import accumulations, has_limit
from nanproof.interpret.execute import Executor
from nanproof.interpret.observe import Ranges, observe
from nanproof.mil.names import base_name
from nanproof.program import Op, Program
from nanproof.report.data import birth_data, comparison_data, rests_on
from nanproof.trial import worst

__all__ = ["judge"]

Arrays = Mapping[str, np.ndarray]


def judge(
    program: Program,
    batches: Sequence[Arrays],
    expected: Sequence[Sequence[np.ndarray]] | None,
    units: Sequence[str],
    tolerance: float,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run a program under ``reference`` numerics and under each unit's, and judge each unit.

    A unit of which nothing is wrong is ``"unknown"`` if its sums may overflow, depending on the order in which the unit
    takes their products, which nobody knows.

    Args:
        program: The program, as read from its file.
        batches: Inputs by name.
        expected: The right outputs for each batch, or ``None`` to compare with ``reference`` numerics.
        units: Names of numerics.
        tolerance: Largest error, relative to the range of an output.
        progress: Told what begins.
    """
    progress("reference numerics")
    ranges, answers = observe(program, batches)
    constants = _ConstantBirths()
    Executor(program, "reference").once(batches[0], [constants])
    names = measured(program)
    right = expected or [[answer[name] for name in names] for answer in answers]
    judged: dict[str, Any] = {}
    for unit in units:
        progress(f"{unit} numerics")
        births, outputs = find_births(program, batches, _by_base_name(ranges), unit)
        comparison = compare_outputs(names, outputs, right, unit)
        compared = comparison_data(comparison, tolerance)["outputs"]
        reasons = _reasons(compared, tolerance)
        if expected is None:
            reasons += _own_nonfinite(outputs)
        seen = accumulations(program, batches, numerics=unit) if has_limit(unit) else ()
        sums = [a for a in seen if a.level != "safe"]
        judged[unit] = {
            "verdict": "failed" if reasons else "unknown" if sums else "tested",
            "reasons": reasons + [a.described for a in sums],
            "outputs": compared,
            "births": [birth_data(b) for b in births],
            "accumulators": [{**asdict(a), "level": a.level, "described": a.described} for a in sums],
        }
    verdict = worst([u["verdict"] for u in judged.values()])
    return {
        "verdict": verdict,
        "rests_on": {"given_inputs": len(batches), "stress_inputs": 0, "statement": rests_on(verdict, len(batches), 0)},
        "tolerance": tolerance,
        "reference": "numerics" if expected is None else "files",
        "units": judged,
        "constants": constants.found,
    }


def _reasons(outputs: Sequence[Mapping[str, Any]], tolerance: float) -> list[str]:
    reasons: list[str] = []
    for output in outputs:
        if output["nonfinite"]:
            reasons.append(
                f"output '{output['name']}' has {output['nonfinite']} Inf or NaN where the reference has none"
            )
        elif not output["within"]:
            off = f"off by {output['error']:.3g} of its range (tolerance {tolerance:g})"
            reasons.append(f"output '{output['name']}' is {off}")
    return reasons


def _own_nonfinite(outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Inf and NaN in outputs that the file makes in float32 too, as one with an infinite constant does."""
    counts: dict[str, int] = {}
    for batch in outputs:
        for name, output in batch.items():
            array = as_array(output)
            if array.dtype.kind == "f":
                counts[name] = counts.get(name, 0) + int((~np.isfinite(array)).sum())
    return [
        f"output '{name}' has {count} Inf or NaN (if PyTorch has them too, pass its outputs with --reference)"
        for name, count in counts.items()
        if count
    ]


def _by_base_name(ranges: Ranges) -> Ranges:
    """Ranges under the names by which births are looked up."""
    return ranges.renamed({name: base_name(name) for name in ranges.by_name})


class _ConstantBirths:
    """Observer of ops that make Inf or NaN since one of their constants is infinite; a birth needs finite operands."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        infinite = [(name, v) for name, vs in sorted(op.inputs.items()) for v in vs if _has_nonfinite(v.const)]
        if not infinite or not self._computed_are_finite(op, operands):
            return
        made = sum(int((~torch.isfinite(r)).sum()) for r in results if r.is_floating_point())
        if made:
            name, value = infinite[0]
            constant = np.asarray(value.const)
            worst = float(constant[~np.isfinite(constant)].reshape(-1)[0])
            described = f"{op.type} '{op.name}' made {made} Inf or NaN: its constant input '{name}' holds {worst:g}"
            record = {"op": op.name, "op_type": op.type, "input": name, "value": worst, "nonfinite": made}
            self.found.append({**record, "described": described})

    @staticmethod
    def _computed_are_finite(op: Op, operands: Sequence[Tensor]) -> bool:
        computed = [t for v, t in zip(op.tensors, operands, strict=True) if v.const is None and t.is_floating_point()]
        return all(bool(torch.isfinite(t).all()) for t in computed)


def _has_nonfinite(constant: np.ndarray | str | None) -> bool:
    return isinstance(constant, np.ndarray) and constant.dtype.kind == "f" and not np.isfinite(constant).all()
