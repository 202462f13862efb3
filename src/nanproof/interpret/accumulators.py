"""Overflow of the Neural Engine's accumulators: which sums of products do overflow, and which may."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nanproof.errors import NumericsError
from nanproof.interpret.execute import Executor
from nanproof.numerics import Numerics, get
from nanproof.numerics.neural_engine import NeuralEngine
from nanproof.numerics.overflow import Sums, Watched
from nanproof.program import Op, Program

__all__ = ["Accumulation", "accumulations", "has_limit"]


@dataclass(frozen=True, slots=True)
class Accumulation:
    """What was seen of the sums of one op, over all runs.

    Attributes:
        op: Name of the op.
        op_type: Its MIL type: ``matmul``, ``linear``, ``conv``, ``conv_transpose``, ``einsum``, or
            ``scaled_dot_product_attention``.
        sums: How many sums it made.
        definite: How many of them reach 2**15, and are infinite on the unit.
        possible: How many others may, depending on the order in which the unit takes the products.
        largest: The largest partial sum, in absolute value, that any order can reach.
    """

    op: str
    op_type: str
    sums: int
    definite: int
    possible: int
    largest: float

    @property
    def described(self) -> str:
        """What there is to say of it, in one line."""
        counts = [f"{n} {what}" for n, what in ((self.definite, "reach it"), (self.possible, "may on the way")) if n]
        return (
            f"{self.op_type} '{self.op}': the accumulator ends at 2**15; of {self.sums} sums "
            f"{' and '.join(counts) or 'none does'} (partial sums up to {self.largest:.4g})"
        )

    @property
    def level(self) -> str:
        """``"definite"``, ``"possible"`` or ``"safe"``: the worst of its sums."""
        return "definite" if self.definite else "possible" if self.possible else "safe"

    def __or__(self, other: Accumulation) -> Accumulation:
        return replace(
            self,
            sums=self.sums + other.sums,
            definite=self.definite + other.definite,
            possible=self.possible + other.possible,
            largest=max(self.largest, other.largest),
        )


class _Watcher:
    """Keeps the bounds of the sums of the running op, and files them under its name when it has run."""

    def __init__(self) -> None:
        self.pending: list[Sums] = []
        self.seen: dict[str, Accumulation] = {}

    def see(self, result: Tensor, sums: Sums) -> Tensor:
        self.pending.append(sums)
        return result

    def __call__(self, op: Op, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        for sums in self.pending:
            if sums.whole.numel():
                new = _counted(op, sums)
                self.seen[op.name] = self.seen[op.name] | new if op.name in self.seen else new
        self.pending.clear()


def _counted(op: Op, sums: Sums) -> Accumulation:
    largest = float(torch.maximum(sums.high.abs(), sums.low.abs()).max())
    return Accumulation(
        op.name, op.type, sums.whole.numel(), int(sums.definite.sum()), int(sums.possible.sum()), largest
    )


def has_limit(numerics: str | Numerics) -> bool:
    """Whether the accumulators of these numerics are those of a Neural Engine, which overflow at 2**15."""
    return isinstance(get(numerics).half, NeuralEngine)


def accumulations(
    program: Program, batches: Iterable[Mapping[str, Any]], *, numerics: str | Numerics = "ane"
) -> tuple[Accumulation, ...]:
    """Run a program on every batch, and judge every sum of products that the Neural Engine makes.

    Costs two more products in float64 for each of the program's, so it is no part of a usual run.

    Args:
        program: The program.
        batches: For each run one array for each input name.
        numerics: ``"ane"``, ``"ane_m1"``, or either in the exact reading.

    Returns:
        One record for each op that sums products in ``fp16``, in the order of execution.

    Raises:
        NumericsError: These are not the numerics of a Neural Engine.
        InputError, CouldNotCheckError: As :func:`nanproof.predict`.
    """
    unit = get(numerics)
    if not isinstance(unit.half, NeuralEngine):
        raise NumericsError(f"The accumulators of '{unit.name}' have no limit of 2**15. Ask for 'ane' or 'ane_m1'.")
    watcher, engine = _Watcher(), unit.half
    watched = Watched(engine.accumulator, watcher.see, fixed_point=unit.name != "ane_m1")
    executor = Executor(program, replace(unit, half=replace(engine, accumulator=watched)))
    for batch in batches:
        executor.once(batch, [watcher])
    return tuple(watcher.seen.values())
