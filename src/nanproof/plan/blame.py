"""Which FP16 roundings a wrong output is due to: the error of one run, followed back to where it came in.

The run is executed in float32 and as typed, and every value of both is kept. From an output backwards, the error of
each result is shared out between what the op itself did to it (its arithmetic, and storing it in FP16) and each of
its operands: what float32 makes of that operand alone as it was in the typed run. So a rounding that decides an
``argmin`` counts as much as the wrong entry that is read for it, where a derivative would be zero.

Shares are a ranking, not a proof: whoever uses them executes what comes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from nanproof.interpret.execute import Executor
from nanproof.interpret.loop import Observer
from nanproof.numerics import get
from nanproof.ops import TABLE
from nanproof.program import Op, Program, Value
from nanproof.values.floats import to_carrier

__all__ = ["Site", "blame"]

_SLIGHT = 1e-3
"""A reader that gets less than this part of the blame of a value does not count."""
_HUGE = 16.0
"""What is not finite counts as an error of so many times the largest number."""


@dataclass(frozen=True, slots=True)
class Site:
    """A rounding to FP16, or the FP16 arithmetic of an op, and what has to stay FP32 to avoid it.

    Attributes:
        where: Name of the value that is rounded.
        ops: Names of the op that computes it and of those that need it unrounded.
        share: Its part of the error, of 1.
    """

    where: str
    ops: frozenset[str]
    share: float


def blame(
    program: Program, typed: Program, batches: Sequence[Mapping[str, Any]], unit: str, weights: Mapping[str, float]
) -> list[Site]:
    """The roundings that the error of the last of some runs is due to, the worst first.

    Args:
        program: The float32 program.
        typed: The same, typed (see :class:`~nanproof.plan.typing.Typist`).
        batches: The inputs of the run; before it those of the calls that it goes on from, if there are states.
        unit: The numerics of the typed program.
        weights: How much the error of each output counts, by its name.
    """
    exact, actual = _Values(), _Values()
    for executor, values in ((Executor(program, "reference"), exact), (Executor(typed, unit), actual)):
        for batch in batches:
            values.seen.clear()
            executor.once(batch, [values.observer(executor.program)])
        values.inputs(executor.program, batches[-1])
    makers = {value: op for op in program.main.block.ops for value in op.outputs}
    walk = _Walk(program, exact, actual, {op.name: op for op in typed.main.block.ops}, makers)
    for value in program.main.block.outputs:
        walk.owed[value] = (weights.get(value.name, 0.0), None)
    for op in reversed(program.main.block.ops):
        walk.visit(op)
    return walk.sites()


@final
class _Values:
    """The tensors of one run, by value."""

    def __init__(self) -> None:
        self.seen: dict[Value, Tensor] = {}

    def observer(self, program: Program) -> Observer:
        main = set(program.main.block.ops)

        def observe(op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
            if op in main:
                self.seen.update(zip(op.outputs, results, strict=True))

        return observe

    def inputs(self, program: Program, batch: Mapping[str, Any]) -> None:
        for name, value in program.main.inputs.items():
            if name in batch:
                carried = to_carrier(torch.as_tensor(batch[name]), value.type.dtype)
                if isinstance(carried, Tensor):
                    self.seen[value] = carried

    def __getitem__(self, value: Value) -> Any:
        return to_carrier(value.const, value.type.dtype) if value.const is not None else self.seen.get(value)


@dataclass(slots=True)
class _Walk:
    """The way back. ``owed`` is the blame of each value, and how much each of its elements counts."""

    program: Program
    exact: _Values
    actual: _Values
    typed: Mapping[str, Op]
    makers: Mapping[Value, Op]
    owed: dict[Value, tuple[float, Tensor | None]] = field(default_factory=dict[Value, tuple[float, Tensor | None]])
    readers: dict[Value, dict[str, float]] = field(default_factory=dict[Value, dict[str, float]])
    own: dict[Value, float] = field(default_factory=dict[Value, float])
    read: dict[tuple[Value, str], float] = field(default_factory=dict[tuple[Value, str], float])

    def visit(self, op: Op) -> None:
        """Share out the blame of the results of an op."""
        for i, value in enumerate(op.outputs):
            owed, weight = self.owed.get(value, (0.0, None))
            if owed > 0:
                self._share(op, i, value, owed, weight)

    def _share(self, op: Op, i: int, value: Value, owed: float, weight: Tensor | None) -> None:
        shares = self._shares(op, i, weight)
        total = sum(error for error, _ in shares.values())
        if total == 0:
            return
        for source, (error, counts) in shares.items():
            part = owed * error / total
            if source is None:
                self.own[value] = self.own.get(value, 0.0) + part
                continue
            if source.const is not None or source in self.program.main.inputs.values():
                at_reading = part
            else:
                at_reading = part * (1 - self._arrived(op, i, source, weight))
            if at_reading:
                self.read[source, op.name] = self.read.get((source, op.name), 0.0) + at_reading
                part -= at_reading
            if part:
                readers = self.readers.setdefault(source, {})
                readers[op.name] = readers.get(op.name, 0.0) + part
                before, others = self.owed.get(source, (0.0, None))
                self.owed[source] = before + part, counts if others is None or counts is None else others + counts

    def _shares(self, op: Op, i: int, weight: Tensor | None) -> dict[Value | None, tuple[float, Tensor | None]]:
        """Error of a result due to the op itself (``None``) and to each operand, and which elements of these count."""
        twin = self.typed.get(op.name)
        exact, actual = self.exact[op.outputs[i]], self.actual[twin.outputs[i]] if twin is not None else None
        if twin is None or op.blocks or not isinstance(exact, Tensor) or not isinstance(actual, Tensor):
            return {None: (1.0, None)}
        given = {name: tuple(self.exact[v] for v in values) for name, values in op.inputs.items()}
        typed = {name: tuple(self.actual[v] for v in values) for name, values in twin.inputs.items()}
        shares: dict[Value | None, tuple[float, Tensor | None]] = {}
        recomputed = _run(op, typed, i)
        if recomputed is None:
            return {None: (1.0, None)}
        shares[None] = _distance(actual, recomputed, weight), None
        for name, values in op.inputs.items():
            for j, value in enumerate(values):
                ours, theirs = given[name][j], typed[name][j]
                if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor) or _same(ours, theirs):
                    continue
                mixed = {**given, name: (*given[name][:j], theirs, *given[name][j + 1 :])}
                result = _run(op, mixed, i)
                if result is None:
                    continue
                counts = None
                if ours.shape == exact.shape == result.shape:
                    counts = _counts(result, exact, weight)
                error, others = shares.get(value, (0.0, None))
                shares[value] = error + _distance(result, exact, weight), counts if others is None else None
        return shares

    def _arrived(self, op: Op, i: int, source: Value, weight: Tensor | None) -> float:
        """The part of an operand's error that it had before it was cast for this op; 1 if it was not."""
        maker = self.makers.get(source)
        twin = self.typed.get(maker.name) if maker is not None else None
        if maker is None or twin is None:
            return 1.0
        made = self.actual[twin.outputs[maker.outputs.index(source)]]
        taken = [
            self.actual[v]
            for n, vs in op.inputs.items()
            for j, v in enumerate(self.typed[op.name].inputs[n])
            if vs[j] is source
        ]
        if not isinstance(made, Tensor) or not taken or _same(made, taken[0]):
            return 1.0
        before, after = (
            _run(op, {n: tuple(x if v is source else self.exact[v] for v in vs) for n, vs in op.inputs.items()}, i)
            for x in (made, taken[0])
        )
        if before is None or after is None:
            return 1.0
        early = _distance(before, self.exact[op.outputs[i]], weight)
        late = _distance(after, before, weight)
        return early / (early + late) if early + late > 0 else 1.0

    def sites(self) -> list[Site]:
        """All that has any blame, the worst first."""
        by_name = {op.name: op for op in self.program.main.block.ops}
        found = [
            Site(value.name, self._span(value, by_name) | _with_inner(self.makers[value]), part)
            for value, part in self.own.items()
        ]
        for (value, reader), part in self.read.items():
            op = by_name[reader]
            found.append(Site(value.name, frozenset({reader}) | self._behind(op, by_name), part))
        return sorted((site for site in found if site.share > 0), key=lambda site: -site.share)

    def _span(self, value: Value, by_name: Mapping[str, Op]) -> frozenset[str]:
        """The readers that need a value as it is, and through those that only move it, theirs."""
        readers = self.readers.get(value, {})
        most = max(readers.values(), default=0.0)
        needing = [by_name[name] for name, part in readers.items() if part > _SLIGHT * most]
        return frozenset(op.name for op in needing).union(*(self._behind(op, by_name) for op in needing))

    def _behind(self, op: Op, by_name: Mapping[str, Op]) -> frozenset[str]:
        if TABLE[op.type].family != "structural":
            return frozenset()
        return frozenset[str]().union(*(self._span(value, by_name) for value in op.outputs))


def _with_inner(op: Op) -> frozenset[str]:
    return frozenset({op.name, *(inner.name for block in op.blocks for inner in block.walk())})


_SINGLE = get("reference").arithmetic(None)


def _run(op: Op, arguments: Mapping[str, tuple[Any, ...]], i: int) -> Tensor | None:
    """A result of an op in float32; ``None`` if it is no tensor, or cannot be had on its own."""
    record = TABLE[op.type]
    if record.family == "control" or any(a is None for values in arguments.values() for a in values):
        return None
    given = {n: values if n in record.variadic else values[0] for n, values in arguments.items() if values}
    try:
        with torch.inference_mode():
            results = record.run(_SINGLE, **given)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError):
        return None  # operands of two runs need not go together
    result = results[i] if isinstance(results, list | tuple) else results
    return result if isinstance(result, Tensor) else None


def _same(one: Tensor, other: Tensor) -> bool:
    return one is other or (one.shape == other.shape and bool(torch.equal(one, other)))


def _distance(one: Tensor, other: Tensor, weight: Tensor | None) -> float:
    if one.shape != other.shape:
        return 1.0
    delta = _delta(one, other)
    if weight is not None and weight.shape == delta.shape:
        delta = delta * weight
    return float(torch.linalg.vector_norm(delta))


def _delta(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.to(torch.float64), other.to(torch.float64)
    delta = (one - other).abs()
    finite = other[other.isfinite()]
    huge = _HUGE * max(float(finite.abs().max()) if finite.numel() else 1.0, 1e-30)
    delta[(one == other) | (one.isnan() & other.isnan())] = 0.0
    return torch.nan_to_num(delta, nan=huge, posinf=huge).clamp(max=huge)


def _counts(result: Tensor, exact: Tensor, weight: Tensor | None) -> Tensor:
    """How much each element of an operand of the result's own shape counts: where it changes what counts there."""
    delta = _delta(result, exact)
    if weight is not None and weight.shape == delta.shape:
        delta = delta * weight
    most = float(delta.max()) if delta.numel() else 0.0
    return delta / most if most > 0 else torch.ones_like(delta)
