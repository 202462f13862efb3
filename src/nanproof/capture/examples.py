"""Example calls that nobody wrote: generated from declared inputs, fitted to images, or resized to other shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nanproof.capture.batch import Batch
from nanproof.errors import InputError
from nanproof.mil.declared import Declared
from nanproof.program import Shapes

__all__ = ["as_images", "dynamic_axes", "generated", "resized", "shape_sets", "widened", "widened_batch"]

_MOST_ELEMENTS = 1 << 21
"""Elements of all inputs of the largest call that is tried: beyond, a range says more than anybody wants computed."""
_OPEN_ENDED = 4
"""How many times its default an axis without an upper bound is tried at: nobody said how large it can be."""
_NARROW = (torch.float16, torch.bfloat16)


def generated(declared: Sequence[Declared], seed: int = 0) -> Batch:
    """A call made of what its inputs are declared to be, the same for the same seed.

    Floats are drawn from the standard normal distribution, pixels evenly, and whole numbers are 0 or 1, which masks,
    token types and every vocabulary take. Where a dimension is a range its size is not 1 if it need not be: at that,
    torch.export would take it for fixed.

    Raises:
        InputError: There are no declared inputs, or one has no shape.
    """
    rng = np.random.default_rng(seed)
    tensors: list[Tensor] = []
    for i, one in enumerate(declared):
        if one.shapes is None or one.shapes.default is None:
            raise InputError(
                f"Input {i}{f' ({one.name})' * bool(one.name)} is declared without a shape, and there are no example "
                "inputs.\n  Declare it: coremltools.TensorType(shape=(...)); or pass example_inputs."
            )
        spans = one.shapes.ranges or [(d, d) for d in one.shapes.default]
        shape = [
            min(2, high or 2) if low != high and d == 1 else d
            for d, (low, high) in zip(one.shapes.default, spans, strict=True)
        ]
        tensors.append(torch.from_numpy(_generated(one, shape, rng)))
    return Batch(tuple(tensors), {})


def _generated(one: Declared, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    if one.color is not None:
        return one.seen(rng.integers(0, 256, shape).astype(np.float32))
    dtype = one.dtype or np.dtype(np.float32)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(np.float32)
    return rng.integers(0, 2, shape).astype(dtype)


def as_images(batch: Batch, declared: Sequence[Declared]) -> Batch:
    """The call with the nearest image in place of each tensor for which the file takes an image.

    So PyTorch sees exactly what the file computes from its pixels, and not what no pixel can hold.
    """
    if not any(one.color for one in declared):
        return batch
    return batch.with_tensors(
        [
            t if one.color is None else t.new_tensor(one.seen(one.pixels(t.detach().numpy())))
            for one, t in zip(declared, batch.tensors, strict=True)
        ]
    )


def shape_sets(declared: Sequence[Declared]) -> dict[str, list[tuple[int, ...]]]:
    """The default, the smallest and the largest shapes of all inputs together; nothing if all are fixed.

    The largest are cut where they hold more than two million elements. Enumerated shapes of several inputs belong
    together by their place in the lists.
    """
    flexible = [one.shapes for one in declared if one.shapes is not None and one.shapes.flexible]
    if not flexible or any(one.shapes is None or one.shapes.default is None for one in declared):
        return {}
    shapes = [one.shapes for one in declared if one.shapes is not None]
    sizes = [[math.prod(s) for s in of.enumerated] for of in flexible if of.enumerated]
    order = [sum(at) for at in zip(*sizes, strict=False)] or [0]
    low, high = order.index(min(order)), order.index(max(order))
    halvings = 0
    while sum(math.prod(_largest(of, high, halvings)) for of in shapes) > _MOST_ELEMENTS and halvings < 32:
        halvings += 1
    return {
        "default": [of.default or () for of in shapes],
        "smallest": [_smallest(of, low) for of in shapes],
        "largest": [_largest(of, high, halvings) for of in shapes],
    }


def _smallest(of: Shapes, place: int) -> tuple[int, ...]:
    if of.enumerated:
        return of.enumerated[place]
    return tuple(max(low, 1) for low, _ in of.ranges) if of.ranges else of.default or ()


def _largest(of: Shapes, place: int, halvings: int) -> tuple[int, ...]:
    if of.enumerated:
        return of.enumerated[place]
    if not of.ranges:
        return of.default or ()
    spans = zip(of.default or (), of.ranges, strict=True)
    highest = [max(low, _OPEN_ENDED * default) if high is None else high for default, (low, high) in spans]
    return tuple(max(default, high >> halvings) for default, high in zip(of.default or (), highest, strict=True))


def resized(batch: Batch, shapes: Sequence[tuple[int, ...]]) -> Batch:
    """The call with tensors of other sizes, which repeat or cut off what the given ones hold."""
    return batch.with_tensors([_resized(t, shape) for t, shape in zip(batch.tensors, shapes, strict=True)])


def _resized(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    for axis, size in enumerate(shape[: tensor.dim()]):
        if tensor.shape[axis] != size:
            tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def dynamic_axes(declared: Sequence[Declared]) -> list[dict[int, Any]] | None:
    """For each input, what torch.export must leave open: axes whose size is declared to vary. ``None`` if none is."""
    axes = [_axes(one.shapes) for one in declared]
    return axes if any(axes) else None


def _axes(of: Shapes | None) -> dict[int, Any]:
    if of is None or not of.flexible:
        return {}
    spans = of.ranges or [(min(sizes), max(sizes)) for sizes in zip(*of.enumerated, strict=True)]
    dynamic: Any = torch.export.Dim.DYNAMIC
    return {
        axis: dynamic(min=low, **({} if high is None else {"max": high}))
        for axis, (low, high) in enumerate(spans)
        if low != high
    }


def widened(module: Any) -> Any:
    """A float32 copy of a module that holds half or bfloat16 weights; any other module as it is.

    Core ML decides the precision anew, and PyTorch in float32 is the better judge. The user's module stays as it is.
    """
    if not isinstance(module, nn.Module) or isinstance(module, torch.jit.ScriptModule):
        return module
    if not any(t.dtype in _NARROW for t in (*module.parameters(), *module.buffers())):
        return module
    held = (t for part in module.modules() for t in vars(part).values())  # tensors that `float` does not know of
    memo = {id(t): t.detach().float() for t in held if isinstance(t, Tensor) and t.dtype in _NARROW}
    return copy.deepcopy(module, dict[int, Any](memo)).float()


def widened_batch(batch: Batch) -> Batch:
    """The call with float32 in place of half and bfloat16 tensors."""
    return batch.with_tensors([t.float() if t.dtype in _NARROW else t for t in batch.tensors])
