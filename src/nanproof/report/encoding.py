"""Plain data that every JSON reader accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["SCHEMA", "document", "encoded"]

SCHEMA = "nanproof/1"
"""Name and version of the data's form. The number grows when a field is removed or changes its meaning."""


def encoded(value: Any) -> Any:
    """The same data of dicts, lists, strings, numbers, booleans and ``None``; NaN and infinities become strings.

    JSON has no number for them, and ``json.dumps`` writes ``NaN``, which is not JSON.

    >>> encoded({"error": float("inf"), "shape": (2, 3)})
    {'error': 'inf', 'shape': [2, 3]}
    """
    if isinstance(value, Mapping):
        return {str(k): encoded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encoded(v) for v in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def document(kind: str, data: Mapping[str, Any]) -> str:
    """One strictly valid JSON document."""
    content = encoded({"schema": SCHEMA, "kind": kind, **data})
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
