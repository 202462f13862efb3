"""What a function declares, against the memory of this machine."""

from __future__ import annotations

from nanproof.errors import ExecutionError
from nanproof.program import Block, DType, Function, Kind, Op, Value
from nanproof.values.floats import carrier
from nanproof.values.memory import affordable

__all__ = ["require_memory"]


def require_memory(function: Function) -> None:
    """Refuse a function with a value of known shape that could not be held alone.

    Unknown dimensions count as 1, and elements as what carries them here: 4 bytes for ``fp16``.

    Raises:
        ExecutionError: There is such a value.
    """
    for value in function.inputs.values():
        _require(value, f"The input '{value.name}'")
    _require_block(function.block)


def _require_block(block: Block) -> None:
    for op in block.ops:
        for value in op.outputs:
            _require(value, f"The result '{value.name}' of the op '{op.name}' ({op.type})", op)
        for inner in op.blocks:
            _require_block(inner)


def _require(value: Value, what: str, op: Op | None = None) -> None:
    type = value.type
    if type.dtype is DType.STRING or type.kind is Kind.DICTIONARY:
        return
    sizes = [d for d in type.shape if isinstance(d, int)]
    try:
        affordable(sizes, carrier(type.dtype).itemsize)
    except MemoryError as error:
        source = f"\n  It comes from {op.source}." if op is not None and op.source else ""
        raise ExecutionError(
            f"{what} is declared as {type}: {error}.{source}\n"
            "  If the declaration is right, run the model on a machine with more memory; if not, the file is damaged."
        ) from error
