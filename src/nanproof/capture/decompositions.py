"""The decomposition table: PyTorch's core ATen, and the variants that coremltools lowers to something else.

A decomposition that returns ``NotImplemented`` leaves the node as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nanproof.capture.decomposed_arithmetic import ARITHMETIC
from nanproof.capture.decomposed_bits import BITS
from nanproof.capture.decomposed_chance import CHANCE
from nanproof.capture.decomposed_indexing import INDEXING
from nanproof.capture.decomposed_pooling import POOLING
from nanproof.capture.decomposed_resampling import RESAMPLING
from nanproof.capture.decomposed_sampling import SAMPLING
from nanproof.capture.decomposed_scalars import admit_integers, admit_scalars
from nanproof.capture.decomposed_scattering import SCATTERING
from nanproof.capture.decomposed_special import SPECIAL

__all__ = ["table"]

aten = torch.ops.aten


def table() -> Any:
    """The table for ``ExportedProgram.run_decompositions``."""
    decompositions = torch.export.default_decompositions()
    decompositions[aten.add.Tensor] = _add
    decompositions[aten.sub.Tensor] = _sub
    decompositions[aten.elu.default] = _elu
    decompositions[aten.view.default] = _view
    for group in (ARITHMETIC, INDEXING, BITS, SCATTERING, RESAMPLING, POOLING, SAMPLING, SPECIAL, CHANCE):
        decompositions.update(group)
    admit_integers(decompositions)
    admit_scalars(decompositions)
    attention = aten.scaled_dot_product_attention.default
    decompositions[attention] = _attention(decompositions[attention])
    for operator, is_kept in _KEPT.items():
        decompositions[operator] = _unless(is_kept, decompositions[operator])
    return decompositions


def _unless(is_kept: Callable[..., bool], decompose: Callable[..., Any]) -> Callable[..., Any]:
    """``decompose``, but for the calls that ``is_kept`` accepts: those stay one node."""

    def decompose_others(*args: Any, **kwargs: Any) -> Any:
        return NotImplemented if is_kept(*args, **kwargs) else decompose(*args, **kwargs)

    return decompose_others


def _lowered_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Whether this attention has a lowering: all but what drops weights, and heads that share keys (``_attention``).

    PyTorch's decomposition guards against rows that are masked everywhere, with eight ops in each layer.
    """
    return dropout_p == 0 and not enable_gqa and query.dim() == key.dim() == value.dim()


def _plain_lstm(
    input: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> bool:
    """Whether a MIL ``lstm`` computes this LSTM: no projection, which has a third matrix in each layer and direction.

    Decomposed, each step of the sequence becomes a dozen ops.
    """
    return not train and len(params) == num_layers * (1 + bidirectional) * (4 if has_biases else 2)


def _in_evaluation(
    input: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> bool:
    """Whether a recurrent layer drops nothing."""
    return not train


def _plain_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether a layer is the MIL op. Decomposed, it has a reshape before it and one behind for more than two axes."""
    return x.dim() > 1 and weight.dim() == 2 and x.is_floating_point()


def _plain_matmul(x: Tensor, y: Tensor) -> bool:
    """Whether a product is the MIL op. Decomposed, it has three reshapes around it for more than three axes."""
    return x.dim() > 1 and y.dim() > 1 and x.is_floating_point() and y.is_floating_point()


def _plain_pool(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> bool:
    """Whether a pooling is the MIL op, which has no dilation."""
    return x.is_floating_point() and all(gap == 1 for gap in dilation)


def _of_floats(x: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether an activation is one of floats."""
    return x.is_floating_point()


_KEPT: dict[Any, Callable[..., bool]] = {
    aten.scaled_dot_product_attention.default: _lowered_attention,
    aten.linear.default: _plain_linear,
    aten.matmul.default: _plain_matmul,
    aten.max_pool1d.default: _plain_pool,
    aten.max_pool2d.default: _plain_pool,
    aten.max_pool3d.default: _plain_pool,
    aten.hardswish.default: _of_floats,
    aten.hardsigmoid.default: _of_floats,
    aten.silu.default: _of_floats,
    aten.lstm.input: _plain_lstm,
    aten.gru.input: _in_evaluation,
    aten.rnn_tanh.input: _in_evaluation,
    aten.rnn_relu.input: _in_evaluation,
}
"""Operators that are lowered whole, with the calls for which that is so."""


def _attention(decompose: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention whose heads share keys as one whose heads have their own; PyTorch's decomposition of any other."""

    def decomposed(
        query: Tensor, key: Tensor, value: Tensor, *args: Any, enable_gqa: bool = False, **kw: Any
    ) -> Tensor:
        if not enable_gqa:
            return decompose(query, key, value, *args, **kw)
        key, value = (_repeated(x, query.shape[-3] // x.shape[-3]) for x in (key, value))
        return aten.scaled_dot_product_attention.default(query, key, value, *args, **kw)

    return decomposed


def _repeated(x: Tensor, times: int) -> Tensor:
    """Each head ``times`` times, one copy beside the other."""
    shape = [*x.shape[:-2], times, *x.shape[-2:]]
    return x if times == 1 else x.unsqueeze(-3).expand(shape).flatten(-4, -3)


def _add(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    """``x + alpha * y``. coremltools 9.0 drops ``alpha`` under torch.export."""
    return NotImplemented if alpha == 1 else x + y * alpha


def _sub(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
    """``x - alpha * y``. coremltools 9.0 drops ``alpha`` under torch.export."""
    return NotImplemented if alpha == 1 else x - y * alpha


def _elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """ELU with the scales that SELU sets. coremltools 9.0 drops them under torch.export.

    ``scale * elu(x)``, where the negative branch is ``alpha * (exp(input_scale * x) - 1)``.
    """
    if scale == 1 and input_scale == 1:
        return NotImplemented
    if input_scale != 1:
        return torch.where(x > 0, x, torch.expm1(x * input_scale) * alpha) * scale
    return aten.elu.default(x, alpha) * scale


def _view(x: Tensor, size: list[int]) -> Tensor:
    """``view`` of a tensor that its decomposed producer laid out in another way.

    PyTorch's decomposition of ``scaled_dot_product_attention`` returns other strides than the operator, so that a
    ``view`` behind it fails while it is decomposed (GPT-2 with a batch of two). A MIL value has no strides.
    A view without axes keeps them in 9.0.
    """
    if not size and x.dim():
        return x.reshape(1).squeeze(0)
    return NotImplemented if x.is_contiguous() else x.contiguous().view(size)
