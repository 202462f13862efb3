"""Arrays from and to files. Nothing is unpickled.

An ``.npz`` has one array for each name, and so has a ``.json`` that holds an object of (nested lists of) numbers. An
``.npy``, an image, and a ``.json`` that holds a list or a number have a single one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from nanproof.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from nanproof.program import Interface

__all__ = [
    "array_summary",
    "check_file",
    "check_picture",
    "in_modes",
    "named_arrays",
    "named_outputs",
    "needed",
    "read_arrays",
    "read_values",
    "write_outputs",
]

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


def write_outputs(path: Path, outputs: Mapping[str, Any], interface: Interface) -> Path:
    """Write the outputs of a model; the file is untouched or complete afterwards.

    An ``.npz`` has one array for each output, of an image the tensor that stands for it, and for a classifier the
    labels beside their probabilities. A ``.json`` has the same as nested lists, and an object from label to
    probability; numbers that are not finite are strings. A ``.png`` shows the one image output as an app would get it.

    Raises:
        UsageError: The disk refuses, or a ``.png`` cannot hold what the model gives.
    """
    write = {".npz": _write_npz, ".json": _write_json, ".png": _write_png}[path.suffix]
    try:
        with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=path.parent) as scratch:
            fresh = Path(scratch) / f"fresh{path.suffix}"
            write(fresh, outputs, interface)
            fresh.replace(path)
    except OSError as error:
        raise UsageError(f"Cannot write '{path}': {error}.") from error
    return path


def check_picture(interface: Interface) -> str:
    """The name of the one image output that a ``.png`` can show.

    Raises:
        UsageError: There is none, or there are several.
    """
    images = {name: f.color for name, f in interface.outputs.items() if f.color is not None}
    listed = ", ".join(f"{name} ({feature})" for name, feature in interface.outputs.items())
    if len(images) != 1:
        raise UsageError(f"A .png shows one image, but the model gives {listed}. Write an .npz or a .json.")
    ((name, color),) = images.items()
    if color.mode == "F":
        raise UsageError(
            f"A .png has no floating-point pixels, but the model gives {listed}. Write an .npz or a .json."
        )
    return name


def named_outputs(outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All outputs as arrays: of a classifier the label, and its labels and probabilities in one order."""
    import numpy as np

    arrays: dict[str, np.ndarray] = {}
    for name, output in outputs.items():
        if isinstance(output, dict):
            arrays[f"{name}_labels"] = np.array(list(output))
            arrays[name] = np.array(list(output.values()))
        else:
            arrays[name] = np.asarray(output)
    return arrays


def _write_npz(path: Path, outputs: Mapping[str, Any], interface: Interface) -> None:
    import numpy as np

    with ZipFile(path, "w") as archive:  # numpy.savez cannot take an array of the name "file"
        for name, array in named_outputs(outputs).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def _write_json(path: Path, outputs: Mapping[str, Any], interface: Interface) -> None:
    from nanproof.report.encoding import encoded

    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in outputs.items()}
    path.write_text(json.dumps(encoded(plain), allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_png(path: Path, outputs: Mapping[str, Any], interface: Interface) -> None:
    from nanproof.interpret.images import with_images

    with_images(outputs, interface)[check_picture(interface)].save(path)


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
