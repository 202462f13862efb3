"""Mask sentinels and clip bounds beyond the FP16 range → finite numbers that do the same.

Let ``s`` be the scores, ``|s| <= r``, and ``M`` the sentinel of a mask, replaced by ``-H``.

* **Fill** (``select(cond, s, M)`` before a softmax). A row with an unmasked element: its maximum is at least ``-r``,
  so a masked element has weight ``exp(-H - s_max) <= exp(-(H - r))``, which is 0 in float32 (and in FP16) if ``H - r
  >= 104``, as it is for ``M``. A row masked everywhere: all elements are equal before and after, the weights are
  uniform.
* **Sum** (``s + M``). The same for rows with an unmasked element, with ``H - 2r >= 104``. In a row masked everywhere
  FP32 computes ``s + M = M`` whenever ``|M| >= 2**24 * r`` (the score is absorbed), so the weights are uniform; a
  smaller sentinel would let the scores through. Therefore ``s + M`` becomes ``max(s - 2H, -H)``, which is exactly
  ``-H`` wherever the mask is set (``s <= H``), also if ``s - 2H`` should overflow, and ``s`` wherever it is not (``s
  >= -H``).
  If more is added behind the mask, the maximum follows the last sum.
* **Sum of masks** (``M1 + M2``). With ``H = 3e4`` two of them and a score stay in range. No bound is added: rows that
  are masked everywhere keep the order "masked once above masked twice" of the original.
* **Product** (``m * M`` with ``m`` in {0, 1}). ``0 * -H = 0`` where ``0 * -inf`` was NaN.
* **Clip bound** ``B``, ``|B| > 65504``, of a tensor that holds no sentinel: no finite FP16 number lies beyond 65504.

``r`` is observed on the given inputs and taken with a margin; the rewrite is checked numerically when it is applied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges
from nanproof.mil.edits import Edit, Saturate, SetConstant
from nanproof.program import Program
from nanproof.rewrite.rewrite import Proposal, Refusal, Rewrite
from nanproof.rewrite.sentinel_flow import FLOOR, HEADROOM, Region, Site, trace
from nanproof.values.floats import FP16_MAX

__all__ = ["MARGIN", "propose"]

MARGIN = 4.0
"""The scores may grow by this factor beyond what was observed before a condition fails."""
_VANISHING = 104.0
"""exp(-104) is below half the smallest float32 subnormal, 2**-150 = exp(-103.97)."""
_ABSORBS = 2.0**24
_BOUNDS = frozenset({"clip", "maximum", "minimum"})


def propose(program: Program, ranges: Ranges) -> Proposal:
    """Findings, rewrites and refusals for all sentinels of a float32 program.

    Args:
        program: The float32 program.
        ranges: Ranges observed on it under ``reference`` numerics.
    """
    total = Proposal()
    for region in trace(program, ranges):
        if _is_hazard(region):
            total += _proposal(region)
    return Proposal(total.findings, _merged(total.rewrites), total.refusals)


def _merged(rewrites: Sequence[Rewrite]) -> tuple[Rewrite, ...]:
    """One rewrite for all places where the same is done for the same reason: models repeat their layers."""
    groups: dict[tuple[str, str, str], list[Rewrite]] = {}
    for rewrite in rewrites:
        groups.setdefault((rewrite.name, rewrite.statement, rewrite.condition), []).append(rewrite)
    return tuple(
        replace(group[0], ops=tuple(o for r in group for o in r.ops), edits=tuple(e for r in group for e in r.edits))
        for group in groups.values()
    )


def _is_hazard(region: Region) -> bool:
    """Whether FP16 loses a finite sentinel: by storing it, or by adding a score to it."""
    worst = _largest(region)
    return worst > FP16_MAX or (bool(region.sums) and worst + MARGIN * region.reach > FP16_MAX)


def _largest(region: Region) -> float:
    return max((abs(o) for o, _ in region.levels if math.isfinite(o)), default=0.0)


def _proposal(region: Region) -> Proposal:
    only_bounds = not region.sinks and not region.refusal and all(s.op.type in _BOUNDS for s in region.sites)
    if only_bounds:
        return _clip_bounds(region)
    refusal = region.refusal or _failed_condition(region)
    if refusal and _largest(region) <= FP16_MAX:
        return Proposal()  # FP16 holds the constants; if what they are added to overflows, that is seen when it runs
    if refusal:
        remedy = f"kept in FP32, since {refusal}"
        return Proposal(_findings(region, remedy), refusals=(Refusal(_names(region), refusal),))
    rewrite = _replace(region)
    return Proposal(_findings(region, f"rewritten: {rewrite.statement}"), rewrites=(rewrite,))


def _clip_bounds(region: Region) -> Proposal:
    if region.reach > FP16_MAX:
        return Proposal()  # the values themselves leave the range: the overflow is the finding, and the bound stays
    sites = tuple(s for s in region.sites if _has_finite(s) and np.abs(s.constant).max() > FP16_MAX)
    edits = tuple(_set(site, FP16_MAX) for site in sites)
    statement = f"bounds beyond the FP16 range → ±{FP16_MAX:.0f}"
    condition = "always: no finite FP16 number lies beyond the new bound"
    rewrite = Rewrite("clip-bound", _names(region), statement, condition, edits)
    written = Region(sites=[s for s in sites if not _completed_by_converter(s)])
    return Proposal(_findings(written, f"rewritten: {statement}"), rewrites=(rewrite,))


def _completed_by_converter(site: Site) -> bool:
    """Whether the author gave one bound only, and coremltools completed the other with the largest float32.

    Nobody wrote that constant, and infinite it would do no harm under IEEE: it is mended without a finding.
    """
    other = site.op.input("beta" if site.input == "alpha" else "alpha")
    bound = None if other is None or isinstance(other.const, str) else other.const
    return site.op.type == "clip" and bound is not None and bool(np.abs(bound).max() <= FP16_MAX)


def _saturates(region: Region) -> bool:
    """Whether FP32 absorbs the scores in masked elements, which a smaller sentinel has to imitate."""
    finite = [abs(o) for o, _ in region.levels if math.isfinite(o)]
    single = {u for _, u in region.levels if math.isfinite(u)} <= {-1.0, 1.0}
    masks_only = all(u == -1.0 or math.isinf(u) for _, flow in region.sums for _, u in flow.entries)
    return bool(region.sums) and single and masks_only and min(finite) >= _ABSORBS * region.reach


def _unit(region: Region) -> float:
    """The replacement H: as large as the deepest sum of masks allows."""
    depth = max(abs(u) for _, u in region.levels if math.isfinite(u))
    if _saturates(region):
        return 2 * HEADROOM
    return HEADROOM if depth <= 2 else 2 * HEADROOM / depth


def _separated_up_to(region: Region) -> float:
    """The largest magnitude of the other elements that leaves every sentinel below them, and within the FP16 range."""
    if _saturates(region):
        return (HEADROOM - _VANISHING) / 2
    unit = _unit(region)
    finite = [abs(u) for _, u in region.levels if math.isfinite(u)]
    return min((min(finite) * unit - _VANISHING) / 2, FP16_MAX - max(finite) * unit)


def _exact_up_to(region: Region) -> float:
    """The same, and FP32 absorbs them too, where the replacement relies on it."""
    if not _saturates(region):
        return _separated_up_to(region)
    smallest = min(abs(o) for o, _ in region.levels if math.isfinite(o))
    return min(_separated_up_to(region), smallest / _ABSORBS)


def _failed_condition(region: Region) -> str:
    """Why the replacement would not do the same, or an empty string."""
    limit = _separated_up_to(region)
    if MARGIN * region.reach <= limit:
        return ""
    return (
        f"other elements reach {region.reach:.4g}, too near to any finite sentinel "
        f"(it needs {limit:.4g}, with a margin of {MARGIN:g})"
    )


def _replace(region: Region) -> Rewrite:
    unit = _unit(region)
    edits: list[Edit] = [_set(site, unit) for site in region.sites if _has_finite(site)]
    old = max((o for o, u in region.levels if math.isfinite(o) and abs(u) == 1), key=lambda o: (o < 0, abs(o)))
    statement = f"{old:.3g} → {math.copysign(unit, old):.0f}"
    condition = f"other elements reach {region.reach:.3g}; exact up to {_exact_up_to(region):.4g}"
    if _saturates(region):
        last = [op for op, _ in region.sums if op in region.last_sums]
        edits += [Saturate(op.name, "maximum", -HEADROOM) for op in dict.fromkeys(last)]
        statement += f", sums bounded at {-HEADROOM:.0f}"
    if region.assumptions:
        condition += "; " + "; ".join(region.assumptions)
    return Rewrite("mask-sentinel", _names(region), statement, condition, tuple(edits))


def _set(site: Site, unit: float) -> SetConstant:
    huge = (np.abs(site.constant) >= FLOOR) & np.isfinite(site.constant)
    value = np.where(huge, np.sign(site.constant) * np.float32(unit), site.constant).astype(site.constant.dtype)
    return SetConstant(site.op.name, site.input, site.index, value)


def _has_finite(site: Site) -> bool:
    return bool(((np.abs(site.constant) >= FLOOR) & np.isfinite(site.constant)).any())


def _names(region: Region) -> tuple[str, ...]:
    return tuple(dict.fromkeys(op.name for op in region.ops))


def _findings(region: Region, remedy: str) -> tuple[Finding, ...]:
    """One finding for each op that brings a sentinel in."""
    found: dict[str, Finding] = {}
    for site in region.sites:
        if not _has_finite(site):
            continue
        finite = site.constant[np.isfinite(site.constant)]
        worst = float(finite[np.abs(finite).argmax()])
        weights = region.refused_at is site.op and "different huge values" in region.refusal
        code = "NP103" if weights else "NP102" if site.op.type in _BOUNDS else "NP101"
        detail = f"the constant {worst:.4g} (input '{site.input}') is {_in_fp16(worst)} in FP16"
        found.setdefault(site.op.name, Finding.at(code, site.op, detail, remedy))
    return tuple(found.values())


def _in_fp16(x: float) -> str:
    with np.errstate(over="ignore"):
        return f"{float(np.float16(x)):g}"
