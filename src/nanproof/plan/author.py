"""The author's FP32 as requests to the planner: what a module computes in float32 on purpose stays FP32.

It is granted always. A proof or a measurement that FP16 does as well may drop an island of this reason: nothing else
depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath

from nanproof.capture.author import Author, Wish
from nanproof.findings import Finding
from nanproof.plan.plan import AUTHOR, Island, connected
from nanproof.program import Op, Program

__all__ = ["Requests", "requests_of"]


@dataclass(frozen=True, slots=True)
class Requests:
    """Islands that the planner is asked for, with their findings."""

    findings: tuple[Finding, ...] = ()
    islands: tuple[Island, ...] = ()

    def refused(self) -> Requests:
        """The findings alone: what ``precision="float16"`` asks for. Rewrites may still make the ops safe."""
        return Requests(tuple(replace(f, remedy="not kept in FP32: the precision is float16") for f in self.findings))


def requests_of(author: Author, program: Program, handles: Mapping[str, int]) -> Requests:
    """What the author's wishes mean for a lowered program.

    Args:
        author: The wishes, by the handles of exported nodes.
        program: The float32 program.
        handles: The handle of the node of which each of its ops was made, by op name.
    """
    findings: list[Finding] = []
    islands: list[Island] = []
    by_handle: dict[int, list[Op]] = {}
    for op in program.walk():
        if op.dtype is not None and op.name in handles:
            by_handle.setdefault(handles[op.name], []).append(op)
    for wish in author.wishes:
        ops = [op for handle in sorted(wish.handles) for op in by_handle.get(handle, ())]
        if ops:  # of a region of constants none is left
            findings.append(_finding(wish, ops))
            islands += [Island(group, AUTHOR, _evidence(wish)) for group in connected(program, [op.name for op in ops])]
    if author.unknown:
        detail = f"its casts to float32 may ask for FP32, but {author.unknown}"
        findings.append(Finding("NP131", "", "module", detail, "planned from values alone", author.cast))
    return Requests(tuple(findings), tuple(islands))


def _finding(wish: Wish, ops: list[Op]) -> Finding:
    types = ", ".join(dict.fromkeys(op.type for op in ops))
    detail = f"computes {types} in float32, whatever the precision of the code around it"
    return Finding("NP130", ops[0].name, ops[0].type, detail, "kept in FP32", wish.cast or ops[0].source)


def _evidence(wish: Wish) -> str:
    if wish.cast is None:
        return "the module casts to float32 there"
    return f"{PurePath(wish.cast.file).name}:{wish.cast.line} says so: {wish.cast.code}"
