"""Ranges in a file, so that long observations can go on later, and those of several machines come together."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import or_
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from nanproof.errors import InputError, UsageError
from nanproof.interpret.range import Range, Ranges
from nanproof.program import Program

__all__ = ["RANGES_SCHEMA", "Observed", "fingerprint", "merged", "read_ranges", "write_ranges"]

RANGES_SCHEMA = "nanproof-ranges/1"
"""Name and version of the file's form. The number grows when a field is removed or changes its meaning."""
_SAMPLED = 1 << 16
_FIELDS = tuple(f.name for f in fields(Range))
_COUNTS = frozenset({"infinities", "nans", "zeros", "overflows"})


@dataclass(frozen=True, slots=True)
class Observed:
    """Ranges, and what they are of.

    Attributes:
        program: :func:`fingerprint` of the program.
        numerics: Name of the numerics under which it ran.
        axis: The axis along which channels were counted, if they were.
        ranges: What was seen.
    """

    program: str
    numerics: str
    axis: int | None
    ranges: Ranges


def fingerprint(program: Program) -> str:
    """A short text that two programs share if they have the same ops, names, types and constants.

    Of a large constant, evenly spaced elements count.
    """
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr([(name, str(type)) for name, type in program.inputs.items()]).encode())
    for op in program.main.block.walk():
        arguments = [(name, [v.name for v in values]) for name, values in op.inputs.items()]
        digest.update(repr((op.type, arguments, [str(v) for v in op.outputs])).encode())
        for value in op.operands:
            if isinstance(value.const, str):
                digest.update(value.const.encode())
            elif value.const is not None:
                flat = np.asarray(value.const).reshape(-1)
                digest.update(repr(flat.shape).encode())
                sampled = flat[:: max(1, flat.size // _SAMPLED)]
                digest.update(repr(sampled.tolist()).encode() if sampled.dtype.kind in "OU" else sampled.tobytes())
    return digest.hexdigest()


def write_ranges(path: str | PathLike[str], observed: Observed) -> Path:
    """Write a file, which is either untouched or complete afterwards.

    Raises:
        UsageError: The disk refuses.
    """
    target = Path(path)
    found = observed.ranges
    content = {
        "schema": RANGES_SCHEMA,
        "program": observed.program,
        "numerics": observed.numerics,
        "axis": observed.axis,
        "runs": found.runs,
        "values": {name: _plain(seen) for name, seen in found.by_name.items()},
        "channels": {name: [_plain(seen) for seen in channels] for name, channels in found.channels.items()},
    }
    try:
        with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "ranges.json"
            fresh.write_text(json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
            fresh.replace(target)
    except OSError as error:
        raise UsageError(f"Cannot write the ranges '{target}': {error.strerror or error}.") from error
    return target


def read_ranges(path: str | PathLike[str]) -> Observed:
    """Read a file of :func:`write_ranges`.

    Raises:
        InputError: There is no such file, it holds something else or is damaged, or another version wrote it.
    """
    file = Path(path)
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"There is no file '{file}'.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"'{file}' holds no ranges: {error}.\n  `nanproof ranges MODEL -o {file}` makes it."
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != RANGES_SCHEMA:
        raise InputError(
            f"'{file}' is no file of ranges that this version reads: its schema is {schema!r}, and not "
            f"'{RANGES_SCHEMA}'.\n  `nanproof ranges MODEL -o FILE` makes one."
        )
    try:
        return _observed(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"'{file}' is damaged: {type(error).__name__}: {error}. Observe again, or merge without this file."
        ) from error


def merged(paths: Sequence[str | PathLike[str]]) -> Observed:
    """All that is in several files of one program.

    Raises:
        InputError: A file cannot be read, or they are not of the same program, numerics and axis.
    """
    if not paths:
        raise UsageError("There are no files to merge.")
    files = [read_ranges(path) for path in paths]
    first = files[0]
    for path, other in zip(paths, files, strict=True):
        for what in ("program", "numerics", "axis"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise InputError(
                    f"'{path}' and '{paths[0]}' do not belong together: their {what} differs ({theirs} and {ours}).\n"
                    "  Merge only what was observed on the same model in the same way."
                )
    return replace(first, ranges=reduce(or_, (file.ranges for file in files)))


def _plain(seen: Range) -> dict[str, Any]:
    """A range as JSON has it: infinite bounds are ``null``, as nothing was seen then."""
    plain = {name: getattr(seen, name) for name in _FIELDS}
    return {name: None if isinstance(v, float) and math.isinf(v) else v for name, v in plain.items()}


def _observed(content: Mapping[str, Any]) -> Observed:
    axis = content["axis"]
    if not (axis is None or type(axis) is int) or type(content["runs"]) is not int or content["runs"] < 0:
        raise ValueError("'axis' or 'runs' is no number")
    values = {str(name): _range(plain) for name, plain in content["values"].items()}
    channels = {str(name): tuple(map(_range, split)) for name, split in content["channels"].items()}
    return Observed(str(content["program"]), str(content["numerics"]), axis, Ranges(values, content["runs"], channels))


def _range(plain: Mapping[str, Any]) -> Range:
    empty = Range()
    given = {name: getattr(empty, name) if plain[name] is None else plain[name] for name in _FIELDS}
    if any(type(given[name]) is not int or given[name] < 0 for name in _COUNTS):
        raise ValueError("a count is no number")
    if any(not isinstance(given[name], (int, float)) for name in ("low", "high", "smallest")):
        raise ValueError("a bound is no number")
    given["histogram"] = tuple((int(k), int(n)) for k, n in given["histogram"])
    return Range(**given)
