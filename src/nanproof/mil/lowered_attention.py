"""``scaled_dot_product_attention``: one op from iOS18 on, five before; a guard only where a row may be masked whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from nanproof.mil.additive_masks import is_finite
from nanproof.mil.coreml import ct, is_target, mb, register_torch_op, torch_ops, types

__all__ = ["scaled_dot_product_attention"]

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_HIDDEN = -3e4
"""The score of a hidden key: exp of it vanishes beside any score above -29,896, and FP16 holds it.

Where it has to be added (iOS18, a mask that is no constant), it vanishes among scores that differ by less than that.
"""


@register_torch_op(override=True)
def scaled_dot_product_attention(context: Any, node: Any) -> None:
    """``aten.scaled_dot_product_attention``: in 9.0 a query that may attend to nothing gets the mean of the values.

    In PyTorch it gets zeros. Here masked scores become a finite number, so that such a row stays finite, and the result
    of the row is multiplied by zero. What is computed of the mask alone is shared by all layers that use it.
    """
    given: dict[str, Any] = dict(zip(_NAMES, torch_ops._get_inputs(context, node, min_expected=3), strict=False))
    for name in (*_NAMES[3:], "scale"):
        given[name] = torch_ops._get_kwinputs(context, node, name, default=[given.get(name)])[0]
    query, key, value = (given[name] for name in _NAMES[:3])
    mask, scale = given["attn_mask"], _plain(given["scale"])
    if _plain(given["is_causal"]):
        mask = _causal(query, key)
    attended = None if mask is None else _attended(mask, query.dtype)
    guarded = {} if attended is not None else {"name": node.name}
    if is_target(ct.target.iOS18) and scale is None and query.rank >= 3:
        bias = mask if mask is None or (attended is None and types.is_bool(mask.dtype)) else _bias(mask, query.dtype)
        result = _fused(query, key, value, bias, guarded)
    else:
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = mb.matmul(**_scaled(query, key, factor), transpose_y=True)
        scores = scores if mask is None else _masked(scores, mask)
        result = mb.matmul(x=mb.softmax(x=scores, axis=-1), y=value, **guarded)
    if attended is not None:
        result = mb.mul(x=result, y=attended, name=node.name)
    context.add(result)


def _scaled(query: Any, key: Any, factor: float) -> dict[str, Any]:
    """Both factors of the scores. A power of two costs no rounding on one side; another is shared, as in PyTorch."""
    kind = types.nptype_from_builtin(query.dtype)
    if factor <= 0 or np.frexp(factor)[0] == 0.5:
        return {"x": mb.mul(x=query, y=np.array(factor, kind)), "y": key}
    root = np.array(factor**0.5, kind)
    return {"x": mb.mul(x=query, y=root), "y": mb.mul(x=key, y=root)}


def _plain(given: Any) -> Any:
    """The value of an argument that is a constant, whether coremltools has made a ``Var`` of it or not."""
    return getattr(given, "val", given)


def _causal(query: Any, key: Any) -> Any:
    """The mask that lets each query attend to the keys up to its own place: a constant where the lengths are known."""
    length, width = query.shape[-2], key.shape[-2]
    if isinstance(length, (int, np.integer)) and isinstance(width, (int, np.integer)):
        return mb.const(val=np.tril(np.ones((length, width), bool)))
    shape = mb.concat(values=[_size(query), _size(key)], axis=0)
    return mb.cast(x=mb.band_part(x=mb.fill(shape=shape, value=1.0), lower=-1, upper=0), dtype="bool")


def _size(x: Any) -> Any:
    """The length of the last axis but one, as a tensor of one element."""
    return mb.slice_by_index(x=mb.shape(x=x), begin=[x.rank - 2], end=[x.rank - 1])


def _masked(scores: Any, mask: Any) -> Any:
    """Scores of which those that a mask hides vanish in a softmax.

    A score that is replaced does not matter, however large it is; the lowest number would be -inf in FP16. A mask that
    is added may hold -inf: as the lowest number it does the same, but for rows of nothing else.
    """
    if types.is_bool(mask.dtype):
        return mb.select(cond=mask, a=scores, b=np.array(_HIDDEN, types.nptype_from_builtin(scores.dtype)))
    return mb.add(x=scores, y=_bias(mask, scores.dtype))


def _bias(mask: Any, dtype: Any) -> Any:
    """A finite mask to add to the scores."""
    kind = types.nptype_from_builtin(dtype)
    if not types.is_bool(mask.dtype) and is_finite(mask):
        return mask
    if types.is_bool(mask.dtype):
        allowed = mb.cast(x=mask, dtype=types.builtin_to_string(dtype))
        return mb.mul(x=mb.sub(x=kind(1), y=allowed), y=kind(_HIDDEN))
    lowest = np.array(np.finfo(kind).min, kind)
    return mb.maximum(x=mask, y=lowest)


def _attended(mask: Any, dtype: Any) -> Any:
    """A factor for each query: 0 where the mask hides every key, 1 elsewhere; ``None`` if it hides all for no query."""
    boolean = types.is_bool(mask.dtype)
    if mask.val is not None:
        rows = (mask.val if boolean else mask.val != -np.inf).any(-1, keepdims=True)
        return None if rows.all() else rows.astype(types.nptype_from_builtin(dtype))
    kind = types.builtin_to_string(dtype)
    if boolean:
        return mb.reduce_max(x=mb.cast(x=mask, dtype=kind), axes=[-1], keep_dims=True)
    if is_finite(mask):
        return None
    highest = mb.reduce_max(x=mask, axes=[-1], keep_dims=True)
    return mb.cast(x=mb.greater(x=highest, y=types.nptype_from_builtin(mask.dtype)(-np.inf)), dtype=kind)


def _fused(query: Any, key: Any, value: Any, mask: Any, named: dict[str, str]) -> Any:
    """The op of iOS18, whose operands have the same batch axes. A row that hides every key would be NaN there."""
    batch = np.broadcast_shapes(*(tuple(x.shape[:-2]) for x in (query, key, value)))
    same = [_spread(x, batch) for x in (query, key, value)]
    given = {} if mask is None else {"attn_mask": mask}
    return mb.scaled_dot_product_attention(query=same[0], key=same[1], value=same[2], **given, **named)


def _spread(x: Any, batch: tuple[int, ...]) -> Any:
    times = [wide // own for wide, own in zip(batch, x.shape[:-2], strict=True)]
    return x if all(n == 1 for n in times) else mb.tile(x=x, reps=[*times, 1, 1])
