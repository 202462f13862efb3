"""A place in the user's code as plain data, with the lines around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanproof.program import Source

__all__ = ["source_data"]

_MOST_SOURCE_BYTES = 2_000_000
_CONTEXT = 2


def source_data(source: Source | None) -> dict[str, Any] | None:
    """A place in the user's code, with the lines around it; ``None`` where it is not known."""
    if source is None:
        return None
    return {
        "file": source.file,
        "line": source.line,
        "code": source.code,
        "module": source.module,
        "excerpt": _excerpt(source),
    }


def _excerpt(source: Source) -> list[dict[str, Any]]:
    """The line with its neighbours, from the Python file, if it still says what it said when it was captured."""
    path = Path(source.file)
    try:
        if path.suffix != ".py" or not path.is_file() or path.stat().st_size > _MOST_SOURCE_BYTES:
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, ValueError):
        return []
    at = source.line - 1
    if not 0 <= at < len(lines) or lines[at].strip() != source.code.strip():
        return []
    first = max(0, at - _CONTEXT)
    return [{"line": first + i + 1, "code": text} for i, text in enumerate(lines[first : at + _CONTEXT + 1])]
