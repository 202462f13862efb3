"""The search for a witness: starts, ascent along the gradient of the overflow margin, and execution on the unit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from nanproof.errors import UsageError
from nanproof.interpret.accumulators import has_limit
from nanproof.interpret.execute import Executor
from nanproof.interpret.gradient import Differentiator
from nanproof.interpret.proof import Proof
from nanproof.program import Op, Program
from nanproof.refutation.goals import Aim, goal, reached
from nanproof.refutation.starts import Box, Start, boxes, kinds_within, starts
from nanproof.refutation.trial import Answer, Fault, Faults, any_order, harm, spans
from nanproof.refutation.whole import Exchange
from nanproof.refutation.witness import Budget, Refutation, What, Witness

__all__ = ["refute"]

_ACCUMULATOR = 2.0**15
_STEPS = 14
_FIRST = 0.3
"""The first step of an ascent, as a part of the width of the box; it is halved whenever it leads downwards."""
_STARTS = 0.5
"""The part of the budget that is spent on starts alone, before the first ascent."""
_DIFFERENTIATED = 3
"""What a run that is differentiated counts for: forwards, and about twice as much backwards."""
_CLOSE = 0.98
"""From here on an input is executed: roundings may do the rest."""


def refute(
    program: Program,
    proof: Proof,
    *,
    reference: Program | None = None,
    batches: Sequence[Mapping[str, np.ndarray]] = (),
    budget: Budget | None = None,
    tolerance: float = 1e-2,
    accuracy: bool = False,
    exact: bool = False,
    seed: int = 0,
) -> tuple[Refutation, ...]:
    """Search inputs that make Inf or NaN where a proof has found nothing that excludes them, and execute them.

    A witness is an input within the assumptions of the proof on which an op, executed as its unit does, makes Inf or
    NaN where float32 stays finite; on a Neural Engine also one on which some order of the products of a sum reaches the
    end of the accumulator. It refutes if it does harm: an output is not finite, or off by more than the tolerance. An
    Inf that dies in a ``tanh`` is a witness that does none. States are zeros. What is not found may still exist.

    Args:
        program: The program that was read by ``prove``.
        proof: What ``prove`` says of it.
        reference: The program before it was cast to FP16, if it is at hand: it decides what float32 would give.
            Otherwise the same program does, in float32; where one of its constants is Inf already, nothing is shown.
        batches: Inputs to begin with, one array for each input. They are brought within the assumptions.
        budget: How much to spend, on all units together.
        tolerance: Largest error of an output, relative to the largest range that it had in the search.
        accuracy: Whether to look for outputs that are off by more than the tolerance without any Inf or NaN, too, even
            on units for which the proof is complete.
        exact: Whether units compute bit for bit, and slowly.
        seed: The same seed finds the same.

    Returns:
        One answer for each unit and op with an obstacle, in the order of the proof; nothing for what is proved. With
        ``accuracy`` one more for each unit, at the op that makes the first output.

    Raises:
        UsageError: A batch lacks an input.
        CouldNotCheckError: As :func:`nanproof.predict`.
    """
    for batch in batches:
        missing = [name for name in boxes(program, proof) if name not in batch]
        if missing:
            raise UsageError(f"A batch to begin with lacks the input {', '.join(map(repr, missing))}.")
    targets = [*_targets(proof), *(_accuracy(program, proof, tolerance) if accuracy else ())]
    search = _Search(program, proof, reference, targets, budget or Budget(), tolerance, exact=exact)
    if targets:
        search.from_starts(batches, seed)
        search.from_slopes(seed)
    return search.answers()


@dataclass(slots=True)
class _Target:
    """An op with an obstacle on one unit, and the best that was found for it."""

    unit: str
    op: Op
    reasons: list[str]
    aim: Aim
    limit: float
    best: Start | None = None
    score: float = -np.inf
    reached: float = 0.0
    witness: Witness | None = None
    ascents: int = 0

    @property
    def rank(self) -> tuple[int, float]:
        """The order in which targets get an ascent: the less they had the earlier, then by margin."""
        return self.ascents, -(self.reached / self.limit)

    def take(self, start: Start, score: float, size: float) -> None:
        """Note what an input has reached."""
        if np.isfinite(score) and score > self.score:
            self.score, self.best = score, start
        if np.isfinite(size):
            self.reached = max(self.reached, size)


@dataclass(slots=True)
class _Meter:
    """What was spent."""

    budget: Budget
    executions: int = 0
    began: float = field(default_factory=time.monotonic)

    def over(self, share: float = 1.0) -> bool:
        """Whether a part of the budget is spent."""
        spent = time.monotonic() - self.began
        return self.executions >= share * self.budget.executions or spent >= share * self.budget.seconds


class _Search:
    """One search: its targets, what it spent, and the program made ready for each way to run it."""

    def __init__(
        self,
        program: Program,
        proof: Proof,
        reference: Program | None,
        targets: Sequence[_Target],
        budget: Budget,
        tolerance: float,
        *,
        exact: bool,
    ) -> None:
        self.program = program
        self.box: dict[str, Box] = boxes(program, proof)
        self.tolerance = tolerance
        self.meter = _Meter(budget)
        self.targets = targets
        self._single = Executor(program, "reference")
        self._other = None if reference is None else Executor(reference, "reference")
        units = dict.fromkeys(t.unit for t in targets)
        self._units = {unit: Executor(program, unit, exact=exact) for unit in units}
        worst = {unit: numerics for unit in units if (numerics := any_order(unit)) is not None}
        self._any_order = {unit: Executor(program, numerics) for unit, numerics in worst.items()}
        self._span: dict[str, float] = {}
        self._slopes: Differentiator | None = None
        self._exchange: Exchange | None = None

    @property
    def open(self) -> list[_Target]:
        """Targets without a witness that does harm."""
        return [t for t in self.targets if t.witness is None or t.witness.harm <= self.tolerance]

    def answers(self) -> tuple[Refutation, ...]:
        """What came of it."""
        left, over = self.open, self.meter.over()
        return tuple(
            Refutation(
                unit=t.unit,
                op=t.op,
                reason="; ".join(t.reasons),
                witness=t.witness,
                verdict="unknown" if t in left else "refuted",
                reached=t.reached,
                limit=t.limit,
                executions=self.meter.executions,
                exhausted=over and t in left,
            )
            for t in self.targets
        )

    # -----------------------------------------------------------------------------------------------------------------

    def from_starts(self, batches: Sequence[Mapping[str, np.ndarray]], seed: int) -> None:
        """Try inputs that need no slope."""
        for start in starts(self.box, kinds_within(self.program, self.box, batches), batches, seed):
            if not self.open or self.meter.over(_STARTS):
                return
            self.attempt(start)

    def from_slopes(self, seed: int) -> None:
        """Raise one target after the other, from the best input known for it and from others."""
        others = starts(self.box, {}, (), seed + 1)
        while not self.meter.over():
            targets = [t for t in self.open if t.aim != "error"]
            if not targets:
                if not self.open:
                    return
                self.attempt(next(others))
                continue
            target = min(targets, key=lambda t: t.rank)
            start = next(others) if target.best is None or target.ascents % 2 == 1 else target.best
            target.ascents += 1
            self.ascend(target, start)

    def attempt(self, start: Start) -> None:
        """Run an input in float32 for the margins, and on every unit that is not yet refuted."""
        answer, sizes = self.measure(start)
        found = spans(answer.outputs, self.program)
        self._span = {name: max(span, self._span.get(name, 0.0)) for name, span in found.items()}
        for unit in dict.fromkeys(t.unit for t in self.open):
            self.execute(unit, start, answer, sizes)

    def measure(self, start: Start) -> tuple[Answer, dict[Op, float]]:
        """What float32 makes of an input, and what it reaches at every open target."""
        by_op: dict[Op, list[_Target]] = {}
        for target in self.open:
            by_op.setdefault(target.op, []).append(target)
        sizes: dict[Op, float] = {}

        def see(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
            for target in by_op.get(op, ()):
                if target.aim != "error":
                    score, size = reached(target.aim, op, operands, results)
                    target.take(start, score, size)
                    sizes[op] = max(size, sizes.get(op, 0.0))

        self.meter.executions += 1
        if self._other is None:
            return Answer(self._single, start.inputs, [see]), sizes
        self._single.once(start.inputs, [see])
        self.meter.executions += 1
        return Answer(self._other, start.inputs), sizes

    def execute(self, unit: str, start: Start, answer: Answer, sizes: Mapping[Op, float]) -> None:
        """Run an input on a unit; what fails there and not in float32 is a witness."""
        mine = [t for t in self.open if t.unit == unit]
        faults = Faults()
        outputs = self._units[unit].once(start.inputs, [faults])
        self.meter.executions += 1
        error = harm(self.program, outputs, answer.outputs, self._span)
        for target in mine:
            fault = faults.by_op.get(target.op)
            if target.aim == "error":
                target.take(start, error, error)
                if error > self.tolerance:
                    self._found(target, start, "error", error, error)
            elif fault is not None and not answer.excuses(target.op):
                self._found(target, start, fault.what, sizes.get(target.op, math.nan), error)
        near = [t for t in mine if t.aim == "sum" and sizes.get(t.op, 0.0) >= _CLOSE * t.limit]
        near = [t for t in near if t in self.open]
        if near and unit in self._any_order:
            faults = Faults()
            outputs = self._any_order[unit].once(start.inputs, [faults])
            self.meter.executions += 1
            error = harm(self.program, outputs, answer.outputs, self._span)
            for target in near:
                if isinstance(faults.by_op.get(target.op), Fault) and not answer.excuses(target.op):
                    self._found(target, start, "sum", sizes[target.op], error)

    def _found(self, target: _Target, start: Start, what: What, value: float, error: float) -> None:
        """Keep a witness; the more harm it does the better."""
        if target.witness is None or error > target.witness.harm:
            target.witness = Witness(
                start.inputs, target.op.name, target.op.type, target.unit, what, value, error, start.what
            )

    # -----------------------------------------------------------------------------------------------------------------

    def ascend(self, target: _Target, start: Start) -> None:
        """Raise the goal of a target step by step, and execute where it has come to its limit, and in the end."""
        if self._slopes is None or self._exchange is None:
            self._slopes, self._exchange = Differentiator(self.program), Exchange(self.program, self.box)

        def aim(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> Tensor | None:
            return goal(target.aim, op, operands, results)

        here, step, tried = start.inputs, _FIRST, False
        what = start.what if start.what.startswith("ascent") else f"ascent from {start.what}"
        found = self._slopes(here, target.op, aim)
        self.meter.executions += _DIFFERENTIATED
        for _ in range(_STEPS):
            if found is None or not np.isfinite(found.goal) or self.meter.over():
                break
            there, runs = self._exchange.step(here, found, step / _FIRST)
            there |= _moved(self.box, here, found.inputs, step)
            self.meter.executions += runs
            if all(np.array_equal(there[name], here[name]) for name in there):
                break
            onwards = self._slopes(there, target.op, aim)
            self.meter.executions += _DIFFERENTIATED
            if onwards is None or not np.isfinite(onwards.goal) or onwards.goal <= found.goal:
                step *= 0.5
                continue
            here, found, tried = there, onwards, False
            if found.goal >= _CLOSE * target.limit:
                self.attempt(Start(what, here))
                tried = True
                if target not in self.open:
                    return
        if not tried and here is not start.inputs:
            self.attempt(Start(what, here))


def _moved(
    box: Mapping[str, Box], here: Mapping[str, np.ndarray], slopes: Mapping[str, np.ndarray], step: float
) -> dict[str, np.ndarray]:
    """The float inputs a step further along the signs of their slopes, kept within the box."""
    moved: dict[str, np.ndarray] = {}
    for name, slope in slopes.items():
        one = box[name]
        width = one.high / 2 - one.low / 2
        moved[name] = one.inside(here[name].astype(np.float64) + 2 * step * width * np.sign(slope))
    return moved


def _targets(proof: Proof) -> Iterator[_Target]:
    """The ops with an obstacle, each once for a unit."""
    for unit, read in proof.units.items():
        steps = {step.op: step for step in read.steps}
        found: dict[Op, _Target] = {}
        for obstacle in read.obstacles:
            if obstacle.op in found:
                found[obstacle.op].reasons.append(obstacle.reason)
                continue
            step = steps.get(obstacle.op)
            sums = step is not None and has_limit(unit) and step.partial >= _ACCUMULATOR
            limit = _ACCUMULATOR if sums else np.inf if step is None else step.limit
            found[obstacle.op] = _Target(unit, obstacle.op, [obstacle.reason], "sum" if sums else "size", limit)
        yield from found.values()


def _accuracy(program: Program, proof: Proof, tolerance: float) -> Iterator[_Target]:
    """For each unit one target that stands for the accuracy of all outputs."""
    makers = {value: op for op in program.main.block.ops for value in op.outputs}
    made = [makers[value] for value in program.main.block.outputs if value in makers]
    for unit in proof.units if made else ():
        yield _Target(unit, made[0], ["outputs may be off by more than the tolerance"], "error", tolerance)
