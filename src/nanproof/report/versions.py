"""Versions of what took part, read from package metadata without importing anything."""

from __future__ import annotations

import platform
from importlib import metadata

__all__ = ["PACKAGES", "installed", "versions"]

PACKAGES = ("nanproof", "torch", "coremltools", "numpy", "transformers")


def installed(package: str) -> str | None:
    """Version of an installed package, or ``None``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Python, of the platform and of the packages that are there."""
    found = {name: installed(name) for name in PACKAGES}
    present = {name: version for name, version in found.items() if version is not None}
    return {**present, "python": platform.python_version(), "platform": platform.platform()}
