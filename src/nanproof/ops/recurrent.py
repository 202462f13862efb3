"""Recurrent layers: lstm, gru, rnn. The inputs of all steps are projected by one matrix product, before the first step.

Under ``strict`` every product and every sum is rounded in the order of the formulas; in which order a device adds the
terms of a gate is not documented.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanproof.numerics.arithmetic import Arithmetic
from nanproof.ops import bound_recurrent as bounds
from nanproof.ops.record import Note, OpDef, Sample, flag, float_block, op

__all__ = ["OPS"]

Activation = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""The projected input of one step and the state before it → the state after it, whose first tensor is the output."""


def _activation(arithmetic: Arithmetic, name: str) -> Activation:
    rounded = arithmetic.round
    activations: dict[str, Activation] = {
        "linear": lambda x: x,
        "relu": torch.relu,
        "sigmoid": lambda x: rounded(torch.sigmoid(x)),
        "tanh": lambda x: rounded(torch.tanh(x)),
        "scaled_tanh": lambda x: rounded(torch.tanh(x)),
        "hard_sigmoid": lambda x: rounded(rounded(0.2 * x) + 0.5).clamp(0, 1),
    }
    activations["sigmoid_hard"] = activations["hard_sigmoid"]  # the name in the documentation of rnn
    return activations[name.lower()]


def _projected(arithmetic: Arithmetic, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` for all steps at once."""
    rows = arithmetic.round(arithmetic.matmul(x.flatten(0, -2), weight.mT)).unflatten(0, x.shape[:-1])
    return rows if bias is None else arithmetic.round(rows + bias)


def _steps(step: Step, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Outputs of all steps in the order in which they are made, and the last state."""
    outputs: list[Tensor] = []
    for row in inputs:
        state = step(row, state)
        outputs.append(state[0])
    return (torch.stack(outputs) if outputs else state[0].new_zeros(0, *state[0].shape)), state


def _lstm_step(
    arithmetic: Arithmetic,
    weight: Tensor,
    peephole: Tensor | None,
    clip: Tensor | None,
    activations: Sequence[Activation],
) -> Step:
    gate, cell, outer = activations
    rounded = arithmetic.round

    def step(row: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, f, o, z = rounded(row + rounded(arithmetic.matmul(h, weight.mT))).chunk(4, -1)
        looks = None if peephole is None else peephole.chunk(3)
        if looks is not None:
            i, f = rounded(i + rounded(c * looks[0])), rounded(f + rounded(c * looks[1]))
        c = rounded(rounded(gate(f) * c) + rounded(gate(i) * cell(z)))
        if clip is not None:
            c = c.clamp(-clip, clip)
        if looks is not None:  # the output gate sees the new cell
            o = rounded(o + rounded(c * looks[2]))
        return rounded(gate(o) * outer(c)), c

    return step


def _fused_lstm(
    x: Tensor,
    start: tuple[Tensor, Tensor],
    layers: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    direction: str,
    whole: bool,
) -> list[Tensor]:
    """The usual LSTM by PyTorch's own layer, float32 inside: many times faster than step by step."""
    if len(layers) != (2 if direction == "bidirectional" else 1):
        raise ValueError(f"a lstm of direction '{direction}' has {len(layers)} pairs of weights")
    parameters: list[Tensor] = []
    for input_weight, weight, bias in layers:
        offset = weight.new_zeros(weight.shape[0]) if bias is None else _as_in_pytorch(bias)
        parameters += [_as_in_pytorch(input_weight), _as_in_pytorch(weight), offset, torch.zeros_like(offset)]
    states = [torch.stack(s.chunk(len(layers), -1)) for s in start]
    data = x.flip(0) if direction == "reverse" else x
    rows, *ends = torch.lstm(data, states, parameters, True, 1, 0.0, False, len(layers) == 2, False)  # type: ignore[call-overload]
    h, c = (torch.cat(end.unbind(), -1) for end in ends)
    return [rows if whole else h.unsqueeze(0), h, c]


def _as_in_pytorch(gates: Tensor) -> Tensor:
    """Rows of the gates input, forget, output, cell in PyTorch's order: input, forget, cell, output."""
    i, f, o, z = gates.chunk(4)
    return torch.cat([i, f, z, o])


def _lstm(
    arithmetic: Arithmetic,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: Tensor | None = None,
) -> list[Tensor]:
    names = (recurrent_activation, cell_activation, activation)
    plain = peephole is None and peephole_back is None and clip is None and names == ("sigmoid", "tanh", "tanh")
    if plain and arithmetic.whole:
        layers = [(weight_ih, weight_hh, bias)]
        if weight_ih_back is not None and weight_hh_back is not None:
            layers.append((weight_ih_back, weight_hh_back, bias_back))
        return _fused_lstm(x, (initial_h, initial_c), layers, direction, flag(output_sequence))
    activations = [_activation(arithmetic, name) for name in names]
    ways = [(weight_ih, weight_hh, bias, peephole, direction == "reverse")]
    if direction == "bidirectional":
        if weight_ih_back is None or weight_hh_back is None:
            raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
        ways.append((weight_ih_back, weight_hh_back, bias_back, peephole_back, True))
    outputs: list[Tensor] = []
    states: list[tuple[Tensor, ...]] = []
    starts = zip(initial_h.chunk(len(ways), -1), initial_c.chunk(len(ways), -1), strict=True)
    for (input_weight, weight, offset, look, backwards), start in zip(ways, starts, strict=True):
        inputs = _projected(arithmetic, x.flip(0) if backwards else x, input_weight, offset)
        rows, state = _steps(_lstm_step(arithmetic, weight, look, clip, activations), inputs, start)
        states.append(state)
        # Bidirectional outputs stand in the order of time; those of "reverse" in the order in which they are made.
        outputs.append(rows.flip(0) if backwards and direction == "bidirectional" else rows)
    h, c = (torch.cat(parts, -1) for parts in zip(*states, strict=True))
    return [torch.cat(outputs, -1) if flag(output_sequence) else h.unsqueeze(0), h, c]


def _gru(
    arithmetic: Arithmetic,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: Tensor | bool = False,
    input_bias: Tensor | None = None,
) -> list[Tensor]:
    rounded, after, hidden = arithmetic.round, flag(reset_after), initial_h.shape[-1]
    gate, outer = _activation(arithmetic, recurrent_activation), _activation(arithmetic, activation)
    weight_r, weight_o, weight_z = weight_hh.chunk(3)
    bias_r, bias_o, bias_z = (None,) * 3 if bias is None else bias.chunk(3)

    def step(row: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        row_r, row_o, row_z = row.split(hidden, -1)
        r = gate(rounded(row_r + _projected(arithmetic, h, weight_r, bias_r)))
        z = gate(rounded(row_z + _projected(arithmetic, h, weight_z, bias_z)))
        if after:
            o = rounded(r * _projected(arithmetic, h, weight_o, bias_o))
        else:
            o = _projected(arithmetic, rounded(r * h), weight_o, bias_o)
        o = outer(rounded(row_o + o))
        return (rounded(rounded(rounded(1 - z) * o) + rounded(z * h)),)

    return _one_way(arithmetic, step, (x, weight_ih, input_bias), initial_h, direction, output_sequence)


def _rnn(
    arithmetic: Arithmetic,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    activation: str = "tanh",
) -> list[Tensor]:
    outer = _activation(arithmetic, activation)

    def step(row: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (outer(arithmetic.round(row + _projected(arithmetic, state[0], weight_hh, None))),)

    return _one_way(arithmetic, step, (x, weight_ih, bias), initial_h, direction, output_sequence)


def _one_way(
    arithmetic: Arithmetic,
    step: Step,
    projection: tuple[Tensor, Tensor, Tensor | None],
    start: Tensor,
    direction: str,
    output_sequence: Tensor | bool,
) -> list[Tensor]:
    x, weight, bias = projection
    inputs = _projected(arithmetic, x.flip(0) if direction == "reverse" else x, weight, bias)
    outputs, (h,) = _steps(step, inputs, (start,))
    return [outputs if flag(output_sequence) else h.unsqueeze(0), h]


# ---------------------------------------------------------------------------------------------------------------------
# Samples


def _layer(gates: int, seed: int = 0, *, ways: int = 1) -> dict[str, Any]:
    """3 steps, batch 2, 4 inputs, 5 hidden."""
    return {
        "x": float_block(3, 2, 4, seed=seed),
        "initial_h": float_block(2, 5 * ways, seed=seed + 1),
        "weight_ih": float_block(5 * gates, 4, seed=seed + 2),
        "weight_hh": float_block(5 * gates, 5, seed=seed + 3, scale=0.5),
    }


def _lstm_samples() -> Iterable[Sample]:
    layer = {**_layer(4), "initial_c": float_block(2, 5, seed=7)}
    bias, peephole = float_block(20, seed=8), float_block(15, seed=9)
    yield Sample({**layer})
    yield Sample({**layer, "bias": bias, "direction": "forward", "output_sequence": True})
    yield Sample({**layer, "bias": bias, "direction": "reverse", "output_sequence": True})
    yield Sample({**layer, "peephole": peephole, "clip": np.float32(0.75), "output_sequence": True})
    for gate, cell, outer in (("hard_sigmoid", "scaled_tanh", "linear"), ("linear", "relu", "sigmoid")):
        names = {"recurrent_activation": gate, "cell_activation": cell, "activation": outer}
        yield Sample({**layer, "bias": bias, **names, "output_sequence": True})
    both = {**_layer(4, ways=2), "initial_c": float_block(2, 10, seed=7), "direction": "bidirectional"}
    both |= {"weight_ih_back": float_block(20, 4, seed=10), "weight_hh_back": float_block(20, 5, seed=11, scale=0.5)}
    yield Sample({**both, "output_sequence": True})
    back = {"bias_back": float_block(20, seed=12), "peephole_back": float_block(15, seed=13)}
    yield Sample({**both, "bias": bias, "peephole": peephole, **back, "output_sequence": False})


def _gru_samples() -> Iterable[Sample]:
    layer, bias = _layer(3), float_block(15, seed=8)
    yield Sample({**layer})
    yield Sample({**layer, "bias": bias, "output_sequence": True})
    yield Sample({**layer, "bias": bias, "direction": "reverse", "output_sequence": True})
    names = {"recurrent_activation": "tanh", "activation": "sigmoid"}
    yield Sample({**layer, "bias": bias, **names, "output_sequence": True})
    for after in (False, True):
        biases = {"bias": bias, "input_bias": float_block(15, seed=9)}
        yield Sample({**layer, **biases, "reset_after": after, "output_sequence": True})


def _rnn_samples() -> Iterable[Sample]:
    layer, bias = _layer(1), float_block(5, seed=8)
    yield Sample({**layer})
    for activation in ("relu", "tanh", "sigmoid", "sigmoid_hard", "scaled_tanh", "linear"):
        yield Sample({**layer, "bias": bias, "activation": activation, "output_sequence": True})
    yield Sample({**layer, "bias": bias, "direction": "reverse", "output_sequence": True})


_ORDER = Note(
    'With direction="reverse" the outputs stand in the order in which they are made, the last step of x first; a '
    "bidirectional lstm gives both directions in the order of time.",
    "coremltools 9.0, tests iOS14/test_recurrent.py: unilstm against a flipped input, bilstm against PyTorch's",
)
_CLIP = Note(
    "clip bounds the cell state, before the output gate looks at it.",
    "coremltools 9.0, tests iOS14/test_recurrent.py: _get_numpy_prediction_lstm_single_batch",
)
_CONSTANTS = Note(
    "scaled_tanh is tanh (both scales are 1), hard_sigmoid is min(max(0.2 x + 0.5, 0), 1). NeuralNetwork.proto of old "
    "says 1.71 tanh(2/3 x).",
    "coremltools 9.0, tests iOS14/test_recurrent.py: test_numpy_numerical, with a comment",
)
_RESET = Note(
    "Without reset_after the reset gate is applied to h before the product with W_ho; with it to W_ho h + b_ho, as in "
    "PyTorch. The formula of the documentation can be read both ways.",
    "coremltools 9.0, tests iOS14/test_recurrent.py (o = W_o x + R_o (r h) + b_o), iOS18/test_recurrent.py (PyTorch)",
)

OPS: tuple[OpDef, ...] = (
    op(
        "lstm",
        "recurrent",
        _lstm,
        _lstm_samples,
        revisions=("iOS17",),
        bound=bounds.lstm,
        notes=(_ORDER, _CLIP, _CONSTANTS),
    ),
    op(
        "gru",
        "recurrent",
        _gru,
        _gru_samples,
        revisions=("iOS17", "iOS18"),
        bound=bounds.gru,
        notes=(_ORDER, _RESET, _CONSTANTS),
    ),
    op("rnn", "recurrent", _rnn, _rnn_samples, revisions=("iOS17",), bound=bounds.rnn, notes=(_ORDER, _CONSTANTS)),
)
