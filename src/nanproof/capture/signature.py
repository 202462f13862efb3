"""The inputs and outputs of an exported program, as Core ML can have them: tensors, each of them once."""

from __future__ import annotations

from typing import Any

from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

__all__ = ["keep_tensors"]


def keep_tensors(exported: ExportedProgram) -> None:
    """Drop, in place, inputs that are numbers, flags or ``None`` (torch.export has built them in), and such outputs.

    Of a tensor that is returned twice the first is kept. coremltools 9.0 fails for all of these.
    """
    signature = exported.graph_signature
    constant = {
        spec.arg.name
        for spec in signature.input_specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, ConstantArgument)
    }
    for node in list(exported.graph.nodes):
        if node.op == "placeholder" and node.name in constant and not node.users:
            exported.graph.erase_node(node)
    signature.input_specs[:] = [spec for spec in signature.input_specs if getattr(spec.arg, "name", "") not in constant]
    output = exported.graph.output_node()
    values: Any = output.args[0]
    kept: list[Any] = []
    seen: set[str] = set()
    for spec, value in zip(signature.output_specs, values, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT and (isinstance(spec.arg, ConstantArgument) or spec.arg.name in seen):
            continue
        if spec.kind is OutputKind.USER_OUTPUT:
            seen.add(spec.arg.name)
        kept.append((spec, value))
    if len(kept) < len(values):
        output.args = (tuple(value for _, value in kept),)
        signature.output_specs[:] = [spec for spec, _ in kept]
    exported.graph_module.recompile()
