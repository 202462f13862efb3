"""What a model takes and gives, as its caller sees it: images, flexible shapes, optional inputs, class labels."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nanproof.program.types import Kind, Type

__all__ = ["Color", "Feature", "Interface", "Shapes"]

_MOST_SHOWN = 8


class Color(enum.Enum):
    """How the pixels of an image lie in the tensor that stands for it, ``[1, channels, height, width]``.

    The names are those of ``ImageFeatureType.ColorSpace`` in ``FeatureTypes.proto``.
    """

    GRAYSCALE = "GRAYSCALE"
    RGB = "RGB"
    BGR = "BGR"
    """The caller's pixels are red, green, blue, as everywhere; the tensor has blue first."""
    GRAYSCALE_FLOAT16 = "GRAYSCALE_FLOAT16"

    @property
    def channels(self) -> int:
        """Size of the tensor's channel dimension."""
        return 3 if self in (Color.RGB, Color.BGR) else 1

    @property
    def mode(self) -> str:
        """Mode of the Pillow image that ``MLModel.predict`` takes (coremltools 9.0, ``_verify_pil_image_modes``)."""
        return {Color.GRAYSCALE: "L", Color.GRAYSCALE_FLOAT16: "F"}.get(self, "RGB")


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes that a feature may have: one, an enumeration, or a range for each dimension.

    ``default`` is the shape that the file names first, ``None`` if it names none. ``enumerated`` keeps the file's
    order, with its repetitions. A range is ``(lowest, highest)``, both included; ``None`` is no upper bound.
    """

    default: tuple[int, ...] | None = None
    enumerated: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    @property
    def flexible(self) -> bool:
        """Whether there is more than one."""
        return bool(self.enumerated or self.ranges)

    def allow(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape is among them; any is if the file says nothing."""
        if self.enumerated:
            return shape in self.enumerated
        if self.ranges:
            fits = (low <= d and (high is None or d <= high) for d, (low, high) in zip(shape, self.ranges, strict=True))
            return len(shape) == len(self.ranges) and all(fits)
        return self.default is None or shape == self.default

    def __str__(self) -> str:
        if self.enumerated:
            return _alternatives(map(_dims, self.enumerated))
        if self.ranges:
            return _dims(_span(low, high) for low, high in self.ranges)
        return "any shape" if self.default is None else _dims(self.default)


def _dims(dims: Iterable[int | str]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _span(low: int, high: int | None) -> str:
    return f"{low}" if low == high else f"{low}..{'' if high is None else high}"


def _alternatives(texts: Iterable[str]) -> str:
    """Texts in a sentence, each once; Core ML allows 128 shapes, of which nobody reads more than a few."""
    distinct = list(dict.fromkeys(texts))
    more = [f"... ({len(distinct)} in all)"] if len(distinct) > _MOST_SHOWN else []
    return " or ".join([*distinct[:_MOST_SHOWN], *more])


@dataclass(frozen=True, slots=True)
class Feature:
    """An input or output as the caller of a model sees it: a tensor in the program, but perhaps an image outside.

    Attributes:
        name: Its name.
        type: The type of the program's value.
        shapes: The shapes that this value may have, of four dimensions for an image.
        color: The colour layout of an image, ``None`` for all else.
        optional: Whether an input may be left out.
        default: The number that fills an input which is left out; ``None`` if the file names none.
        description: What the author wrote about it.
    """

    name: str
    type: Type
    shapes: Shapes = Shapes()
    color: Color | None = None
    optional: bool = False
    default: float | None = None
    description: str = ""

    def __str__(self) -> str:
        if self.color is not None:
            return f"{self.color.value} image{self._sizes()}{self._left_out()}"
        shape = str(self.shapes) if self.shapes.flexible else _dims(self.type.shape)
        element = f"{self.type.dtype.value}{shape}" if self.type.kind is Kind.TENSOR else str(self.type)
        return f"{element}{self._left_out()}"

    def _sizes(self) -> str:
        """The sizes as people and Pillow give them, width first."""
        shapes = self.shapes
        if shapes.ranges:
            return f" of {_span(*shapes.ranges[-1])} x {_span(*shapes.ranges[-2])} (width x height)"
        sizes = shapes.enumerated or ((shapes.default,) if shapes.default is not None else ())
        listed = _alternatives(f"{s[-1]} x {s[-2]}" for s in sizes)
        return f" of {listed} (width x height)" if listed else ""

    def _left_out(self) -> str:
        if not self.optional:
            return ""
        return ", optional" if self.default is None else f", {self.default:g} if left out"


@dataclass(frozen=True, slots=True)
class Interface:
    """What a function takes and gives, in order, as its description in the file has it.

    ``label`` and ``probabilities`` are the names of a classifier's outputs, ``""`` where there is none, and ``classes``
    its labels.
    """

    inputs: Mapping[str, Feature]
    outputs: Mapping[str, Feature]
    label: str = ""
    probabilities: str = ""
    classes: tuple[str, ...] | tuple[int, ...] = ()
