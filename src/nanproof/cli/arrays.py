"""Outputs to files, and inputs from them (:mod:`nanproof.interpret.files`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from nanproof.errors import UsageError
from nanproof.interpret.files import SINGLE, in_modes, named_arrays, needed, read_arrays, read_values

if TYPE_CHECKING:
    import numpy as np

    from nanproof.program import Interface

__all__ = [
    "SINGLE",
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
