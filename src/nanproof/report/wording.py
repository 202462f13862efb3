"""How numbers, counts and places are put into words."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["error_text", "joined", "nearby", "nothing_found", "package_bytes", "plural", "size_text"]


def error_text(error: Any) -> str:
    """An error with two digits; data holds infinities as strings.

    >>> error_text(0.0006045), error_text("inf"), error_text(1.3486e-07)
    ('0.0006', 'inf', '1.3e-07')
    """
    return f"{float(error):.2g}"


def nothing_found(data: Mapping[str, Any]) -> str:
    """What it means that a conversion has no findings."""
    if not data["program"]["fp16"]:
        return "nothing was looked for, since nothing computes in FP16"
    return "nothing that FP16 breaks on these inputs"


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "op"), plural(2000, "op")
    ('1 op', '2,000 ops')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(names: Iterable[str]) -> str:
    """Names in a sentence.

    >>> joined(["gpu", "strict", "reference"])
    'gpu, strict and reference'
    """
    *most, last = [*names] or ["nothing"]
    return f"{', '.join(most)} and {last}" if most else last


def size_text(count: int) -> str:
    """A size in decimal units, as Finder and the App Store show it.

    >>> size_text(532), size_text(1_234_567)
    ('532 bytes', '1.2 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"


def package_bytes(path: Path) -> int:
    """Size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def nearby(file: str) -> str:
    """A path as seen from the working folder, if it lies below it."""
    relative = os.path.relpath(file) if Path(file).is_absolute() and Path(file).drive == Path.cwd().drive else file
    return file if relative.startswith("..") else relative
