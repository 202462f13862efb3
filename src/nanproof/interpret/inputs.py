"""What a caller passes, checked and put into the dtypes and shapes of a program's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.errors import InputError
from nanproof.interpret.images import image_tensor, shown
from nanproof.program import DType, Feature, Interface, Type

__all__ = ["check_inputs"]

_SHOWN_SHAPES = 8


def check_inputs(interface: Interface, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inputs as arrays of the declared dtypes, in the order of the interface, after all checks.

    An optional input that is left out is filled with its default, in its default shape.

    Raises:
        InputError: An input is missing, unknown, has a wrong shape, dtype or value, or the shapes of two inputs do not
            go together.
    """
    features = interface.inputs
    given = {name: value for name, value in inputs.items() if value is not None}
    needed = {name for name, feature in features.items() if not feature.optional}
    unknown, missing = sorted(set(given) - set(features)), sorted(needed - set(given))
    if unknown or missing:
        parts = [f"there is no input {', '.join(map(repr, unknown))}"] if unknown else []
        parts += [f"the input {', '.join(map(repr, missing))} is missing"] if missing else []
        declared = "\n".join(f"    {name}: {feature}" for name, feature in features.items())
        raise InputError(f"Wrong inputs: {' and '.join(parts)}.\n  The program takes\n{declared}")
    arrays = {n: _checked(f, given[n]) if n in given else _filled(f) for n, f in features.items()}
    _check_symbols(features, arrays)
    _check_enumerations({n: f for n, f in features.items() if n in given}, arrays)
    return arrays


def _checked(feature: Feature, given: Any) -> np.ndarray:
    array = image_tensor(feature, _array(feature, given)) if feature.color is not None else _array(feature, given)
    if feature.type.shape == () and array.shape == (1,):
        array = array.reshape(())  # Core ML has no scalars: the description of such an input says [1]
    if not _fits(array.shape, feature.type) or not feature.shapes.allow(array.shape):
        shape = tuple(array.shape)
        if feature.color is not None and array.ndim == 4:
            raise InputError(
                f"The image for input '{feature.name}' has {shape[3]} x {shape[2]} pixels and {_counted(shape[1])}, "
                f"but the program takes {shown(feature)}."
            )
        raise InputError(f"Input '{feature.name}' has shape {shape}, but the program takes {feature}.")
    return _in_dtype(feature, array)


def _counted(channels: int) -> str:
    return f"{channels} channel" + "s" * (channels != 1)


def _array(feature: Feature, given: Any) -> Any:
    """Anything that NumPy can read as an array of numbers; an image stays what it is."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        return (given.float() if given.dtype is torch.bfloat16 else given).numpy()
    if feature.color is not None:
        return given
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        raise InputError(f"Input '{feature.name}' is no array, but the program takes {feature}: {error}.") from error


def _fits(shape: tuple[int, ...], type: Type) -> bool:
    return len(shape) == len(type.shape) and all(
        isinstance(want, str) or want == have for want, have in zip(type.shape, shape, strict=True)
    )


def _in_dtype(feature: Feature, array: np.ndarray) -> np.ndarray:
    """The numbers in the declared dtype. Floats round, to infinity where they must, as on a device; integers fit."""
    dtype = feature.type.dtype
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"Input '{feature.name}' has dtype {array.dtype}, but the program takes {feature}: pass numbers."
        )
    if dtype.is_float or dtype is DType.BOOL:
        with np.errstate(over="ignore"):
            return array.astype(dtype.numpy)
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise InputError(
            f"Input '{feature.name}' holds fractions or non-finite numbers, but the program takes {feature}."
        )
    limits = np.iinfo(dtype.numpy.name)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError(
            f"Input '{feature.name}' holds values from {array.min()} to {array.max()}, beyond the range of "
            f"{dtype.value} ({limits.min} to {limits.max}), which the program takes."
        )
    return array.astype(dtype.numpy)


def _filled(feature: Feature) -> np.ndarray:
    if feature.default is None:
        raise InputError(
            f"The optional input '{feature.name}' was left out, and the file names no value to put in its place.\n"
            f"  Pass it: the program takes {feature}."
        )
    shape = feature.shapes.default
    if shape is None:
        raise InputError(
            f"The optional input '{feature.name}' was left out, and the file names no shape for its default "
            f"{feature.default:g}.\n  Pass it: the program takes {feature}."
        )
    return _in_dtype(feature, np.full(shape, feature.default))


def _check_symbols(features: Mapping[str, Feature], arrays: Mapping[str, np.ndarray]) -> None:
    """One symbol, one size. An unnamed dimension (``"?"``, as all are that come from a file) is free."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, feature in features.items():
        for axis, (dim, size) in enumerate(zip(feature.type.shape, arrays[name].shape, strict=True)):
            if not isinstance(dim, str) or dim == "?":
                continue
            here = f"dimension {axis} of input '{name}'"
            known, there = sizes.setdefault(dim, (size, here))
            if known != size:
                raise InputError(
                    f"The symbol '{dim}' stands for one size, but {there} is {known} and {here} is {size}."
                )


def _check_enumerations(features: Mapping[str, Feature], arrays: Mapping[str, np.ndarray]) -> None:
    """Where several inputs enumerate their shapes, those of one place in the lists belong together.

    coremltools 9.0 demands lists of one length and keeps repeated shapes for this (``TestMultipleEnumeratedShapes``); a
    mixture fails in Core ML (reported as issue 2271 of coremltools).
    """
    lists = {n: f.shapes.enumerated for n, f in features.items() if f.shapes.enumerated}
    if len(lists) < 2 or len({len(shapes) for shapes in lists.values()}) > 1:
        return
    combinations = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    if tuple(arrays[name].shape for name in lists) in combinations:
        return
    lines = [
        ", ".join(f"{n} {_dims(features[n], shape)}" for n, shape in zip(lists, combination, strict=True))
        for combination in combinations[:_SHOWN_SHAPES]
    ]
    lines += ["..."] * (len(combinations) > _SHOWN_SHAPES)
    have = ", ".join(f"{n} {_dims(features[n], arrays[n].shape)}" for n in lists)
    raise InputError(
        f"The shapes of the inputs do not go together: {have}.\n  The program takes one of\n"
        + "\n".join(f"    {line}" for line in lines)
    )


def _dims(feature: Feature, shape: tuple[int, ...]) -> str:
    return f"{shape[3]} x {shape[2]}" if feature.color is not None else str(list(shape))
