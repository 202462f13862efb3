"""The ML Program as data: typed SSA values, ops, blocks and functions.

Plain frozen dataclasses without PyTorch and without coremltools, so that every reading of a program
(execution, ranges, proof) works on the same small thing, whichever reader filled it.
Dtype names are those of MIL (``MIL.proto`` and the coremltools text form): ``fp16``, ``int32``, ``bool``.
"""

from __future__ import annotations

from nanproof.program.graph import Block, Function, Op, Pipeline, Program, Source, Value
from nanproof.program.interface import Color, Feature, Interface, Shapes
from nanproof.program.types import Constant, DType, Kind, Type

__all__ = [
    "Block",
    "Color",
    "Constant",
    "DType",
    "Feature",
    "Function",
    "Interface",
    "Kind",
    "Op",
    "Pipeline",
    "Program",
    "Shapes",
    "Source",
    "Type",
    "Value",
]
