"""Recurrent layers that stay whole: ``lstm``, ``gru`` and ``rnn``, as torch.export writes them.

Decomposed to core ATen, each step of the sequence becomes a dozen ops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanproof.mil.coreml import ct, is_target, mb, register_torch_op, torch_ops

__all__ = ["gru_input", "lstm_input", "rnn_relu_input", "rnn_tanh_input"]


@register_torch_op(override=True, torch_alias=["lstm.input"])
def lstm_input(context: Any, node: Any) -> None:
    """``aten.lstm.input``: 9.0 lowers ``lstm`` as TorchScript writes it, with three results and not one tuple."""
    (name,) = node.outputs
    node.outputs = [f"{name}_{part}" for part in ("output", "h", "c")]
    torch_ops.lstm(context, node)
    context.add(tuple(context[part] for part in node.outputs), torch_name=name)


@register_torch_op(override=True, torch_alias=["gru.input"])
def gru_input(context: Any, node: Any) -> None:
    """``aten.gru.input``: the MIL op from iOS18 on, which has PyTorch's form of the reset gate; before, one loop."""
    _add(context, node, _gru if is_target(ct.target.iOS18) else _gru_loop)


@register_torch_op(override=True, torch_alias=["rnn_tanh.input"])
def rnn_tanh_input(context: Any, node: Any) -> None:
    """``aten.rnn_tanh.input``. 9.0 refuses both directions, and writes no tuple."""
    _add(context, node, lambda layer: _rnn(layer, "tanh"))


@register_torch_op(override=True, torch_alias=["rnn_relu.input"])
def rnn_relu_input(context: Any, node: Any) -> None:
    """``aten.rnn_relu.input``. 9.0 refuses both directions, and writes no tuple."""
    _add(context, node, lambda layer: _rnn(layer, "relu"))


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer in one direction: ``x`` is (steps, batch, features), ``h`` (batch, hidden), the rest constant."""

    x: Any
    h: Any
    weight_ih: np.ndarray
    weight_hh: np.ndarray
    bias_ih: np.ndarray
    bias_hh: np.ndarray


def _add(context: Any, node: Any, run: Callable[[_Layer], tuple[Any, Any]]) -> None:
    """Lower a stack of layers, each of which ``run`` makes of its inputs: all hidden states, and the last one."""
    x, h0, weights, biases, count, _, _, both, batch_first = torch_ops._get_inputs(context, node, expected=9)
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first.val else x
    directions, each = 1 + int(both.val), 4 if biases.val else 2
    last: list[Any] = []
    for layer in range(count.val):
        found: list[Any] = []
        for direction in range(directions):
            at = layer * directions + direction
            h = mb.squeeze(x=mb.slice_by_size(x=h0, begin=[at, 0, 0], size=[1, -1, -1]), axes=[0])
            one = _layer(x, h, weights[at * each : (at + 1) * each], direction == 1)
            states, final = run(one)
            found.append(mb.reverse(x=states, axes=[0]) if direction else states)
            last.append(mb.expand_dims(x=final, axes=[0]))
        x = mb.concat(values=found, axis=2) if directions == 2 else found[0]
    x = mb.transpose(x=x, perm=[1, 0, 2]) if batch_first.val else x
    context.add((x, mb.concat(values=last, axis=0) if len(last) > 1 else last[0]), torch_name=node.name)


def _layer(x: Any, h: Any, parameters: Sequence[Any], backwards: bool) -> _Layer:
    """The layer of (weight_ih, weight_hh[, bias_ih, bias_hh]), which is given the steps in its own order.

    Raises:
        NotImplementedError: The weights are no constants.
    """
    if any(parameter.val is None for parameter in parameters):
        raise NotImplementedError("the weights of a recurrent layer have to be constants")
    given = [parameter.val for parameter in parameters]
    zeros = [np.zeros(len(given[0]), given[0].dtype)] * 2
    return _Layer(mb.reverse(x=x, axes=[0]) if backwards else x, h, *(given if len(given) == 4 else [*given, *zeros]))


def _rnn(layer: _Layer, activation: str) -> tuple[Any, Any]:
    return mb.rnn(
        x=layer.x,
        initial_h=layer.h,
        weight_ih=layer.weight_ih,
        weight_hh=layer.weight_hh,
        bias=layer.bias_ih + layer.bias_hh,
        output_sequence=True,
        activation=activation,
    )


def _gru(layer: _Layer) -> tuple[Any, Any]:
    """MIL's own op, whose gates stand in the order reset, new, update: PyTorch's is reset, update, new."""

    def ordered(rows: np.ndarray) -> np.ndarray:
        reset, update, new = np.split(rows, 3)
        return np.concatenate([reset, new, update])

    return mb.gru(
        x=layer.x,
        initial_h=layer.h,
        weight_ih=ordered(layer.weight_ih),
        weight_hh=ordered(layer.weight_hh),
        bias=ordered(layer.bias_hh),
        input_bias=ordered(layer.bias_ih),
        reset_after=True,
        output_sequence=True,
    )


def _gru_loop(layer: _Layer) -> tuple[Any, Any]:
    """A loop over the steps. The inputs of all steps are projected by one ``linear`` before it.

    With r, z, n the reset, update and new gates: ``h' = n + z * (h - n)``, where
    ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``.
    """
    hidden = layer.weight_hh.shape[1]
    rows = mb.linear(x=layer.x, weight=layer.weight_ih, bias=layer.bias_ih)
    steps = mb.slice_by_index(x=mb.shape(x=rows), begin=[0], end=[1])

    def unfinished(step: Any, h: Any, states: Any) -> Any:
        return mb.less(x=step, y=steps)

    def advanced(step: Any, h: Any, states: Any) -> tuple[Any, Any, Any]:
        row = mb.squeeze(x=mb.gather(x=rows, indices=step, axis=0), axes=[0])
        own = mb.linear(x=h, weight=layer.weight_hh, bias=layer.bias_hh)
        row_gates, row_new = mb.split(x=row, split_sizes=[2 * hidden, hidden], axis=-1)
        own_gates, own_new = mb.split(x=own, split_sizes=[2 * hidden, hidden], axis=-1)
        reset, update = mb.split(x=mb.sigmoid(x=mb.add(x=row_gates, y=own_gates)), num_splits=2, axis=-1)
        new = mb.tanh(x=mb.add(x=row_new, y=mb.mul(x=reset, y=own_new)))
        h = mb.add(x=new, y=mb.mul(x=update, y=mb.sub(x=h, y=new)))
        written = mb.scatter(data=states, indices=step, updates=mb.expand_dims(x=h, axes=[0]), axis=0, mode="update")
        return mb.add(x=step, y=1), h, written

    empty = mb.slice_by_size(x=rows, begin=[0, 0, 0], size=[-1, -1, hidden])
    _, final, states = mb.while_loop(_cond=unfinished, _body=advanced, loop_vars=([0], layer.h, empty))
    return states, final
