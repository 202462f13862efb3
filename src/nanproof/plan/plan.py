"""The plan: rewrites and FP32 islands, each with its reason and evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from nanproof.mil.edits import Edit
from nanproof.program import Op, Program
from nanproof.rewrite.rewrite import Rewrite

__all__ = ["AUTHOR", "PINNED", "Island", "Plan", "connected"]

AUTHOR = "author's FP32"
"""The reason of islands that the module's own code asks for."""
PINNED = "pinned"
"""The reason of islands that the user asks for."""


@dataclass(frozen=True, slots=True)
class Island:
    """A connected region that stays in FP32.

    Attributes:
        ops: Names of its MIL ops, in execution order.
        reason: Why FP16 fails there.
        evidence: What was seen or computed that shows it.
    """

    ops: tuple[str, ...]
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversion does to a float32 program.

    ``fp32_ops`` counts the ops of the written program that compute in FP32 beyond those that the module's own code asks
    for, which ``author_fp32_ops`` counts. Casts are not included. Both are set once the program is written and read
    back. ``trials`` counts the plans that were executed to find this one, ``executions`` what that comes to in full
    executions: on all inputs under all units. A trial that ends at the first run that fails is a part of one.
    """

    rewrites: tuple[Rewrite, ...] = ()
    islands: tuple[Island, ...] = ()
    fp32_outputs: tuple[str, ...] = ()
    fp32_ops: int = 0
    author_fp32_ops: int = 0
    trials: int = 0
    executions: float = 0.0

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, in order, but for FP16 bounds of ops that stay FP32: there they would cut values off."""
        return tuple(
            edit
            for rewrite in self.rewrites
            for edit in rewrite.edits
            if rewrite.name != "clip-bound" or edit.op not in self.kept
        )

    @property
    def kept(self) -> frozenset[str]:
        """Names of all ops that stay FP32."""
        return frozenset(name for island in self.islands for name in island.ops)

    @property
    def author(self) -> frozenset[str]:
        """Names of the ops that stay FP32 because the module's own code asks for it."""
        return frozenset(name for island in self.islands if island.reason == AUTHOR for name in island.ops)

    @property
    def asked(self) -> frozenset[str]:
        """Names of the ops that stay FP32 because somebody asks for it: the module's own code, or the user."""
        return frozenset(name for i in self.islands if i.reason in (AUTHOR, PINNED) for name in i.ops)

    def with_islands(self, more: Iterable[Island], fp32_outputs: Iterable[str] = ()) -> Plan:
        """The plan with further islands; ops that are kept already are not listed twice."""
        kept = self.kept
        fresh = [replace(i, ops=tuple(o for o in i.ops if o not in kept)) for i in more]
        outputs = tuple(dict.fromkeys((*self.fp32_outputs, *fp32_outputs)))
        return replace(self, islands=self.islands + tuple(i for i in fresh if i.ops), fp32_outputs=outputs)

    def without_rewrites(self, program: Program, evidence: str) -> Plan:
        """The plan with all rewrites taken back: their ops stay FP32 instead, for the reason given."""
        islands = [
            Island(group, rewrite.name, evidence)
            for rewrite in self.rewrites
            for group in connected(program, rewrite.ops)
        ]
        kept = {name for island in islands for name in island.ops}
        outputs = [v.name for op in program.walk() if op.name in kept for v in op.outputs]
        results = {v.name for v in program.main.block.outputs}
        return replace(self, rewrites=()).with_islands(islands, [o for o in outputs if o in results])


def connected(program: Program, names: Iterable[str]) -> list[tuple[str, ...]]:
    """Split ops into connected regions: two ops belong together if one reads what the other computes."""
    wanted = set(names)
    ops = [op for op in program.walk() if op.name in wanted]
    home = {value: i for i, op in enumerate(ops) for value in op.outputs}
    parent = list(range(len(ops)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, op in enumerate(ops):
        for value in op.operands:
            if value in home:
                parent[root(i)] = root(home[value])
    groups: dict[int, list[Op]] = {}
    for i, op in enumerate(ops):
        groups.setdefault(root(i), []).append(op)
    return [tuple(op.name for op in group) for group in groups.values()]
