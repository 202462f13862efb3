"""`nanproof.diagnose`: why a program, or a module that is converted as coremltools does, is wrong in FP16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import ZipFile

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
from nanproof.diagnosis.reduction import Reduction, fault_of, reduced
from nanproof.diagnosis.torch_script import script_of
from nanproof.diagnosis.twins import exact_constants
from nanproof.errors import CouldNotCheckError, InputError, UsageError
from nanproof.findings import KINDS, Finding
from nanproof.interpret.batches import as_batches as program_batches
from nanproof.interpret.execute import Executor
from nanproof.interpret.state import Turn
from nanproof.mil.build import write_program
from nanproof.mil.declared import tensor_types
from nanproof.mil.frontend import Options, Typing, lower, package
from nanproof.mil.package import ScratchFolder, write_model
from nanproof.mil.read import load_program
from nanproof.mil.reflect import reflect
from nanproof.mil.sources import with_sources
from nanproof.numerics import get
from nanproof.program import Pipeline, Program, Value

__all__ = ["Plain", "Reproducer", "Subject", "diagnose", "plain", "reproduce", "subject_of"]

_LOWERING_TOLERANCE = 1e-3
"""As for a conversion: rounding in another order stays far below this on any sane model."""


def diagnose(
    model: Program | nn.Module | ExportedProgram | str | PathLike[str] | Subject,
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
    subject = subject_of(model, inputs, minimum_deployment_target=minimum_deployment_target)
    found = examine(subject.program, subject.inputs, units, constants=subject.constants, tolerance=tolerance)
    return found if subject.made is None else _with_lowering(found, subject.made)


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A program with its inputs, ready to be diagnosed and reduced.

    Attributes:
        program: The program.
        inputs: The calls by input names.
        constants: What constants of the program were in float32, where that is known.
        made: The module that it was made of, converted; ``None`` for a program that was given.
    """

    program: Program
    inputs: Sequence[Mapping[str, Any]]
    constants: Mapping[Value, np.ndarray]
    made: Plain | None = None


def subject_of(model: Any, inputs: Any = None, *, minimum_deployment_target: Any = "iOS17") -> Subject:
    """What :func:`diagnose` and :func:`reproduce` work on; both take it in place of a model, without inputs.

    Raises:
        UsageError: The model or the inputs are of another kind, or the module cannot be converted.
    """
    if isinstance(model, Subject):
        return model
    if isinstance(model, (str, PathLike)):
        model = load_program(Path(model))
    if isinstance(model, Pipeline):
        raise UsageError("This is a pipeline of several programs. Diagnose a stage of it: pipeline.stages['...'].")
    if isinstance(model, Program):
        if inputs is None:
            raise InputError(f"The program has to run on something. It takes {', '.join(model.inputs)}: pass inputs.")
        return Subject(model, list(program_batches(model.interface, inputs)), {})
    made = plain(model, inputs, minimum_deployment_target=minimum_deployment_target)
    return Subject(made.program, made.inputs, made.constants, made)


@dataclass(frozen=True, slots=True, eq=False)
class Reproducer:
    """A few ops that fail on their own, as files to attach to a report.

    Attributes:
        diagnosis: That of the whole.
        reduction: The ops, their inputs, and what they give.
        package: The ops as an ``.mlpackage``, executed once more after it was written.
        inputs: Their inputs in an ``.npz``, with the constants that the script reads.
        expected: What float32 makes of them, in another.
        script: The same as a PyTorch script; ``None`` if an op has no plain spelling there, or if rounding every
            result is not enough to show the fault.
    """

    diagnosis: Diagnosis
    reduction: Reduction
    package: Path
    inputs: Path
    expected: Path
    script: Path | None


def reproduce(
    model: Program | nn.Module | ExportedProgram | str | PathLike[str] | Subject,
    inputs: Any,
    folder: str | PathLike[str],
    *,
    numerics: str = "gpu",
    tolerance: float = 1e-2,
    minimum_deployment_target: Any = "iOS17",
) -> Reproducer:
    """Reduce a program to a few ops that still fail, and save them with their inputs to a folder.

    The ops are found by delta debugging, each part being executed: what they read and do not make becomes an input,
    with the numbers that float32 had there. The package that is written is executed once more, on its own.

    Args:
        model: As for :func:`diagnose`.
        inputs: As for :func:`diagnose`; of several, the one that shows the first finding best is taken.
        folder: Where to: ``reduced.mlpackage``, ``inputs.npz``, ``expected.npz`` and ``reproduce.py``. It is made.
        numerics: One name of numerics.
        tolerance: Largest error of an output, relative to its range, that counts as the same.
        minimum_deployment_target: As for :func:`diagnose`.

    Raises:
        UsageError: As for :func:`diagnose`.
        CouldNotCheckError: Nothing fails on these inputs, no part fails by itself, or what was written does not.
    """
    subject = subject_of(model, inputs, minimum_deployment_target=minimum_deployment_target)
    made, calls, constants = subject.program, subject.inputs, subject.constants
    found = examine(made, calls, [get(numerics).name], constants=constants, tolerance=tolerance)
    if not found.damaged:
        raise CouldNotCheckError("The program does not fail on these inputs, so there is nothing to reduce.")
    batch = calls[max(found.damaged, key=lambda d: d.error).batch]
    small = reduced(made, batch, numerics, constants=constants, tolerance=tolerance)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    package, arrays, expected = (place / n for n in ("reduced.mlpackage", "inputs.npz", "expected.npz"))
    write_program(small.program, package)
    _verify(package, small, numerics, tolerance)
    first = found.culprits[0].finding
    told = f"{first.code} {first.kind.name}: {first.detail}" + (f" ({first.source})" if first.source else "")
    script = script_of(small.program, constants, told, tolerance) if _rounding_shows(small, tolerance) else None
    _save(arrays, {**small.inputs, **(script.constants if script is not None else {})})
    _save(expected, {next(iter(load_program(package).outputs)): small.expected})
    if script is not None:
        (place / "reproduce.py").write_text(script.text, encoding="utf-8")
    return Reproducer(found, small, package, arrays, expected, place / "reproduce.py" if script is not None else None)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz``. ``numpy.savez`` takes names as keywords, and so no array that is called "file"."""
    with ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def _rounding_shows(small: Reduction, tolerance: float) -> bool:
    """Whether rounding every result is enough to fail, which is what a script can show of a unit."""
    (answer,) = Executor(small.program, "gpu").once(small.inputs).values()
    return fault_of(answer, small.expected, tolerance) is not None


def _verify(package: Path, small: Reduction, numerics: str, tolerance: float) -> None:
    """Execute what was written.

    Raises:
        CouldNotCheckError: It does not fail.
    """
    program = load_program(package)
    (answer,) = Executor(program, numerics).once(small.inputs).values()
    if fault_of(answer, small.expected, tolerance) is None:
        raise CouldNotCheckError(
            f"The reduced program failed, but the package that was written of it, '{package}', does not."
        )


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
