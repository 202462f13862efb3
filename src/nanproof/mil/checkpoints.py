"""Looking at a MIL program between coremltools' passes: after each of them runs one of our own that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from nanproof.mil.coreml import AbstractGraphPass, ct, register_pass

__all__ = ["Visitor", "visited", "with_checkpoints"]

Visitor = Callable[[str, Any], None]
"""Sees the name of the pass that has just run (empty before the first one), and the program."""

_NAME = "nanproof::checkpoint"
_NAMESPACE, _, _CLASS = _NAME.partition("::")
_CURRENT: ContextVar[tuple[Visitor, list[str]] | None] = ContextVar("current", default=None)


@register_pass(namespace=_NAMESPACE, name=_CLASS)
class Checkpoint(AbstractGraphPass):
    """Shows the program to the visitor of the conversion that is running."""

    def apply(self, prog: Any) -> None:
        """Show ``prog``; it stays as it is."""
        current = _CURRENT.get()
        if current is not None:
            visitor, names = current
            visitor(names.pop(0), prog)


def with_checkpoints(names: Sequence[str]) -> Any:
    """A pass pipeline with a checkpoint before the first pass and after each."""
    return ct.PassPipeline([_NAME, *(part for name in names for part in (name, _NAME))], "nanproof")


@contextmanager
def visited(visitor: Visitor, names: Sequence[str]) -> Generator[None]:
    """Show the program to ``visitor`` while a pipeline of :func:`with_checkpoints` of the same names runs."""
    token = _CURRENT.set((visitor, ["", *names]))
    try:
        yield
    finally:
        _CURRENT.reset(token)
