"""The shadow of a run: what every op of a program has done to the result itself, and what came to it from before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from nanproof.interpret.loop import Carried
from nanproof.interpret.sweep import Executed, Pair, Sweep
from nanproof.numerics import Numerics
from nanproof.ops import TensorList
from nanproof.program import Program, Value

__all__ = ["Deviation", "Shadow", "ShadowObserver", "Shadows", "shadow"]


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far numbers are from what they should be, over all elements of which both are finite.

    Attributes:
        largest: The largest absolute error.
        squares: The sum of the squares of all.
        count: How many elements there are.
        nonfinite: How many further elements are Inf or NaN and should not be.
    """

    largest: float = 0.0
    squares: float = 0.0
    count: int = 0
    nonfinite: int = 0

    @property
    def rms(self) -> float:
        """The root of the mean square."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def relative(self, scale: float) -> float:
        """The largest error as a part of ``scale``; infinite if something is not finite that should be."""
        return math.inf if self.nonfinite else self.largest / scale

    def __or__(self, other: Deviation) -> Deviation:
        """Both together."""
        return Deviation(
            max(self.largest, other.largest),
            self.squares + other.squares,
            self.count + other.count,
            self.nonfinite + other.nonfinite,
        )


@dataclass(frozen=True, slots=True)
class Shadow:
    """What was seen of one op, over all its runs and outputs. Errors are those of the stored results.

    Attributes:
        op: Name of the op.
        op_type: Its MIL type.
        runs: How often it ran; more than once in a loop, or over several batches.
        low: The least finite result in float32; ``inf`` if there is none.
        high: The largest one; ``-inf`` if there is none.
        own: From float32 on the same operands: the error that the op itself makes, storing the result included, and
            what its constants have lost if they are known in float32.
        inherited: Of float32 on the same operands from pure float32: what the op makes of the errors of its operands.
        total: From pure float32.
        infinities: Elements that became infinite here, where float32 on the same operands is finite.
        nans: Elements that became NaN here, where float32 on the same operands is finite.
        flowed: Elements that are Inf or NaN because operands are, or are wrong, and should be finite.
        died: Inf and NaN of operands that are not in the result any more.
        killed: Those that left another result than pure float32 has, by more than a thousandth of its range.
        zeroed: Elements that are zero, and are not in float32 on the same operands.
        vanished: Elements that are zero, and are not in pure float32.
        absorbed: Elements of a sum of two terms that are one of them, although the other is not zero.
        changed: Elements of integer and truth-valued results that differ from those of pure float32.
        parted: How often a branch or a loop went on otherwise in float32.
    """

    op: str
    op_type: str
    runs: int = 1
    low: float = math.inf
    high: float = -math.inf
    own: Deviation = Deviation()
    inherited: Deviation = Deviation()
    total: Deviation = Deviation()
    infinities: int = 0
    nans: int = 0
    flowed: int = 0
    died: int = 0
    killed: int = 0
    zeroed: int = 0
    vanished: int = 0
    absorbed: int = 0
    changed: int = 0
    parted: int = 0

    @property
    def born(self) -> int:
        """Inf and NaN that the op itself made."""
        return self.infinities + self.nans

    @property
    def scale(self) -> float:
        """The range of the results in float32, to which errors are relative; at least an FP16 step of the largest."""
        return _scale(self.low, self.high)

    @property
    def own_error(self) -> float:
        """The largest own error, relative to the range; ``inf`` if Inf or NaN is born here."""
        return self.own.relative(self.scale)

    @property
    def inherited_error(self) -> float:
        """The largest inherited error, relative to the range; ``inf`` if Inf or NaN flows through here."""
        return math.inf if self.flowed else self.inherited.relative(self.scale)

    @property
    def total_error(self) -> float:
        """The largest error, relative to the range; ``inf`` if something is Inf or NaN that should not be."""
        return self.total.relative(self.scale)

    def __or__(self, other: Shadow) -> Shadow:
        """Both together: of the same op in several runs, or of its several outputs."""
        return replace(
            self,
            runs=self.runs + other.runs,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            **{name: getattr(self, name) | getattr(other, name) for name in ("own", "inherited", "total")},
            **{name: getattr(self, name) + getattr(other, name) for name in _COUNTS},
        )


_COUNTS = ("infinities", "nans", "flowed", "died", "killed", "zeroed", "vanished", "absorbed", "changed", "parted")
_MATTERS = 1e-3
"""A part of the range beyond which a death has changed the result. Rounding of an operand stays below it."""


@final
@dataclass(frozen=True, slots=True)
class Shadows(Mapping[str, Shadow]):
    """The shadows of all ops that ran, by op name in the order of execution, with the outputs of the run.

    Attributes:
        by_op: The shadows.
        outputs: What the unit computed, in the dtypes of the outputs; of the last batch.
        exact: What float32 computed.
    """

    by_op: Mapping[str, Shadow]
    outputs: Mapping[str, np.ndarray]
    exact: Mapping[str, np.ndarray]

    @override
    def __getitem__(self, op: str) -> Shadow:
        return self.by_op[op]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.by_op)

    @override
    def __len__(self) -> int:
        return len(self.by_op)

    def __or__(self, other: Shadows) -> Shadows:
        """Both batches together."""
        return Shadows(joined(self.by_op, other.by_op), other.outputs, other.exact)


def joined(one: Mapping[str, Shadow], other: Mapping[str, Shadow]) -> dict[str, Shadow]:
    """The shadows of two runs together."""
    return {**one, **{name: one[name] | found if name in one else found for name, found in other.items()}}


def shadow(
    program: Program,
    batch: Mapping[str, Any],
    numerics: str | Numerics = "gpu",
    *,
    constants: Mapping[Value, np.ndarray] | None = None,
) -> Shadows:
    """Run a program once under a unit's numerics and in float32 beside it; the errors of every op, by its name.

    Ops inside of branches, loops and functions of the program are seen as often as they run. To see several batches,
    join their results with ``|``. Costs three executions, or two under numerics that compute in float32 inside an op.

    Args:
        program: The program: all FP16, mixed or FP32.
        batch: One array for each input.
        numerics: How the unit computes.
        constants: What constants were before they were rounded to FP16
            (:func:`nanproof.diagnosis.twins.exact_constants`); float32 computes with them.

    Raises:
        InputError, CouldNotCheckError: As :func:`nanproof.predict`.
    """
    seen = ShadowObserver()
    outputs, exact = Sweep(program, numerics, constants)(batch, seen)
    return Shadows(seen.by_op, outputs, exact)


@final
class ShadowObserver:
    """Gathers the shadows of all ops while a :class:`~nanproof.interpret.sweep.Sweep` runs, in constant memory."""

    def __init__(self) -> None:
        self.by_op: dict[str, Shadow] = {}

    def __call__(self, executed: Executed) -> None:
        """Look at one op as it ran."""
        seen = shadow_of(executed)
        name = seen.op
        self.by_op[name] = self.by_op[name] | seen if name in self.by_op else seen


def shadow_of(executed: Executed) -> Shadow:
    """The shadow of one op in one run."""
    op = executed.op
    found = Shadow(op.name, op.type, runs=0)
    for pair, recomputed in zip(executed.results, executed.recomputed, strict=True):
        found = found | _of_result(op.name, op.type, pair, recomputed)
    died, killed = (0, 0) if op.blocks else _deaths(executed)
    absorbed = _absorbed(executed) if op.type in ("add", "sub") else 0
    return replace(found, runs=1, died=died, killed=killed, absorbed=absorbed, parted=int(executed.parted))


def _of_result(name: str, op_type: str, pair: Pair, again: Carried) -> Shadow:
    actual, recomputed, exact = _seen(pair.actual), _seen(again), _seen(pair.exact)
    if exact is None or recomputed is None or actual is None:
        return Shadow(name, op_type, runs=0)
    low, high = _bounds(exact)
    changed = 0
    if not exact.is_floating_point() and actual is not exact:
        changed = int((actual != exact).sum()) if actual.shape == exact.shape else max(actual.numel(), exact.numel())
    own, total = deviation(actual, recomputed), deviation(actual, exact)
    inherited = total if recomputed is actual else deviation(recomputed, exact)
    infinities = nans = 0
    if own.nonfinite:
        nans = int((actual.isnan() & recomputed.isfinite()).sum())
        infinities = own.nonfinite - nans
    zeroed = vanished = 0
    if exact.is_floating_point() and actual is not exact:
        there = int(torch.count_nonzero(actual))
        zeroed = 0 if actual is recomputed else max(0, int(torch.count_nonzero(recomputed)) - there)
        vanished = max(0, int(torch.count_nonzero(exact)) - there)
    return Shadow(
        name,
        op_type,
        runs=0,
        low=low,
        high=high,
        own=own,
        inherited=inherited,
        total=total,
        infinities=infinities,
        nans=nans,
        flowed=inherited.nonfinite if actual is recomputed else _flowed(actual, recomputed, exact, total),
        zeroed=zeroed,
        vanished=vanished,
        changed=changed,
    )


def _seen(carried: Carried) -> Tensor | None:
    if isinstance(carried, TensorList):
        return carried.stacked()
    return carried if isinstance(carried, Tensor) else None


def _scale(low: float, high: float) -> float:
    if high < low:
        return 1.0
    return max(high - low, max(abs(low), abs(high)) * 2.0**-10) or 1.0


def _bounds(x: Tensor) -> tuple[float, float]:
    if not x.numel():
        return math.inf, -math.inf
    low, high = (float(v) for v in x.float().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = x[x.isfinite()]
        if not finite.numel():
            return math.inf, -math.inf
        low, high = (float(v) for v in finite.aminmax())
    return low, high


def deviation(actual: Tensor, right: Tensor) -> Deviation:
    """How far one tensor is from another. Where the right one is not finite, nothing is wrong.

    Tensors of two shapes, which a program has if a size depends on numbers, differ everywhere.
    """
    if actual is right:
        return Deviation(count=actual.numel())
    if actual.shape != right.shape:
        return Deviation(count=right.numel(), nonfinite=max(actual.numel(), right.numel()))
    if not right.is_floating_point() or not actual.is_floating_point():
        actual, right = actual.double(), right.double()
    error = torch.sub(actual, right)
    if not error.numel():
        return Deviation()
    largest = float(error.abs().max())
    nonfinite = 0
    if not math.isfinite(largest):
        there = right.isfinite()
        wrong = ~actual.isfinite() & there
        nonfinite = int(wrong.sum())
        good = there & ~wrong
        error = torch.where(good, actual, 0.0).double() - torch.where(good, right, 0.0).double()
        largest = float(error.abs().max())
    norm = float(torch.linalg.vector_norm(error, dtype=torch.float64))
    return Deviation(largest, norm * norm, error.numel() - nonfinite, nonfinite)


def _flowed(actual: Tensor, recomputed: Tensor, exact: Tensor, total: Deviation) -> int:
    """Elements that are not finite, neither if computed again, but in float32."""
    if not total.nonfinite or actual.shape != exact.shape or actual.shape != recomputed.shape:
        return 0
    return int((~actual.isfinite() & ~recomputed.isfinite() & exact.isfinite()).sum())


def _deaths(executed: Executed) -> tuple[int, int]:
    """How many Inf and NaN of operands are not in the results any more, and how many of these changed the result."""
    tensors = [(p, m) for p in executed.operands if isinstance(p.actual, Tensor) and (m := p.exceptional) is not None]
    results = [p for p in executed.results if isinstance(p.actual, Tensor)]
    if not tensors or not results:
        return 0, 0
    died = killed = 0
    for result in results:
        actual, exact = _seen(result.actual), _seen(result.exact)
        if actual is None or exact is None or actual.shape != exact.shape:
            continue
        alive = result.exceptional
        dead = torch.ones_like(actual, dtype=torch.bool) if alive is None else ~alive
        wrong = _wrong(actual, exact)
        for _, there in tensors:
            where = _spread(there, actual.shape)
            if where is not None:
                died += int((where & dead).sum())
                killed += int((where & dead & wrong).sum())
            elif alive is None:
                died += int(there.sum())
                killed += int(there.sum()) if bool(wrong.any()) else 0
    return died, killed


def _wrong(actual: Tensor, exact: Tensor) -> Tensor:
    if not exact.is_floating_point():
        return actual != exact
    return (actual.double() - exact.double()).abs() > _MATTERS * _scale(*_bounds(exact))


def _spread(there: Tensor, shape: Sequence[int]) -> Tensor | None:
    """A mask of an operand as one of the result, if the operand's shape broadcasts to it."""
    try:
        return there.broadcast_to(tuple(shape))
    except RuntimeError:
        return None


def _absorbed(executed: Executed) -> int:
    """Of a sum of two terms, the elements that are one term alone although float32 is not."""
    pair, again = executed.results[0], executed.recomputed[0]
    x, y = executed.operand("x"), executed.operand("y")
    tensors = (pair.actual, again, x and x.actual, y and y.actual)
    if again is pair.actual or not all(isinstance(t, Tensor) and t.is_floating_point() for t in tensors):
        return 0
    result, recomputed, one, other = (t for t in tensors if isinstance(t, Tensor))
    other = -other if executed.op.type == "sub" else other
    lone = ((result == one) & (other != 0)) | ((result == other) & (one != 0))
    return int((lone & (recomputed != result) & result.isfinite()).sum())
