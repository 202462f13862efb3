"""``nanproof run``: execute an ML Program on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.arrays import (
    SINGLE,
    array_summary,
    check_file,
    check_picture,
    in_modes,
    named_arrays,
    named_outputs,
    needed,
    read_values,
    write_outputs,
)
from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb
from nanproof.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from nanproof.program import Interface

__all__ = ["run"]


@verb(
    "nanproof run bert.mlpackage --inputs batch.npz",
    "nanproof run bert.mlpackage --inputs batch.npz -o outputs.npz --numerics gpu",
    "nanproof run style.mlpackage --input content=photo.png --input strength=half.npy -o painted.png",
)
def run(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    inputs: Annotated[
        Path | None,
        typer.Option(
            help=".npz or .json with one array for each input; .npy or an image for a single input.", metavar="FILE"
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input", help="One input from an .npy, a .json or an image; may be repeated.", metavar="NAME=FILE"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the outputs to this .npz or .json, or an image to this .png."),
    ] = None,
    function: Annotated[
        str | None, typer.Option(help="Which function of a multifunction program runs.", metavar="NAME")
    ] = None,
    numerics: Annotated[
        str, typer.Option(help="reference, strict, gpu, cpu, ane or ane_m1.", metavar="NAME")
    ] = "reference",
    exact: Annotated[bool, typer.Option("--exact", help="Add up bit for bit as the unit does. Slow.")] = False,
) -> Answer:
    """Execute an ML Program, or a pipeline of them, on this machine, under the numerics of a unit.

    An image file is converted to the colours that the model takes; it has to have the right size.
    """
    if output is not None:
        check_file(output, [".npz", ".json", ".png"])
    with face.progress(f"running {model}") as progress:
        progress("read")
        from nanproof.interpret.execute import executor
        from nanproof.mil.read import load

        program = load(model, function)
        if output is not None and output.suffix == ".png":
            check_picture(program.interface)
        runner = executor(program, numerics, exact=exact)
        given = _given(inputs, input or [], program.interface)
        progress("execute")
        outputs = runner.once(given)
    if output is not None:
        write_outputs(output, outputs, program.interface)
    summaries = [array_summary(name, array) for name, array in named_outputs(outputs).items()]
    data = {"model": str(model), "numerics": numerics, "outputs": summaries, "file": str(output) if output else None}
    return Answer("run", data, lambda console: _show(console, data))


def _given(inputs: Path | None, single: list[str], interface: Interface) -> dict[str, Any]:
    """The inputs from all files, images in the mode that the model takes.

    Raises:
        InputError: A file cannot be read, or an input comes twice.
    """
    given = named_arrays(inputs, needed(interface)) if inputs is not None else {}
    for text in single:
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(
                f"'--input {text}' names no file. Write --input NAME=FILE; the model takes "
                f"{', '.join(interface.inputs)}."
            )
        if name in given:
            raise InputError(f"The input '{name}' is given twice.")
        values = read_values(Path(path))
        if SINGLE not in values:
            raise InputError(f"'{path}' holds arrays by name, and not one for '{name}'. Pass it with --inputs.")
        given[name] = values[SINGLE]
    return in_modes(given, interface)


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("output", "type", "from", "to"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("from", "to") else "left")
    table.add_column("")
    for row in data["outputs"]:
        bounds = ["" if row[k] is None else f"{row[k]:.6g}" for k in ("min", "max")]
        broken = ", ".join(f"{row[k]} {word}" for k, word in (("nan", "NaN"), ("inf", "Inf")) if row[k])
        shape = ", ".join(str(d) for d in row["shape"])
        verdict = Text(broken, "bold red") if broken else Text("finite", "green")
        table.add_row(Text(row["name"]), Text(f"{row['dtype']}[{shape}]"), *bounds, verdict)
    console.print(table)
    if data["file"]:
        console.print(Text.assemble("written to ", (data["file"], "bold")))
