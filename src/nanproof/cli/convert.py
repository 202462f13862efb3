"""``nanproof convert``: from PyTorch to an ML Program that is finite in FP16."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanproof.cli.arrays import check_file
from nanproof.cli.conversion import answer, checked_units, written
from nanproof.cli.face import Answer, Face
from nanproof.cli.kinds import stated_kinds
from nanproof.cli.model import check_model, load_batch, load_model, load_options
from nanproof.cli.verb import Tolerance, Units, verb

__all__ = ["convert"]


@verb(
    "nanproof convert examples/bert_classifier.py:model -o bert.mlpackage",
    "nanproof convert net.pt2 --trust -o net.mlpackage --unit gpu --unit strict --report net.html",
)
def convert(
    face: Face,
    model: Annotated[
        str, typer.Argument(help="file.py:name, a .pt2, a .pt, or a Hugging Face folder.", metavar="MODEL")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .mlpackage to write.", metavar="FILE")],
    inputs: Annotated[
        str | None,
        typer.Option(help="Example inputs: an .npz by forward's parameter names, or file.py:name.", metavar="FILE"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What a Hugging Face model shall do, if not as its config says.", metavar="NAME")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float16 or float32.", metavar="NAME")] = "auto",
    unit: Units = None,
    tolerance: Tolerance = 1e-2,
    target: Annotated[str, typer.Option(help="Deployment target.", metavar="NAME")] = "iOS17",
    stress: Annotated[bool, typer.Option(help="Also run inputs at the limits of their kind.")] = True,
    calibration: Annotated[
        list[str] | None, typer.Option(help="One more input, as in --inputs; may be repeated.", metavar="FILE")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report, one HTML file.", metavar="FILE")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="What an input is: mask, ids, image, ... or LOW:HIGH.", metavar="NAME=KIND"),
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Also prove that no input makes Inf or NaN, where that is so.")
    ] = True,
    assume: Annotated[
        list[str] | None,
        typer.Option(help="What the proof assumes of an input or state: its range or kind.", metavar="NAME=LOW:HIGH"),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open pickled files and TorchScript, which may run code that is in them.")
    ] = False,
    options: Annotated[str | None, typer.Option(help="More arguments: a dict in file.py:name.", metavar="NAME")] = None,
    keep_failed: Annotated[bool, typer.Option("--keep-failed", help="Write the package even if it failed.")] = False,
) -> Answer:
    """Convert a PyTorch model so that it runs in FP16 without NaN or Inf, and show it on the written file.

    MODEL in a file.py is a module, or a function that returns one; it is your code, and is imported. A .pt2 is data,
    but PyTorch opens it with pickle, which can run code: it is opened only with --trust. So is a .pt of TorchScript,
    which is a program itself. A Hugging Face folder has a config.json and *.safetensors; it is read without a network,
    and no code in it is run. What coremltools.convert takes (images, classes, flexible shapes) goes into the dict of
    --options.
    """
    check_model(model, trust=trust, task=task)
    if report is not None:
        check_file(report, [".html"])
    _check_options(output, target)
    units = checked_units(unit)
    with face.progress(f"converting {model}") as progress:
        progress("load")
        loaded = load_model(model, inputs, task=task, trust=trust)
        batches = [load_batch(where, loaded.module) for where in calibration or ()]
        from nanproof.conductor import convert as convert_module

        arguments: dict[str, Any] = {"minimum_deployment_target": target, **load_options(options)}
        arguments |= {"precision": precision, "units": units, "tolerance": tolerance, "stress": stress}
        arguments |= {"kinds": stated_kinds(kind or []), "calibration": batches, "progress": progress}
        arguments |= {"prove": prove, "assume": stated_kinds(assume or [], "--assume")}
        conversion = convert_module(loaded.module, loaded.example_inputs, **arguments)
        files = written(conversion, model, output, report, keep_failed=keep_failed)
    return answer(conversion, model, files)


def _check_options(output: Path, target: str) -> None:
    """Options that would be refused at the end, checked at the beginning."""
    from nanproof.mil.frontend import Options
    from nanproof.mil.package import check_destination

    check_destination(output)
    _ = Options(minimum_deployment_target=target).target
