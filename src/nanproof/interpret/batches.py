"""Calls of a program from whatever people keep them in: arrays, dicts, a DataLoader, files, folders of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from nanproof.errors import InputError
from nanproof.interpret.files import in_modes, input_files, named_arrays, needed
from nanproof.program import Feature, Interface

__all__ = ["as_batches"]


def as_batches(interface: Interface, source: Any) -> Iterator[dict[str, Any]]:
    """One mapping from input names to values for each call, made as they are asked for.

    Args:
        interface: What the program takes.
        source: An iterable of calls; a path of a file or of a folder with one file for each call; or one array or one
            mapping, which is a single call. A call is a mapping by input names, a tuple or list in the order of the
            inputs, or a value for the only input. What a mapping or a tuple has beyond the inputs (labels, say) is left
            out. A batch of more rows than the program takes is run row by row.

    Raises:
        InputError: A file cannot be read, or a call lacks an input.
    """
    if isinstance(source, (str, PathLike)):
        for file in input_files(Path(source)):
            yield from _rows(interface, in_modes(named_arrays(file, needed(interface)), interface))
        return
    for call in [source] if isinstance(source, Mapping) or _is_array(source) else _iterated(source):
        yield from _rows(interface, _named(interface, call))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or isinstance(value, Tensor)


def _iterated(source: Any) -> Iterable[Any]:
    try:
        return iter(source)
    except TypeError:
        raise InputError(
            f"The inputs are of type {type(source).__name__}. Pass an iterable of calls (dicts by name, tuples in "
            "the order of the inputs, arrays), a DataLoader, or a path."
        ) from None


def _named(interface: Interface, call: Any) -> dict[str, Any]:
    if isinstance(call, Mapping):
        return {name: call[name] for name in interface.inputs if name in call}
    names = needed(interface)
    values: Sequence[Any] = call if isinstance(call, (tuple, list)) else [call]
    if len(values) < len(names):
        raise InputError(
            f"A call has {len(values)} value{'s' * (len(values) != 1)}, but the program takes {len(names)} inputs: "
            f"{', '.join(names)}."
        )
    return dict(zip(names, values, strict=False))


def _rows(interface: Interface, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The call itself, or its pieces of as many rows as the program takes."""
    features = {name: interface.inputs[name] for name in call if name in interface.inputs}
    pieces = {_pieces(feature, call[name]) for name, feature in features.items()}
    if len(pieces) != 1 or pieces <= {0, 1}:
        yield call
        return
    for i in range(pieces.pop()):
        yield {name: value[i * (r := _fixed_rows(features[name])) : (i + 1) * r] for name, value in call.items()}


def _pieces(feature: Feature, value: Any) -> int:
    """How many calls a value is for; 0 if it does not come out even, or is not to be taken apart."""
    rows, shape = _fixed_rows(feature), tuple[int, ...](getattr(value, "shape", ()))
    if not rows or not shape or len(shape) != len(feature.type.shape) or shape[0] % rows:
        return 0
    return int(shape[0]) // rows


def _fixed_rows(feature: Feature) -> int:
    """The size of the first axis, 0 where there is none or more than one is allowed."""
    shape = feature.type.shape
    return shape[0] if shape and isinstance(shape[0], int) and not feature.shapes.flexible else 0
