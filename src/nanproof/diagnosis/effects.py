"""What became of a fault on its way to the outputs: where Inf died, and where NaN began."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nanproof.diagnosis.blame import Blame, Flow
from nanproof.diagnosis.sample import number
from nanproof.interpret.shadow import Shadow
from nanproof.interpret.sweep import Executed
from nanproof.program import Op

__all__ = ["effects_of"]


def effects_of(blame: Blame, shadows: Mapping[str, Shadow]) -> tuple[str, ...]:
    """The deaths and births on the way of the largest part of an error, each in a sentence."""
    told: list[str] = []
    dead = nan = False
    flow: Flow | None = blame.flow
    while flow is not None and flow.reader is not None:
        reader = flow.reader
        shadow = shadows.get(reader.op.name)
        if not dead and shadow is not None and shadow.killed and not reader.op.blocks:
            sentence = _death(reader)
            told += [sentence] if sentence else []
            dead = bool(sentence)
        if not nan and _makes_nan(reader):
            told.append(f"NaN begins in {_named(reader.op)}")
            nan = True
        flow = flow.then
    return tuple(told)


def _death(reader: Executed) -> str:
    """Where Inf or NaN ends in a number that is not the right one."""
    (result, *_) = reader.results
    actual, exact = result.actual, result.exact
    if not isinstance(actual, Tensor) or not isinstance(exact, Tensor) or actual.shape != exact.shape:
        return ""
    off = torch.where(actual.isfinite(), (actual.double() - exact.double()).abs(), 0.0).reshape(-1)
    there = torch.zeros_like(actual, dtype=torch.bool)
    what = "Inf"
    for pair in reader.operands:
        mask = pair.exceptional
        if mask is None or not isinstance(pair.actual, Tensor):
            continue
        what = "NaN" if bool(pair.actual.isnan().any()) else "Inf"
        try:
            there |= mask.broadcast_to(actual.shape)
        except RuntimeError:
            there |= True
    off = torch.where(there.reshape(-1), off, 0.0)
    place = int(off.argmax())
    now, right = (float(t.reshape(-1)[place]) for t in (actual, exact))
    return f"{what} becomes {number(now)} in {_named(reader.op)}, where float32 has {number(right)}"


def _makes_nan(reader: Executed) -> bool:
    def has(pairs: object) -> bool:
        return any(isinstance(p.actual, Tensor) and bool(p.actual.isnan().any()) for p in pairs)  # type: ignore[attr-defined]

    return has(reader.results) and not has(reader.operands)


def _named(op: Op) -> str:
    where = f" (line {op.source.line})" if op.source is not None else ""
    return f"{op.type}{where}"
