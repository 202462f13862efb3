"""Calls of PyTorch's operators, from the database by which PyTorch tests them (``torch.testing._internal``).

Each call becomes a module whose inputs are all the tensors of the call, in order; what is no tensor stays a constant.
Importing this needs ``expecttest``, as PyTorch's own tests do.
"""

from __future__ import annotations

import itertools
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

from nanproof.program import Type

__all__ = ["Sample", "Unjudged", "agreement", "arrays", "names", "samples", "time_limit"]

MOST = 5
"""Samples of an operator."""
_LOOKED_AT = 60
_TOLERANCE = 1e-4
_UNDEFINED = ("empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided")
"""Operators that return memory as they find it, so that there is nothing to agree with."""


_KEEPING = ("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update")
"""Operators that keep statistics in their arguments, and so change inputs of the program."""
_SEEDS = (1, 2, 3, 4, 5, 6)
_OF_EQUALS = ("topk", "kthvalue")
"""Operators that return the place of one of several equal elements, and do not say of which."""


class Unjudged(Exception):  # noqa: N818
    """A call says nothing about a conversion, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One call: the module, its tensors, and what PyTorch returns for them."""

    operator: str
    dtype: str
    number: int
    module: nn.Module
    inputs: tuple[Tensor, ...]
    expected: tuple[Tensor, ...]

    @property
    def key(self) -> str:
        """The name of the call: the operator, the dtype, its place among the samples."""
        return f"{self.operator} {self.dtype} {self.number}"


class Call(nn.Module):
    """An operator with all its arguments that are no tensors. One that writes into its arguments is given copies."""

    def __init__(self, operator: Any, leaves: Sequence[Any], spec: Any, is_writing: bool) -> None:
        super().__init__()
        self.is_writing = is_writing
        self.operator, self.spec = operator, spec
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def forward(self, *tensors: Tensor) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor.clone() if self.is_writing else tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return tuple(leaf for leaf in tree_leaves(self.operator(*args, **kwargs)) if isinstance(leaf, Tensor))


def names() -> list[str]:
    """The operators of the database that take float32 or integers, variants and aliases of PyTorch's own included."""
    taken = {_name(info) for info in op_db if {torch.float32, torch.int64} & set(info.dtypes)}
    return sorted(taken)


def _name(info: Any) -> str:
    return f"{info.name}/{info.variant_test_name}" if info.variant_test_name else info.name


def samples(name: str) -> Iterator[Sample | Unjudged]:
    """At most five calls of an operator, spread over the first sixty of the database, with float32 before integers."""
    (info, *_) = (info for info in op_db if _name(info) == name)
    dtypes = [d for d in (torch.float32, torch.int64) if d in info.dtypes]
    counts = [3, 2] if len(dtypes) == 2 else [MOST]
    for dtype, count in zip(dtypes, counts, strict=True):
        torch.manual_seed(1)
        np.random.seed(1)
        given = itertools.islice(info.sample_inputs("cpu", dtype, requires_grad=False), _LOOKED_AT)
        calls = [call for call in given if _has_elements((call.input, call.args, call.kwargs))]
        for number in sorted({round(i * (len(calls) - 1) / max(count - 1, 1)) for i in range(count)} if calls else ()):
            try:
                yield _sample(name, info.op, calls[number], str(dtype).removeprefix("torch."), number)
            except Unjudged as reason:
                yield reason


def _sample(name: str, operator: Any, call: Any, dtype: str, number: int) -> Sample:
    leaves, spec = tree_flatten(((call.input, *call.args), dict(call.kwargs)))
    module = Call(operator, leaves, spec, name.split(".")[-1] in _KEEPING).eval()
    inputs = tuple(leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor))
    if name.split("/")[0] in _UNDEFINED:
        raise Unjudged("the result is not defined")
    if not inputs:
        raise Unjudged("no argument is a tensor, and a program has inputs")
    runs = [_run(module, inputs, seed) for seed in _SEEDS]
    if not runs[0]:
        raise Unjudged("it returns no tensor")
    if not all(torch.equal(_comparable(a), _comparable(b)) for run in runs for a, b in zip(runs[0], run, strict=True)):
        raise Unjudged("the result is random")
    if name in _OF_EQUALS and inputs[0].unique().numel() < inputs[0].numel():
        raise Unjudged("of equal elements any may be returned")
    if not _has_elements(runs[0]):
        raise Unjudged("the result has no elements")
    return Sample(name, dtype, number, module, inputs, runs[0])


def _run(module: nn.Module, inputs: Sequence[Tensor], seed: int) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    try:
        with torch.no_grad(), _left_to_chance():
            return tuple(t.detach().clone() for t in module(*(t.clone() for t in inputs)))
    except Exception as error:  # whatever an operator may raise
        raise Unjudged(f"PyTorch itself fails: {type(error).__name__}") from error


@contextmanager
def _left_to_chance() -> Iterator[None]:
    """Let no operator set the seed that makes its result the same each time, as the database does for its own ends."""
    with mock.patch("torch.manual_seed"):
        yield


def _comparable(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor.to_dense() if tensor.layout != torch.strided else tensor)


def _has_elements(tree: Any) -> bool:
    return all(leaf.numel() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def arrays(tensors: Sequence[Tensor], inputs: Mapping[str, Type]) -> dict[str, np.ndarray]:
    """The tensors as a program takes them: booleans are integers there, and what has no axes may have one."""
    given: dict[str, np.ndarray] = {}
    for (name, of), tensor in zip(inputs.items(), tensors, strict=True):
        array = tensor.resolve_conj().resolve_neg().numpy()
        array = array.astype(np.int32) if array.dtype == np.bool_ else array
        given[name] = array if array.shape else array.reshape(of.shape)
    return given


def agreement(found: Sequence[np.ndarray], expected: Sequence[Tensor]) -> str:
    """How what a program returns differs from what PyTorch does; an empty string if it agrees.

    Floats agree to 1e-4 of the largest, with Inf and NaN in the same places; integers and booleans are equal. A tensor
    without axes may have one of length 1.
    """
    if len(found) != len(expected):
        return f"{len(found)} outputs instead of {len(expected)}"
    for ours, tensor in zip(found, expected, strict=True):
        theirs = tensor.resolve_conj().resolve_neg().numpy()
        if np.shape(ours) != (theirs.shape or (1,)) and np.shape(ours) != theirs.shape:
            return f"shape {list(np.shape(ours))} instead of {list(theirs.shape)}"
        difference = _difference(np.reshape(ours, theirs.shape), theirs)
        if difference:
            return difference
    return ""


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    if theirs.dtype.kind in "biu":
        return "" if np.array_equal(ours.astype(np.int64), theirs.astype(np.int64)) else "other integers"
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.isfinite(ours[finite]).all():
        return "Inf or NaN in other places"
    if not finite.any():
        return ""
    error = float(np.abs(ours[finite] - theirs[finite]).max())
    return "" if error <= _TOLERANCE * float(np.abs(theirs[finite]).max()) else "other numbers"


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise ``TimeoutError`` in the body after some seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
