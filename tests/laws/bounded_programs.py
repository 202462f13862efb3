"""Small programs in the patterns of real models, of random sizes and weights, with boxes for their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanproof.mil.coreml import ct, mb, types
from nanproof.mil.reflect import reflect
from tests.laws.bounded import Boxed, exposed
from tests.laws.boxes import Box

Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """What a pattern is built of: its randomness, its float type, and its sizes."""

    rng: Rng
    half: bool

    @property
    def float_type(self) -> Any:
        return types.fp16 if self.half else types.fp32

    def const(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return self.number(self.rng.standard_normal(shape) * scale)

    def number(self, value: Any) -> Any:
        return np.asarray(value).astype(np.float16 if self.half else np.float32)

    def box(self, shape: tuple[int, ...], reach: float | None = None) -> Box:
        """A box of ordinary, huge or tiny numbers; often the same for all, sometimes around zero for some."""
        size = float(self.rng.choice([1e-3, 0.5, 4.0, 60.0, 2000.0])) if reach is None else reach
        middle = self.rng.standard_normal(shape) * size * float(self.rng.choice([0.0, 1.0, 10.0]))
        middle = np.clip(middle, -3e4, 3e4)
        width = np.full(shape, size) if self.rng.random() < 0.6 else self.rng.random(shape) * size
        low, high = (self.number(middle + s * width).astype(np.float64) for s in (-1, 1))
        if self.rng.random() < 0.6:
            low, high = np.full_like(low, low.min()), np.full_like(high, high.max())
        return Box(self.number(middle), low, high)

    def positive(self, shape: tuple[int, ...]) -> Box:
        """Numbers from 1 to 2: zero is not among them."""
        ones = np.ones([1] * len(shape))
        return Box(self.number(1 + self.rng.random(shape)), ones, 2 * ones)

    def whole(self, shape: tuple[int, ...], low: int, high: int) -> Box:
        sample = self.rng.integers(low, high + 1, shape).astype(np.int32)
        ends = (np.full([1] * len(shape), float(v)) for v in (low, high))
        return Box(sample, *ends)


Pattern = Callable[[Scene], tuple[dict[str, Box], Callable[..., Any]]]
"""The boxes of the inputs, by name in the order of the arguments, and what builds the results of them."""


def boxed_program(pattern: Pattern, seed: int, *, half: bool) -> Boxed:
    """The program of a pattern, all of its values being outputs."""
    boxes, build = pattern(Scene(np.random.default_rng(seed), half))
    kinds = {"f": types.fp16 if half else types.fp32, "i": types.int32}
    specs = [mb.TensorSpec(b.sample.shape, dtype=kinds[b.sample.dtype.kind]) for b in boxes.values()]
    built = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(_named(build, list(boxes)))
    program = exposed(reflect(built))
    return Boxed(program, dict(zip(program.main.inputs, boxes.values(), strict=True)))


def _named(build: Callable[..., Any], names: list[str]) -> Callable[..., Any]:
    """A function whose arguments have these names, which coremltools gives to the inputs."""
    space: dict[str, Any] = {"build": build}
    exec(f"def program({', '.join(names)}): return build({', '.join(names)})", space)
    return space["program"]


def _sizes(s: Scene) -> tuple[int, int, int]:
    return tuple(int(n) for n in s.rng.integers(1, 6, 3))  # type: ignore[return-value]


# ---------------------------------------------------------------------------------------------------------------------
# Norms


def rms_norm(s: Scene) -> Any:
    shape = (*_sizes(s)[:2], int(s.rng.choice([1, 4, 16])))
    gamma, eps = s.const(shape[-1], scale=3.0), s.number(s.rng.choice([1e-5, 1e-3]))
    wide, form = s.half and s.rng.random() < 0.5, s.rng.integers(3)

    def build(x: Any) -> Any:
        up = mb.cast(x=x, dtype="fp32") if wide else x
        epsilon = np.float32(eps) if wide else eps
        squares = [lambda: mb.mul(x=up, y=up), lambda: mb.square(x=up)][int(s.rng.integers(2))]()
        mean = mb.reduce_mean(x=squares, axes=[-1], keep_dims=True)
        if form == 0:
            normal = mb.mul(x=up, y=mb.rsqrt(x=mb.add(x=mean, y=epsilon), epsilon=np.zeros_like(epsilon)))
        elif form == 1:
            normal = mb.mul(x=up, y=mb.rsqrt(x=mean, epsilon=epsilon))
        else:
            normal = mb.real_div(x=up, y=mb.sqrt(x=mb.add(x=mean, y=epsilon)))
        down = mb.cast(x=normal, dtype="fp16") if wide else normal
        scaled = mb.mul(x=down, y=gamma)
        return mb.linear(x=scaled, weight=s.const(5, shape[-1]), bias=s.const(5))

    return {"x": s.box(shape)}, build


def layer_norm(s: Scene) -> Any:
    """As an op, or its steps; then a linear layer and a residual sum."""
    shape = (*_sizes(s)[:2], int(s.rng.choice([2, 4, 16])))
    n, fused = shape[-1], s.rng.random() < 0.5
    eps = s.number(s.rng.choice([1e-5, 1e-3]))
    gamma, beta = s.const(n), s.const(n)

    def build(x: Any, y: Any) -> Any:
        x = mb.add(x=x, y=y)
        if fused:
            normal = mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=eps)
        else:
            centred = mb.sub(x=x, y=mb.reduce_mean(x=x, axes=[-1], keep_dims=True))
            variance = mb.reduce_mean(x=mb.mul(x=centred, y=centred), axes=[-1], keep_dims=True)
            deviation = mb.sqrt(x=mb.add(x=variance, y=eps))
            normal = mb.add(x=mb.mul(x=mb.real_div(x=centred, y=deviation), y=gamma), y=beta)
        hidden = mb.gelu(x=mb.linear(x=normal, weight=s.const(7, n), bias=s.const(7)))
        out = mb.linear(x=hidden, weight=s.const(n, 7), bias=s.const(n))
        return mb.layer_norm(x=mb.add(x=out, y=normal), axes=[-1], gamma=gamma, epsilon=eps)

    return {"x": s.box(shape), "y": s.box(shape)}, build


def level_rows(s: Scene) -> Any:
    """Large numbers that differ in their last digits, of which only a norm shows the difference."""
    n, middle = int(s.rng.choice([3, 8, 64])), float(s.rng.choice([1e3, 3e4] if s.half else [1e3, 1e6, 1e9]))
    ulp = float(np.spacing(s.number(middle)))
    sample = s.number(middle + ulp * s.rng.integers(0, 3, (4, n)))
    eps = s.number(s.rng.choice([1e-6, 1e-3]))

    def build(x: Any) -> Any:
        return mb.tanh(x=mb.layer_norm(x=x, axes=[-1], gamma=s.const(n), epsilon=eps))

    ends = (np.full((1, 1), middle), np.full((1, 1), middle + 2 * ulp))
    return {"x": Box(sample, *ends)}, build


def normalised(s: Scene) -> Any:
    """``x / max(||x||, eps)``, by an op, a root or a clip; scaled products of two of them."""
    shape, eps = (*_sizes(s)[:2], 8), s.number(s.rng.choice([1e-4, 1e-2, 0.5]))
    form = int(s.rng.integers(4))

    def unit(x: Any) -> Any:
        if form == 0:
            norm = mb.reduce_l2_norm(x=x, axes=[-1], keep_dims=True)
        elif form == 1:
            norm = mb.sqrt(x=mb.reduce_sum_square(x=x, axes=[-1], keep_dims=True))
        elif form == 2:
            norm = mb.reduce_l1_norm(x=x, axes=[-1], keep_dims=True)
        else:
            norm = mb.reduce_max(x=mb.abs(x=x), axes=[-1], keep_dims=True)
        if s.rng.random() < 0.5:
            return mb.real_div(x=x, y=mb.clip(x=norm, alpha=eps, beta=s.number(60000.0)))
        return mb.real_div(x=x, y=mb.maximum(x=norm, y=eps))

    def build(x: Any, y: Any) -> Any:
        scores = mb.matmul(x=unit(x), y=unit(y), transpose_y=True)
        return mb.softmax(x=mb.mul(x=scores, y=s.number(20.0)), axis=-1)

    return {"x": s.box(shape), "y": s.box(shape)}, build


def group_norm(s: Scene) -> Any:
    groups, per, side = (int(n) for n in s.rng.integers(1, 4, 3))
    channels, eps = groups * per, s.number(1e-3)

    def build(x: Any) -> Any:
        grouped = mb.reshape(x=x, shape=[1, groups, per, side, side])
        mean = mb.reduce_mean(x=grouped, axes=[2, 3, 4], keep_dims=True)
        centred = mb.sub(x=grouped, y=mean)
        variance = mb.reduce_mean(x=mb.square(x=centred), axes=[2, 3, 4], keep_dims=True)
        normal = mb.mul(x=centred, y=mb.rsqrt(x=variance, epsilon=eps))
        flat = mb.reshape(x=normal, shape=[1, channels, side, side])
        affine = mb.add(x=mb.mul(x=flat, y=s.const(1, channels, 1, 1)), y=s.const(1, channels, 1, 1))
        return mb.conv(x=mb.relu(x=affine), weight=s.const(2, channels, 1, 1))

    return {"x": s.box((1, channels, side, side))}, build


# ---------------------------------------------------------------------------------------------------------------------
# Attention


def masked_softmax(s: Scene) -> Any:
    """A mask of 0 and 1 made a finite or an infinite bias, or a choice; stable by hand, or by the op."""
    rows, columns, _ = _sizes(s)
    low = s.number(s.rng.choice([-30000.0, -1e4, -np.inf]))
    stable, chosen = s.rng.random() < 0.5, s.rng.random() < 0.4

    def build(x: Any, mask: Any) -> Any:
        allowed = mb.equal(x=mask, y=1)
        if chosen:
            scores = mb.select(cond=allowed, a=x, b=low)
        else:
            bias = mb.select(cond=allowed, a=s.number(0.0), b=low)
            scores = mb.add(x=x, y=bias)
        if stable:
            shifted = mb.sub(x=scores, y=mb.reduce_max(x=scores, axes=[-1], keep_dims=True))
            powers = mb.exp(x=shifted)
            weights = mb.real_div(x=powers, y=mb.reduce_sum(x=powers, axes=[-1], keep_dims=True))
        else:
            weights = mb.softmax(x=scores, axis=-1)
        return mb.matmul(x=weights, y=s.const(columns, 3, scale=50.0))

    return {"x": s.box((rows, columns)), "mask": s.whole((1, columns), 0, 1)}, build


def safe_softmax(s: Scene) -> Any:
    """A softmax whose fully masked rows are replaced by zeros, then mixed."""
    rows, columns, _ = _sizes(s)

    def build(x: Any, mask: Any, v: Any) -> Any:
        keep = mb.cast(x=mask, dtype="bool")
        scores = mb.select(cond=keep, a=x, b=s.number(-30000.0))
        weights = mb.softmax(x=scores, axis=-1)
        zeroed = mb.select(cond=keep, a=weights, b=s.number(0.0))
        return mb.matmul(x=mb.transpose(x=mb.transpose(x=zeroed, perm=[1, 0]), perm=[1, 0]), y=v)

    return {"x": s.box((rows, columns)), "mask": s.whole((rows, columns), 0, 1), "v": s.box((columns, 3))}, build


def attention(s: Scene) -> Any:
    """Norm, heads, scaled products, weights, residual: a block of a transformer."""
    heads, width, length = 2, int(s.rng.choice([2, 4])), int(s.rng.integers(1, 6))
    n = heads * width

    def project(x: Any) -> Any:
        y = mb.linear(x=x, weight=s.const(n, n, scale=0.5), bias=s.const(n))
        return mb.transpose(x=mb.reshape(x=y, shape=[1, length, heads, width]), perm=[0, 2, 1, 3])

    def build(ids: Any, mask: Any) -> Any:
        table = s.const(11, n, scale=2.0)
        x = mb.gather(x=table, indices=ids, axis=0)
        x = mb.add(x=x, y=s.const(1, length, n))
        z = mb.layer_norm(x=x, axes=[-1], gamma=s.const(n), beta=s.const(n), epsilon=s.number(1e-5))
        q, k, v = (project(z) for _ in range(3))
        scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=s.number(width**-0.5))
        away = mb.mul(
            x=mb.sub(x=s.number(1.0), y=mb.cast(x=mask, dtype="fp16" if s.half else "fp32")), y=s.number(-1e4)
        )
        weights = mb.softmax(x=mb.add(x=scores, y=away), axis=-1)
        mixed = mb.transpose(x=mb.matmul(x=weights, y=v), perm=[0, 2, 1, 3])
        out = mb.linear(x=mb.reshape(x=mixed, shape=[1, length, n]), weight=s.const(n, n), bias=s.const(n))
        return mb.layer_norm(x=mb.add(x=out, y=x), axes=[-1], epsilon=s.number(1e-5))

    return {"ids": s.whole((1, length), 0, 10), "mask": s.whole((1, 1, 1, length), 0, 1)}, build


def mean_pooling(s: Scene) -> Any:
    """The mean of the rows that a mask keeps: a sum over another, which a clip keeps from zero; then normalised."""
    length, n = int(s.rng.integers(1, 8)), 4

    def build(x: Any, mask: Any) -> Any:
        m = mb.expand_dims(x=mb.cast(x=mask, dtype="fp16" if s.half else "fp32"), axes=[-1])
        z = mb.layer_norm(x=x, axes=[-1], epsilon=s.number(1e-5))
        total = mb.reduce_sum(x=mb.mul(x=z, y=m), axes=[1], keep_dims=False)
        count = mb.clip(x=mb.reduce_sum(x=m, axes=[1], keep_dims=False), alpha=s.number(1e-3), beta=s.number(6e4))
        pooled = mb.real_div(x=total, y=count)
        norm = mb.reduce_l2_norm(x=pooled, axes=[-1], keep_dims=True)
        return mb.real_div(x=pooled, y=mb.clip(x=norm, alpha=s.number(1e-4), beta=s.number(6e4)))

    return {"x": s.box((2, length, n)), "mask": s.whole((2, length), 0, 1)}, build


def log_softmax(s: Scene) -> Any:
    rows, columns, _ = _sizes(s)

    def build(x: Any) -> Any:
        shifted = mb.sub(x=x, y=mb.reduce_max(x=x, axes=[-1], keep_dims=True))
        total = mb.reduce_sum(x=mb.exp(x=shifted), axes=[-1], keep_dims=True)
        return mb.sub(x=shifted, y=mb.log(x=total)), mb.sub(
            x=x, y=mb.reduce_log_sum_exp(x=x, axes=[-1], keep_dims=True)
        )

    return {"x": s.box((rows, columns))}, build


def positions(s: Scene) -> Any:
    """A running sum of a mask, clipped, gathers rows; negative places are moved up by a choice."""
    length = int(s.rng.integers(1, 7))

    def build(mask: Any, x: Any) -> Any:
        places = mb.sub(x=mb.cumsum(x=mask, axis=-1), y=1)
        inside = mb.select(cond=mb.greater_equal(x=places, y=0), a=places, b=length - 1)
        rows = mb.gather(x=s.const(length, 4, scale=3.0), indices=inside, axis=0)
        behind = mb.gather(
            x=s.const(length, 2), indices=mb.sub(x=mask, y=min(length, 2)), axis=0, validate_indices=False
        )
        running = mb.cumsum(x=mb.mul(x=mb.cast(x=mask, dtype="fp16" if s.half else "fp32"), y=s.number(0.25)), axis=1)
        return mb.layer_norm(x=mb.add(x=rows, y=x), axes=[-1], epsilon=s.number(1e-5)), running, behind

    return {"mask": s.whole((1, length), 0, 1), "x": s.box((1, length, 4))}, build


# ---------------------------------------------------------------------------------------------------------------------
# Convolutions, movements, control flow


def convolutions(s: Scene) -> Any:
    channels, side = int(s.rng.integers(1, 4)), int(s.rng.integers(3, 6))

    def build(x: Any) -> Any:
        y = mb.conv(x=x, weight=s.const(4, channels, 3, 3), bias=s.const(4), pad_type="same")
        mean, variance = s.const(4), s.number(s.rng.random(4) + 0.1)
        y = mb.batch_norm(x=y, mean=mean, variance=variance, gamma=s.const(4), beta=s.const(4), epsilon=s.number(1e-3))
        y = [mb.relu, mb.silu, mb.gelu, mb.tanh, mb.sigmoid][int(s.rng.integers(5))](x=y)
        y = mb.conv(x=y, weight=s.const(4, 2, 3, 3), groups=2, strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1])
        return mb.reduce_mean(x=y, axes=[2, 3], keep_dims=False)

    shape = (1, channels, side, side)
    return {"x": s.positive(shape) if s.rng.random() < 0.5 else s.box(shape)}, build


def moved(s: Scene) -> Any:
    """What is known of norms, moved about, repeated, padded and cut before it is used."""
    n = 4

    def build(x: Any) -> Any:
        z = mb.layer_norm(x=x, axes=[-1], gamma=s.const(n), epsilon=s.number(1e-5))
        squares = mb.square(x=z)
        moves = [
            lambda v: mb.tile(x=v, reps=[1, 1, 2]),
            lambda v: mb.reverse(x=v, axes=[2]),
            lambda v: mb.slice_by_index(x=v, begin=[0, 0, 1], end=[2, 3, 4]),
            lambda v: mb.transpose(x=v, perm=[0, 2, 1]),
            lambda v: mb.reshape(x=v, shape=[2, 3, 2, 2]),
            lambda v: mb.pad(x=v, pad=[0, 0, 0, 0, 1, 1], mode="constant", constant_val=s.number(2.0)),
            lambda v: mb.concat(values=[v, v], axis=2),
            lambda v: mb.sliding_windows(x=v, axis=2, size=3, stride=1),
            lambda v: mb.stack(values=[v, v], axis=-1),
            lambda v: mb.gather(x=v, indices=np.array([0, 0, 3], np.int32), axis=2),
        ]
        found = []
        for index in s.rng.choice(len(moves), 1, p=[0.2, 0.2, *[0.6 / (len(moves) - 2)] * (len(moves) - 2)]):
            y, other = moves[index](z), moves[index](squares)
            total = mb.reduce_sum(x=other, axes=[-1], keep_dims=True)
            found.append(mb.mul(x=y, y=mb.rsqrt(x=total, epsilon=s.number(1e-3))))
            found.append(mb.mul(x=y, y=mb.rsqrt(x=other, epsilon=s.number(1e-3))))
            weight = s.const(3, int(y.shape[-1]))
            found.append(mb.linear(x=mb.tanh(x=y), weight=weight))
            if moves[index](z).shape == z.shape:
                found.append(mb.mul(x=z, y=mb.rsqrt(x=other, epsilon=s.number(1e-3))))
        return tuple(found)

    return {"x": s.box((2, 3, n), 2.0)}, build


def sums(s: Scene) -> Any:
    """Sums of products near the limits of accumulators, and of products that are too small for them."""
    n, reach = int(s.rng.choice([2, 5, 9])), float(s.rng.choice([2.0**-9, 1e3, 5e3, 7e3, 1.2e4]))
    weight = s.number(s.rng.choice([-1.0, 1.0, 0.5, 2.0**-8, 3.1e-5], (4, n)))

    def build(x: Any, y: Any) -> Any:
        return mb.linear(x=x, weight=weight), mb.matmul(x=x, y=mb.mul(x=y, y=s.number(2.0**-7)), transpose_y=True)

    return {"x": s.box((3, n), reach), "y": s.box((2, n), 1.0)}, build


def wide_linear(s: Scene) -> Any:
    """Many products that hardly differ, of which an accumulator of binary16 loses much; then another layer."""
    n = int(s.rng.choice([64, 2600]))
    matrix = s.number(1.0 + 0.01 * s.rng.standard_normal((6, n)))

    def build(x: Any) -> Any:
        z = mb.layer_norm(
            x=x, axes=[-1], gamma=s.number(np.full(n, 0.01)), beta=s.number(np.ones(n)), epsilon=s.number(1e-3)
        )
        y = mb.linear(x=z, weight=matrix)
        return mb.linear(x=y, weight=s.number(np.eye(6) * 0.5))

    return {"x": s.box((2, n), 0.5)}, build


def branches(s: Scene) -> Any:
    def build(x: Any, n: Any) -> Any:
        y = mb.cond(
            pred=mb.greater(x=mb.squeeze(x=n), y=2),
            _true_fn=lambda: mb.tanh(x=x),
            _false_fn=lambda: mb.add(x=mb.relu(x=x), y=s.number(1.0)),
        )
        return mb.linear(x=y, weight=s.const(3, 4))

    return {"x": s.box((2, 4)), "n": s.whole((1,), 0, 4)}, build


def loops(s: Scene) -> Any:
    """A register that shifts: what is in its last place comes from the first, some turns ago."""

    def build(x: Any, n: Any) -> Any:
        limit = mb.squeeze(x=n)
        count = int(s.rng.integers(2, 6))

        def body(i: Any, *register: Any) -> Any:
            first = mb.mul(x=mb.tanh(x=register[-1]), y=s.number(3.0))
            return (mb.add(x=i, y=1), first, *(mb.add(x=v, y=s.number(0.0)) for v in register[:-1]))

        start = (0, x, *(mb.mul(x=x, y=s.number(0.5**k)) for k in range(1, count)))
        _, *out = mb.while_loop(_cond=lambda i, *r: mb.less(x=i, y=limit), _body=body, loop_vars=start)
        return tuple(mb.mul(x=v, y=s.number(2.0)) for v in out)

    return {"x": s.box((3,)), "n": s.whole((1,), 0, 12)}, build


PATTERNS: dict[str, Pattern] = {
    pattern.__name__: pattern
    for pattern in (
        rms_norm, level_rows, layer_norm, normalised, group_norm, masked_softmax, safe_softmax, attention, mean_pooling,
        log_softmax, positions, convolutions, moved, sums, wide_linear,
        branches, loops,
    )
}  # fmt: skip
