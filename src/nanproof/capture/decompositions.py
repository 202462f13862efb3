"""The decomposition table: PyTorch's core ATen, and the variants that coremltools lowers to something else.

A decomposition that returns ``NotImplemented`` leaves the node as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nanproof.capture.decomposed_arithmetic import ARITHMETIC
from nanproof.capture.decomposed_indexing import INDEXING

__all__ = ["table"]

aten = torch.ops.aten


def table() -> Any:
    """The table for ``ExportedProgram.run_decompositions``."""
    decompositions = torch.export.default_decompositions()
    decompositions[aten.add.Tensor] = _add
    decompositions[aten.sub.Tensor] = _sub
    decompositions[aten.elu.default] = _elu
    decompositions[aten.view.default] = _view
    decompositions.update(ARITHMETIC)
    decompositions.update(INDEXING)
    for operator, is_kept in _KEPT.items():
        decompositions[operator] = _unless(is_kept, decompositions[operator])
    return decompositions


def _unless(is_kept: Callable[..., bool], decompose: Callable[..., Any]) -> Callable[..., Any]:
    """``decompose``, but for the calls that ``is_kept`` accepts: those stay one node."""

    def decompose_others(*args: Any, **kwargs: Any) -> Any:
        return NotImplemented if is_kept(*args, **kwargs) else decompose(*args, **kwargs)

    return decompose_others


def _plain_attention(
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
    """Whether coremltools 9.0 lowers this attention to the same function.

    A mask is left to PyTorch's decomposition: rows that it masks everywhere are zero there, and not in coremltools.
    Without a mask that decomposition guards against such rows all the same, with eight ops in each layer.
    """
    return attn_mask is None and dropout_p == 0 and not is_causal and not enable_gqa


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


_KEPT: dict[Any, Callable[..., bool]] = {
    aten.scaled_dot_product_attention.default: _plain_attention,
    aten.lstm.input: _plain_lstm,
}
"""Operators that coremltools lowers well as they are, with the calls for which that is so."""


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
    """
    return NotImplemented if x.is_contiguous() else x.contiguous().view(size)
