"""Assertions on conversions, for tests of any framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import nanproof
from nanproof.errors import UsageError

if TYPE_CHECKING:
    from nanproof.result import Conversion

__all__ = ["assert_converts", "told"]

_RANKS = ("failed", "unknown", "tested", "proved")
_MOST = 8


def assert_converts(
    module: Any,
    inputs: Any = None,
    *,
    tolerance: float = 1e-2,
    units: Sequence[str] = ("gpu",),
    verdict: Literal["tested", "proved"] = "tested",
    fp32_ops: int | None = None,
    **options: Any,
) -> Conversion:
    """Assert that a module converts to a file that is finite in FP16 and near to PyTorch.

    Args:
        module: The module, or whatever else ``nanproof.convert`` takes.
        inputs: Its example inputs.
        tolerance: Largest error that counts as the same, relative to the range of an output.
        units: Numerics under which the written file is executed and judged.
        verdict: The least verdict: ``"tested"``, or ``"proved"``.
        fp32_ops: How many ops may compute in FP32 beyond those that the module's own code asks for; any number if not
            given.
        options: Further arguments of ``nanproof.convert``.

    Returns:
        The conversion, for further assertions.

    Raises:
        AssertionError: The verdict is less, or more ops compute in FP32. The message names reasons, ops and lines.
        UsageError, CouldNotCheckError: As ``nanproof.convert``: what could not be checked has not passed.
    """
    if verdict not in ("tested", "proved"):
        raise UsageError(f"verdict='{verdict}': what can be asked for is 'tested' or 'proved'.")
    conversion = nanproof.convert(module, inputs, tolerance=tolerance, units=units, **options)
    if _RANKS.index(conversion.verdict) < _RANKS.index(verdict):
        raise AssertionError(f"The conversion is {conversion.verdict}, and not {verdict}.\n{told(conversion)}")
    if fp32_ops is not None and conversion.plan.fp32_ops > fp32_ops:
        raise AssertionError(f"{conversion.plan.fp32_ops} ops compute in FP32, and {fp32_ops} may.\n{told(conversion)}")
    return conversion


def told(conversion: Conversion) -> str:
    """What a conversion came to, as lines of text: reasons, where the proof is lost, findings, and islands."""
    lines = [f"{name}: {reason}" for name, unit in conversion.units.items() for reason in unit.reasons]
    for name, unit in (conversion.proof.units if conversion.proof else {}).items():
        lines += [f"{name} is not proved: {lost}" for lost in unit.obstacles if lost.first][:1]
    for finding in conversion.findings[:_MOST]:
        where = finding.source or f"{finding.op_type} '{finding.op}'"
        lines.append(f"{finding.code} {finding.kind.name}: {finding.detail} ({where}); {finding.remedy}")
    lines += [
        f"FP32, {island.reason}: {', '.join(island.ops[:3])}: {island.evidence}"
        for island in conversion.plan.islands[:_MOST]
    ]
    return "\n".join(f"  {line}" for line in lines)
