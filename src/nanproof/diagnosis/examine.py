"""The examination of a program: one sweep, the error of the outputs followed back, and one trial of the cure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from nanproof.diagnosis.blame import Blame, Flow, Walk, tensor_of, walk
from nanproof.diagnosis.cause import ACCUMULATED, Cause, cause_of
from nanproof.diagnosis.culprit import Culprit, Damage, Diagnosis, joined
from nanproof.diagnosis.effects import effects_of
from nanproof.diagnosis.island import reach, with_island
from nanproof.diagnosis.trace import Trace
from nanproof.errors import CouldNotCheckError, InputError
from nanproof.findings import KINDS, Finding
from nanproof.interpret.execute import Executor
from nanproof.interpret.shadow import deviation
from nanproof.interpret.sweep import Executed, Pair, Sweep
from nanproof.mil.names import base_name
from nanproof.numerics import get
from nanproof.program import Op, Program, Source, Value

__all__ = ["examine", "weighted_errors"]

_EXECUTIONS = 4
"""What the diagnosis of one input may cost, in executions of the program."""
_FEW = 30
"""Evaluations that are allowed in any case: a program of ten ops is not worth saving."""
_SHOWN = 0.02
"""A share of the blame below which a fault is not worth a finding."""


def examine(
    program: Program,
    batches: Iterable[Mapping[str, Any]],
    units: Sequence[str] = ("gpu",),
    *,
    constants: Mapping[Value, np.ndarray] | None = None,
    tolerance: float = 1e-2,
) -> Diagnosis:
    """Find out which ops make the outputs of a program differ from float32.

    Every input costs at most four executions of the program under each unit: the sweep takes two or three, following
    the error back what is left of a third, and the cure of the first finding is tried in one whole execution. Thirty
    evaluations of ops are allowed to follow the error in any case.

    Args:
        program: The program.
        batches: For each run one array for each input.
        units: Names of numerics.
        constants: What constants were before they were rounded to FP16.
        tolerance: Largest error of an output, relative to its range, that counts as the same.

    Raises:
        InputError: There is no input, or it does not fit.
        NumericsError, CouldNotCheckError: As :func:`nanproof.predict`; also if an output has no distance from another.
    """
    given = list(batches)
    if not given:
        raise InputError("There are no inputs: a diagnosis has to run the program on something.")
    found: Diagnosis | None = None
    for unit in units:
        examiner = _Examiner(program, get(unit).name, constants or {}, tolerance)
        for i, batch in enumerate(given):
            one = examiner(batch, i)
            found = one if found is None else found | one
    assert found is not None  # noqa: S101 - there are inputs, and units are checked by those who name them
    return replace(found, batches=len(given))


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """All blame of one kind in one place."""

    cause: Cause
    place: Op
    source: Source | None
    blames: list[Blame]

    @property
    def mass(self) -> float:
        return sum(b.mass for b in self.blames)


@final
class _Examiner:
    """Examines runs of a program under one unit, in their order: states go on if the inputs say so."""

    def __init__(self, program: Program, unit: str, constants: Mapping[Value, np.ndarray], tolerance: float) -> None:
        self._program = program
        self._unit = unit
        self._constants = constants
        self._tolerance = tolerance
        self._sweep = Sweep(program, unit, constants)

    def __call__(self, batch: Mapping[str, Any], index: int) -> Diagnosis:
        sweep, trace = self._sweep, Trace()
        sweep.evaluations = sweep.executed = 0
        sweep(batch, trace)
        values = self._program.main.block.outputs
        pairs = [(v.name, p) for v, p in zip(values, sweep.results, strict=True) if _numeric(p)]
        if not pairs:
            raise CouldNotCheckError("The program has no output that is a tensor, so nothing can be diagnosed.")
        damages = [_damage(name, pair, self._unit, index) for name, pair in pairs]
        wrong = [p for (_, p), d in zip(pairs, damages, strict=True) if not d.error <= self._tolerance]
        for pair in wrong:
            trace.arrived(pair)
        culprits: tuple[Culprit, ...] = ()
        walked = Walk()
        if wrong:
            left = int((_EXECUTIONS - 1) * sweep.executed) - sweep.evaluations
            walked = walk(trace, sweep, weighted_errors(wrong, self._tolerance), max(left, _FEW))
            culprits = self._culprits(walked, trace, index, [str(d) for d in damages if d.error > self._tolerance])
            culprits = self._tried(culprits, walked, trace, batch, damages)
        met = {op for culprit in culprits for op in culprit.ops}
        born = [name for name, shadow in trace.shadows.by_op.items() if shadow.born]
        harmless = tuple(base_name(n) for n in born if n not in trace.harmful and base_name(n) not in met)
        return Diagnosis(
            (self._unit,),
            self._tolerance,
            1,
            tuple(damages),
            culprits,
            harmless,
            (sweep.evaluations / max(1, sweep.executed)) + (1 if any(c.island for c in culprits) else 0),
            walked.lost,
        )

    def _culprits(self, walked: Walk, trace: Trace, index: int, outcome: Sequence[str]) -> tuple[Culprit, ...]:
        groups = _grouped([*walked.blames, *_unblamed(walked, trace)])
        found: list[Culprit] = []
        for group in groups:
            if group.mass < _SHOWN and not (group.cause.sources and _born(group.cause)):
                continue
            largest = max(group.blames, key=lambda b: b.mass)
            finding = Finding(
                group.cause.code,
                base_name(group.place.name),
                group.place.type,
                group.cause.text,
                KINDS[group.cause.code].fix,
                group.source,
            )
            ops = dict.fromkeys(base_name(op.name) for b in group.blames for op in _ops(group.cause, b))
            effects = effects_of(largest, trace.shadows.by_op) if group.mass else ()
            ends = tuple(outcome) if group.mass else ()
            sample = group.cause.sample
            found.append(Culprit(finding, group.mass, tuple(ops), (self._unit,), index, sample, (*effects, *ends)))
        return joined(found)

    def _tried(
        self,
        culprits: tuple[Culprit, ...],
        walked: Walk,
        trace: Trace,
        batch: Mapping[str, Any],
        damages: Sequence[Damage],
    ) -> tuple[Culprit, ...]:
        """The first culprit with what is left of the error if its ops are computed in FP32."""
        if not culprits or self._program.states:
            return culprits
        first = culprits[0]
        names = {base_name(op.name): op.name for op in self._program.main.block.walk()}
        ops = {names[name] for name in first.ops if name in names}
        for blame in walked.blames:
            cause = cause_of(blame)
            if not cause.sources and base_name(cause.executed.op.name) in first.ops:
                ops |= _between(blame, cause.executed)
        island = reach(self._program, ops, trace.shadows.by_op)
        executor = Executor(with_island(self._program, island, self._constants), self._unit)
        outputs = executor.once(batch)
        exact = {v.name: p for v, p in zip(self._program.main.block.outputs, self._sweep.results, strict=True)}
        before, after = 0.0, 0.0
        for damage in damages:
            right = exact[damage.output].exact
            again = _damage(damage.output, Pair(torch.as_tensor(outputs[damage.output]), right), self._unit, 0)
            before, after = max(before, min(damage.error, 1.0)), max(after, min(again.error, 1.0))
        removes = max(0.0, 1.0 - after / before) if before else 0.0
        tried = replace(
            first,
            island=tuple(base_name(op.name) for op in self._program.main.block.walk() if op.name in island),
            removes=removes,
            cures=after <= self._tolerance,
        )
        return (tried, *culprits[1:])


def _numeric(pair: Pair) -> bool:
    return isinstance(pair.actual, Tensor) and isinstance(pair.exact, Tensor)


def _span(exact: Tensor) -> float:
    finite = exact[exact.isfinite()].double()
    if not finite.numel():
        return 1.0
    return float(finite.max() - finite.min()) or float(finite.abs().max()) or 1.0


def _damage(name: str, pair: Pair, unit: str, batch: int) -> Damage:
    actual, exact = tensor_of(pair.actual), tensor_of(pair.exact)
    found = deviation(actual, exact)
    return Damage(name, unit, batch, found.relative(_span(exact)), found.nonfinite, actual.numel())


def weighted_errors(pairs: Sequence[Pair], tolerance: float) -> list[tuple[Pair, Tensor]]:
    """The wrong outputs with the weight of each element's error; all of them together are 1."""
    weighted: list[tuple[Pair, Tensor]] = []
    for pair in pairs:
        actual, exact = tensor_of(pair.actual), tensor_of(pair.exact)
        if actual.shape != exact.shape:
            weighted.append((pair, torch.full(tuple(actual.shape), 1 / max(1, actual.numel()), dtype=torch.float64)))
            continue
        error = (actual.double() - exact.double()).abs() / _span(exact)
        error = torch.where(~actual.isfinite() & exact.isfinite(), 1.0, torch.nan_to_num(error, 0.0, 0.0, 0.0))
        weighted.append((pair, torch.where(error > tolerance, error.clamp(max=1.0), 0.0)))
    total = sum(float(weights.sum()) for _, weights in weighted)
    return [(pair, weights / total) for pair, weights in weighted] if total > 0 else []


def _unblamed(walked: Walk, trace: Trace) -> list[Blame]:
    """Births of Inf and NaN that did harm, and to which the error was not followed: greater harm covers them."""
    known = {blame.executed.op.name for blame in walked.blames}
    found: dict[str, Blame] = {}
    for executed in trace.before(trace.forgotten + trace.kept):
        name = executed.op.name
        if name in known or name in found or name not in trace.harmful or executed.op.blocks:
            continue
        for output, (pair, again) in enumerate(zip(executed.results, executed.recomputed, strict=True)):
            here = pair.exceptional
            if here is None or not isinstance(again, Tensor) or not isinstance(pair.actual, Tensor):
                continue
            born = ~pair.actual.isfinite() & again.isfinite()
            if bool(born.any()):
                found[name] = Blame(executed, output, 0.0, born.double(), 1.0, Flow(), trace.maker_of_cast(executed))
    return list(reversed(found.values()))


def _grouped(blames: Sequence[Blame]) -> list[_Group]:
    groups: dict[tuple[object, ...], _Group] = {}
    for blame in sorted(blames, key=lambda b: -b.mass):
        cause = cause_of(blame)
        place, source = _place(cause, blame)
        where = (source.file, source.line) if source is not None else (place.name,)
        key = (cause.code,) if cause.code == ACCUMULATED else (cause.code, *where)
        groups.setdefault(key, _Group(cause, place, source, [])).blames.append(blame)
    return sorted(groups.values(), key=lambda g: -g.mass)


def _place(cause: Cause, blame: Blame) -> tuple[Op, Source | None]:
    """The op to name, and its line: a cast that the converter has put in is the reader's."""
    op, flow = cause.executed.op, blame.flow
    source = op.source
    while source is None and cause.sources and flow.reader is not None and flow.then is not None:
        source, flow = flow.reader.op.source, flow.then
    return op, source


def _ops(cause: Cause, blame: Blame) -> list[Op]:
    return [blame.executed.op] if cause.sources else [cause.executed.op]


def _between(blame: Blame, amplifier: Executed) -> set[str]:
    """The ops from one that made an error to the one that made it large."""
    names = {blame.executed.op.name}
    flow: Flow | None = blame.flow
    while flow is not None and flow.reader is not None:
        names.add(flow.reader.op.name)
        if flow.reader.op is amplifier.op:
            break
        flow = flow.then
    return names


def _born(cause: Cause) -> bool:
    return cause.sample is not None and not math.isfinite(cause.sample.actual)
