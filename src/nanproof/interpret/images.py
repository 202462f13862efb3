"""Images into and out of a program: Pillow images and arrays of pixels on one side, ``[1, C, H, W]`` on the other.

A program computes on tensors; scale and bias of an image input are ordinary ops of it. What is image about an image is
the colour layout in the file's description. The modes of Pillow images are those of coremltools 9.0: an input is
``RGB`` (for RGB and BGR), ``L`` or ``F`` (``MLModel._verify_pil_image_modes``), an output is ``RGBA`` with an alpha of
255, ``L`` or ``F`` (``convertImageValueToPython`` in ``coremlpython/CoreMLPythonUtils.mm``, and its tests).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from nanproof.errors import InputError, UsageError
from nanproof.program import Color, Feature, Interface

__all__ = ["image_tensor", "pillow_image", "pixels", "shown", "with_images"]


def image_tensor(feature: Feature, given: Any) -> np.ndarray:
    """An image as the tensor that stands for it, ``[1, C, H, W]``, in any dtype; its size is not yet checked.

    Args:
        feature: The image input.
        given: A Pillow image; or an array of pixels, ``[H, W]`` for one channel, ``[H, W, 3]`` in the order red, green,
            blue for three; or the tensor itself, of rank 4, whose values are taken as they are.

    Raises:
        InputError: The mode, the rank or a pixel's value is not what the layout takes.
    """
    color = feature.color or Color.RGB
    if _is_pillow(given):
        if given.mode != color.mode:
            raise InputError(
                f"The image for input '{feature.name}' has mode '{given.mode}' and {given.width} x {given.height} "
                f"pixels, but the program takes {shown(feature)}, which is mode '{color.mode}'.\n"
                f"  Convert it: image.convert('{color.mode}')."
            )
        given = np.asarray(given)
    array = np.asarray(given)
    if array.ndim == 4:
        return array
    if array.ndim != color.channels // 2 + 2 or (array.ndim == 3 and array.shape[2] != 3):
        wanted = "[height, width, 3]" if color.channels == 3 else "[height, width]"
        raise InputError(
            f"Input '{feature.name}' has shape {tuple(array.shape)}, but the program takes {shown(feature)}.\n"
            f"  Pass a Pillow image of mode '{color.mode}', its pixels as an array {wanted}, or the tensor "
            f"[1, {color.channels}, height, width]."
        )
    if array.dtype.kind not in "biuf":
        raise InputError(f"Input '{feature.name}' has dtype {array.dtype}, but the program takes {shown(feature)}.")
    if color is Color.GRAYSCALE_FLOAT16:
        with np.errstate(over="ignore"):  # to infinity, as half-precision pixels do
            return array.astype(np.float16)[np.newaxis, np.newaxis]
    _require_bytes(feature, array)
    if color is Color.GRAYSCALE:
        return array[np.newaxis, np.newaxis]
    channels = array[..., ::-1] if color is Color.BGR else array
    return channels.transpose(2, 0, 1)[np.newaxis]


def _require_bytes(feature: Feature, array: np.ndarray) -> None:
    """Pixels of eight bits are whole numbers. Numbers in [0, 1], as PyTorch has them, would be almost black."""
    if array.dtype == np.uint8 or array.size == 0:
        return
    low, high = array.min(), array.max()
    if low < 0 or high > 255 or not np.array_equal(array, np.trunc(array)):  # NaN is not equal to itself
        raise InputError(
            f"Input '{feature.name}' holds values from {low:g} to {high:g}, but the pixels of {shown(feature)} are "
            "whole numbers from 0 to 255.\n"
            f"  Scale and round them, or pass a tensor [1, {array.shape[2] if array.ndim == 3 else 1}, height, width], "
            "whose values are taken as they are."
        )


def pixels(tensor: np.ndarray, color: Color) -> np.ndarray:
    """The pixels of an image output, as Core ML hands it out: ``uint8`` ``[H, W, 3]`` (red first) or ``[H, W]``.

    Values are rounded to the nearest whole number and held to 0 ... 255, NaN becomes 0. That is an assumption: the
    public sources show only whole numbers inside the range, and none says what Core ML does with others. Of
    ``GRAYSCALE_FLOAT16`` the pixels are the values, rounded to binary16, as ``float32`` ``[H, W]``.

    Args:
        tensor: ``[1, C, H, W]``, floats.
        color: The layout.
    """
    if color is Color.GRAYSCALE_FLOAT16:
        with np.errstate(over="ignore"):
            return tensor[0, 0].astype(np.float16).astype(np.float32)
    held = np.clip(np.nan_to_num(np.rint(tensor[0]), nan=0.0, posinf=255, neginf=0), 0, 255).astype(np.uint8)
    if color is Color.GRAYSCALE:
        return held[0]
    return np.ascontiguousarray((held[::-1] if color is Color.BGR else held).transpose(1, 2, 0))


def pillow_image(array: np.ndarray) -> Any:
    """Pixels as the Pillow image that ``MLModel.predict`` returns: mode ``RGBA``, ``L`` or ``F``.

    Raises:
        UsageError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise UsageError(
            "The model gives an image, and Pillow is not installed: pip install pillow.\n"
            "  Without it, nanproof.predict(..., images=False) gives the tensor that stands for the image."
        ) from error
    if array.ndim == 2:
        return Image.fromarray(array)
    alpha = np.full((*array.shape[:2], 1), 255, np.uint8)
    return Image.fromarray(np.concatenate([array, alpha], axis=2))


def with_images(outputs: Mapping[str, Any], interface: Interface) -> dict[str, Any]:
    """Outputs of an executor as Core ML hands them out: a Pillow image for each that the file describes as one.

    Raises:
        UsageError: Pillow is not installed.
    """
    colors = {name: feature.color for name, feature in interface.outputs.items()}
    return {n: v if (c := colors[n]) is None else pillow_image(pixels(v, c)) for n, v in outputs.items()}


def shown(feature: Feature) -> str:
    """A feature in a sentence: an image with its article."""
    article = "" if feature.color is None else "an " if feature.color is Color.RGB else "a "
    return f"{article}{feature}"


def _is_pillow(given: Any) -> bool:
    module = sys.modules.get("PIL.Image")  # not imported: then nobody can have made an image
    return module is not None and isinstance(given, module.Image)
