"""``nn.Module`` and example inputs → :class:`Captured`."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map

from nanproof.capture.decompositions import table
from nanproof.errors import CaptureError, InputError
from nanproof.program import Source

__all__ = ["Batch", "Captured", "as_batch", "call", "capture"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n\s*(?P<code>.*)')
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True)
class Batch:
    """The arguments of one call of a module: positional and by keyword."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the call, in the order in which torch.export makes them inputs."""
        leaves = tree_leaves((self.args, dict(self.kwargs)))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def with_tensors(self, tensors: Sequence[Tensor]) -> Batch:
        """The same call with other tensors, in the order of :attr:`tensors`."""
        fresh = iter(tensors)

        def swapped(leaf: Any) -> Any:
            return next(fresh) if isinstance(leaf, Tensor) else leaf

        args, kwargs = tree_map(swapped, (self.args, dict(self.kwargs)))
        return Batch(args, kwargs)


@dataclass(frozen=True, slots=True)
class Captured:
    """An exported program in core ATen, its example call, and the source of each of its nodes by name."""

    exported: ExportedProgram
    example: Batch
    sources: Mapping[str, Source]
    input_names: tuple[str, ...]


def as_batch(inputs: Any) -> Batch:
    """One call's arguments: a tensor, a tuple or list (positional), a mapping (by keyword), or a :class:`Batch`.

    Raises:
        InputError: There are no inputs, or they are of another kind.
    """
    if isinstance(inputs, Batch):
        return inputs
    if isinstance(inputs, Tensor):
        return Batch((inputs,), {})
    if isinstance(inputs, Mapping):
        batch = Batch((), dict(inputs))
    elif isinstance(inputs, (tuple, list)):
        batch = Batch(tuple(inputs), {})
    else:
        raise InputError(
            f"Example inputs are missing or of an unknown kind ({type(inputs).__name__}). Pass what you would pass to "
            "the module: a tensor, a tuple of positional arguments, or a dict of keyword arguments."
        )
    if not batch.tensors:
        raise InputError("The example inputs hold no tensor. Pass what you would pass to the module's forward.")
    return batch


def call(module: nn.Module | ExportedProgram, batch: Batch) -> list[Tensor]:
    """Run a module on one call's arguments and return its tensors, flattened in order, detached."""
    runnable = module.module() if isinstance(module, ExportedProgram) else module
    guard = contextlib.nullcontext() if isinstance(module, ExportedProgram) else _evaluating(module)
    with torch.no_grad(), guard:
        outputs = runnable(*batch.args, **dict(batch.kwargs))
    leaves = tree_leaves(outputs)
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]


def capture(module: Any, example_inputs: Any) -> Captured:
    """Export a module in evaluation mode and decompose it to core ATen.

    The module's training flags are as before when this returns.

    Args:
        module: The module, or a program that ``torch.export`` made.
        example_inputs: Arguments of one call; see :func:`as_batch`. For an ``ExportedProgram`` ``None`` takes the
            example inputs that it carries.

    Raises:
        InputError: The example inputs are missing.
        CaptureError: The module does not run on them, or torch.export cannot capture it.
    """
    if isinstance(module, ExportedProgram) and example_inputs is None:
        args, kwargs = module.example_inputs or ((), {})
        example_inputs = Batch(tuple(args), dict(kwargs))
    if not isinstance(module, (nn.Module, ExportedProgram)):
        raise CaptureError(
            f"nanproof converts a torch.nn.Module or a torch.export.ExportedProgram, not {type(module).__name__}."
        )
    batch = as_batch(example_inputs)
    exported = module if isinstance(module, ExportedProgram) else _export(module, batch)
    try:
        with _fewer_warnings():
            decomposed = exported.run_decompositions(table())
    except Exception as error:  # torch raises whatever its passes and the module's own operators raise
        raise CaptureError(
            f"torch.export captured the module, but cannot decompose it to core ATen: {error}"
        ) from error
    return Captured(decomposed, batch, _sources(decomposed), tuple(decomposed.graph_signature.user_inputs))  # type: ignore[arg-type]


def _export(module: nn.Module, batch: Batch) -> ExportedProgram:
    name = type(module).__name__
    try:
        with _fewer_warnings(), _evaluating(module):
            return torch.export.export(module, tuple(batch.args), dict(batch.kwargs), strict=False)
    except Exception as error:  # torch.export has no common base for its errors
        _require_working(module, batch)
        raise CaptureError(
            f"torch.export cannot capture {name}: {type(error).__name__}: {_first_lines(error)}\n"
            "  The module runs on these inputs, so the cause is Python that depends on tensor values, or an operator\n"
            "  without a fake kernel. `torch.export.export(module, inputs, strict=False)` shows the same error in full."
        ) from error


def _require_working(module: nn.Module, batch: Batch) -> None:
    """Tell a module that fails by itself from one that torch.export cannot capture."""
    try:
        call(module, batch)
    except Exception as error:  # the module is the user's code: it may raise anything
        raise CaptureError(
            f"The module {type(module).__name__} fails on the example inputs, before any conversion: "
            f"{type(error).__name__}: {error}\n"
            f"  Inputs: {_described(batch)}.\n  Pass the inputs that its forward takes."
        ) from error


def _described(batch: Batch) -> str:
    tensors = [f"{t.dtype}{list(t.shape)}".removeprefix("torch.") for t in batch.tensors]
    return ", ".join(tensors)


def _first_lines(error: Exception, most: int = 6) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return "\n  ".join(lines[:most])


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Generator[None]:
    """Evaluation mode within, and each submodule's own flag again afterwards."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in flags:
            submodule.training = training


@contextlib.contextmanager
def _fewer_warnings() -> Generator[None]:
    """torch.export warns about its own internals (deprecated tree specs), on which no user can act."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


def _sources(exported: ExportedProgram) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for node in exported.graph.nodes:
        frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
        # The innermost frame of the model's own code: torch.nn's forward methods say less than who called them.
        own = [f for f in frames if not f["file"].startswith(_TORCH)] or frames
        if own:
            stack: Sequence[Any] = tuple((node.meta.get("nn_module_stack") or {}).values())
            path = str(stack[-1][0]) if stack else ""
            sources[node.name] = Source(
                own[-1]["file"], int(own[-1]["line"]), own[-1]["code"].strip(), _module_path(path)
            )
    return sources


def _module_path(path: str) -> str:
    return re.sub(r"^L\['self'\]\.?", "", path)
