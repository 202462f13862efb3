"""From a plan that fails to one that does not, and from there to one of which no island can go.

**Cure.** A run that fails is followed back to the roundings that it is due to (:mod:`nanproof.plan.blame`), and as
many of these are lifted as the error is larger than the tolerance. That is executed, and gone on with.

**Reduce.** Islands are left out one by one, then parts of them, halving each time. What is not worse without them goes.
What remains has failed without it, with a number and an input, which is the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from nanproof.plan.blame import Site, blame
from nanproof.plan.plan import connected
from nanproof.plan.simulation import Measure, Run, Score, Simulation

__all__ = ["ACCURACY", "NONFINITE", "Budget", "Found", "Search"]

ACCURACY = "accuracy-loss"
NONFINITE = "non-finite-birth"
"""The reasons of islands that a search adds."""

_ROUNDS = 8
_RUNS_PER_BLAME = 4
"""What it costs to follow an error back: two executions, and each op once or twice more."""
_MORE = 0.5
"""So much of the tolerance may be left of the error that is due to what stays FP16: at first, and in each further round
the eighth part, since the shares of the first one did not hold."""
_TIGHTER = 8.0


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may cost: executions in full, and plans that are tried."""

    executions: float = 9.0
    trials: int = 60


Cause = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Found:
    """A plan as the search leaves it.

    Attributes:
        kept: The ops that stay FP32.
        measure: What it does.
        evidence: By op, how it fails in FP16: text of the run that failed without the op's island.
        causes: By op that the search has added, the reason of its island, and what was seen before it was added.
    """

    kept: frozenset[str]
    measure: Measure
    evidence: dict[str, str]
    causes: dict[str, Cause]


@dataclass(slots=True)
class Search:
    """Looks for the least that has to stay FP32.

    Attributes:
        simulation: Tries plans.
        fixed: Ops that stay FP32 in any case: the author's, and what the user has asked for.
        barred: Ops that do not: what the user wants in FP16.
        budget: What it may cost.
    """

    simulation: Simulation
    fixed: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    budget: Budget = Budget()
    _causes: dict[str, Cause] = field(default_factory=dict[str, Cause])
    _blamed: dict[str, float] = field(default_factory=dict[str, float])
    _evidence: dict[frozenset[str], str] = field(default_factory=dict[frozenset[str], str])

    def found(self, kept: Iterable[str], measure: Measure) -> Found:
        """The least that has to stay FP32, beginning with a plan and what it does."""
        now = frozenset(kept)
        cured, best = self._cured(now, measure)
        if not best.failing or best.badness < measure.badness:
            now, measure = cured, best
        now = self._reduced(now, measure)
        evidence = {op: text for group, text in self._evidence.items() for op in group}
        return Found(now, measure, evidence, self._causes)

    # -- cure ---------------------------------------------------------------------------------------------------------

    def _cured(self, kept: frozenset[str], measure: Measure) -> tuple[frozenset[str], Measure]:
        for i in range(_ROUNDS):
            left = _MORE / _TIGHTER**i
            fresh = self._blamed_by(kept, measure, left) if measure.failing else self._born(kept, measure)
            if not fresh:
                break
            self._causes |= {op: why for op, why in fresh.items() if op not in self._causes}
            kept |= frozenset(fresh)
            measure = self.simulation.measure(kept)
        if measure.failing:
            everything = kept | self._choices
            last = self.simulation.measure(everything)
            if last.badness < measure.badness:
                why = _cause(measure.scores[measure.failing[0]])
                self._causes |= {op: why for op in everything - kept if op not in self._causes}
                return everything, last
        return kept, measure

    @property
    def _choices(self) -> frozenset[str]:
        typist = self.simulation.typist
        return frozenset(op.name for op in typist.program.walk() if typist.castable(op)) - self.barred

    def _blamed_by(self, kept: frozenset[str], measure: Measure, left: float) -> dict[str, Cause]:
        """Ops to be added, because of the worst run of each unit that fails."""
        fresh: dict[str, Cause] = {}
        choices = self._choices - kept
        seen: set[str] = set()
        for run in measure.failing:
            unit, _ = run
            if unit not in seen:
                seen.add(unit)
                score = measure.scores[run]
                fresh |= dict.fromkeys(self._lifted(kept, run, score, choices, left), _cause(score))
        return fresh

    def _lifted(self, kept: frozenset[str], run: Run, score: Score, choices: frozenset[str], left: float) -> set[str]:
        sites = self._sites(kept, run, _failing(score.outputs))
        total = sum(site.share for site in sites)
        badness = score.badness
        wanted = total * (1 - left / badness if math.isfinite(badness) else 1 - left / 500)
        fresh: set[str] = set()
        covered = 0.0
        for site in sites:
            if covered >= wanted and fresh:
                break
            covered += site.share
            added = site.ops & choices
            fresh |= added
            for op in site.ops:
                self._blamed[op] = max(self._blamed.get(op, 0.0), site.share)
        return fresh

    def _sites(self, kept: frozenset[str], run: Run, weights: Mapping[str, float]) -> list[Site]:
        simulation = self.simulation
        unit, i = run
        batches = simulation.batches[: i + 1] if simulation.program.states else simulation.batches[i : i + 1]
        typed = simulation.typed(kept)
        runs = len(simulation.units) * len(simulation.batches)
        simulation.executions += _RUNS_PER_BLAME * len(batches) / runs
        return blame(simulation.program, typed, batches, unit, weights)

    def _born(self, kept: frozenset[str], measure: Measure) -> dict[str, Cause]:
        """Ops to be added, because Inf or NaN is born at them, although no output shows it."""
        choices = self._choices - kept
        fresh: dict[str, Cause] = {}
        for birth in measure.births:
            if birth.op in choices:
                fresh.setdefault(birth.op, (NONFINITE, birth.described))
            elif birth.op in kept:  # FP32 did not help there: what comes in has lost too much already
                for op in self._feeding(kept, birth.op):
                    if op in choices:
                        fresh.setdefault(op, (NONFINITE, f"feeds '{birth.op}', where {birth.described}"))
        return fresh

    def _feeding(self, kept: frozenset[str], name: str) -> list[str]:
        """The ops that compute what flows into the island of an op and are not in FP32 yet."""
        program = self.simulation.program
        island = next((group for group in connected(program, kept) if name in group), ())
        producers = {value: op for op in program.walk() for value in op.outputs}
        read = [v for op in program.walk() if op.name in island for v in op.operands if v.type.dtype.is_float]
        return list(dict.fromkeys(producers[v].name for v in read if v in producers))

    # -- reduce -------------------------------------------------------------------------------------------------------

    @property
    def _exhausted(self) -> bool:
        simulation = self.simulation
        return simulation.executions >= self.budget.executions or simulation.trials >= self.budget.trials

    def _reduced(self, kept: frozenset[str], baseline: Measure) -> frozenset[str]:
        """The ops that stay when what is not needed is left out: islands, then parts of them while the budget lasts."""
        kept = self._needed(kept, baseline)
        for group in self._islands(kept):
            kept = self._smaller(kept, group, baseline)
        return self._needed(kept, baseline)

    def _islands(self, kept: frozenset[str]) -> list[tuple[str, ...]]:
        return connected(self.simulation.program, (kept - self.fixed) & self._choices)

    def _needed(self, kept: frozenset[str], baseline: Measure) -> frozenset[str]:
        """Without the islands that are not needed; of the others the evidence is kept."""
        self._evidence = {}
        for group in self._islands(kept):
            left_out = frozenset(group)
            failure = self.simulation.failure(kept - left_out, baseline)
            if failure:
                self._evidence[left_out] = failure
            else:
                kept -= left_out
        return kept

    def _smaller(self, kept: frozenset[str], group: Sequence[str], baseline: Measure) -> frozenset[str]:
        """An island without those of its ops that are not needed: halves, quarters, ..., those of least blame first."""
        ops = sorted(group, key=lambda op: self._blamed.get(op, 0.0))
        size = len(ops) // 2
        while size and not self._exhausted:
            start, before = 0, len(ops)
            while start < len(ops) and len(ops) > 1 and not self._exhausted:
                part = ops[start : start + size]
                if len(part) == len(ops):
                    break
                if self.simulation.failure(kept - frozenset(part), baseline):
                    start += size
                else:
                    kept -= frozenset(part)
                    del ops[start : start + size]
            # What was needed beside an op that has gone since may not be needed any more.
            size = min(size, len(ops)) // 2 if size > 1 else int(len(ops) < before)
        return kept


def _cause(score: Score) -> Cause:
    return ACCURACY if math.isfinite(score.badness) else NONFINITE, score.text


def _failing(badness: Mapping[str, float]) -> dict[str, float]:
    """The outputs that are off, with how much they count."""
    return {name: min(bad, 1e6) for name, bad in badness.items() if bad > 1}
