"""The blame for an error of outputs: followed back through a trace, element by element, to where it was made.

What an element of a result is off by has two parts: what the op did itself (the unit's result against float32 on the
same operands), and what it made of the errors of its operands. The second part goes on to the operands: to the same
element where the op works element by element, along the movement of data where it only moves, by the slope times the
error where it sums up. Of several operands each gets what changes as one after the other goes wrong.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from nanproof.diagnosis.trace import Trace
from nanproof.errors import ExecutionError
from nanproof.interpret.loop import Carried
from nanproof.interpret.sweep import Executed, Pair, Sweep
from nanproof.ops import TABLE
from nanproof.program import Value

__all__ = ["Blame", "Flow", "Walk", "relative_error", "tensor_of", "walk"]

_LEAST = 2e-4
"""A part of the error that is not followed further."""
_ELEMENTWISE = frozenset({"unary", "binary", "comparison", "logical", "cast"})
_RESHAPES = frozenset({"reshape", "reshape_like", "expand_dims", "squeeze", "flatten2d", "identity"})
_BY_ELEMENT = frozenset({"select", "softplus_parametric", "prelu", "quantize", "dequantize"})


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """How a part of the error went on from a value: the op that read it, and so on to the output.

    ``gain`` is the largest factor by which one op on the way made a relative error larger, ``amplifier`` that op, and
    ``weights`` what elements of which of its outputs the error was in.
    """

    reader: Executed | None = None
    then: Flow | None = None
    gain: float = 1.0
    amplifier: Executed | None = None
    weights: tuple[int, Tensor] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Blame:
    """A part of the error that one op made itself in one run of it.

    Attributes:
        executed: The op.
        output: Which of its outputs.
        maker: What made the value that it read, if it is a cast of a float: the op that does not fit.
        mass: The part, of 1.
        weights: The part by element of that output.
        error: The relative own error of the elements, weighted.
        flow: How it went on.
    """

    executed: Executed
    output: int
    mass: float
    weights: Tensor
    error: float
    flow: Flow
    maker: Executed | None = None


@dataclass(slots=True, eq=False)
class Walk:
    """What was found: the parts, those that were not followed to an end, and what went through each op by name."""

    blames: list[Blame] = field(default_factory=list[Blame])
    lost: float = 0.0
    through: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True, eq=False)
class _Arrival:
    """The part of the error that a value carries: by element, and the way of the largest portion of it."""

    pair: Pair
    mass: Tensor
    largest: float
    flow: Flow


def walk(trace: Trace, sweep: Sweep, outputs: Sequence[tuple[Pair, Tensor]], budget: int) -> Walk:
    """Follow the error of outputs back to the ops that made it.

    Args:
        trace: The run.
        sweep: What ran; it evaluates single ops again.
        outputs: Values with the weight of each element's error; all weights together are 1.
        budget: How many evaluations of ops it may cost. What is not followed by then is ``lost``.
    """
    return _Walker(trace, sweep, budget)(outputs)


@final
class _Walker:
    def __init__(self, trace: Trace, sweep: Sweep, budget: int) -> None:
        self._trace = trace
        self._sweep = sweep
        self._end = sweep.evaluations + budget
        self._found = Walk()
        self._heap: list[tuple[int, int]] = []
        self._pending: dict[tuple[int, int], _Arrival] = {}

    def __call__(self, outputs: Sequence[tuple[Pair, Tensor]]) -> Walk:
        for pair, weights in outputs:
            self._arrive(pair, weights.double(), Flow())
        while self._heap:
            place, output = heapq.heappop(self._heap)
            arrival = self._pending.pop((place, output))
            executed = self._trace.at(-place)
            name = executed.op.name
            self._found.through[name] = self._found.through.get(name, 0.0) + float(arrival.mass.sum())
            rest = self._split(executed, output, arrival)
            if rest is not None:
                self._pass_on(executed, output, rest, arrival.flow)
        return self._found

    def _arrive(self, pair: Pair, mass: Tensor, flow: Flow) -> None:
        total, maker = float(mass.sum()), self._trace.maker(pair)
        if maker is None or total < _LEAST:
            self._found.lost += total
            return
        key = (-maker[0], maker[1])
        known = self._pending.get(key)
        if known is None:
            self._pending[key] = _Arrival(pair, mass, total, flow)
            heapq.heappush(self._heap, key)
            return
        known.mass = known.mass + mass
        if total > known.largest:
            known.largest, known.flow = total, flow

    def _split(self, executed: Executed, output: int, arrival: _Arrival) -> Tensor | None:
        """Blame an op for its own part; what it has inherited, if that is worth following."""
        pair, again = executed.results[output], executed.recomputed[output]
        actual, exact = pair.actual, pair.exact
        if not (isinstance(actual, Tensor) and isinstance(exact, Tensor) and isinstance(again, Tensor)):
            self._found.lost += float(arrival.mass.sum())
            return None
        if executed.parted or actual.shape != exact.shape or actual.shape != again.shape:
            self._blame(executed, output, arrival.mass, 1.0, arrival.flow)
            return None
        own = arrival.mass * own_part(actual, again, exact)
        if float(own.sum()) > 0:
            error = float((own * relative_error(actual, again)).sum() / own.sum())
            self._blame(executed, output, own, error, arrival.flow)
        rest = arrival.mass - own
        return rest if float(rest.sum()) >= _LEAST else None

    def _blame(self, executed: Executed, output: int, mass: Tensor, error: float, flow: Flow) -> None:
        made = self._trace.maker_of_cast(executed)
        self._found.blames.append(Blame(executed, output, float(mass.sum()), mass, error, flow, made))

    def _pass_on(self, executed: Executed, output: int, rest: Tensor, flow: Flow) -> None:
        wrong = _wrong_operands(executed)
        if not wrong or self._sweep.evaluations >= self._end:
            self._found.lost += float(rest.sum())
            return
        pair, again = executed.results[output], executed.recomputed[output]
        after = _weighted_error(again, pair.exact, rest) or 0.0
        for value, mass in self._shares(executed, output, rest, wrong).items():
            total, operand = float(mass.sum()), wrong[value]
            if total <= 0:
                continue
            before = _weighted_error(operand.actual, operand.exact, mass)
            here = Flow(executed, flow, flow.gain, flow.amplifier, flow.weights)
            if before is not None and after / max(before, 1e-9) > flow.gain:
                here = Flow(executed, flow, after / max(before, 1e-9), executed, (output, rest))
            self._arrive(operand, mass, here)

    def _shares(
        self, executed: Executed, output: int, rest: Tensor, wrong: Mapping[Value, Pair]
    ) -> dict[Value, Tensor]:
        """What goes on to each operand, by its elements."""
        if len(wrong) == 1:
            (value, pair) = next(iter(wrong.items()))
            back = _moved_back(executed, rest, pair)
            if back is not None:
                return {value: back}
        if TABLE[executed.op.type].family == "structural" and all(_floats(p) for p in wrong.values()):
            moved = self._moved(executed, output, rest, wrong)
            if moved is not None:
                return moved
        parts = self._by_operand(executed, output, rest, wrong)
        return {value: self._spread(executed, output, part, value, wrong[value]) for value, part in parts.items()}

    def _by_operand(
        self, executed: Executed, output: int, rest: Tensor, wrong: Mapping[Value, Pair]
    ) -> dict[Value, Tensor]:
        """The part of each wrong operand, by the elements of the result: what changes if they go wrong one by one."""
        if len(wrong) == 1:
            return dict.fromkeys(wrong, rest)
        broken = [value for value, pair in wrong.items() if pair.exceptional is not None]
        again = executed.recomputed[output]
        if len(broken) == 1 and isinstance(again, Tensor) and not bool((again.isfinite() & (rest > 0)).any()):
            return {broken[0]: rest}  # Inf and NaN come from where there are some
        values = list(wrong)
        steps = [executed.results[output].exact]
        env = _operands(executed, exact=True)
        for value in values[:-1]:
            env[value] = wrong[value].actual
            try:
                with torch.inference_mode():
                    steps.append(self._sweep.again(executed.op, env)[output])
            except ExecutionError:  # operands of two executions need not fit each other
                return {value: rest / len(values) for value in values}
        steps.append(executed.recomputed[output])
        changes = [_change(a, b, rest) for a, b in pairwise(steps)]
        total = torch.stack(changes).sum(0)
        even = torch.full_like(rest, 1 / len(values))
        return {v: rest * torch.where(total > 0, c / total, even) for v, c in zip(values, changes, strict=True)}

    def _spread(self, executed: Executed, output: int, part: Tensor, value: Value, pair: Pair) -> Tensor:
        """The part of one operand by its own elements."""
        actual, exact = tensor_of(pair.actual), tensor_of(pair.exact)
        op = executed.op
        if TABLE[op.type].family in _ELEMENTWISE or op.type in _BY_ELEMENT:
            summed = _summed_to(part, actual.shape)
            if summed is not None:
                return summed
        error = relative_error(actual, exact)
        here = pair.exceptional
        if here is not None and bool(here.any()):
            cone = None if bool(here.all()) else self._slopes(executed, output, part, value)
            return _scaled_to(here.double() * (cone if cone is not None else 1.0), here.double(), part)
        again, right = tensor_of(executed.recomputed[output]), tensor_of(executed.results[output].exact)
        off = again.double() - right.double()
        direction = torch.where(off.isfinite() & (off != 0), part / off, 0.0)
        slopes = self._slopes(executed, output, direction, value)
        moved = error if slopes is None else slopes * (actual.double() - exact.double()).abs()
        return _scaled_to(moved, error, part)

    def _moved(
        self, executed: Executed, output: int, rest: Tensor, wrong: Mapping[Value, Pair]
    ) -> dict[Value, Tensor] | None:
        """Where the elements of a result lay before they were moved."""
        found = self._gradients(executed, output, rest, list(wrong))
        if found is None:
            return None
        total = sum(float(g.sum()) for g in found.values())
        return {v: g.abs() for v, g in found.items()} if total > 0 else None

    def _slopes(self, executed: Executed, output: int, cotangent: Tensor, value: Value) -> Tensor | None:
        found = self._gradients(executed, output, cotangent, [value])
        return None if found is None else found[value].abs()

    def _gradients(
        self, executed: Executed, output: int, cotangent: Tensor, values: Sequence[Value]
    ) -> dict[Value, Tensor] | None:
        """The slopes of a weighted sum of the result, at the exact operands; ``None`` if it has none."""
        env = _operands(executed, exact=True)
        with torch.inference_mode(mode=False), torch.enable_grad():
            env = {v: t.clone() if isinstance(t, Tensor) else t for v, t in env.items()}
            leaves = [t for v in values if isinstance(t := env[v], Tensor) and t.is_floating_point()]
            if len(leaves) != len(values):
                return None
            try:
                for leaf in leaves:
                    leaf.requires_grad_()
                result = self._sweep.again(executed.op, env)[output]
                weighted = (result * cotangent.clone().to(result.dtype)).sum()
                slopes = torch.autograd.grad(weighted, leaves, allow_unused=True)
            except (ExecutionError, RuntimeError):  # a rule need not be differentiable
                return None
        self._sweep.evaluations += 1
        filled: list[Tensor] = []
        for slope, leaf in zip(list[Tensor | None](slopes), leaves, strict=True):
            filled.append(torch.zeros_like(leaf) if slope is None else slope)
        return {v: torch.nan_to_num(s.double(), 0.0, 0.0, 0.0) for v, s in zip(values, filled, strict=True)}


def tensor_of(carried: Carried) -> Tensor:
    """A value of which it is known that it is a tensor."""
    assert isinstance(carried, Tensor)  # noqa: S101
    return carried


def own_part(actual: Tensor, again: Tensor, exact: Tensor) -> Tensor:
    """Which part of the error of each element an op has made itself, from 0 to 1."""
    a, r, e = actual.double(), again.double(), exact.double()
    own, inherited = (a - r).abs(), (r - e).abs()
    part = own / (own + inherited)
    part = torch.where(own + inherited > 0, part, 0.0)
    part = torch.where(~a.isfinite() & r.isfinite(), 1.0, part)
    return torch.where(~r.isfinite() & e.isfinite(), 0.0, torch.nan_to_num(part, 0.0))


def relative_error(actual: Tensor, right: Tensor) -> Tensor:
    """By element, the error as a part of the element, at most 1; next to zero, as a part of what is usual."""
    a, r = actual.double(), right.double()
    usual = float(torch.where(r.isfinite(), r, 0.0).square().mean().sqrt()) if r.numel() else 0.0
    part = (a - r).abs() / r.abs().clamp(min=max(usual * 2.0**-10, 1e-30))
    part = torch.where(a.isfinite() | ~r.isfinite(), torch.nan_to_num(part, 0.0), 1.0)
    return part.clamp(max=1.0)


def _moved_back(executed: Executed, mass: Tensor, pair: Pair) -> Tensor | None:
    """Where the elements of a result lay before the moves that need no evaluation to be taken back."""
    op, there = executed.op, pair.actual
    if not isinstance(there, Tensor):
        return None
    if op.type in _RESHAPES and there.numel() == mass.numel():
        return mass.reshape(there.shape)
    if op.type == "transpose":
        order = executed.operand("perm")
        if order is not None and isinstance(order.actual, Tensor):
            return mass.permute(*torch.argsort(order.actual.long() % mass.dim()).tolist())
    return None


def _weighted_error(actual: Carried, exact: Carried, mass: Tensor) -> float | None:
    if not isinstance(actual, Tensor) or not isinstance(exact, Tensor):
        return None
    return float((mass * relative_error(actual, exact)).sum() / mass.sum())


def _wrong_operands(executed: Executed) -> dict[Value, Pair]:
    """The computed operands that float32 has otherwise."""
    found: dict[Value, Pair] = {}
    for value, pair in zip(executed.op.operands, executed.operands, strict=True):
        actual, exact = pair.actual, pair.exact
        if value.const is not None or pair.same or not isinstance(actual, Tensor) or not isinstance(exact, Tensor):
            continue
        if actual.shape == exact.shape and not torch.equal(actual, exact):
            found[value] = pair
    return found


def _operands(executed: Executed, *, exact: bool) -> dict[Value, Carried]:
    pairs = zip(executed.op.operands, executed.operands, strict=True)
    return {value: pair.exact if exact else pair.actual for value, pair in pairs}


def _floats(pair: Pair) -> bool:
    return isinstance(pair.exact, Tensor) and pair.exact.is_floating_point()


def _change(before: Carried, after: Carried, like: Tensor) -> Tensor:
    """By element, how much a result changes; what becomes Inf or NaN changes most."""
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or before.shape != after.shape:
        return torch.ones_like(like)
    b, a = before.double(), after.double()
    change = torch.nan_to_num((a - b).abs(), 0.0, 1e300, 0.0)
    broken = a.isfinite() != b.isfinite()
    return torch.where(broken, 1e300, change).clamp(max=1e300) * 1e-6


def _summed_to(part: Tensor, shape: Sequence[int]) -> Tensor | None:
    """What elements of a result say of the elements that were broadcast to them."""
    if tuple(part.shape) == tuple(shape):
        return part
    try:
        return part.sum_to_size(tuple(shape))
    except RuntimeError:
        return None


def _scaled_to(moved: Tensor, otherwise: Tensor, part: Tensor) -> Tensor:
    """Weights that add up to what ``part`` does: as ``moved`` has them, or as ``otherwise`` if that says nothing."""
    total = float(part.sum())
    for weights in (torch.nan_to_num(moved, 0.0, 0.0, 0.0), otherwise):
        if float(weights.sum()) > 0:
            return weights * (total / float(weights.sum()))
    return torch.full_like(otherwise, total / max(1, otherwise.numel()))
