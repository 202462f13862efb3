"""The table: one record per MIL op, filed by family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from nanproof.ops import (
    activation,
    binary,
    chance,
    compression,
    contraction,
    control,
    elementwise,
    filling,
    image,
    indexing,
    lists,
    logic,
    normalisation,
    ordering,
    pooling,
    recurrent,
    reduction,
    region,
    slicing,
    state,
    structural,
)
from nanproof.ops.control import Flow
from nanproof.ops.lists import TensorList
from nanproof.ops.record import Note, OpDef, Sample
from nanproof.ops.state import StateCell

__all__ = ["TABLE", "Flow", "Note", "OpDef", "Sample", "StateCell", "TensorList"]


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
    chance.OPS,
    compression.OPS,
    contraction.OPS,
    control.OPS,
    elementwise.OPS,
    filling.OPS,
    image.OPS,
    indexing.OPS,
    lists.OPS,
    logic.OPS,
    normalisation.OPS,
    ordering.OPS,
    pooling.OPS,
    recurrent.OPS,
    reduction.OPS,
    region.OPS,
    slicing.OPS,
    state.OPS,
    structural.OPS,
)
"""Every MIL op that nanproof knows, by name."""
