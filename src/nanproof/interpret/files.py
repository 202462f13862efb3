"""Inputs of a model from files. Nothing is unpickled.

An ``.npz`` has one array for each name, and so has a ``.json`` that holds an object of (nested lists of) numbers. An
``.npy``, an image, and a ``.json`` that holds a list or a number have a single one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

from nanproof.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from nanproof.program import Interface

__all__ = ["IMAGES", "SINGLE", "in_modes", "input_files", "named_arrays", "needed", "read_arrays", "read_values"]

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Names of files that are opened as images."""

SINGLE = ""
"""The name under which :func:`read_arrays` returns the array of an ``.npy`` file, which has none."""


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name; the array of an ``.npy`` under an empty name.

    Raises:
        InputError: There is no such file, it holds no arrays, or reading it would mean to unpickle it.
    """
    import numpy as np

    if path.suffix not in (".npz", ".npy"):
        raise InputError(f"'{path}' is no .npz and no .npy file. Make one with numpy.savez('inputs.npz', name=array).")
    try:
        loaded: Any = np.load(path, allow_pickle=False)
        if path.suffix == ".npy":
            return {SINGLE: np.asarray(loaded)}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'.") from None
    except (OSError, ValueError, BadZipFile, EOFError, AttributeError) as error:
        reason = "it holds Python objects, and unpickling could run code" if "pickle" in str(error) else str(error)
        raise InputError(f"'{path}' cannot be read: {reason}. Save plain arrays with numpy.savez.") from error


def read_values(path: Path) -> dict[str, Any]:
    """What a file has for the inputs of a Core ML model.

    Arrays as :func:`read_arrays` has them, those of a ``.json``, or an image, as Pillow opens it, under an empty name.

    Raises:
        InputError: There is no such file, or it cannot be read.
    """
    if path.suffix == ".json":
        return _json_arrays(path)
    if path.suffix.lower() in IMAGES:
        return {SINGLE: _image(path)}
    if path.suffix not in (".npz", ".npy"):
        raise InputError(
            f"'{path}' is no .npz, .npy, .json or image file. Make one with numpy.savez('inputs.npz', name=array)."
        )
    return read_arrays(path)


def _json_arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        named = content if isinstance(content, dict) else {SINGLE: content}
        return {str(name): np.array(value) for name, value in named.items()}
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"'{path}' cannot be read: {error}.\n"
            '  Write an object with one number or nested list for each input: {"x": [[1, 2], [3, 4]]}.'
        ) from error


def _image(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError(f"'{path}' is an image, and Pillow is not installed: pip install pillow.") from error
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"'{path}' cannot be read as an image: {error}.") from error


def named_arrays(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """What a file has for the names that are asked for: arrays, or an image.

    A single unnamed array answers to a single name, and ``arr_0``, ``arr_1``, ... (``numpy.savez`` without names) to
    the names in order. All else keeps the names of the file, and whoever uses them checks them.

    Raises:
        InputError: See :func:`read_values`; or a single array where several are needed.
    """
    arrays = read_values(path)
    if SINGLE in arrays:
        if len(names) != 1:
            raise InputError(
                f"'{path}' holds one array without a name, but {len(names)} are needed: {', '.join(names)}. "
                "Pass an .npz: numpy.savez('inputs.npz', name=array, ...)."
            )
        return {names[0]: arrays[SINGLE]}
    positional = [f"arr_{i}" for i in range(len(names))]
    if set(arrays) == set(positional) and not set(arrays) & set(names):
        return {name: arrays[p] for name, p in zip(names, positional, strict=True)}
    return arrays


def needed(interface: Interface) -> list[str]:
    """The names of the inputs that have to be given: to these an array without a name may belong."""
    return [n for n, f in interface.inputs.items() if not f.optional] or list(interface.inputs)


def in_modes(values: Mapping[str, Any], interface: Interface) -> dict[str, Any]:
    """Images of files in the modes that the inputs take: a file may have a palette or transparency, a model has not.

    What is no image file, or for no such input, stays as it is, and whoever uses it checks it.
    """
    modes = {n: f.color.mode for n, f in interface.inputs.items() if f.color is not None and f.color.mode != "F"}
    return {n: v.convert(modes[n]) if n in modes and hasattr(v, "convert") else v for n, v in values.items()}


def input_files(path: Path) -> list[Path]:
    """The files that hold one call each: the file itself, or those of a folder, by name.

    Raises:
        InputError: There is no such file, or no file in the folder that could be read.
    """
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"There is no file '{path}'.")
        return [path]
    readable = (".npz", ".npy", ".json", *IMAGES)
    found = sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in readable)
    if not found:
        raise InputError(f"The folder '{path}' holds no inputs: no {', '.join(readable[:3])} and no image file.")
    return found
