"""How each compute unit computes. A numerics is a small frozen object, looked up by name with :func:`get`."""

from __future__ import annotations

from nanproof.numerics.units import AVAILABLE, Numerics, get

__all__ = ["AVAILABLE", "Numerics", "get"]
