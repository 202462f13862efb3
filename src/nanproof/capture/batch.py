"""The arguments of one call of a module, and the tensors that go in and come out."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map

from nanproof.errors import InputError

__all__ = ["Batch", "TensorsOnly", "as_batch", "call", "evaluating", "returned", "script_parameters", "tensors_only"]

_OPEN_ENDED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


@dataclass(frozen=True, slots=True)
class Batch:
    """The arguments of one call of a module: positional and by keyword."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the call, in the order in which torch.export makes them inputs."""
        return _tensors((self.args, dict(self.kwargs)))

    def with_tensors(self, tensors: Sequence[Tensor]) -> Batch:
        """The same call with other tensors, in the order of :attr:`tensors`."""
        fresh = iter(tensors)

        def swapped(leaf: Any) -> Any:
            return next(fresh) if isinstance(leaf, Tensor) else leaf

        args, kwargs = tree_map(swapped, (self.args, dict(self.kwargs)))
        return Batch(args, kwargs)


def as_batch(inputs: Any, module: nn.Module | ExportedProgram | None = None) -> Batch:
    """One call's arguments: a tensor, a tuple or list (positional), a mapping (by keyword), or a :class:`Batch`.

    With a module whose forward names all its parameters, all arguments are named, in the order of its signature:
    whichever way a call is written, its tensors come in one order.

    Raises:
        InputError: There are no inputs, or they are of another kind.
    """
    if isinstance(inputs, Batch):
        batch = inputs
    elif isinstance(inputs, Tensor):
        batch = Batch((inputs,), {})
    elif isinstance(inputs, Mapping):
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
    if isinstance(module, torch.jit.ScriptModule):
        return _positional(batch, module)
    return _named(batch, module) if isinstance(module, nn.Module) else batch


def call(module: nn.Module | ExportedProgram, batch: Batch) -> list[Tensor]:
    """Run a module on one call's arguments and return its tensors, flattened in order, detached.

    What is no tensor (``None``, a cache object of transformers) is left out, and so is a tensor returned a second time.
    """
    if isinstance(module, ExportedProgram):  # it has no modes any more
        return returned(module.module(), batch)
    with evaluating(module):
        return returned(module, batch)


def returned(runnable: nn.Module, batch: Batch) -> list[Tensor]:
    """As :func:`call`, in whichever mode the module is."""
    with torch.no_grad():
        outputs = runnable(*batch.args, **dict(batch.kwargs))
    return [tensor.detach() for tensor in _distinct(outputs)]


@dataclass(frozen=True, slots=True, eq=False)
class TensorsOnly:
    """A module that takes and returns tensors, a call of it, and the names that its last call gave the outputs.

    ``output_names`` are the keys of a mapping that was returned, else none.
    """

    module: nn.Module
    batch: Batch
    output_names: list[str] = field(default_factory=list[str])


def tensors_only(module: nn.Module, batch: Batch) -> TensorsOnly:
    """The module as Core ML can have it: it takes tensors and returns tensors.

    Arguments that hold no tensor (numbers, flags, ``None``) are built in; what :func:`call` leaves out of the result is
    not returned. Parameter names and the module's own submodules stay as they are.
    """
    names: list[str] = []
    fixed = {name: value for name, value in batch.kwargs.items() if not _tensors(value)}
    given = {name: value for name, value in batch.kwargs.items() if name not in fixed}

    @functools.wraps(module.forward)
    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        outputs = module(*args, **kwargs, **fixed)
        names[:] = _output_names(outputs)
        return tuple(_distinct(outputs))

    signature = inspect.signature(module.forward)
    if fixed:
        kept = [p for name, p in signature.parameters.items() if name not in fixed]
        signature = signature.replace(parameters=kept)
    forward.__signature__ = signature  # type: ignore[attr-defined] - torch.export names the inputs after it
    return TensorsOnly(_Wrapper(module, forward), Batch(batch.args, given), names)


class _Wrapper(nn.Module):
    """A module with another forward."""

    def __init__(self, module: nn.Module, forward: Any) -> None:
        super().__init__()
        self.module = module
        self.forward = forward


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Generator[None]:
    """Evaluation mode within, and each submodule's own flag again afterwards."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, training in flags:
            submodule.training = training


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _distinct(tree: Any) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in _tensors(tree)}.values())


def _output_names(tree: Any) -> list[str]:
    """Names of the tensors of :func:`_distinct`: the keys of a mapping, with a number where a key has several."""
    names: dict[int, str] = {}
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        fresh = [tensor for tensor in _distinct(value) if id(tensor) not in names]
        names |= {id(tensor): f"{key}_{i}" if len(fresh) > 1 else str(key) for i, tensor in enumerate(fresh)}
    return list(names.values())


def script_parameters(module: torch.jit.ScriptModule) -> list[str]:
    """Names of the parameters of a TorchScript module's forward, ``self`` left out."""
    forward: Any = module.forward
    return [argument.name for argument in forward.schema.arguments[1:]]


def _positional(batch: Batch, module: torch.jit.ScriptModule) -> Batch:
    """TorchScript's inputs are those of its schema, by position.

    Raises:
        InputError: An argument has a name that forward does not have.
    """
    names = script_parameters(module)[len(batch.args) :]
    unknown = [name for name in batch.kwargs if name not in names]
    if unknown:
        raise InputError(
            f"The TorchScript module takes {', '.join(script_parameters(module))}, and not {', '.join(unknown)}.\n"
            "  Name the inputs as its forward does, or pass a tuple."
        )
    return Batch((*batch.args, *(batch.kwargs[name] for name in names if name in batch.kwargs)), {})


def _named(batch: Batch, module: nn.Module) -> Batch:
    signature = inspect.signature(module.forward)
    if any(p.kind in _OPEN_ENDED for p in signature.parameters.values() if not p.name.startswith("kwargs")):
        return batch
    try:
        bound = signature.bind(*batch.args, **dict(batch.kwargs))
    except TypeError:  # the module itself says what is wrong, when it is called
        return batch
    arguments = dict(bound.arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= arguments.pop(name, {})
    return Batch((), arguments)
