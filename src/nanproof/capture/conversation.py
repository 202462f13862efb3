"""PyTorch's side of a conversation: a module that changes its buffers, called several times, on a copy."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch, call, returned
from nanproof.errors import InputError

__all__ = ["Reference", "state_name"]


def state_name(buffer: str) -> str:
    """The name of a buffer as an input of a program: ``layers.0.k_cache`` is ``layers_0_k_cache`` there."""
    return re.sub(r"\W", "_", buffer)


@final
class Reference:
    """What a module answers, with the same buffers at the start of each conversation. The module stays as it is.

    Parameters and the buffers that are no states are shared with the module, not copied.

    Args:
        module: The module.
        states: Names of the buffers that it changes, as the module or as a program calls them.

    Raises:
        InputError: The module has no such buffer.
    """

    def __init__(self, module: nn.Module | ExportedProgram, states: Iterable[str] = ()) -> None:
        self._module: Any = module
        self._run: Callable[[Any, Batch], list[Tensor]] = call
        self._cells: Mapping[str, Tensor] = {}
        self.start: Mapping[str, Tensor] = {}
        """The states with which a conversation begins, by name."""
        wanted = {state_name(name) for name in states}
        if not wanted:
            return
        runnable: Any = module.module() if isinstance(module, ExportedProgram) else module
        known = {state_name(name): buffer for name, buffer in runnable.named_buffers()}
        missing = sorted(wanted - known.keys())
        if missing:
            raise InputError(
                f"The program keeps the state {', '.join(missing)}, and {type(module).__name__} has no such buffer: "
                f"it has {', '.join(known) or 'none'}."
            )
        shared = [*runnable.parameters(), *(buffer for name, buffer in known.items() if name not in wanted)]
        with warnings.catch_warnings():  # PyTorch warns about its own tree specs when it copies an exported program
            warnings.simplefilter("ignore", FutureWarning)
            self._module = copy.deepcopy(runnable, {id(tensor): tensor for tensor in shared})
        self._cells = {state_name(n): b for n, b in self._module.named_buffers() if state_name(n) in wanted}
        self.start = {name: cell.detach().clone() for name, cell in self._cells.items()}
        if isinstance(module, ExportedProgram):
            self._run = returned  # such a module has no modes

    def __call__(self, batch: Batch, *, goes_on: bool = False) -> list[Tensor]:
        """The tensors that the module returns, flattened.

        Args:
            batch: The arguments.
            goes_on: Whether this is the next call of a conversation, and not the first one.
        """
        if not goes_on:
            self._restart()
        # A module may return its own buffer, which the next call changes.
        return [tensor.clone() if self._cells else tensor for tensor in self._run(self._module, batch)]

    def _restart(self) -> None:
        with torch.no_grad():
            for name, cell in self._cells.items():
                cell.copy_(self.start[name])
