"""The description of a model in its file (``ModelDescription``) → :class:`nanproof.program.Interface`.

What the fields mean stands in ``FeatureTypes.proto`` and ``Model.proto`` of coremltools' ``mlmodel/format``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nanproof.errors import ModelFileError
from nanproof.mil.proto import FeatureTypes
from nanproof.program import Block, Color, Feature, Interface, Shapes, Type

__all__ = ["class_labels", "function_description", "interface"]

_SPACES = FeatureTypes.ImageFeatureType.ColorSpace


def function_description(description: Any, name: str, default: str) -> Any:
    """What a model's description says about one function; ``None`` if it says nothing.

    A file with one function describes it at the top; a multifunction file has a list.
    """
    for function in description.functions:
        if function.name == name:
            return function
    described = name == default and (description.input or description.output or description.state)
    return description if described else None


def interface(described: Any, inputs: Mapping[str, Type], outputs: Mapping[str, Type], where: str) -> Interface:
    """The interface of a function or of a pipeline.

    Args:
        described: Its ``FunctionDescription`` or ``ModelDescription``.
        inputs: The types of its inputs, in any order; those of the description counts.
        outputs: The types of its outputs, in their order.
        where: The file and the function, for errors.

    Raises:
        ModelFileError: The description names other inputs or outputs, or contradicts their ranks.
    """
    given = _features(described.input, inputs, f"{where} describes the input")
    made = _features(described.output, outputs, f"{where} describes the output")
    missing = [*(n for n in inputs if n not in given), *(n for n in outputs if n not in made)]
    if missing:
        raise ModelFileError(f"Damaged model: {where} has no description of {', '.join(map(repr, missing))}.")
    return Interface(
        given,
        {name: made[name] for name in outputs},
        described.predictedFeatureName,
        described.predictedProbabilitiesName,
    )


def class_labels(block: Block) -> tuple[str, ...] | tuple[int, ...]:
    """The labels of the ``classify`` op that ends a classifier; none if there is no such op."""
    for op in reversed(block.ops):
        classes = op.input("classes") if op.type == "classify" else None
        if classes is not None and isinstance(classes.const, np.ndarray):
            return tuple(classes.const.tolist())
    return ()


def _features(described: Iterable[Any], types: Mapping[str, Type], where: str) -> dict[str, Feature]:
    features: dict[str, Feature] = {}
    for feature in described:
        if feature.name not in types:
            raise ModelFileError(f"Damaged model: {where} '{feature.name}', which the program does not have.")
        features[feature.name] = _feature(feature, types[feature.name], where)
    return features


def _feature(described: Any, type: Type, where: str) -> Feature:
    kind = described.type.WhichOneof("Type")
    shapes, color, default = Shapes(), None, None
    if kind == "imageType":
        image = described.type.imageType
        name = _SPACES.Name(image.colorSpace) if image.colorSpace in _SPACES.values() else str(image.colorSpace)
        if name not in Color.__members__:
            raise ModelFileError(f"Damaged model: {where} '{described.name}' with the colour space {name}.")
        color = Color[name]
        shapes = _image_shapes(image, color)
    elif kind == "multiArrayType":
        array = described.type.multiArrayType
        shapes = _array_shapes(array) if type.shape else Shapes(())  # Core ML describes a scalar as [1]
        which = array.WhichOneof("defaultOptionalValue")
        default = float(getattr(array, which)) if which else None
    lengths = [
        *(d for dims in (shapes.default, *shapes.enumerated) for d in dims or ()),
        *(r[0] for r in shapes.ranges),
    ]
    if min(lengths, default=0) < 0:
        raise ModelFileError(f"Damaged model: {where} '{described.name}' with a negative size: {shapes}.")
    named = [*shapes.enumerated, *([shapes.ranges] if shapes.ranges else []), shapes.default]
    channels = color.channels if color is not None and len(type.shape) == 4 else None
    if any(dims is not None and len(dims) != len(type.shape) for dims in named) or (
        channels is not None and type.shape[1] != channels
    ):
        raise ModelFileError(f"Damaged model: {where} '{described.name}' as {shapes}, but the program has {type}.")
    optional = bool(described.type.isOptional)
    return Feature(described.name, type, shapes, color, optional, default, described.shortDescription)


def _array_shapes(array: Any) -> Shapes:
    default = tuple(array.shape) or None  # an output of unknown shape is described by none
    flexibility = array.WhichOneof("ShapeFlexibility")
    if flexibility == "enumeratedShapes":
        enumerated = tuple(tuple(s.shape) for s in array.enumeratedShapes.shapes)
        return Shapes(default or next(iter(enumerated), None), enumerated)
    if flexibility == "shapeRange":
        ranges = tuple(_range(r) for r in array.shapeRange.sizeRanges)
        return Shapes(default or tuple(low for low, _ in ranges), (), ranges)
    return Shapes(default)


def _image_shapes(image: Any, color: Color) -> Shapes:
    def shape(size: Any) -> tuple[int, ...]:
        return (1, color.channels, int(size.height), int(size.width))

    flexibility = image.WhichOneof("SizeFlexibility")
    given = shape(image) if image.height and image.width else None
    if flexibility == "enumeratedSizes":
        enumerated = tuple(shape(size) for size in image.enumeratedSizes.sizes)
        return Shapes(given or next(iter(enumerated), None), enumerated)
    if flexibility == "imageSizeRange":
        height, width = _range(image.imageSizeRange.heightRange), _range(image.imageSizeRange.widthRange)
        ranges = ((1, 1), (color.channels, color.channels), height, width)
        return Shapes(given or tuple(low for low, _ in ranges), (), ranges)
    return Shapes(given)


def _range(size: Any) -> tuple[int, int | None]:
    """Lowest and highest size; a negative upper bound means none."""
    return int(size.lowerBound), int(size.upperBound) if size.upperBound >= 0 else None
