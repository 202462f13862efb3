"""Bounds of recurrent layers, from the codomains of their activations: gates in [0, 1], states that grow slowly.

Infinities are harmless in a gate, but two of opposite sign make NaN. So every product and every sum before an
activation has to stay finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nanproof.ops.bounding import Reading, UnboundedError
from nanproof.values.bound import Bound, outward

__all__ = ["gru", "lstm", "rnn"]

_GATES = ("sigmoid", "hard_sigmoid", "sigmoid_hard")
_SQUASHING = (*_GATES, "tanh", "scaled_tanh")
"""Activations whose results lie in [-1, 1]; those of gates in [0, 1]."""

_ROOM = 1 + 2.0**-10
_MOST_STEPS = 2**20


def _squashes(name: str, *, into_unit: bool = False) -> bool:
    return name.lower() in (_GATES if into_unit else _SQUASHING)


def _finite(*bounds: Bound | None) -> None:
    if not all(bound is None or bound.finite for bound in bounds):
        raise UnboundedError("an operand may be Inf or NaN")


def _sizes_of(weight: Bound, x: Tensor | None = None) -> Tensor:
    """``|W| |x|`` for each row; of ones if there is no ``x``."""
    w = weight.magnitude.expand(weight.shape)
    return outward(w.sum(-1)) if x is None else outward(w @ x)


def _line(x: Bound) -> Tensor:
    """The largest absolute value of each feature."""
    size = x.magnitude
    while size.dim() > 1:
        size = size.amax(0) if size.shape[0] else size.sum(0)
    return size.expand(x.shape[-1])


def _before(
    reading: Reading, x: Bound, weight_ih: Bound, weight_hh: Bound, hidden: float, biases: Sequence[Bound | None]
) -> Tensor:
    """The largest sum before an activation, for each row of the weights; its products are taken note of."""
    machine = reading.machine
    ahead, back = _sizes_of(weight_ih, _line(x)), _sizes_of(weight_hh) * hidden
    for total, depth in ((ahead, weight_ih.shape[-1]), (back, weight_hh.shape[-1])):
        reading.accumulated(total * (1 + (depth + 1) * machine.unit) + (depth + 1) * machine.lost)
    total = (ahead + back) * (1 + (sum((weight_ih.shape[-1], weight_hh.shape[-1])) + 4) * machine.unit)
    for bias in biases:
        if bias is not None:
            total = total + bias.magnitude.expand(bias.shape)
    return total * _ROOM


def _doubt_sums(reading: Reading, total: Tensor) -> None:
    most = float(total.max()) if total.numel() else 0.0
    if not reading.machine.holds(most):
        reading.doubt(f"a sum before an activation may reach {most:.4g}")


def _cell(reading: Reading, start: float, steps: int) -> float:
    """What a cell can grow to, by at most 1 a step: each sum is rounded to the nearest."""
    if steps > _MOST_STEPS:
        raise UnboundedError(f"{steps} steps")
    if not reading.machine.rounds:
        return (start + steps) * (1 + steps * 2.0**-22)
    size = start
    for _ in range(steps):
        size += 1
        if size > 2048:
            digit = 2.0 ** (math.frexp(size)[1] - 11)
            size = math.ceil(size / digit) * digit
        if size > 1e6:
            break
    return size * (1 + 2.0**-9)


def _state(reading: Reading, output: int, reach: float) -> Bound:
    return Bound.interval(reading.shape(output), -reach, reach)


def lstm(
    reading: Reading,
    x: Bound,
    initial_h: Bound,
    initial_c: Bound,
    weight_ih: Bound,
    weight_hh: Bound,
    bias: Bound | None = None,
    peephole: Bound | None = None,
    weight_ih_back: Bound | None = None,
    weight_hh_back: Bound | None = None,
    bias_back: Bound | None = None,
    peephole_back: Bound | None = None,
    direction: str = "forward",
    output_sequence: Bound | None = None,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Bound | None = None,
) -> list[Bound]:
    """``c' = f c + i z`` with gates and candidate in [-1, 1] grows by at most 1 a step; ``h = o act(c)``."""
    if not _squashes(recurrent_activation) or not _squashes(cell_activation):
        raise UnboundedError(f"its gates are {recurrent_activation} and its candidate {cell_activation}")
    ways = [(weight_ih, weight_hh, bias, peephole)]
    if weight_ih_back is not None and weight_hh_back is not None:
        ways.append((weight_ih_back, weight_hh_back, bias_back, peephole_back))
    _finite(x, initial_h, initial_c, clip, *(p for way in ways for p in way))
    steps = x.shape[0]
    grown = max(_cell(reading, initial_c.reach, steps), initial_c.reach)
    cell = grown if clip is None or not steps else min(grown, max(clip.reach, initial_c.reach))
    bounded = _squashes(activation)
    made = _ROOM if bounded else cell * _ROOM
    hidden = max(initial_h.reach, made)
    for input_weight, weight, offset, look in ways:
        total = _before(reading, x, input_weight, weight, hidden, [offset])
        looks = torch.zeros(()) if look is None else look.magnitude.amax() * max(grown, cell)
        _doubt_sums(reading, (total + looks) * _ROOM)
    if not steps:
        return [_state(reading, 0, hidden), _state(reading, 1, hidden), _state(reading, 2, cell)]
    last = cell if clip is None else min(cell, clip.reach * _ROOM)
    return [_state(reading, 0, made), _state(reading, 1, made), _state(reading, 2, last)]


def gru(
    reading: Reading,
    x: Bound,
    initial_h: Bound,
    weight_ih: Bound,
    weight_hh: Bound,
    bias: Bound | None = None,
    direction: str = "forward",
    output_sequence: Bound | None = None,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: Bound | None = None,
    input_bias: Bound | None = None,
) -> list[Bound]:
    """``h' = (1 - z) o + z h`` mixes what is in [-1, 1] with the state before.

    In binary16 ``1 - z`` is off by at most ``2**-12``, so the mixture of ones is at most ``1 + 2**-12``, which is
    rounded to 1: states in [-1, 1] stay there. Larger ones may grow by three roundings a step.
    """
    if not _squashes(recurrent_activation, into_unit=True) or not _squashes(activation):
        raise UnboundedError(f"its gates are {recurrent_activation} and its candidate {activation}")
    _finite(x, initial_h, weight_ih, weight_hh, bias, input_bias)
    steps = x.shape[0]
    hidden = max(1.0, initial_h.reach)
    if hidden > 1:
        unit = 2.0**-11 if reading.machine.rounds else 2.0**-23
        hidden *= math.exp(min(3 * steps * unit, 700.0))
    hidden *= _ROOM
    _doubt_sums(reading, _before(reading, x, weight_ih, weight_hh, hidden, [bias, input_bias]))
    return [_state(reading, 0, hidden), _state(reading, 1, hidden)]


def rnn(
    reading: Reading,
    x: Bound,
    initial_h: Bound,
    weight_ih: Bound,
    weight_hh: Bound,
    bias: Bound | None = None,
    direction: str = "forward",
    output_sequence: Bound | None = None,
    activation: str = "tanh",
) -> list[Bound]:
    """``h' = act(W x + U h + b)``, in [-1, 1] if that is what the activation gives."""
    if not _squashes(activation):
        raise UnboundedError(f"its activation is {activation}")
    _finite(x, initial_h, weight_ih, weight_hh, bias)
    hidden = max(_ROOM, initial_h.reach)
    _doubt_sums(reading, _before(reading, x, weight_ih, weight_hh, hidden, [bias]))
    made = _ROOM if x.shape[0] else hidden
    return [_state(reading, 0, made), _state(reading, 1, made)]
