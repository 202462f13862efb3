"""The table: one record per MIL op, filed by family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from nanproof.ops import (
    activation,
    binary,
    compression,
    contraction,
    elementwise,
    filling,
    image,
    indexing,
    logic,
    normalisation,
    ordering,
    pooling,
    reduction,
    slicing,
    structural,
)
from nanproof.ops.record import Note, OpDef, Sample

__all__ = ["TABLE", "Note", "OpDef", "Sample"]


def _table(*families: Iterable[OpDef]) -> Mapping[str, OpDef]:
    table: dict[str, OpDef] = {}
    for record in (record for family in families for record in family):
        if record.name in table:
            raise ValueError(f"op '{record.name}' has two records")
        table[record.name] = record
    return MappingProxyType(dict(sorted(table.items())))


TABLE: Mapping[str, OpDef] = _table(
    activation.OPS,
    binary.OPS,
    compression.OPS,
    contraction.OPS,
    elementwise.OPS,
    filling.OPS,
    image.OPS,
    indexing.OPS,
    logic.OPS,
    normalisation.OPS,
    ordering.OPS,
    pooling.OPS,
    reduction.OPS,
    slicing.OPS,
    structural.OPS,
)
"""Every MIL op that nanproof knows, by name."""
