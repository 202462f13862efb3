"""`nanproof.diagnose`: why a program, or a module that is converted as coremltools does, is wrong in FP16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.export import ExportedProgram

from nanproof.capture.batch import Batch, as_batch
from nanproof.capture.conversation import Reference
from nanproof.capture.examples import widened, widened_batch
from nanproof.capture.module import Captured, capture
from nanproof.capture.pretrained_inputs import example_of, is_pretrained
from nanproof.comparison.compare import Comparison, as_batches, compare_outputs, named_inputs
from nanproof.diagnosis.culprit import Culprit, Diagnosis
from nanproof.diagnosis.examine import examine
from nanproof.diagnosis.twins import exact_constants
from nanproof.errors import InputError, UsageError
from nanproof.findings import KINDS, Finding
from nanproof.interpret.batches import as_batches as program_batches
from nanproof.interpret.execute import Executor
from nanproof.interpret.state import Turn
from nanproof.mil.declared import tensor_types
from nanproof.mil.frontend import Options, Typing, lower, package
from nanproof.mil.package import ScratchFolder, write_model
from nanproof.mil.read import load_program
from nanproof.mil.reflect import reflect
from nanproof.mil.sources import with_sources
from nanproof.numerics import get
from nanproof.program import Pipeline, Program, Value

__all__ = ["Plain", "diagnose", "plain"]

_LOWERING_TOLERANCE = 1e-3
"""As for a conversion: rounding in another order stays far below this on any sane model."""


def diagnose(
    model: Program | nn.Module | ExportedProgram | str | PathLike[str],
    inputs: Any = None,
    *,
    numerics: str | Sequence[str] = "gpu",
    tolerance: float = 1e-2,
    minimum_deployment_target: Any = "iOS17",
) -> Diagnosis:
    """Find the ops, and their lines, that make a model wrong in FP16, most to blame first.

    The model runs once under the numerics of the unit and in float32 beside it. The error of the outputs is followed
    back, element by element, to the ops that made it; then the ops of the first finding are computed in FP32 in one
    more run, to see what is left. An Inf that became a finite number on its way is found like any other, and so are
    numbers that round to zero or vanish in a sum. What does not change the outputs is no finding. One input costs at
    most about four executions of the program under each unit.

    Args:
        model: A program (or the path of an ``.mlpackage``), as it is: float32 then computes with its own constants. Or
            a PyTorch module or exported program: it is converted to FP16 as coremltools types it, without any rewrite,
            to see what breaks; float32 then has the constants as PyTorch has them.
        inputs: For a program one mapping from input names to arrays, or several; for a module what you would pass to
            it, or a list of such. It may be left out for a model of transformers.
        numerics: Names of numerics: ``"gpu"``, ``"strict"``, ``"cpu"``, ``"ane"``, ...
        tolerance: Largest error of an output, relative to its range, that counts as the same.
        minimum_deployment_target: For a module: what it is converted for.

    Returns:
        The diagnosis: ``verdict``, ``culprits``, ``outputs``, and what was harmless.

    Raises:
        UsageError: The model or the inputs are of another kind, or the module cannot be converted.
        NumericsError: There is no such numerics.
        CouldNotCheckError: The program holds an op that cannot be executed.
    """
    units = [get(unit).name for unit in ([numerics] if isinstance(numerics, str) else numerics)]
    if not units:
        raise UsageError("No numerics were given, so nothing could be diagnosed. Pass numerics='gpu', for example.")
    if isinstance(model, (str, PathLike)):
        model = load_program(Path(model))
    if isinstance(model, Pipeline):
        raise UsageError("This is a pipeline of several programs. Diagnose a stage of it: pipeline.stages['...'].")
    if isinstance(model, Program):
        if inputs is None:
            raise InputError(f"The program has to run on something. It takes {', '.join(model.inputs)}: pass inputs.")
        return examine(model, program_batches(model.interface, inputs), units, tolerance=tolerance)
    made = plain(model, inputs, minimum_deployment_target=minimum_deployment_target)
    found = examine(made.program, made.inputs, units, constants=made.constants, tolerance=tolerance)
    return _with_lowering(found, made)


@dataclass(frozen=True, slots=True, eq=False)
class Plain:
    """A module converted to FP16 as coremltools types it, and nothing else.

    Attributes:
        program: The written file, read back.
        fp32: The float32 program of which it was made.
        inputs: The calls by input names.
        constants: What the constants of ``program`` were in float32.
        fidelity: How far the float32 program is from PyTorch.
        folder: Where the file is; it goes with this object.
    """

    program: Program
    fp32: Program
    inputs: Sequence[Mapping[str, np.ndarray]]
    constants: Mapping[Value, np.ndarray]
    fidelity: Comparison
    folder: ScratchFolder


def plain(model: Any, inputs: Any, *, minimum_deployment_target: Any = "iOS17") -> Plain:
    """Convert a module to FP16 without rewrites, and compare the float32 program with PyTorch.

    Raises:
        UsageError: There are no inputs, or the module cannot be captured or lowered.
    """
    if not isinstance(model, (nn.Module, ExportedProgram)):
        raise UsageError(
            f"This is a {type(model).__name__}, and neither a program, a torch.nn.Module nor the path of an .mlpackage."
        )
    module = widened(model)
    if inputs is None and is_pretrained(module):
        inputs = example_of(module)
    batches = as_batches(inputs, module)
    batches = batches if module is model else [widened_batch(batch) for batch in batches]
    captured = capture(module, batches[0], None, with_author=False)
    options = _options(captured, minimum_deployment_target)
    pymil = lower(captured.exported, options)
    fp32 = reflect(pymil, captured.sources)
    calls, fidelity = _faithful(module, captured, fp32, [captured.example, *batches[1:]])
    packaged = package(pymil, Typing(), options, captured.sources)
    folder = ScratchFolder()
    write_model(packaged.model, folder.path / "model.mlpackage")
    program = with_sources(load_program(folder.path / "model.mlpackage"), packaged.sources)
    return Plain(program, fp32, calls, exact_constants(program, fp32), fidelity, folder)


def _options(captured: Captured, target: Any) -> Options:
    tensors = captured.example.tensors
    options = Options(target).with_states({name: tuple(v.shape) for name, v in captured.states.items()})
    if isinstance(captured.exported, ExportedProgram):
        return options
    return Options(target, tensor_types(captured.input_names, [t.detach().numpy() for t in tensors]))


def _faithful(
    module: Any, captured: Captured, fp32: Program, batches: Sequence[Batch]
) -> tuple[list[Mapping[str, np.ndarray]], Comparison]:
    """The calls as the program takes them, and its answers in float32 against PyTorch's."""
    reference = Reference(module, captured.states)
    start = {name: value.numpy() for name, value in reference.start.items()}
    calls: list[Mapping[str, np.ndarray]] = []
    for i, batch in enumerate(batches):
        named = named_inputs(fp32, as_batch(batch, module))
        calls.append(Turn(named, None if i else start) if start else named)
    executor = Executor(fp32, "reference")
    expected = [[t.numpy() for t in reference(b, goes_on=bool(start) and i > 0)] for i, b in enumerate(batches)]
    return calls, compare_outputs(list(fp32.outputs), [executor.once(c) for c in calls], expected, "reference")


def _with_lowering(found: Diagnosis, made: Plain) -> Diagnosis:
    """Put first what is wrong in float32 already, since no precision can repair it."""
    makers = {value.name: op for op in made.fp32.main.block.ops for value in op.outputs}
    wrong: list[Culprit] = []
    for output in made.fidelity.outputs:
        op = makers.get(output.name)
        if op is None or output.worst.within(_LOWERING_TOLERANCE):
            continue
        detail = f"output '{output.name}' is off by {output.worst.error:.3g} of its range in float32 already"
        finding = Finding.at("NP201", op, detail, KINDS["NP201"].fix)
        wrong.append(Culprit(finding, 1.0, (op.name,), found.units, output.worst_batch, None, ()))
    return found.with_first(wrong) if wrong else found
