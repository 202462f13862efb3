"""A module, an exported program or TorchScript, and example inputs → :class:`Captured`."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map_only

from nanproof.capture.author import Author, author_of, half_copy, located
from nanproof.capture.batch import Batch, as_batch, call, evaluating, script_parameters, tensors_only
from nanproof.capture.constant_masks import drop_empty_masks
from nanproof.capture.control_flow import attach_blocks, nodes_of
from nanproof.capture.decompositions import table
from nanproof.capture.inlining import inline_blocks
from nanproof.capture.narrow_ranks import narrow_ranks
from nanproof.capture.signature import keep_tensors
from nanproof.capture.states import buffers_kept, changed_by_script, states_of
from nanproof.errors import CaptureError, InputError
from nanproof.program import Source

__all__ = ["Captured", "capture"]

_ABSENT = {
    torch.bfloat16: "Convert the float32 model: module.float(), with float inputs; and where its code names bfloat16, "
    "name x.dtype.",
    torch.complex64: "Write the operation with real tensors, such as the real and imaginary parts.",
    torch.complex128: "Write the operation with real tensors, such as the real and imaginary parts.",
}
_LIBRARIES = ("<", str(Path(__file__).parent.parent), str(Path(torch.__file__).parent))
"""What says less than who called it: code that PyTorch generates of a function that is passed to ``torch.cond``,
nanproof, whose wrapper says nothing, and PyTorch's own forward methods."""


@dataclass(frozen=True, slots=True)
class Captured:
    """An exported program in core ATen, its example call, and the source of each of its nodes by ``debug_handle``.

    Of TorchScript it is the module itself, without sources: its files keep none that could be shown. ``output_names``
    are the keys of a mapping that the module returns, and empty if it returns none. ``states`` are the buffers that it
    changes, with what they hold before the first call. ``author`` is what the module's code says of precision, where
    that was asked for.
    """

    exported: ExportedProgram | torch.jit.ScriptModule
    example: Batch
    sources: Mapping[int, Source]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...] = ()
    states: Mapping[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    author: Author = field(default_factory=Author)


def capture(module: Any, example_inputs: Any, dynamic_shapes: Any = None, *, with_author: bool = False) -> Captured:
    """Export a module in evaluation mode and decompose it to core ATen. TorchScript is taken as it is.

    The module's training flags are as before when this returns.

    Args:
        module: The module, a program that ``torch.export`` made, or what ``torch.jit.trace`` or ``script`` made.
        example_inputs: Arguments of one call; see :func:`as_batch`. For an ``ExportedProgram`` ``None`` takes the
            example inputs that it carries.
        dynamic_shapes: As in ``torch.export.export``, for a module alone; a list has an entry for each tensor.
        with_author: Whether to find out what the module computes in float32 on purpose.

    Raises:
        InputError: The example inputs are missing.
        CaptureError: The module does not run on them, or torch.export cannot capture it.
    """
    given = example_inputs is not None
    if isinstance(module, ExportedProgram) and not given:
        args, kwargs = module.example_inputs or ((), {})
        example_inputs = Batch(tuple(args), dict(kwargs))
    if not isinstance(module, (nn.Module, ExportedProgram)):
        raise CaptureError(
            "nanproof converts a torch.nn.Module, a torch.export.ExportedProgram or a torch.jit.ScriptModule, not "
            f"{type(module).__name__}."
        )
    batch = as_batch(example_inputs, module)
    if isinstance(module, torch.jit.ScriptModule):
        _require_working(module, batch)
        states = changed_by_script(module, batch)
        return Captured(module, batch, {}, tuple(script_parameters(module)[: len(batch.args)]), states=states)
    names: tuple[str, ...] = ()
    if isinstance(module, ExportedProgram):
        if given:  # the arguments and shapes that it was exported with, and no others
            _require_working(module, batch)
        exported = _copied(module)
    else:
        exported, names = _export(module, batch, dynamic_shapes)
    drop_empty_masks(exported)
    inline_blocks(exported)
    author = Author()
    if with_author and isinstance(module, nn.Module):
        author = author_of(exported, lambda: _exported_in_half(module, batch, dynamic_shapes), _source)
    try:
        with _fewer_warnings():
            decomposed = exported.run_decompositions(table())
    except Exception as error:  # torch raises whatever its passes and the module's own operators raise
        raise CaptureError(
            f"torch.export captured the module, but cannot decompose it to core ATen: {error}"
        ) from error
    keep_tensors(decomposed)
    narrow_ranks(decomposed)
    attach_blocks(decomposed, _LIBRARIES)
    _rename_ambiguous(decomposed)
    sources = _sources(decomposed)
    _refuse_dtypes(decomposed, sources)
    states = states_of(decomposed, sources)
    inputs: Any = decomposed.graph_signature.user_inputs
    author = located(author, decomposed)
    return Captured(decomposed, batch, sources, tuple(inputs), _usable(names, decomposed), states, author)


def _usable(names: Sequence[str], exported: ExportedProgram) -> tuple[str, ...]:
    """The names of the outputs, unless they do not do as names of values of the program."""
    outputs: Any = exported.graph_signature.user_outputs
    others = {node.name: node.op for node in exported.graph.nodes}
    made = len(set(outputs)) == len(outputs) == len(names) and all(others.get(o) == "call_function" for o in outputs)
    free = all(name.isidentifier() and name not in others for name in names)
    return tuple(names) if made and free and len(set(names)) == len(names) else ()


def _export(module: nn.Module, batch: Batch, dynamic_shapes: Any) -> tuple[ExportedProgram, tuple[str, ...]]:
    name = type(module).__name__
    try:
        return _exported(module, batch, dynamic_shapes)
    except InputError:
        raise
    except Exception as error:  # torch.export has no common base for its errors
        _require_working(module, batch)
        raise CaptureError(
            f"torch.export cannot capture {name}: {type(error).__name__}: {_first_lines(error)}\n"
            "  The module runs on these inputs, so the cause is Python that depends on tensor values, or an operator\n"
            "  without a fake kernel. `torch.export.export(module, inputs, strict=False)` shows the same error in full."
        ) from error


def _exported(module: nn.Module, batch: Batch, dynamic_shapes: Any) -> tuple[ExportedProgram, tuple[str, ...]]:
    wrapped = tensors_only(module, batch)
    # coremltools 9.0 refuses inputs that are laid out in another order than that of their axes.
    args, kwargs = tree_map_only(
        torch.Tensor, torch.Tensor.contiguous, (wrapped.batch.args, dict(wrapped.batch.kwargs))
    )
    dynamic = _by_argument(dynamic_shapes, wrapped.batch)
    with _fewer_warnings(), evaluating(module):
        exported = torch.export.export(wrapped.module, args, kwargs, dynamic_shapes=dynamic, strict=False)
        return exported, tuple(wrapped.output_names)


def _exported_in_half(module: nn.Module, batch: Batch, dynamic_shapes: Any) -> ExportedProgram:
    exported, _ = _exported(*half_copy(module, batch), dynamic_shapes)
    inline_blocks(exported)
    return exported


def _by_argument(dynamic_shapes: Any, batch: Batch) -> Any:
    """Dynamic shapes for a call whose arguments are named: torch.export wants them in the form of the call."""
    if dynamic_shapes is None or not batch.kwargs:
        return tuple(dynamic_shapes) if isinstance(dynamic_shapes, list) else dynamic_shapes
    if isinstance(dynamic_shapes, (tuple, list)):
        return dict(zip((*(f"arg{i}" for i in range(len(batch.args))), *batch.kwargs), dynamic_shapes, strict=True))
    unknown = sorted(set(dynamic_shapes) - set(batch.kwargs))
    if unknown:
        raise InputError(f"dynamic_shapes names {', '.join(unknown)}, and the inputs are {', '.join(batch.kwargs)}.")
    return {name: dynamic_shapes.get(name) for name in batch.kwargs}


def _copied(exported: ExportedProgram) -> ExportedProgram:
    """The same program in a graph of its own, which may be changed. Weights are shared."""
    with _fewer_warnings():
        return exported.run_decompositions({})


def _rename_ambiguous(exported: ExportedProgram) -> None:
    """Rename nodes that are called like a string argument of another node, in place.

    coremltools 9.0 looks every argument up among the values of the graph first: with a node named ``tanh`` in the graph
    (a soft-capped attention, say) ``gelu(x, approximate="tanh")`` gets that tensor for its mode, and becomes exact.
    """
    leaves = [leaf for node in nodes_of(exported) for leaf in tree_leaves((node.args, node.kwargs))]
    words = {leaf for leaf in leaves if isinstance(leaf, str)}
    for node in nodes_of(exported):
        if node.op == "call_function" and node.name in words:
            old, node.name = node.name, f"{node.name}_value"
            for spec in exported.graph_signature.output_specs:
                if getattr(spec.arg, "name", None) == old:
                    spec.arg.name = node.name  # type: ignore[union-attr]


def _refuse_dtypes(exported: ExportedProgram, sources: Mapping[int, Source]) -> None:
    """Name the first tensor of a type that MIL lacks; coremltools would only name the type.

    Raises:
        CaptureError: The graph holds a bfloat16 or complex tensor.
    """
    for node in nodes_of(exported):
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if dtype not in _ABSENT:
            continue
        source = sources.get(node.meta["debug_handle"])
        where = f"\n  It is '{node.name}'" + (f", {source}." if source else ".")
        name = str(dtype).removeprefix("torch.")
        raise CaptureError(
            f"The model computes with {name} tensors, which ML Programs lack.{where}\n  {_ABSENT[dtype]}"
        )


def _require_working(module: nn.Module | ExportedProgram, batch: Batch) -> None:
    """Tell a module that fails by itself from one that torch.export cannot capture."""
    try:
        with buffers_kept(module):
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


def _sources(exported: ExportedProgram) -> dict[int, Source]:
    """The source of each node by its handle, which coremltools' passes hand on to the ops that they make of it."""
    sources: dict[int, Source] = {}
    for handle, node in enumerate(nodes_of(exported)):
        node.meta["debug_handle"] = handle
        source = _source(node)
        if source is not None:
            sources[handle] = source
    return sources


def _source(node: fx.Node) -> Source | None:
    stack: Sequence[Any] = tuple((node.meta.get("nn_module_stack") or {}).values())
    path = _module_path(str(stack[-1][0])) if stack else ""
    return Source.of_trace(node.meta.get("stack_trace") or "", module=path, libraries=_LIBRARIES)


def _module_path(path: str) -> str:
    return re.sub(r"^(L\['self'\])?\.?(module\.|module$)?", "", path)
