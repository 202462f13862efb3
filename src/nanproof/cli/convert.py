"""``nanproof convert``: from PyTorch to an ML Program that is finite in FP16."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nanproof.cli import options
from nanproof.cli.arrays import check_file
from nanproof.cli.conversion import answer, checked_units, written
from nanproof.cli.criteria import stated_metric, stated_tolerance
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
    inputs: options.ExampleInputs = None,
    task: options.Task = None,
    precision: options.PrecisionName = "auto",
    unit: Units = None,
    tolerance: Tolerance = 1e-2,
    target: options.Target = "iOS17",
    stress: options.Stress = True,
    calibration: options.Calibration = None,
    report: options.Report = None,
    kind: options.Kinds = None,
    prove: options.Prove = True,
    assume: options.Assume = None,
    keep_fp32: options.KeepFp32 = None,
    keep_fp16: options.KeepFp16 = None,
    metric: options.Metrics = None,
    output_tolerance: options.OutputTolerance = None,
    trust: options.Trust = False,
    more: options.More = None,
    keep_failed: options.KeepFailed = False,
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
    metrics, tolerances = stated_metric(metric or []), stated_tolerance(tolerance, output_tolerance or [])
    with face.progress(f"converting {model}") as progress:
        progress("load")
        loaded = load_model(model, inputs, task=task, trust=trust)
        batches = [load_batch(where, loaded.module) for where in calibration or ()]
        from nanproof.conductor import convert as convert_module

        arguments: dict[str, Any] = {"minimum_deployment_target": target, **load_options(more)}
        arguments |= {"precision": precision, "units": units, "tolerance": tolerances, "stress": stress}
        arguments |= {"keep_fp32": keep_fp32 or (), "keep_fp16": keep_fp16 or ()}
        arguments |= {"metric": metrics} if metrics else {}
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
