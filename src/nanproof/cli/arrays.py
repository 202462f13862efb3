"""Arrays from and to files: ``.npz`` with one array for each name, ``.npy`` for a single one. Nothing is unpickled."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from nanproof.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["array_summary", "check_file", "named_arrays", "read_arrays", "write_arrays"]

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


def named_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of a file under the names that are asked for.

    A single unnamed array answers to a single name, and ``arr_0``, ``arr_1``, ... (``numpy.savez`` without names) to
    the names in order. All else keeps the names of the file, and whoever uses them checks them.

    Raises:
        InputError: See :func:`read_arrays`; or a single array where several are needed.
    """
    arrays = read_arrays(path)
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


def check_file(path: Path, suffixes: Sequence[str]) -> Path:
    """A file to be written, checked before the work.

    Raises:
        UsageError: The suffix is wrong, the folder does not exist, or a folder is in the way.
    """
    if path.suffix not in suffixes:
        raise UsageError(f"The output '{path}' must end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise UsageError(f"The folder '{path.parent}' for the output does not exist.")
    if path.is_dir():
        raise UsageError(f"'{path}' is a folder. Choose another name.")
    return path


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write arrays by name; the file is untouched or complete afterwards.

    Raises:
        UsageError: The disk refuses.
    """
    import numpy as np

    try:
        with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=path.parent) as scratch:
            fresh = Path(scratch) / "fresh.npz"
            with ZipFile(fresh, "w") as archive:  # numpy.savez cannot take an array of the name "file"
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
            fresh.replace(path)
    except OSError as error:
        raise UsageError(f"Cannot write '{path}': {error}.") from error
    return path


def array_summary(name: str, array: np.ndarray) -> dict[str, Any]:
    """Name, type and range of an array, and how many of its elements are not finite."""
    import numpy as np

    floating = np.issubdtype(array.dtype, np.floating)
    finite = array[np.isfinite(array)] if floating else array.reshape(-1) if array.dtype.kind in "biu" else np.empty(0)
    return {
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": float(finite.min()) if finite.size else None,
        "max": float(finite.max()) if finite.size else None,
        "nan": int(np.isnan(array).sum()) if floating else 0,
        "inf": int(np.isinf(array).sum()) if floating else 0,
    }
