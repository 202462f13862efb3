"""``nanproof diagnose``: which lines of a model break in FP16, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.face import Answer, Face
from nanproof.cli.model import check_model, load_batch, load_model
from nanproof.cli.verb import Tolerance, Units, verb
from nanproof.errors import CouldNotCheckError, UsageError

if TYPE_CHECKING:
    from nanproof.diagnosing import Reproducer, Subject
    from nanproof.diagnosis.culprit import Diagnosis
    from nanproof.program import Program

__all__ = ["diagnose"]


@verb(
    "nanproof diagnose examples/bert_classifier.py:model",
    "nanproof diagnose bert.mlpackage --inputs batch.npz --unit gpu --unit ane",
    "nanproof diagnose examples/bert_classifier.py:model --reduce reduced",
)
def diagnose(
    face: Face,
    model: Annotated[str, typer.Argument(help="The .mlpackage, or as for convert.", metavar="MODEL")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(help="Inputs as `nanproof run` or `convert` takes them; may be repeated.", metavar="FILE"),
    ] = None,
    unit: Units = None,
    tolerance: Tolerance = 1e-2,
    target: Annotated[str, typer.Option(help="Deployment target of a PyTorch model.", metavar="NAME")] = "iOS17",
    task: Annotated[
        str | None, typer.Option(help="What a Hugging Face model shall do, if not as its config says.", metavar="NAME")
    ] = None,
    reduce: Annotated[
        Path | None,
        typer.Option(help="Also save a few ops that still fail to this folder, with a script.", metavar="FOLDER"),
    ] = None,
    by_module: Annotated[
        bool, typer.Option("--by-module", help="Convert each submodule alone, on the inputs that it gets.")
    ] = False,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="As --by-module, but only what it takes to find one that is wrong.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open a .pt2 or .pt, which may run code that is in it.")
    ] = False,
) -> Answer:
    """Find the ops, and the lines of code, that make a model wrong in FP16: most to blame first.

    A PyTorch model is converted to FP16 as coremltools does it, without any rewrite, to see what breaks. The model runs
    under the numerics of a unit and in float32 beside it, and the error of the outputs is followed back to where it was
    made: to an Inf, to one that became a wrong finite number on its way, to numbers that round to zero or vanish in a
    sum. With --by-module each submodule is converted alone and compared with PyTorch, also if the whole does not
    convert. The exit code is 1 if an output is wrong.
    """
    units = list(dict.fromkeys(unit or ["gpu"]))
    if by_module or bisect:
        if model.endswith(".mlpackage") or reduce is not None or len(units) > 1 or len(inputs or []) > 1:
            raise UsageError(
                "--by-module and --bisect take a PyTorch model apart, on one input and one unit, and without --reduce."
            )
        check_model(model, trust=trust, task=task)
        return _taken_apart(face, model, (inputs or [None])[0], units[0], tolerance, target, task, trust, bisect)
    with face.progress(f"diagnosing {model}") as progress:
        progress("read")
        subject = _subject(model, inputs or [], target, task, trust=trust)
        progress("run")
        from nanproof.diagnosing import diagnose as diagnosed
        from nanproof.diagnosing import reproduce

        found = diagnosed(subject, numerics=units, tolerance=tolerance)
        small = None
        if reduce is not None and found.damaged:
            progress("reduce")
            worst = max(found.damaged, key=lambda damage: damage.error)
            small = reproduce(subject, None, reduce, numerics=worst.unit, tolerance=tolerance)
    return answer(model, found, small)


def _taken_apart(
    face: Face,
    model: str,
    inputs: str | None,
    unit: str,
    tolerance: float,
    target: str,
    task: str | None,
    trust: bool,
    bisect: bool,
) -> Answer:
    with face.progress(f"taking {model} apart") as progress:
        progress("load")
        loaded = load_model(model, inputs, task=task, trust=trust)
        from nanproof.dissecting import by_module as dissected
        from nanproof.report.dissection import dissection_data, print_dissection

        found = dissected(
            loaded.module,
            loaded.example_inputs,
            numerics=unit,
            tolerance=tolerance,
            bisect=bisect,
            minimum_deployment_target=target,
            progress=progress,
        )
    data = {"model": model, **dissection_data(found)}
    return Answer("modules", data, lambda console: print_dissection(data, console), 1 if found.blamed else 0)


def _subject(model: str, inputs: list[str], target: str, task: str | None, *, trust: bool) -> Subject:
    if model.endswith(".mlpackage"):
        return _of_package(Path(model), inputs)
    check_model(model, trust=trust, task=task)
    loaded = load_model(model, inputs[0] if inputs else None, task=task, trust=trust)
    calls = [loaded.example_inputs, *(load_batch(where, loaded.module) for where in inputs[1:])]
    from nanproof.diagnosing import subject_of

    given = calls if len(calls) > 1 else calls[0]
    return subject_of(loaded.module, given, minimum_deployment_target=target)


def _of_package(path: Path, inputs: list[str]) -> Subject:
    from nanproof.diagnosing import subject_of
    from nanproof.mil.read import load_program

    program = load_program(path)
    if not inputs:
        takes = "\n".join(f"    {name}: {feature}" for name, feature in program.interface.inputs.items())
        raise CouldNotCheckError(
            f"Nothing was diagnosed: '{path}' has to run on something. Pass --inputs FILE.npz. It takes\n{takes}"
        )
    return subject_of(program, list(_calls(program, inputs)))


def _calls(program: Program, inputs: list[str]) -> Any:
    from nanproof.interpret.batches import as_batches

    for where in inputs:
        yield from as_batches(program.interface, Path(where))


def answer(model: str, found: Diagnosis, small: Reproducer | None) -> Answer:
    """What a diagnosis says, on the command line."""
    from nanproof.report.diagnosis import diagnosis_data, print_diagnosis, reproducer_data

    data = {"model": model, **diagnosis_data(found), "reproducer": small and reproducer_data(small)}
    exit_code = 1 if found.verdict == "failed" else 0
    return Answer("diagnosis", data, lambda console: print_diagnosis(data, console), exit_code)
