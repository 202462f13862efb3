"""Generated calls of ops on images, of the choice among boxes, and of random draws."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.laws.draws import FLOAT_TYPES, Array, Draw, Inputs, arrays, chosen, flags, i32, numbers, shapes, some

Strategy = st.SearchStrategy[Inputs]

GRIDS = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
KINDS = ("ordinary", "whole")


@st.composite
def _image(draw: Draw, ranks: tuple[int, int] = (3, 4), kinds: tuple[str, ...] = KINDS) -> Array:
    return draw(arrays(draw(shapes(*ranks, largest=5)), FLOAT_TYPES, kinds))


@st.composite
def _upsample(draw: Draw, kinds: tuple[str, ...] = KINDS) -> Inputs:
    """Factors up to 4 that leave at least one pixel; some are fractions."""
    x = draw(_image(kinds=kinds))
    factors = []
    for size in x.shape[-2:]:
        count = draw(st.integers(1, 4 * size))
        whole = draw(st.integers(1, 4))
        # The middle between two counts, so that rounding of the product cannot change its floor.
        factors.append(whole if draw(flags) else np.float32((count + 0.5) / size))
    return {"x": x, "scale_factor_height": factors[0], "scale_factor_width": factors[1]}


@st.composite
def _upsample_bilinear(draw: Draw) -> Inputs:
    inputs = draw(_upsample())
    align = draw(flags)
    centred = {} if draw(flags) else {"half_pixel_centers": not align and draw(flags)}
    return {**inputs, "align_corners": align, **centred}


@st.composite
def _target(draw: Draw, kinds: tuple[str, ...] = KINDS) -> Inputs:
    sizes = {name: draw(st.integers(1, 9)) for name in ("target_size_height", "target_size_width")}
    return {"x": draw(_image(kinds=kinds)), **sizes}


@st.composite
def _resize_bilinear(draw: Draw) -> Inputs:
    return {**draw(_target()), **some(draw, {"sampling_mode": st.sampled_from(GRIDS)})}


@st.composite
def _resize(draw: Draw) -> Inputs:
    x = draw(_image((2, 4)))
    count = draw(st.integers(1, 2))
    shape = draw(st.lists(st.integers(0, 7), min_size=count, max_size=count))
    mode = draw(st.sampled_from(("LINEAR", "NEAREST_NEIGHBOR")))
    grid = {"sampling_mode": draw(st.sampled_from(GRIDS))} if mode == "LINEAR" else {}
    return {"x": x, "shape": i32(shape), "resized_dims": np.uint32(count), "interpolation_mode": mode, **grid}


@st.composite
def _crop(draw: Draw) -> Inputs:
    x = draw(_image((3, 5), ("ordinary", "special")))
    amounts = []
    for size in x.shape[-2:]:
        before = draw(st.integers(0, size - 1))
        amounts.append(i32([before, draw(st.integers(0, size - 1 - before))]))
    return {"x": x, "crop_height": amounts[0], "crop_width": amounts[1]}


@st.composite
def _resample(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(4, 4, smallest=2, largest=5)), FLOAT_TYPES, KINDS))
    grid = (len(x), *draw(shapes(2, 2)), 2)
    mode = draw(st.sampled_from(("unnormalized", "normalized_minus_one_to_one", "normalized_zero_to_one")))
    padding = draw(st.sampled_from(("constant", "border", "reflection", "symmetric")))
    return {
        "x": x,
        # Odd sixteenths lie between pixels, where both readings of a tie agree.
        "coordinates": (draw(chosen(grid, -24, 40)) * 2 + 1).astype(np.float32) / np.float32(16),
        "sampling_mode": draw(st.sampled_from(("bilinear", "nearest"))),
        "padding_mode": padding,
        "padding_value": draw(numbers(-3, 3, x.dtype)),
        "coordinates_mode": mode,
        "align_corners": padding != "symmetric" and (padding == "reflection" or draw(flags)),
    }


@st.composite
def _affine(draw: Draw) -> Inputs:
    x = draw(arrays(draw(shapes(4, 4, smallest=2, largest=5)), ("float32",), KINDS))
    return {
        "x": x,
        "transform_matrix": draw(arrays((len(x) if draw(flags) else 1, 6), ("float32",), ("ordinary",))),
        "output_height": draw(st.integers(2, 6)),
        "output_width": draw(st.integers(2, 6)),
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": np.float32(0),
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
    }


CONVENTIONS = ("CORNERS_HEIGHT_FIRST", "CORNERS_WIDTH_FIRST", "CENTER_SIZE_HEIGHT_FIRST", "CENTER_SIZE_WIDTH_FIRST")


@st.composite
def _crop_resize(draw: Draw) -> Inputs:
    """Boxes of whole sixteenths, partly outside of the image, whose first corner comes first."""
    x = draw(arrays(draw(shapes(4, 4, smallest=2, largest=5)), FLOAT_TYPES, KINDS))
    count = draw(st.integers(1, 3))
    convention = draw(st.sampled_from(CONVENTIONS))
    start, extent = draw(chosen((count, 2), -8, 64)) / 16, draw(chosen((count, 2), 1, 64)) / 16
    second = extent if convention.startswith("CENTER") else start + extent
    boxes = np.concatenate([start, second], 1).astype(x.dtype)
    sizes = {name: draw(st.integers(1, 5)) for name in ("target_height", "target_width")}
    modes = {"box_coordinate_mode": convention, "sampling_mode": draw(st.sampled_from(GRIDS))}
    if draw(flags):
        indices = draw(chosen((count,), 0, len(x)))
        return {"x": x, "boxes": boxes, "box_indices": indices, **sizes, **modes, "pad_value": x.dtype.type(-1)}
    return {"x": x, "roi": boxes.reshape(count, 1, 4, 1, 1), **sizes, **modes}


@st.composite
def _non_maximum_suppression(draw: Draw) -> Inputs:
    """Boxes with corners on whole numbers, so that overlaps are fractions that no rounding moves past a threshold."""
    batch, count, classes = draw(st.integers(1, 2)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    places = draw(chosen((batch, count, 2), 0, 12)).astype(np.float32)
    sizes = draw(chosen((batch, count, 2), 1, 9)).astype(np.float32) * 2
    ranks = np.random.default_rng(draw(st.integers(0, 99))).permutation(batch * count * classes)
    boxes, scores = np.concatenate([places, sizes], -1), ranks.reshape(batch, count, classes).astype(np.float32)
    common = {"iou_threshold": np.float32(draw(st.sampled_from((0.1234, 0.4321, 0.7654))))}
    common |= {"max_boxes": draw(st.integers(1, 14)), "per_class_suppression": draw(flags)}
    if draw(flags):
        return {"boxes": boxes, "scores": scores, **common, "score_threshold": np.float32(draw(st.integers(0, 40)))}
    return {"boxes": boxes.swapaxes(1, 2).copy(), "scores": scores.swapaxes(1, 2).copy(), **common}


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers: at least some thousand, of which statistics can be taken


@st.composite
def _random(draw: Draw, **given: tuple[float, float]) -> Inputs:
    shape = (draw(st.integers(40, 60)), *draw(shapes(1, 3, 3, 6)), 12)
    optional = {name: numbers(*interval) for name, interval in given.items()}
    return {"shape": i32(shape), **some(draw, optional), **some(draw, {"seed": st.integers(0, 2**31 - 1)})}


@st.composite
def _random_uniform(draw: Draw) -> Inputs:
    low = draw(numbers(-9, 9))
    return {**draw(_random()), "low": low, "high": np.float32(low + draw(numbers(0.5, 9)))}


@st.composite
def _random_categorical(draw: Draw) -> Inputs:
    x = draw(arrays((*draw(shapes(0, 2)), draw(st.integers(2, 5))), kinds=("ordinary",)))
    mode = draw(st.sampled_from(("logits", "probs")))
    x = x / 4  # no outcome is so rare that 2000 draws with two seeds could all be the same
    powers = np.exp(x)
    x = powers / powers.sum(-1, keepdims=True) if mode == "probs" else x
    return {"x": x, "mode": mode, "size": 2000, **some(draw, {"seed": st.integers(0, 2**31 - 1)})}


INPUTS: dict[str, Strategy] = {
    "upsample_nearest_neighbor": _upsample(("ordinary", "special")),
    "upsample_bilinear": _upsample_bilinear(),
    "resize_nearest_neighbor": _target(("ordinary", "special")),
    "resize_bilinear": _resize_bilinear(),
    "resize": _resize(),
    "crop": _crop(),
    "resample": _resample(),
    "affine": _affine(),
    "crop_resize": _crop_resize(),
    "non_maximum_suppression": _non_maximum_suppression(),
    "random_bernoulli": _random(prob=(0.05, 0.95)),
    "random_normal": _random(mean=(-9, 9), stddev=(0.1, 9)),
    "random_uniform": _random_uniform(),
    "random_categorical": _random_categorical(),
}
