"""Lists of tensors of one shape, as TensorFlow's TensorArray and loops over steps use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_memory as bounds
from nanproof.ops.record import Note, OpDef, Sample, flag, ints, op
from nanproof.program import DType
from nanproof.values.floats import carrier
from nanproof.values.memory import affordable

__all__ = ["OPS", "TensorList"]


@dataclass(frozen=True, slots=True, eq=False)
class TensorList:
    """The value of a MIL list. Writing makes another list that shares the elements.

    ``blank`` is what an element holds before it is written, or ``None`` where its shape is only known from the first
    write; ``grows`` tells that writing beyond the end makes the list longer.
    """

    elements: tuple[Tensor | None, ...]
    blank: Tensor | None
    grows: bool

    def read(self, index: int) -> Tensor:
        """One element.

        Raises:
            IndexError: It lies outside the list, or was never written and has no known shape.
        """
        if not 0 <= index < len(self.elements):
            raise IndexError(f"index {index} lies outside the list of {len(self.elements)} elements")
        element = self.elements[index]
        element = self.blank if element is None else element
        if element is None:
            raise IndexError(f"element {index} of the list was never written, and its shape is not known")
        return element

    def written(self, values: Mapping[int, Tensor]) -> TensorList:
        """The list with some elements replaced.

        Raises:
            IndexError: One lies outside a list of fixed length.
        """
        elements = list(self.elements)
        for index, value in values.items():
            if index < 0 or (index >= len(elements) and not self.grows):
                raise IndexError(f"index {index} lies outside the list of {len(elements)} elements, which cannot grow")
            affordable([index + 1], element_bytes=8)
            elements.extend([None] * (index + 1 - len(elements)))
            elements[index] = value
        return replace(self, elements=tuple(elements))

    def stacked(self) -> Tensor:
        """The elements that were written as one tensor, the index first; empty if there are none."""
        there = [element for element in self.elements if element is not None]
        same = all(element.shape == there[0].shape for element in there)
        return torch.stack(there) if there and same else torch.cat([torch.empty(0), *(e.flatten() for e in there)])


def _make_list(
    arithmetic: Arithmetic,
    elem_shape: Sequence[Tensor | str],
    init_length: Tensor | int = 1,
    dynamic_length: Tensor | bool = True,
    dtype: str = "fp32",
) -> TensorList:
    sizes = [int(size) for size in elem_shape if not isinstance(size, str)]  # a string is the name of an unknown size
    blank = torch.zeros(sizes, dtype=carrier(DType(dtype))) if len(sizes) == len(elem_shape) else None
    affordable([int(init_length)], element_bytes=8)
    return TensorList((None,) * int(init_length), blank, flag(dynamic_length))


def _list_length(arithmetic: Arithmetic, ls: TensorList) -> Tensor:
    return torch.tensor(len(ls.elements), dtype=torch.int32)


def _list_read(arithmetic: Arithmetic, ls: TensorList, index: Tensor) -> Tensor:
    return ls.read(int(index))


def _list_write(arithmetic: Arithmetic, ls: TensorList, index: Tensor, value: Tensor) -> TensorList:
    return ls.written({int(index): value})


def _list_gather(arithmetic: Arithmetic, ls: TensorList, indices: Tensor) -> Tensor:
    return torch.stack([ls.read(i) for i in ints(indices)])


def _list_scatter(arithmetic: Arithmetic, ls: TensorList, indices: Tensor, value: Tensor) -> TensorList:
    return ls.written(dict(zip(ints(indices), value, strict=True)))


def _no_samples() -> Iterable[Sample]:
    return ()


_BLANK = Note(
    "An element that was never written holds zeros if elem_shape is known; else reading it is an error.",
    "an assumption: the documentation is silent, TensorFlow's TensorArray does so",
)

OPS: tuple[OpDef, ...] = (
    # Samples cannot hold lists; tests/laws/test_programs.py builds programs.
    op(
        "make_list",
        "list",
        _make_list,
        _no_samples,
        variadic=frozenset({"elem_shape"}),
        bound=bounds.make_list,
        notes=(_BLANK,),
    ),
    op("list_length", "list", _list_length, _no_samples, bound=bounds.list_length),
    op("list_read", "list", _list_read, _no_samples, bound=bounds.list_read),
    op("list_write", "list", _list_write, _no_samples, bound=bounds.list_write),
    op("list_gather", "list", _list_gather, _no_samples, bound=bounds.list_gather),
    op("list_scatter", "list", _list_scatter, _no_samples, bound=bounds.list_scatter),
)
