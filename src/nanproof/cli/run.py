"""``nanproof run``: execute an ML Program on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.arrays import array_summary, check_file, named_arrays, write_arrays
from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]


@verb(
    "nanproof run bert.mlpackage --inputs batch.npz",
    "nanproof run bert.mlpackage --inputs batch.npz -o outputs.npz --numerics gpu",
)
def run(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    inputs: Annotated[
        Path, typer.Option(help=".npz with one array for each input; .npy for a single input.", metavar="FILE")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the outputs to this .npz.", metavar="FILE")
    ] = None,
    numerics: Annotated[str, typer.Option(help="reference, strict or gpu.", metavar="NAME")] = "reference",
) -> Answer:
    """Execute an ML Program on this machine, under the numerics of a unit."""
    if output is not None:
        check_file(output, [".npz"])
    with face.progress(f"running {model}") as progress:
        progress("read")
        from nanproof.interpret.execute import Executor
        from nanproof.mil.read import load

        program = load(model)
        executor = Executor(program, numerics)
        arrays = named_arrays(inputs, list(program.inputs))
        progress("execute")
        results = _arrays(executor.once(arrays))
    if output is not None:
        write_arrays(output, results)
    summaries = [array_summary(name, array) for name, array in results.items()]
    data = {"model": str(model), "numerics": numerics, "outputs": summaries, "file": str(output) if output else None}
    return Answer("run", data, lambda console: _show(console, data))


def _arrays(outputs: dict[str, Any]) -> dict[str, Any]:
    """All outputs as arrays: of a classifier the label, and its labels and probabilities in one order."""
    import numpy as np

    arrays: dict[str, Any] = {}
    for name, output in outputs.items():
        if isinstance(output, dict):
            arrays[f"{name}_labels"] = np.array(list(output))
            arrays[name] = np.array(list(output.values()))
        else:
            arrays[name] = np.asarray(output)
    return arrays


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
