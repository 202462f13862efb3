"""coremltools, imported quietly.

On any OS but macOS coremltools logs one warning for each missing native library, and it writes progress bars and hints
about its own graph to stderr. Users of nanproof can act on none of these, so they are held back; errors are not.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from typing import Any

__all__ = [
    "AbstractGraphPass",
    "CompiledMLModel",
    "Function",
    "MILProgram",
    "ScopeInfo",
    "ScopeSource",
    "TorchNode",
    "TranscriptionContext",
    "add_int16_cast",
    "block_context_manager",
    "convert_node",
    "ct",
    "graph_pass",
    "is_target",
    "load_function",
    "mb",
    "mil_convert",
    "mlmodel",
    "promote_input_dtypes",
    "quiet",
    "register_pass",
    "register_torch_op",
    "torch_ops",
    "types",
]

_LOGGER = logging.getLogger("coremltools")


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Hold back coremltools' hints and progress bars while it works."""
    level = _LOGGER.level
    _LOGGER.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        _LOGGER.setLevel(level)


with quiet():
    import coremltools
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil import converter as _converter
    from coremltools.converters.mil.frontend.milproto import load as _milproto
    from coremltools.converters.mil.frontend.torch import ops as _torch_ops
    from coremltools.converters.mil.frontend.torch import torch_op_registry
    from coremltools.converters.mil.frontend.torch.internal_graph import InternalTorchIRNode
    from coremltools.converters.mil.mil import Function as _Function
    from coremltools.converters.mil.mil import Program as _Program
    from coremltools.converters.mil.mil import types as _types
    from coremltools.converters.mil.mil.block import is_current_opset_version_compatible_with
    from coremltools.converters.mil.mil.ops.defs._utils import promote_input_dtypes as _promote_input_dtypes
    from coremltools.converters.mil.mil.passes import pass_registry
    from coremltools.converters.mil.mil.passes.defs.quantization import add_int16_cast
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.converters.mil.mil.passes.helper import block_context_manager
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource
    from coremltools.models import CompiledMLModel
    from coremltools.models import model as mlmodel

# coremltools makes most of its names at run time (``mb.relu`` stands nowhere in its text), so no checker can know them.
ct: Any = coremltools
mb: Any = Builder
Function: Any = _Function
types: Any = _types
torch_ops: Any = _torch_ops
TorchNode: Any = InternalTorchIRNode
convert_node: Any = _torch_ops.convert_single_node
promote_input_dtypes: Any = _promote_input_dtypes
is_target: Any = is_current_opset_version_compatible_with
"""Whether the program that is being built may hold the ops of a deployment target."""
mil_convert: Any = _converter.mil_convert
load_function: Any = _milproto._load_function  # pyright: ignore[reportPrivateUsage]
"""The message of a function → a function of a MIL program. What reads the weights is in its context."""
TranscriptionContext: Any = _milproto.TranscriptionContext
MILProgram: Any = _Program
register_torch_op: Any = torch_op_registry.register_torch_op
register_pass: Any = pass_registry.register_pass


def graph_pass(name: str) -> Any:
    """The graph pass of a name, such as ``"common::dead_code_elimination"``: to be called with a program."""
    return pass_registry.PASS_REGISTRY[name]
