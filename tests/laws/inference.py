"""What coremltools itself says about one call of an op: its types, and its values where it folds constants."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name of its documentation
from coremltools.converters.mil.mil import Function, Operation, types
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry
from coremltools.converters.mil.mil.types.type_mapping import nptype_from_builtin

from nanproof.program import DType, Type

OPSETS = ("iOS15", "iOS16", "iOS17", "iOS18")


class RejectedError(Exception):
    """coremltools does not accept these inputs for the op in this opset."""


@dataclass(frozen=True)
class Inferred:
    """Types of the outputs, and their values where coremltools folds the op (``None`` elsewhere)."""

    types: tuple[Type, ...]
    values: tuple[np.ndarray | None, ...]


def opsets_of(name: str) -> tuple[str, ...]:
    """The opsets that have the op, oldest first."""
    versions = SSAOpRegistry.core_ops.get(name, {})
    return tuple(o for o in OPSETS if getattr(ct.target, o) in versions)


def revisions_of(name: str) -> tuple[str, ...]:
    """The opsets after the first that changed the op."""
    versions = SSAOpRegistry.core_ops[name]
    classes = [(o, versions[getattr(ct.target, o)]) for o in opsets_of(name)]
    return tuple(new for (_, before), (new, after) in pairwise(classes) if after is not before)


def has_value_inference(name: str) -> bool:
    """Whether coremltools folds the op in some opset."""
    versions = SSAOpRegistry.core_ops.get(name, {}).values()
    return any(version.value_inference is not Operation.value_inference for version in versions)


def input_names(name: str, opset: str) -> tuple[str, ...]:
    """The inputs of an op in one opset."""
    return tuple(_inputs(name, opset))


def infer(name: str, inputs: Mapping[str, Any], opset: str) -> Inferred:
    """Build the op on constants. If coremltools fails to fold it, build it on unknown tensors.

    Raises:
        RejectedError: Both fail.
    """
    try:
        return _build(name, inputs, opset, known=True)
    except Exception:
        try:
            return _build(name, inputs, opset, known=False)
        except Exception as error:
            raise RejectedError(f"{name} in {opset}: {error}") from error


def _build(name: str, inputs: Mapping[str, Any], opset: str, *, known: bool) -> Inferred:
    specs = _inputs(name, opset)
    if unknown := set(inputs) - set(specs):
        raise RejectedError(f"{name} in {opset} has no inputs {unknown}")
    # Copies, since coremltools folds thresholded_relu by writing into its operand.
    given = {
        k: [np.copy(e) for e in v] if _is_list(v) else np.copy(v) if _is_array(v) else v for k, v in inputs.items()
    }
    holes: dict[str, Any] = {} if known else {f"{k}_{i}": e for k, v in given.items() for i, e in _tensors(v, specs[k])}
    placeholders = {"unused": mb.placeholder(shape=(1,))}
    placeholders |= {k: mb.placeholder(shape=v.shape, dtype=_builtin(v.dtype)) for k, v in holes.items()}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, on the special values that the samples hold on purpose
        with Function(placeholders, opset_version=getattr(ct.target, opset)) as function:
            for key, value in given.items():
                if (packed := _packed_dtype(specs[key])) is not None:
                    given[key] = value.astype(packed)
                elif _is_list(value):
                    given[key] = tuple(function.inputs.get(f"{key}_{i}", e) for i, e in enumerate(value))
                else:
                    given[key] = function.inputs.get(f"{key}_0", value)
            result = getattr(mb, name)(**given)
    outputs = result if isinstance(result, list | tuple) else [result]
    return Inferred(tuple(_type(v) for v in outputs), tuple(_value(v) for v in outputs))


def _packed_dtype(spec: Any) -> Any:
    """The NumPy dtype by which coremltools knows a type of less than a byte, where the input takes no other."""
    domain = spec.type_domain if isinstance(getattr(spec, "type_domain", None), tuple) else ()
    return nptype_from_builtin(domain[0]) if len(domain) == 1 and types.is_sub_byte(domain[0]) else None


def _inputs(name: str, opset: str) -> Mapping[str, Any]:
    return SSAOpRegistry.core_ops[name][getattr(ct.target, opset)].input_spec.input_types


def _tensors(value: Any, spec: Any) -> list[tuple[int, np.ndarray]]:
    if spec.const:
        return []
    elements = value if _is_list(value) else [value]
    return [(i, e) for i, e in enumerate(elements) if _is_array(e) and e.ndim]


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(_is_array(e) for e in value)


def _builtin(dtype: np.dtype) -> Any:
    return types.numpy_type_to_builtin_type(dtype)


def _type(var: Any) -> Type:
    shape = tuple(int(d) if isinstance(d, int | np.integer) else "?" for d in var.shape)
    name = types.builtin_to_string(var.dtype)
    return Type(DType("string" if name == "str" else name), shape)


def _value(var: Any) -> np.ndarray | None:
    if var.val is None or isinstance(var.val, str):
        return None
    return np.asarray(var.val).astype(_type(var).dtype.numpy)
