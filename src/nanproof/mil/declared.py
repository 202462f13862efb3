"""What ``coremltools.TensorType`` and ``ImageType`` say of an input, as our data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanproof.errors import UsageError
from nanproof.mil.coreml import ct, types
from nanproof.program import Color, Shapes

__all__ = ["Declared", "declared", "declared_inputs", "output_types", "tensor_types"]

_COLORS = {
    ct.colorlayout.RGB: Color.RGB,
    ct.colorlayout.BGR: Color.BGR,
    ct.colorlayout.GRAYSCALE: Color.GRAYSCALE,
    ct.colorlayout.GRAYSCALE_FLOAT16: Color.GRAYSCALE_FLOAT16,
}


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """One declared input.

    Attributes:
        name: Its name, ``""`` if the declaration has none.
        dtype: The NumPy dtype of its elements, ``None`` if the declaration has none.
        shapes: The shapes that it may have, ``None`` if the declaration has none.
        color: The colour layout of an image, ``None`` for a tensor.
        scale: What the pixels of an image are multiplied with, ``[channels or 1, 1, 1]``.
        bias: What is added to them then, of the same shape.
    """

    name: str
    dtype: np.dtype[Any] | None
    shapes: Shapes | None
    color: Color | None = None
    scale: np.ndarray = field(default_factory=lambda: np.ones((1, 1, 1)))
    bias: np.ndarray = field(default_factory=lambda: np.zeros((1, 1, 1)))

    def pixels(self, tensor: np.ndarray) -> np.ndarray:
        """The pixels, float32 ``[1, C, H, W]``, of the image that comes nearest to what a module is given.

        They are whole numbers from 0 to 255, or binary16 for ``GRAYSCALE_FLOAT16``.
        """
        exact = (tensor.astype(np.float64) - self.bias) / self.scale
        if self.color is Color.GRAYSCALE_FLOAT16:
            return exact.astype(np.float16).astype(np.float32)
        return np.clip(np.rint(exact), 0, 255).astype(np.float32)

    def seen(self, pixels: np.ndarray) -> np.ndarray:
        """What a module is given for an image: its pixels, scaled and biased, float32."""
        return (pixels.astype(np.float64) * self.scale + self.bias).astype(np.float32)


def declared(inputs: Any) -> list[Declared]:
    """The declared inputs in order; nested lists are flattened, as coremltools does. None are an empty list.

    Raises:
        UsageError: It is no list of ``TensorType`` and ``ImageType``.
    """
    if inputs is None:
        return []
    flat = _flat(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    wrong = next((i for i in flat if not isinstance(i, (ct.TensorType, ct.ImageType))), None)
    if wrong is not None or not isinstance(inputs, (list, tuple)):
        kind = type(inputs if wrong is None else wrong).__name__
        raise UsageError(f"`inputs` is a list of coremltools.TensorType and ImageType, and this holds a {kind}.")
    return [_declared(i) for i in flat]


def declared_inputs(pymil: Any) -> list[Declared]:
    """What a MIL program's inputs are declared to be, by the user or by the captured model, in their order."""
    function = pymil.functions["main"]
    by_name = {one.name: one for one in declared([t for t in function.input_types if not isinstance(t, ct.StateType)])}
    return [by_name[name] for name in function.inputs if name in by_name]


def tensor_types(names: Sequence[str], arrays: Sequence[np.ndarray]) -> list[Any]:
    """Declarations for coremltools of tensors that are at hand. Scalars have the shape ``(1,)``, as in Core ML."""
    kinds = {"f": types.fp32, "b": types.bool, "i": types.int32, "u": types.int32}
    return [
        ct.TensorType(name=name, shape=array.shape or (1,), dtype=kinds[array.dtype.kind])
        for name, array in zip(names, arrays, strict=True)
    ]


def output_types(names: Sequence[str]) -> list[Any]:
    """Declarations for coremltools of outputs that have names, and the dtypes that they come to have."""
    return [ct.TensorType(name=name) for name in names]


def _flat(inputs: Sequence[Any]) -> list[Any]:
    return [leaf for i in inputs for leaf in (_flat(i) if isinstance(i, (list, tuple)) else [i])]


def _declared(given: Any) -> Declared:
    name = given.name or ""
    shapes = None if given.shape is None else _shapes(given.shape)
    if isinstance(given, ct.ImageType):
        scale, bias = (np.asarray(v, np.float64).reshape(-1, 1, 1) for v in (given.scale, given.bias))
        return Declared(name, np.dtype(np.float32), shapes, _COLORS[given.color_layout], scale, bias)
    dtype = None if given.dtype is None else np.dtype(types.nptype_from_builtin(given.dtype))
    return Declared(name, dtype, shapes)


def _shapes(given: Any) -> Shapes:
    default = tuple(int(d) for d in given.default) if given.default is not None else None
    if isinstance(given, ct.EnumeratedShapes):
        listed = tuple(tuple(int(d) for d in shape.shape) for shape in given.shapes)
        return Shapes(default or listed[0], enumerated=listed)
    if not any(isinstance(d, ct.RangeDim) for d in given.shape):
        return Shapes(default)
    return Shapes(default, ranges=tuple(_range(d) for d in given.shape))


def _range(dim: Any) -> tuple[int, int | None]:
    if not isinstance(dim, ct.RangeDim):
        return int(dim), int(dim)
    return dim.lower_bound, None if dim.upper_bound < 0 else dim.upper_bound
