"""Repaired functions, each a package of its own, in one multifunction package again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanproof.errors import ConversionError
from nanproof.mil.coreml import ct, quiet
from nanproof.mil.description import function_description
from nanproof.mil.package import PackageParts, open_package
from nanproof.mil.proto import Model

__all__ = ["write_functions"]


def write_functions(parts: PackageParts, repaired: Mapping[str, Path], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a package with some of its functions replaced. Equal constants are stored once, whoever reads them.

    Args:
        parts: The package; functions that are not replaced are taken from it as they are.
        repaired: By name of a function the package that holds it as its only one, called ``main``.
        path: Where to write, a place of our own.
        metadata: User-defined metadata to add to those of the package.

    Raises:
        ConversionError: coremltools cannot put them together.
    """
    described = parts.spec.description
    names = [f.name for f in described.functions] or sorted(parts.spec.mlProgram.functions)
    try:
        with quiet():
            together = ct.utils.MultiFunctionDescriptor()
            for name in names:
                source = repaired.get(name)
                given = (str(parts.path), name) if source is None else (str(source), "main")
                together.add_function(*given, name)
            together.default_function_name = described.defaultFunctionName or "main"
            ct.utils.save_multifunction(together, str(path))
    except Exception as error:  # coremltools raises ValueError, AssertionError, KeyError, ... alike
        text = str(error).strip() or type(error).__name__
        raise ConversionError(
            f"coremltools {ct.__version__} cannot put the functions of '{parts.path}' together again: {text}"
        ) from error
    _describe(parts, repaired, open_package(path), metadata)


def _describe(
    parts: PackageParts, repaired: Mapping[str, Path], written: PackageParts, metadata: Mapping[str, str]
) -> None:
    """Give the written package the description of the old one, with the types of outputs that have changed."""
    description = Model.ModelDescription()
    description.CopyFrom(parts.spec.description)
    for function in description.functions:
        if function.name in repaired:
            alone: Any = open_package(repaired[function.name]).spec.description
            of_function = function_description(alone, "main", "main")
            del function.output[:]
            function.output.extend(of_function.output)
    for key, value in metadata.items():
        description.metadata.userDefined[key] = value
    written.spec.description.CopyFrom(description)
    (written.model_folder / "model.mlmodel").write_bytes(written.spec.SerializeToString())
