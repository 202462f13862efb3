"""The source map of a package: the line of Python that each op comes from, kept in the package's own metadata.

It is JSON, compressed and in base64, since user-defined metadata is text: some 20 bytes for an op. Paths are written as
seen from the working folder, or from the folder of installed packages, so that a file tells no more of the machine that
made it than it must.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nanproof.program import Block, Op, Program, Source, Value

__all__ = ["KEY", "decode", "encode", "sources_of", "with_sources"]

KEY = "com.github.nanproof.sources"
"""Key of the user-defined metadata under which the map stands."""

_VERSION = 1
_MOST_BYTES = 1 << 26
"""What a map may unpack to; a larger one is no map of a program that fits into memory."""


def sources_of(program: Program) -> dict[str, Source]:
    """The source of every op by its name. An op of a pass's own making, such as a cast, has that of its neighbour."""
    found: dict[str, Source] = {}
    for function in program.functions.values():
        _collect(function.block, found)
    return found


def _collect(block: Block, found: dict[str, Source]) -> None:
    makers: dict[Value, Op] = {v: op for op in block.ops for v in op.outputs}
    readers: dict[Value, Op] = {v: op for op in reversed(block.ops) for v in op.operands}
    known = {op: op.source for op in block.ops if op.source is not None}
    for ops, neighbours in ((reversed(block.ops), readers), (block.ops, makers)):
        for op in ops:
            if op not in known:
                values = op.outputs if neighbours is readers else op.operands
                near = (known.get(neighbours[v]) for v in values if v in neighbours)
                source = next((s for s in near if s is not None), None)
                if source is not None:
                    known[op] = source
    found.update({op.name: source for op, source in known.items()})
    for op in block.ops:
        for inner in op.blocks:
            _collect(inner, found)


def with_sources(program: Program, sources: Mapping[str, Source]) -> Program:
    """The program with the source of every op that is named in the map."""

    def sourced(block: Block) -> Block:
        return replace(block, ops=tuple(located(op) for op in block.ops))

    def located(op: Op) -> Op:
        blocks = tuple(sourced(inner) for inner in op.blocks)
        return replace(op, source=sources.get(op.name, op.source), blocks=blocks)

    functions = {name: replace(f, block=sourced(f.block)) for name, f in program.functions.items()}
    return replace(program, functions=functions)


def encode(sources: Mapping[str, Source]) -> str:
    """A map from op name to source as text for a package's metadata."""
    files: dict[str, int] = {}
    modules: dict[str, int] = {}
    lines: dict[tuple[int, int, str], int] = {}
    ops: dict[str, tuple[int, int]] = {}
    for name, source in sources.items():
        line = (_number(files, _portable(source.file)), source.line, source.code)
        ops[name] = (_number(lines, line), _number(modules, source.module))
    content = {"version": _VERSION, "files": list(files), "modules": list(modules), "lines": list(lines), "ops": ops}
    packed = zlib.compress(json.dumps(content, separators=(",", ":")).encode(), level=9)
    return base64.b64encode(packed).decode("ascii")


def decode(text: str) -> dict[str, Source]:
    """The map from op name to source; empty if the text is damaged or of another version.

    A package without a map is as good a program as one with it, so damage is no error.
    """
    try:
        unpack = zlib.decompressobj()
        content = json.loads(unpack.decompress(base64.b64decode(text, validate=True), _MOST_BYTES))
        if content["version"] != _VERSION:
            return {}
        places = [(str(content["files"][file]), int(line), str(code)) for file, line, code in content["lines"]]
        modules = [str(module) for module in content["modules"]]
        found: dict[str, Source] = {}
        for name, (place, module) in content["ops"].items():
            file, line, code = places[place]
            found[str(name)] = Source(file, line, code, modules[module])
        return found
    except (binascii.Error, zlib.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _number(known: dict[Any, int], item: Any) -> int:
    return known.setdefault(item, len(known))


def _portable(file: str) -> str:
    """A path without the parts that only this machine has, where it has others."""
    path = Path(file)
    roots: Iterable[Path] = (Path.cwd(), *(Path(entry) for entry in sys.path if entry))
    inside = [path.relative_to(root) for root in roots if path.is_relative_to(root)]
    return min((p.as_posix() for p in inside), key=len, default=file)
