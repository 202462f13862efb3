"""Stress inputs by kind: what test data leaves out, within the limits that the kind states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nanproof.stress.kinds import InputKind
from nanproof.stress.masks import StressInput, mask_variants

__all__ = ["StressInput", "stress_inputs"]

_Variants = list[tuple[str, np.ndarray]]
_FP16_WHOLE = 2048
"""Up to here FP16 tells all whole numbers apart."""
_PERIOD = 64
"""Samples of one turn of the loudest tone: 250 Hz at 16 kHz."""


def stress_inputs(kinds: Mapping[str, InputKind], first: Mapping[str, np.ndarray]) -> list[StressInput]:
    """Variants of one call in each of which one input is driven to the limits of its kind.

    Nothing leaves the bounds of a kind, so that a real input stays in the range that was seen. Whether a variant means
    anything to the model is for PyTorch to say.

    Args:
        kinds: The kind of each input.
        first: The call, by input name.

    Returns:
        Arrays of the shapes and dtypes of the call.
    """
    found: list[StressInput] = []
    for name, kind in kinds.items():
        array = np.asarray(first[name])
        if not array.size or array.dtype.kind not in "biuf":
            continue
        seen = [array]
        for what, variant in _VARIANTS[kind.name](array, kind):
            changed = variant.astype(array.dtype)
            if not any(np.array_equal(changed, other) for other in seen):
                seen.append(changed)
                found.append(StressInput(f"{name}: {what}", {**first, name: changed}))
    return found


def _masks(array: np.ndarray, kind: InputKind) -> _Variants:
    return mask_variants(array)


def _truths(array: np.ndarray, kind: InputKind) -> _Variants:
    return [("all true", np.ones_like(array)), ("all false", np.zeros_like(array))]


def _numbers(array: np.ndarray, kind: InputKind) -> _Variants:
    """Ids and indices: the first, the last, and the same one everywhere."""
    ends = [("first", kind.low), ("last", kind.high)]
    found = [(f"the {what} ({end:g}) everywhere", np.full_like(array, end)) for what, end in ends if math.isfinite(end)]
    return [*found, ("one repeated everywhere", np.full_like(array, array.flat[0]))]


def _positions(array: np.ndarray, kind: InputKind) -> _Variants:
    """Far ones: where FP16 cannot tell neighbours apart any more, and the last ones."""
    span = float(array.max()) - float(array.min())
    start = array - array.min()
    found: _Variants = []
    if kind.high >= _FP16_WHOLE + 1 + span:
        found.append((f"from {_FP16_WHOLE + 1} on", start + (_FP16_WHOLE + 1)))
    if math.isfinite(kind.high) and kind.high - span >= kind.low:
        found.append((f"up to the last ({kind.high:g})", start + int(kind.high - span)))
    return found


def _images(array: np.ndarray, kind: InputKind) -> _Variants:
    if not kind.bounded:
        return []
    stripes = np.where(np.arange(array.shape[-1]) % 2 == 0, kind.low, kind.high)
    return [
        ("black", np.full_like(array, kind.low)),
        ("white", np.full_like(array, kind.high)),
        ("one grey", np.full_like(array, (kind.low + kind.high) / 2)),
        ("black and white stripes", np.broadcast_to(stripes, array.shape)),
    ]


def _waveforms(array: np.ndarray, kind: InputKind) -> _Variants:
    found: _Variants = [("silence", np.zeros_like(array))]
    if kind.bounded:
        up = np.arange(array.shape[-1]) % _PERIOD < _PERIOD // 2
        found.append(("full scale", np.broadcast_to(np.where(up, kind.high, kind.low), array.shape)))
    return found


def _reals(array: np.ndarray, kind: InputKind) -> _Variants:
    """Zero vectors, ties, one that dominates, and other signs, as far as they lie in the range.

    Ties are no longer, as vectors, than the longest given one: all elements at the limit at once would be outside of
    what was seen, although none of them is.
    """
    if not kind.bounded:
        return []
    found: _Variants = []
    if kind.low <= 0 <= kind.high:
        found.append(("all zero", np.zeros_like(array)))
    rows = np.atleast_1d(array).astype(np.float64)
    typical = float(np.sqrt(np.square(rows[np.isfinite(rows).all(-1)]).mean(-1)).max(initial=0.0))
    for tie in (min(typical, kind.high), max(-typical, kind.low)):
        found.append((f"all {tie:.4g}", np.full_like(array, max(tie, kind.low))))
    if array.ndim and array.shape[-1] > 1:
        dominated = np.full_like(array, min(max(0.0, kind.low), kind.high))
        dominated[..., 0] = kind.high
        found.append(("one dominates each row", dominated))
    if kind.low < 0 < kind.high:
        found.append(("signs flipped", np.clip(-array, kind.low, kind.high)))
    return found


_VARIANTS: Mapping[str, Callable[[np.ndarray, InputKind], _Variants]] = {
    "mask": _masks,
    "bool": _truths,
    "ids": _numbers,
    "index": _numbers,
    "positions": _positions,
    "image": _images,
    "audio": _waveforms,
    "real": _reals,
}
