"""The messages of Core ML's file format, as coremltools ships them, without the rest of coremltools.

Reading a model needs no converter, and importing coremltools takes seconds and some 90 MB. The message classes are
those that coremltools itself uses, whichever of the two comes first: protobuf keeps one class for each message.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__ = ["MIL", "FeatureTypes", "Model"]

_FOLDER = f"{__name__}.messages"


def _module(name: str) -> Any:
    if "coremltools.proto" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{name}")
    if _FOLDER not in sys.modules:
        spec = importlib.util.find_spec("coremltools")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("coremltools is not installed; nanproof needs it to read and to make models")
        # A package of that folder's modules: importing `coremltools.proto` would run `coremltools` first.
        package = ModuleType(_FOLDER)
        package.__path__ = [f"{place}/proto" for place in spec.submodule_search_locations]
        sys.modules[_FOLDER] = package
    return importlib.import_module(f"{_FOLDER}.{name}")


Model: Any = _module("Model_pb2")
MIL: Any = _module("MIL_pb2")
FeatureTypes: Any = _module("FeatureTypes_pb2")
