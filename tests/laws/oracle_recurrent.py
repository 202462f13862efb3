"""Recurrent layers in float64, one sequence and one step at a time, from the formulas of the MIL docstrings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
}


def _wide(x: Any, size: int = 0) -> Array:
    return np.zeros(size) if x is None else np.asarray(x, np.float64)


def _run(step: Callable[..., tuple[Array, ...]], x: Array, *state: Array) -> tuple[Array, tuple[Array, ...]]:
    """Outputs ``(steps, batch, hidden)`` in the order of the steps, and the last state of each sequence."""
    outputs, last = [], []
    for b in range(x.shape[1]):
        now = tuple(s[b] for s in state)
        rows = []
        for row in x[:, b]:
            now = step(row, *now)
            rows.append(now[0])
        outputs.append(rows)
        last.append(now)
    return np.moveaxis(np.array(outputs), 0, 1), tuple(np.array(parts) for parts in zip(*last, strict=True))


def _lstm_one_way(
    x: Array, h: Array, c: Array, weights: tuple[Any, ...], clip: Any, names: tuple[str, ...]
) -> tuple[Array, tuple[Array, ...]]:
    w, r, b, p = weights
    size = r.shape[1]
    w, r = (np.split(_wide(m), 4) for m in (w, r))
    b, p = np.split(_wide(b, 4 * size), 4), np.split(_wide(p, 3 * size), 3)
    gate, cell, outer = (ACTIVATIONS[name] for name in names)

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        i, f, o, z = (w[k] @ x + r[k] @ h + b[k] for k in range(4))
        i, f = gate(i + p[0] * c), gate(f + p[1] * c)
        c = f * c + i * cell(z)
        c = c if clip is None else np.clip(c, -clip, clip)
        return gate(o + p[2] * c) * outer(c), c

    return _run(step, x, h, c)


def _lstm(
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Any = None,
    peephole: Any = None,
    weight_ih_back: Any = None,
    weight_hh_back: Any = None,
    bias_back: Any = None,
    peephole_back: Any = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Any = None,
) -> tuple[Array, ...]:
    x, h, c = _wide(x), _wide(initial_h), _wide(initial_c)
    rest = (clip, (recurrent_activation, cell_activation, activation))
    first = (weight_ih, weight_hh, bias, peephole)
    if direction != "bidirectional":
        rows, (h, c) = _lstm_one_way(x if direction == "forward" else x[::-1], h, c, first, *rest)
        return rows if output_sequence else rows[-1:], h, c
    size = weight_hh.shape[1]
    back = (weight_ih_back, weight_hh_back, bias_back, peephole_back)
    there, (h0, c0) = _lstm_one_way(x, h[:, :size], c[:, :size], first, *rest)
    again, (h1, c1) = _lstm_one_way(x[::-1], h[:, size:], c[:, size:], back, *rest)
    states = np.concatenate([h0, h1], 1), np.concatenate([c0, c1], 1)
    if output_sequence:
        return np.concatenate([there, again[::-1]], 2), *states
    return np.concatenate([there[-1:], again[-1:]], 2), *states


def _gru(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Any = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Any = None,
) -> tuple[Array, Array]:
    size = weight_hh.shape[1]
    w_r, w_o, w_z = np.split(_wide(weight_ih), 3)
    r_r, r_o, r_z = np.split(_wide(weight_hh), 3)
    b_r, b_o, b_z = np.split(_wide(bias, 3 * size), 3)
    i_r, i_o, i_z = np.split(_wide(input_bias, 3 * size), 3)
    gate, outer = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]

    def step(x: Array, h: Array) -> tuple[Array]:
        r = gate(w_r @ x + i_r + r_r @ h + b_r)
        z = gate(w_z @ x + i_z + r_z @ h + b_z)
        o = r * (r_o @ h + b_o) if reset_after else r_o @ (r * h) + b_o
        o = outer(w_o @ x + i_o + o)
        return ((1 - z) * o + z * h,)

    rows, (h,) = _run(step, _wide(x) if direction == "forward" else _wide(x)[::-1], _wide(initial_h))
    return rows if output_sequence else rows[-1:], h


def _rnn(
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Any = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    w, r, b = _wide(weight_ih), _wide(weight_hh), _wide(bias, len(weight_hh))
    rows, (h,) = _run(
        lambda x, h: (ACTIVATIONS[activation](w @ x + r @ h + b),),
        _wide(x) if direction == "forward" else _wide(x)[::-1],
        _wide(initial_h),
    )
    return rows if output_sequence else rows[-1:], h


ORACLES: dict[str, Callable[..., Any]] = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
