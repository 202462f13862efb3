"""Buffers that ``forward`` changes in place: what a Core ML model keeps as its states."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from nanproof.capture.batch import Batch, call
from nanproof.errors import CaptureError
from nanproof.program import Source

__all__ = ["buffers_kept", "changed_by_script", "states_of"]

_WRAPPER = "module."
"""Where the user's module stands in the one that is exported."""


def states_of(exported: ExportedProgram, sources: Mapping[int, Source]) -> dict[str, Tensor]:
    """The buffers that a program changes, by name, with their values before its first call.

    They get the names, in place, that they have in the user's own module.

    Raises:
        CaptureError: A buffer has a dtype that states cannot have, or an input is changed in place.
    """
    signature = exported.graph_signature
    _refuse_changed_inputs(exported)
    targets = list(dict.fromkeys(signature.buffers_to_mutate.values()))
    states: dict[str, Tensor] = {}
    for target in targets:
        store = exported.state_dict if target in exported.state_dict else exported.constants
        value: Any = store[target]
        name = target.removeprefix(_WRAPPER)
        _require_float(exported, target, name, value, sources)
        if name != target:
            store[name] = store.pop(target)
        for spec in (*signature.input_specs, *signature.output_specs):
            if spec.target == target and spec.kind in (InputKind.BUFFER, OutputKind.BUFFER_MUTATION):
                spec.target = name
        states[name] = value
    return states


def _refuse_changed_inputs(exported: ExportedProgram) -> None:
    changed = sorted(set(exported.graph_signature.user_inputs_to_mutate.values()))
    if changed:
        raise CaptureError(
            f"forward changes its input{'s' * (len(changed) > 1)} {', '.join(changed)} in place, and the inputs of an "
            "ML Program cannot change.\n  Begin with a copy (x = x.clone()); or, to keep the change for the next call, "
            "make it a buffer (register_buffer),\n  which becomes a state."
        )


def _require_float(
    exported: ExportedProgram, target: str, name: str, value: Tensor, sources: Mapping[int, Source]
) -> None:
    if value.is_floating_point():
        return
    writer = next(node for node, buffer in exported.graph_signature.buffers_to_mutate.items() if buffer == target)
    node = next(node for node in exported.graph.nodes if node.name == writer)
    source = sources.get(node.meta.get("debug_handle", -1))
    where = f"\n  at {source}" if source else ""
    raise CaptureError(
        f"forward changes the buffer '{name}' in place, which holds {str(value.dtype).removeprefix('torch.')}, and "
        f"Core ML keeps states in FP16 alone, where whole\n  numbers end at 2048.{where}\n  Pass it in as an input and "
        "return its new value; a position, for example, the app can count itself."
    )


def changed_by_script(module: torch.jit.ScriptModule, batch: Batch) -> dict[str, Tensor]:
    """The buffers that one call of a TorchScript module changes, with what they hold before and after it."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with buffers_kept(module):
        call(module, batch)
        changed = [name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name])]
    return {name: before[name] for name in changed}


@contextlib.contextmanager
def buffers_kept(module: nn.Module | ExportedProgram) -> Generator[None]:
    """Let a module run within, and put its buffers back afterwards."""
    buffers = list(module.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
