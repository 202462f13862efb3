"""What nanproof knows about one MIL op: a frozen record, and the families that fill most of it.

``run`` is written once, in PyTorch, and is executed under any numerics: its first argument is the
:class:`~nanproof.numerics.arithmetic.Arithmetic` of the op, then the MIL inputs by their MIL names. Tensors come as
carriers (see :mod:`nanproof.values.floats`), strings as ``str``, variadic inputs as tuples. Constant parameters such as
``axes`` come as tensors too, since MIL allows most of them to be computed; :func:`ints` and friends read them.
A rule returns one carrier per output and does *not* round it: the executor stores every result in its type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_binary
from nanproof.ops.bound_elementwise import Curve, elementwise
from nanproof.ops.bound_movement import moves
from nanproof.ops.bounding import BoundRule, Unbounded

__all__ = [
    "Note",
    "OpDef",
    "Rule",
    "Sample",
    "binary",
    "comparison",
    "flag",
    "ints",
    "logical",
    "op",
    "parametric",
    "reduction",
    "scalar",
    "structural",
    "unary",
]

Rule = Callable[..., Any]
"""``run(arithmetic, **mil_inputs)`` → a tensor, or a sequence of tensors for several outputs."""

Exact = Callable[[Any], Any] | Callable[[Any, Any], Any] | Callable[[Any, Any, Any], Any]
"""The function of an elementwise op on single mpmath numbers, its inputs in the order of ``run``."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call of an op on small data, by MIL input names: arrays, strings, Python scalars, lists of arrays."""

    inputs: Mapping[str, Any]

    def __str__(self) -> str:
        return ", ".join(f"{k}={v.shape if isinstance(v, np.ndarray) else v}" for k, v in self.inputs.items())


@dataclass(frozen=True, slots=True)
class Note:
    """A quirk of Core ML, with its evidence (a document, an issue, a measurement)."""

    text: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpDef:
    """The record of one MIL op.

    Attributes:
        name: MIL op type.
        family: How the op treats its data; analyses rely on it. ``structural`` ops only move values, so every
            element of the result is an element of a float input.
        since: Opset that introduced the op.
        revisions: Later opsets that changed its signature.
        run: Execution rule. That of a ``control`` op gets a :class:`~nanproof.ops.control.Flow` in place of an
            arithmetic.
        exact: Real function of the op on single numbers (mpmath), where the op is elementwise.
        increasing: ``True`` or ``False`` if an elementwise op is monotone over its whole domain, else ``None``.
        picks: Whether every element of a float result is an element of an operand, up to its sign, or zero. Then a
            result is a number of the operands' type already, and rounding it would do nothing. All ``structural`` ops
            do.
        variadic: Inputs that take a list of values.
        bound: Rule that bounds the result for all inputs inside given bounds; see :mod:`nanproof.ops.bounding`.
        samples: Makes the calls on which the laws test the op.
        notes: Quirks, with evidence.
    """

    name: str
    family: str
    since: str = "iOS15"
    revisions: tuple[str, ...] = ()
    run: Rule
    exact: Callable[..., Any] | None = None
    increasing: bool | None = None
    picks: bool = False
    variadic: frozenset[str] = frozenset()
    bound: BoundRule
    samples: Callable[[], Iterable[Sample]]
    notes: tuple[Note, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the MIL inputs that ``run`` understands, in order."""
        return tuple(inspect.signature(self.run).parameters)[1:]

    @property
    def readings(self) -> tuple[str, ...]:
        """The readings of a program that this record serves."""
        readings = (
            "execute",
            "" if isinstance(self.bound, Unbounded) else "bound",
            "exact" if self.exact is not None else "",
        )
        return tuple(reading for reading in readings if reading)


# ---------------------------------------------------------------------------------------------------------------------
# Reading parameters


def ints(value: Tensor | Sequence[int] | int) -> list[int]:
    """A parameter such as ``axes`` or ``perm`` as Python integers.

    >>> import torch
    >>> ints(torch.tensor([0, 2])), ints(torch.tensor(3))
    ([0, 2], [3])
    """
    if isinstance(value, int):
        return [value]
    if isinstance(value, Tensor):
        return [int(v) for v in value.reshape(-1).tolist()]
    return [int(v) for v in value]


def scalar(value: Tensor | float) -> float:
    """A 0-d parameter such as ``epsilon`` as a Python float."""
    return float(value)


def flag(value: Tensor | bool) -> bool:
    """A 0-d boolean parameter such as ``keep_dims`` as a Python bool."""
    return bool(value)


# ---------------------------------------------------------------------------------------------------------------------
# Sample data shared by the families

_GRID = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 0.1, -0.3, 2.0, -2.0, 3.0, 7.0, -7.5, 10.25, 11.0, 12.0, -12.0, 89.0, -89.0)
_EDGE = (2.0**-24, 6.1e-5, -6.1e-5, 1e-8, 255.0, 256.5, 2047.0, 2049.0, 32768.0, 65504.0, -65504.0, 65519.0, 65520.0)
_BEYOND = (1e5, -1e6)


def float_grid(low: float = -np.inf, high: float = np.inf) -> np.ndarray:
    """Numbers that tell implementations apart: signs, powers of two, limits of binary16, inside ``[low, high]``."""
    values = np.array(_GRID + _EDGE + _BEYOND, dtype=np.float32)
    return values[(values >= low) & (values <= high)]


def float_specials() -> np.ndarray:
    """Infinities, NaN and both zeros."""
    return np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.0, -1.0], np.float32)


def float_block(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normally distributed float32 data, the same on every call."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def int_block(*shape: int, low: int = -5, high: int = 9, seed: int = 0) -> np.ndarray:
    """Uniform int32 data in ``[low, high)``, the same on every call."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


# ---------------------------------------------------------------------------------------------------------------------
# Families


def _no_samples() -> Iterable[Sample]:
    return ()


def op(name: str, family: str, run: Rule, samples: Callable[[], Iterable[Sample]], **fields: Any) -> OpDef:
    """A record written out in full, for ops that no family fills."""
    return OpDef(name=name, family=family, run=run, samples=samples, **fields)


def unary(
    name: str,
    run: Callable[[Tensor], Tensor],
    *,
    exact: Callable[[Any], Any],
    increasing: bool | None = None,
    domain: tuple[float, float] = (-np.inf, np.inf),
    integers: bool = False,
    curve: Curve | None = None,
    **fields: Any,
) -> OpDef:
    """Elementwise function of one tensor ``x``; ``exact`` is the same function in mpmath.

    ``domain`` bounds the finite samples, ``integers`` tells that ``x`` may be ``int32`` too. ``curve`` is the shape of
    the function, where it is not simply increasing.
    """

    def rule(arithmetic: Arithmetic, x: Tensor) -> Tensor:
        return arithmetic.function(name, run, x)

    def samples() -> Iterable[Sample]:
        yield Sample({"x": float_grid(*domain)})
        yield Sample({"x": float_grid(*domain)[:6].reshape(1, 2, 3)})
        yield Sample({"x": float_specials()})
        if integers:
            yield Sample({"x": int_block(2, 5)})

    exactly = fields.get("picks", False)
    shape = curve or Curve(domain=lambda settings: domain)
    fields.setdefault("bound", elementwise(rule, shape, exact=exactly, rising=increasing is True))
    return OpDef(name=name, family="unary", run=rule, exact=exact, increasing=increasing, samples=samples, **fields)


def parametric(
    name: str,
    run: Rule,
    *,
    exact: Exact,
    parameters: Sequence[Mapping[str, Any]],
    domain: tuple[float, float] = (-np.inf, np.inf),
    extra: Callable[[], Iterable[Sample]] = _no_samples,
    curve: Curve | None = None,
    **fields: Any,
) -> OpDef:
    """Elementwise function of one float tensor ``x`` and of constant scalars or strings.

    ``run`` is a full rule; ``exact`` takes ``x`` and the parameters in the order of ``run``. ``parameters`` are the
    settings to test: numbers become float32 scalars, and an absent one takes its default. ``domain`` bounds ``x``.
    """

    def samples() -> Iterable[Sample]:
        for setting in parameters:
            typed = {k: v if isinstance(v, str) else np.float32(v) for k, v in setting.items()}
            yield Sample({"x": float_grid(*domain), **typed})
            yield Sample({"x": float_specials(), **typed})
        yield from extra()

    exactly, rising = fields.get("picks", False), fields.get("increasing") is True
    fields.setdefault("bound", elementwise(run, curve or Curve(), exact=exactly, rising=rising))
    return OpDef(name=name, family="unary", run=run, exact=exact, samples=samples, **fields)


def binary(
    name: str,
    run: Callable[[Tensor, Tensor], Tensor],
    *,
    exact: Callable[[Any, Any], Any],
    integers: Callable[[], Iterable[Sample]] = _no_samples,
    **fields: Any,
) -> OpDef:
    """Elementwise function of two broadcast tensors of one dtype; ``integers`` makes its ``int32`` samples."""

    def rule(arithmetic: Arithmetic, x: Tensor, y: Tensor) -> Tensor:
        return arithmetic.function(name, run, x, y)

    def samples() -> Iterable[Sample]:
        yield Sample({"x": float_block(2, 3, 4, scale=3.0), "y": float_block(3, 1, seed=1, scale=3.0)})
        yield Sample({"x": float_grid(0.25, 100.0), "y": np.float32(1.5)})
        yield Sample({"x": float_specials().reshape(-1, 1), "y": float_specials()})
        yield from integers()

    return OpDef(name=name, family="binary", run=rule, exact=exact, samples=samples, **fields)


def comparison(name: str, run: Callable[[Tensor, Tensor], Tensor], **fields: Any) -> OpDef:
    """Elementwise relation of two broadcast tensors; the result is ``bool``."""

    def rule(arithmetic: Arithmetic, x: Tensor, y: Tensor) -> Tensor:
        return run(x, y)

    def samples() -> Iterable[Sample]:
        yield Sample({"x": int_block(4, 5), "y": int_block(5, seed=1)})
        yield Sample({"x": float_grid().reshape(-1, 1), "y": float_grid()})
        yield Sample({"x": float_specials().reshape(-1, 1), "y": float_specials()})

    fields.setdefault("bound", bound_binary.comparing(name))
    return OpDef(name=name, family="comparison", run=rule, samples=samples, **fields)


def logical(name: str, run: Callable[[Tensor, Tensor], Tensor], **fields: Any) -> OpDef:
    """Elementwise connective of two broadcast ``bool`` tensors."""

    def rule(arithmetic: Arithmetic, x: Tensor, y: Tensor) -> Tensor:
        return run(x, y)

    def samples() -> Iterable[Sample]:
        yield Sample({"x": np.array([[True], [False]]), "y": np.array([True, False, True])})

    fields.setdefault("bound", bound_binary.connecting(run))
    return OpDef(name=name, family="logical", run=rule, samples=samples, **fields)


def reduction(
    name: str,
    run: Callable[[Arithmetic, Tensor, list[int], bool], Tensor],
    *,
    positive: bool = False,
    integers: bool = True,
    **fields: Any,
) -> OpDef:
    """Reduction of ``x`` over ``axes`` (all axes if absent), keeping the dimensions if ``keep_dims``."""

    def rule(arithmetic: Arithmetic, x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        dims = list(range(x.dim())) if axes is None else sorted(a % x.dim() for a in ints(axes))
        return run(arithmetic, x, dims, flag(keep_dims))

    def samples() -> Iterable[Sample]:
        x = float_block(2, 3, 4)
        x = np.abs(x) + 0.1 if positive else x
        yield Sample({"x": x, "axes": np.array([1], np.int32), "keep_dims": True})
        yield Sample({"x": x, "axes": np.array([-1, 0], np.int32), "keep_dims": False})
        yield Sample({"x": x.astype(np.float32)})
        if integers:
            yield Sample({"x": int_block(2, 3, low=1), "axes": np.array([1], np.int32)})
        if integers and not positive:
            yield Sample({"x": int_block(3, 4, low=-9), "axes": np.array([0], np.int32)})

    return OpDef(name=name, family="reduction", run=rule, samples=samples, **fields)


def structural(name: str, run: Rule, samples: Callable[[], Iterable[Sample]], **fields: Any) -> OpDef:
    """Movement of data: every element of the result is an element of an input, unchanged.

    The bound is that of a movement of ``x`` in which no element comes twice, unless it is given.
    """
    fields.setdefault("bound", moves(run))
    return OpDef(name=name, family="structural", picks=True, run=run, samples=samples, **fields)
