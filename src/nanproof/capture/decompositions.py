"""The decomposition table: PyTorch's core ATen, and the variants that coremltools lowers to something else.

A decomposition that returns ``NotImplemented`` leaves the node as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["table"]

aten = torch.ops.aten


def table() -> Any:
    """The table for ``ExportedProgram.run_decompositions``."""
    decompositions = torch.export.default_decompositions()
    decompositions[aten.add.Tensor] = _add
    decompositions[aten.sub.Tensor] = _sub
    decompositions[aten.elu.default] = _elu
    decompositions[aten.view.default] = _view
    return decompositions


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
