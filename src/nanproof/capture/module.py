"""``nn.Module`` and example inputs → :class:`Captured`."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from nanproof.capture.batch import Batch, as_batch, call, evaluating, tensors_only
from nanproof.capture.constant_masks import drop_empty_masks
from nanproof.capture.decompositions import table
from nanproof.errors import CaptureError
from nanproof.program import Source

__all__ = ["Captured", "capture"]

_ABSENT = {
    torch.bfloat16: "Convert the float32 model: module.float(), with float inputs.",
    torch.complex64: "Write the operation with real tensors, such as the real and imaginary parts.",
    torch.complex128: "Write the operation with real tensors, such as the real and imaginary parts.",
}
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True)
class Captured:
    """An exported program in core ATen, its example call, and the source of each of its nodes by name."""

    exported: ExportedProgram
    example: Batch
    sources: Mapping[str, Source]
    input_names: tuple[str, ...]


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
    batch = as_batch(example_inputs, module)
    # Running no decompositions makes a copy: the program that was given is the user's.
    exported = module.run_decompositions({}) if isinstance(module, ExportedProgram) else _export(module, batch)
    drop_empty_masks(exported)
    try:
        with _fewer_warnings():
            decomposed = exported.run_decompositions(table())
    except Exception as error:  # torch raises whatever its passes and the module's own operators raise
        raise CaptureError(
            f"torch.export captured the module, but cannot decompose it to core ATen: {error}"
        ) from error
    _rename_ambiguous(decomposed)
    sources = _sources(decomposed)
    _refuse_dtypes(decomposed, sources)
    return Captured(decomposed, batch, sources, tuple(decomposed.graph_signature.user_inputs))  # type: ignore[arg-type]


def _export(module: nn.Module, batch: Batch) -> ExportedProgram:
    name = type(module).__name__
    try:
        wrapped, tensors = tensors_only(module, batch)
        with _fewer_warnings(), evaluating(module):
            return torch.export.export(wrapped, tensors.args, dict(tensors.kwargs), strict=False)
    except Exception as error:  # torch.export has no common base for its errors
        _require_working(module, batch)
        raise CaptureError(
            f"torch.export cannot capture {name}: {type(error).__name__}: {_first_lines(error)}\n"
            "  The module runs on these inputs, so the cause is Python that depends on tensor values, or an operator\n"
            "  without a fake kernel. `torch.export.export(module, inputs, strict=False)` shows the same error in full."
        ) from error


def _rename_ambiguous(exported: ExportedProgram) -> None:
    """Rename nodes that are called like a string argument of another node, in place.

    coremltools 9.0 looks every argument up among the values of the graph first: with a node named ``tanh`` in the graph
    (a soft-capped attention, say) ``gelu(x, approximate="tanh")`` gets that tensor for its mode, and becomes exact.
    """
    leaves = [leaf for node in exported.graph.nodes for leaf in tree_leaves((node.args, node.kwargs))]
    words = {leaf for leaf in leaves if isinstance(leaf, str)}
    for node in exported.graph.nodes:
        if node.op == "call_function" and node.name in words:
            old, node.name = node.name, f"{node.name}_value"
            for spec in exported.graph_signature.output_specs:
                if getattr(spec.arg, "name", None) == old:
                    spec.arg.name = node.name  # type: ignore[union-attr]


def _refuse_dtypes(exported: ExportedProgram, sources: Mapping[str, Source]) -> None:
    """Name the first tensor of a type that MIL lacks; coremltools would only name the type.

    Raises:
        CaptureError: The graph holds a bfloat16 or complex tensor.
    """
    for node in exported.graph.nodes:
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if dtype not in _ABSENT:
            continue
        where = f"\n  It is '{node.name}'" + (f", {sources[node.name]}." if node.name in sources else ".")
        name = str(dtype).removeprefix("torch.")
        raise CaptureError(
            f"The model computes with {name} tensors, which ML Programs lack.{where}\n  {_ABSENT[dtype]}"
        )


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
        stack: Sequence[Any] = tuple((node.meta.get("nn_module_stack") or {}).values())
        path = _module_path(str(stack[-1][0])) if stack else ""
        # torch.nn's own forward methods say less than who called them.
        source = Source.of_trace(node.meta.get("stack_trace") or "", module=path, below=_TORCH)
        if source is not None:
            sources[node.name] = source
    return sources


def _module_path(path: str) -> str:
    return re.sub(r"^(L\['self'\])?\.?(module\.|module$)?", "", path)
