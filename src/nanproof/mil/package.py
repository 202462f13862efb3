"""The ``.mlpackage`` folder: finding its parts, and writing one so that a failure leaves nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from nanproof.errors import ModelFileError
from nanproof.mil.proto import Model

__all__ = [
    "PIPELINES",
    "PackageParts",
    "ScratchFolder",
    "carry_over",
    "check_destination",
    "copy_package",
    "mlmodel",
    "open_package",
    "write_model",
]

PIPELINES = frozenset({"pipeline", "pipelineClassifier", "pipelineRegressor"})
"""Types of a ``Model`` message that hold other models, as ``Model.proto`` names them."""

_MODEL_PREFIX = "@model_path/"
_MOST_BYTES = 2**31 - 1
"""Protocol buffers are never larger (their documentation, "Total Size of the Message")."""


@dataclass(frozen=True, slots=True)
class PackageParts:
    """The specification of a package (a ``Model`` protobuf message) and the folder that ``@model_path`` stands for."""

    path: Path
    spec: Any
    model_folder: Path

    def resolve(self, file_name: str) -> Path:
        """The file that a blob reference such as ``@model_path/weights/weight.bin`` names.

        Raises:
            ModelFileError: The reference leads out of the package.
        """
        if not file_name.startswith(_MODEL_PREFIX):
            raise ModelFileError(
                f"'{self.path}' refers to the weight file '{file_name}', which is not inside the package."
            )
        return _inside(self.model_folder, file_name.removeprefix(_MODEL_PREFIX), self.path)


def open_package(path: str | os.PathLike[str]) -> PackageParts:
    """Open an ``.mlpackage`` and parse its specification. Nothing in it is executed.

    Raises:
        ModelFileError: The path is no package, its parts are missing or damaged, or it holds neither an ML Program nor
            a pipeline.
    """
    folder = Path(path)
    if not folder.exists():
        raise ModelFileError(f"There is no file or folder '{folder}'.")
    if not folder.is_dir():
        hint = ""
        if folder.suffix == ".mlmodel":
            hint = " A .mlmodel file holds an older model type: convert again with convert_to='mlprogram'."
        raise ModelFileError(f"'{folder}' is no .mlpackage: it is a file, and an .mlpackage is a folder.{hint}")
    spec_path = _root_model(folder)
    spec: Any = Model.Model()
    try:
        if spec_path.stat().st_size > _MOST_BYTES:
            raise ModelFileError(f"The model specification '{spec_path}' is larger than 2 GiB, which none can be.")
        spec.ParseFromString(spec_path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ModelFileError(f"The model specification '{spec_path}' cannot be read: {error}.") from error
    kind = spec.WhichOneof("Type")
    if kind != "mlProgram" and kind not in PIPELINES:
        found = f"a model of type '{kind}'" if kind else "no model"
        raise ModelFileError(f"'{folder}' holds {found}, not an ML Program. Convert it with convert_to='mlprogram'.")
    return PackageParts(folder, spec, spec_path.parent)


def _root_model(folder: Path) -> Path:
    manifest = folder / "Manifest.json"
    if not manifest.is_file():
        raise ModelFileError(f"'{folder}' is no .mlpackage: it has no Manifest.json.")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        item = content["itemInfoEntries"][content["rootModelIdentifier"]]
        relative = str(item["path"])
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, OSError, RecursionError) as error:
        raise ModelFileError(f"The manifest '{manifest}' is damaged: {type(error).__name__} {error}.") from error
    spec_path = _inside(folder / "Data", relative, folder)
    if not spec_path.is_file():
        raise ModelFileError(f"'{folder}' lacks its model specification '{relative}'.")
    return spec_path


def _inside(folder: Path, relative: str, package: Path) -> Path:
    """A file of the package by its name, all links followed.

    Raises:
        ModelFileError: It lies outside of the folder, or no file can have this name.
    """
    try:
        target = (folder / relative).resolve()
        target.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise ModelFileError(f"'{package}' names a file that cannot be: {_shortened(relative)!r} ({error}).") from error
    if not target.is_relative_to(folder.resolve()):
        raise ModelFileError(
            f"'{package}' names the file '{_shortened(relative)}', which leads out of the package. It was not opened."
        )
    return target


def _shortened(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:200]}..."


class ScratchFolder:
    """A temporary folder that lives as long as this object and is removed with it, also when the interpreter ends."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="nanproof-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def write_model(model: Any, path: Path) -> None:
    """Write a coremltools ``MLModel`` to a place of our own, replacing what is there.

    Raises:
        ModelFileError: The disk refuses.
    """
    try:
        if path.exists():
            shutil.rmtree(path)
        model.save(str(path))
    except OSError as error:
        raise ModelFileError(f"Cannot write the temporary package '{path}': {error}.") from error


def carry_over(source: Path, target: Path) -> None:
    """Copy what a package holds beside its program and weights, such as notes of Xcode's, into another package.

    Raises:
        ModelFileError: A file leads out of the package, or the disk refuses.
    """
    manifest = target / "Manifest.json"
    try:
        items = json.loads((source / "Manifest.json").read_text(encoding="utf-8"))["itemInfoEntries"]
        content = json.loads(manifest.read_text(encoding="utf-8"))
        there = {Path(item["path"]) for item in content["itemInfoEntries"].values()}
        for key, item in items.items():
            place = Path(str(item["path"]))
            file = _inside(source / "Data", str(place), source)
            fresh = _inside(target / "Data", str(place), target)
            if place in there or fresh.exists() or not file.is_file():
                continue
            fresh.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, fresh)
            content["itemInfoEntries"][key] = item
        manifest.write_text(json.dumps(content, indent=4), encoding="utf-8")
    except (OSError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise ModelFileError(f"What else is in '{source}' cannot be copied: {type(error).__name__} {error}.") from error


def mlmodel(path: Path, *, skip_model_load: bool = True, compute_units: Any = None) -> Any:
    """The package as a coremltools ``MLModel``; one that Core ML has not loaded exists on any OS."""
    from nanproof.mil.coreml import ct, quiet  # not before it is needed: reading a package needs no coremltools

    with quiet():
        given = {} if compute_units is None else {"compute_units": compute_units}
        return ct.models.MLModel(str(path), skip_model_load=skip_model_load, **given)


def copy_package(source: Path, path: str | os.PathLike[str]) -> Path:
    """Copy a package so that ``path`` is either untouched or complete.

    The copy is made beside its destination and moved there at the end; a package that was there before is replaced, and
    is put back if the move fails.

    Raises:
        ModelFileError: The name does not end in ``.mlpackage``, something else is there, or the disk refuses (full,
            read-only).
    """
    target = check_destination(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=target.parent) as scratch:
            fresh, old = Path(scratch) / "fresh.mlpackage", Path(scratch) / "replaced.mlpackage"
            shutil.copytree(source, fresh)
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
    except (OSError, shutil.Error) as error:
        raise ModelFileError(f"Cannot write '{target}': {error}. The destination is as it was.") from error
    return target


def check_destination(path: str | os.PathLike[str]) -> Path:
    """The destination of a package, checked before any work is done.

    Raises:
        ModelFileError: The name does not end in ``.mlpackage``, its folder does not exist, or something that is no
            package is already there.
    """
    target = Path(path)
    if target.suffix != ".mlpackage":
        raise ModelFileError(f"The output '{target}' must end in .mlpackage.")
    if not target.parent.is_dir():
        raise ModelFileError(f"The folder '{target.parent}' for the output does not exist.")
    if target.exists() and not (target / "Manifest.json").is_file():
        raise ModelFileError(f"'{target}' exists and is no .mlpackage; it is not overwritten. Choose another name.")
    return target
