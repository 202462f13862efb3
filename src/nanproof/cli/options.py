"""Options of verbs, each with its help: a verb names those that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ExampleInputs = Annotated[
    str | None,
    typer.Option(
        "--inputs", help="Example inputs: an .npz by forward's parameter names, or file.py:name.", metavar="FILE"
    ),
]
Task = Annotated[
    str | None, typer.Option(help="What a Hugging Face model shall do, if not as its config says.", metavar="NAME")
]
PrecisionName = Annotated[str, typer.Option(help="auto, float16 or float32.", metavar="NAME")]
Target = Annotated[str, typer.Option(help="Deployment target.", metavar="NAME")]
Stress = Annotated[bool, typer.Option(help="Also run inputs at the limits of their kind.")]
Calibration = Annotated[
    list[str] | None, typer.Option(help="One more input, as in --inputs; may be repeated.", metavar="FILE")
]
Report = Annotated[Path | None, typer.Option(help="Also write the report, one HTML file.", metavar="FILE")]
Kinds = Annotated[
    list[str] | None, typer.Option(help="What an input is: mask, ids, image, ... or LOW:HIGH.", metavar="NAME=KIND")
]
Prove = Annotated[
    bool, typer.Option("--prove/--no-prove", help="Also prove that no input makes Inf or NaN, where that is so.")
]
Assume = Annotated[
    list[str] | None,
    typer.Option(help="What the proof assumes of an input or state: its range or kind.", metavar="NAME=LOW:HIGH"),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Open pickled files and TorchScript, which may run code that is in them.")
]
More = Annotated[str | None, typer.Option("--options", help="More arguments: a dict in file.py:name.", metavar="NAME")]
KeepFailed = Annotated[bool, typer.Option("--keep-failed", help="Write the package even if it failed.")]
KeepFp32 = Annotated[
    list[str] | None,
    typer.Option(help="Stays FP32: an op, a type of ops, a module path or file.py:line.", metavar="NAME"),
]
KeepFp16 = Annotated[
    list[str] | None, typer.Option(help="Becomes FP16 in any case, named the same way.", metavar="NAME")
]
Metrics = Annotated[
    list[str] | None,
    typer.Option(help="max, snr, cosine or top-K; also OUTPUT=NAME.", metavar="NAME", show_default="max"),
]
OutputTolerance = Annotated[
    list[str] | None, typer.Option(help="The tolerance of one output.", metavar="OUTPUT=NUMBER")
]
