"""What the user pins to FP32 or FP16: ops by name or type, modules by path, lines of Python."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import PurePath

from nanproof.errors import UsageError
from nanproof.findings import Finding
from nanproof.plan.plan import PINNED, Island, Plan, connected
from nanproof.program import Op, Program

__all__ = ["check_pins", "freed", "pinned", "pinned_islands", "pins"]


def pinned(program: Program, patterns: Sequence[str]) -> dict[str, str]:
    """The ops that patterns name, each with the pattern.

    A pattern is the name of an op, the type of ops (``"softmax"``), a module path (``"encoder.norm"``: all that is
    computed in it) or ``"file.py:line"``. In all but the last ``*``, ``?`` and ``[...]`` stand for what they stand for
    in a shell. Ops that compute no floats are left out.

    Raises:
        UsageError: A pattern names nothing.
    """
    ops = [op for op in program.walk() if op.dtype is not None]
    found: dict[str, str] = {}
    for pattern in patterns:
        named = [op.name for op in ops if _matches(op, pattern)]
        if not named:
            raise UsageError(_nothing(ops, pattern))
        found |= {name: pattern for name in named if name not in found}
    return found


def pins(program: Program, patterns: Sequence[str]) -> frozenset[str]:
    """The ops that patterns name in a program that may not hold all of them any more."""
    return frozenset(
        op.name for op in program.walk() if op.dtype is not None and any(_matches(op, p) for p in patterns)
    )


def _matches(op: Op, pattern: str) -> bool:
    if fnmatchcase(op.name, pattern) or fnmatchcase(op.type, pattern):
        return True
    if op.source is None:
        return False
    parts = op.source.module.split(".") if op.source.module else []
    paths = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return any(fnmatchcase(path, pattern) for path in paths) or _line(op) == _place(pattern)


def _line(op: Op) -> tuple[str, int] | None:
    return (PurePath(op.source.file).name, op.source.line) if op.source is not None else None


def _place(pattern: str) -> tuple[str, int] | None:
    file, colon, line = pattern.rpartition(":")
    return (PurePath(file).name, int(line)) if colon and file and line.isdigit() else None


def _nothing(ops: Sequence[Op], pattern: str) -> str:
    names: dict[str, None] = {}
    for op in ops:
        places = [f"{line[0]}:{line[1]}"] if (line := _line(op)) is not None else []
        names |= dict.fromkeys((op.name, op.type, *([op.source.module] if op.source is not None else []), *places))
    near = difflib.get_close_matches(pattern, [n for n in names if n], 4, 0.5)
    hint = f"Near it: {', '.join(near)}." if near else "`result.fp32_program` prints them all."
    return f"'{pattern}' is pinned, but names no op, op type, module path or file.py:line of the program.\n  {hint}"


def check_pins(program: Program, fp32: Sequence[str], fp16: Sequence[str]) -> None:
    """Tell of pins that name nothing, or contradict each other.

    Raises:
        UsageError: There are such.
    """
    one, other = pinned(program, fp32), pinned(program, fp16)
    both = next((name for name in one if name in other), None)
    if both is not None:
        raise UsageError(
            f"The op '{both}' is pinned to FP32 by '{one[both]}' and to FP16 by '{other[both]}'. Make one of them "
            "narrower."
        )


def pinned_islands(program: Program, patterns: Sequence[str]) -> list[Island]:
    """Islands of the ops that are pinned to FP32."""
    found = pinned(program, patterns)
    return [Island(group, PINNED, f"keep_fp32 names '{found[group[0]]}'") for group in connected(program, list(found))]


def freed(
    plan: Plan, findings: Sequence[Finding], program: Program, patterns: Sequence[str]
) -> tuple[Plan, list[Finding]]:
    """The plan without islands of ops that are pinned to FP16, and the findings that say so."""
    free = pins(program, patterns)
    islands: list[Island] = []
    for island in plan.islands:
        left = [name for name in island.ops if name not in free]
        islands += [replace(island, ops=group) for group in connected(program, left)]
    told = [
        replace(f, remedy="not repaired: keep_fp16 pins it to FP16")
        if f.op in free and f.remedy.startswith("kept in FP32")
        else f
        for f in findings
    ]
    return replace(plan, islands=tuple(islands)), told
