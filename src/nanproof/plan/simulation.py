"""Plans tried without writing a file: the float32 program in FP16 types, executed on all inputs under all units."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from nanproof.diagnosis.births import Birth, BirthObserver
from nanproof.interpret.execute import Executor
from nanproof.interpret.observe import Ranges
from nanproof.plan.typing import Typist
from nanproof.program import Program

__all__ = ["Judge", "Measure", "Score", "Simulation"]


@dataclass(frozen=True, slots=True)
class Score:
    """What one run is worth.

    Attributes:
        badness: How far the outputs are off, in tolerances: up to 1 is as good as right, ``inf`` is not finite.
        decides: Whether a badness above 1 fails the verdict; of stress inputs only what is not finite does.
        text: The worst output in words, with the number and the input.
        outputs: The badness of each output.
    """

    badness: float
    decides: bool = True
    text: str = ""
    outputs: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def failed(self) -> bool:
        """Whether the verdict would be ``failed``."""
        return math.isinf(self.badness) or (self.decides and self.badness > 1)

    def worse_than(self, other: Score) -> bool:
        """Whether this run is worse than another one of the same input, beyond what tolerance and rounding excuse."""
        if self.failed and not other.failed:
            return True
        return self.badness > max(1.0, _EXCUSED * other.badness) and math.isfinite(other.badness)


_EXCUSED = 1.5

Judge = Callable[[str, int, Mapping[str, Any]], Score]
"""Unit, index of the input, outputs → score."""
Run = tuple[str, int]
"""Unit and index of the input."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a plan does on all inputs under all units."""

    scores: Mapping[Run, Score]
    births: tuple[Birth, ...] = ()

    @property
    def failing(self) -> list[Run]:
        """The runs that fail, the worst first; of a unit the first of equally bad ones."""
        failing = [run for run, score in self.scores.items() if score.failed]
        return sorted(failing, key=lambda run: -self.scores[run].badness)

    @property
    def badness(self) -> tuple[int, float]:
        """How bad it is: runs that are not finite, and the worst of all others that decide."""
        finite = [s.badness for s in self.scores.values() if s.decides and math.isfinite(s.badness)]
        return sum(math.isinf(s.badness) for s in self.scores.values()), max(finite, default=0.0)


@final
@dataclass(slots=True)
class Simulation:
    """Tries plans for one program.

    Attributes:
        typist: Types the float32 program.
        batches: Its inputs.
        units: Names of the numerics.
        judge: Scores the outputs of a run.
        ranges: Ranges of the float32 program.
        half_outputs: Names of ops whose results stay FP16 where they are outputs, although the op is FP32.
        fp32_outputs: Names of outputs that stay FP32 in any case. So do those that an FP32 op computes.
        trials: How many plans were tried.
        executions: Executions in full: on all inputs under all units. A trial that ends at the first run that fails
            counts as the part of it that was run.
    """

    typist: Typist
    batches: Sequence[Mapping[str, Any]]
    units: Sequence[str]
    judge: Judge
    ranges: Ranges
    half_outputs: frozenset[str] = frozenset()
    fp32_outputs: frozenset[str] = frozenset()
    trials: int = 0
    executions: float = 0.0
    _failures: dict[frozenset[str], str] = field(default_factory=dict[frozenset[str], str])
    _last: Run | None = None

    @property
    def program(self) -> Program:
        """The float32 program."""
        return self.typist.program

    def outputs(self, kept: Collection[str]) -> list[str]:
        """The outputs that stay FP32 beside these ops."""
        found = {value: op.name for op in self.program.main.block.ops for value in op.outputs}
        results = self.program.main.block.outputs
        mine = set(kept) - self.half_outputs
        return [v.name for v in results if v.name in self.fp32_outputs or found.get(v) in mine]

    def typed(self, kept: Collection[str]) -> Program:
        """The program in which these ops are FP32, and all others FP16 that can be."""
        return self.typist.typed(kept, self.outputs(kept))

    def measure(self, kept: Collection[str]) -> Measure:
        """All runs of the plan that keeps these ops FP32."""
        program = self.typed(kept)
        scores: dict[Run, Score] = {}
        births: list[Birth] = []
        for unit in self.units:
            executor = Executor(program, unit)
            observer = BirthObserver(program, self.ranges, executor.numerics.name)
            for i, batch in enumerate(self.batches):
                scores[unit, i] = self.judge(unit, i, executor.once(batch, [observer]))
            births += observer.births.values()
        self.trials += 1
        self.executions += 1
        return Measure(scores, tuple(births))

    def failure(self, kept: Collection[str], baseline: Measure) -> str:
        """How the plan that keeps these ops FP32 is worse than another one, or an empty string. Ends at the first run.

        The run that failed last is tried first. A plan is tried once.
        """
        key = frozenset(kept)
        if key not in self._failures:
            self._failures[key] = self._tried(key, baseline)
        return self._failures[key]

    def _tried(self, kept: frozenset[str], baseline: Measure) -> str:
        program = self.typed(kept)
        runs = list(baseline.scores)
        if self._last in runs and not program.states:  # calls of a conversation are made in their order
            runs = [self._last, *(run for run in runs if run != self._last)]
        executors: dict[str, Executor] = {}
        self.trials += 1
        for unit, i in runs:
            if unit not in executors:
                executors[unit] = Executor(program, unit)
            score = self.judge(unit, i, executors[unit].once(self.batches[i]))
            self.executions += 1 / len(runs)
            if score.worse_than(baseline.scores[unit, i]):
                self._last = (unit, i)
                return score.text
        return ""
