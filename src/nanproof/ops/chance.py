"""Random numbers. The distribution is that of the documentation; the numbers are not those that Core ML would draw."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_chance as bounds
from nanproof.ops.bounding import unbounded
from nanproof.ops.record import Note, OpDef, Sample, float_block, ints, op
from nanproof.values.memory import affordable

__all__ = ["OPS"]


def _generator(seed: Tensor | int) -> torch.Generator:
    """A fresh generator: the same numbers on every call. Without a seed, which MIL writes as -1, the seed is 0."""
    return torch.Generator().manual_seed(max(0, int(seed)))


def _uniform(shape: Tensor, seed: Tensor | int) -> Tensor:
    return torch.rand(affordable(ints(shape)), generator=_generator(seed))


def _random_bernoulli(
    arithmetic: Arithmetic, shape: Tensor, prob: Tensor | float = 0.5, seed: Tensor | int = -1
) -> Tensor:
    return (_uniform(shape, seed) < prob).float()


def _random_normal(
    arithmetic: Arithmetic,
    shape: Tensor,
    mean: Tensor | float = 0.0,
    stddev: Tensor | float = 1.0,
    seed: Tensor | int = -1,
) -> Tensor:
    return torch.randn(affordable(ints(shape)), generator=_generator(seed)) * stddev + mean


def _random_uniform(
    arithmetic: Arithmetic,
    shape: Tensor,
    low: Tensor | float = 0.0,
    high: Tensor | float = 1.0,
    seed: Tensor | int = -1,
) -> Tensor:
    return low + _uniform(shape, seed) * (high - low)


def _random_categorical(
    arithmetic: Arithmetic,
    x: Tensor,
    mode: str = "logits",
    size: Tensor | int = 1,
    seed: Tensor | int = -1,
) -> Tensor:
    logits = torch.log(x) if mode == "probs" else x
    # The largest of logits plus Gumbel noise is distributed as the softmax says. Unlike torch.multinomial it goes on
    # where a logit is NaN, so that the NaN is seen and reported.
    uniform = torch.rand(affordable((*x.shape[:-1], int(size), x.shape[-1])), generator=_generator(seed))
    return (logits.unsqueeze(-2) - torch.log(-torch.log(uniform))).argmax(-1).float()


_SHAPE = np.array([40, 50], np.int32)


def _bernoulli_samples() -> Iterable[Sample]:
    yield Sample({"shape": _SHAPE})
    yield Sample({"shape": _SHAPE, "prob": np.float32(0.9), "seed": 3})


def _normal_samples() -> Iterable[Sample]:
    yield Sample({"shape": _SHAPE})
    yield Sample({"shape": _SHAPE, "mean": np.float32(-3.0), "stddev": np.float32(0.25), "seed": 3})


def _uniform_samples() -> Iterable[Sample]:
    yield Sample({"shape": _SHAPE})
    yield Sample({"shape": _SHAPE, "low": np.float32(-2.0), "high": np.float32(5.0), "seed": 3})


def _categorical_samples() -> Iterable[Sample]:
    yield Sample({"x": float_block(2, 3, 4), "size": 1000, "seed": 3})
    probabilities = np.array([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]], np.float32)
    yield Sample({"x": probabilities, "mode": "probs", "size": 1000})
    yield Sample({"x": float_block(3, 4)})


_DRAWN = Note(
    "The numbers are not Core ML's. They depend on the seed alone (0 if there is none): every run, and every op with "
    "the same seed, draws the same ones.",
    "a choice: Core ML's generators are not documented, and a check must be repeatable",
)

OPS: tuple[OpDef, ...] = (
    op("random_bernoulli", "random", _random_bernoulli, _bernoulli_samples, bound=bounds.bernoulli, notes=(_DRAWN,)),
    op(
        "random_categorical",
        "random",
        _random_categorical,
        _categorical_samples,
        bound=bounds.categorical,
        notes=(_DRAWN,),
    ),
    op(
        "random_normal",
        "random",
        _random_normal,
        _normal_samples,
        bound=unbounded("a normal distribution has no bound"),
        notes=(_DRAWN,),
    ),
    op("random_uniform", "random", _random_uniform, _uniform_samples, bound=bounds.uniform, notes=(_DRAWN,)),
)
