"""``nanproof repair``: an FP16 package that is broken → the same package, finite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanproof.cli import options
from nanproof.cli.arrays import check_file
from nanproof.cli.conversion import answer, checked_units, written
from nanproof.cli.face import Answer, Face
from nanproof.cli.kinds import stated_kinds
from nanproof.cli.verb import Tolerance, Units, verb
from nanproof.errors import UsageError

__all__ = ["repair"]


@verb(
    "nanproof repair broken.mlpackage -o fixed.mlpackage",
    "nanproof repair broken.mlpackage -o fixed.mlpackage --inputs batches/ --unit gpu --unit ane --report fixed.html",
)
def repair(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage. It stays as it is.", metavar="MODEL")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .mlpackage to write.", metavar="FILE")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="Inputs by name, .npz or .json, or a folder of such; may be repeated.", metavar="PATH"),
    ] = None,
    unit: Units = None,
    tolerance: Tolerance = 1e-2,
    stress: options.Stress = True,
    report: options.Report = None,
    kind: options.Kinds = None,
    prove: options.Prove = True,
    assume: options.Assume = None,
    keep_failed: options.KeepFailed = False,
) -> Answer:
    """Repair a package that gives Inf or NaN in FP16, without the PyTorch model that it was made of.

    The package is one that coremltools 7 to 9 has made an FP16 ML Program of. It is judged on your inputs, and without
    --inputs on drawn ones, which say less. What it is compared with is itself in float32: what its constants have lost
    stays lost, and is named. Its interface, metadata, states, compressed weights and deployment target stay as they
    are. A package that passes is copied.
    """
    from nanproof.mil.package import check_destination

    check_destination(output)
    if output.exists() and model.exists() and output.samefile(model):
        raise UsageError(f"'{output}' is the package to repair, which is never written over. Choose another name.")
    if report is not None:
        check_file(report, [".html"])
    units = checked_units(unit)
    with face.progress(f"repairing {model}") as progress:
        progress("read")
        from nanproof.interpret.batches import as_batches
        from nanproof.mil.read import load_program
        from nanproof.repairing import check_package
        from nanproof.repairing import repair as repair_package

        check_package(model)
        interface = load_program(model).interface if inputs else None
        calls = [call for path in inputs or () for call in as_batches(interface, path)] if interface else None
        arguments: dict[str, Any] = {"units": units, "tolerance": tolerance, "stress": stress, "progress": progress}
        arguments |= {"prove": prove, "assume": stated_kinds(assume or [], "--assume")}
        repaired = repair_package(model, calls, kinds=stated_kinds(kind or []), **arguments)
        files = written(repaired, str(model), output, report, keep_failed=keep_failed)
    return answer(repaired, str(model), files)
