"""``nanproof check``: run an ML Program file under the numerics of units, and look for Inf, NaN and lost precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.arrays import in_modes, named_arrays, needed
from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import Tolerance, Units, verb
from nanproof.errors import CouldNotCheckError, InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check"]


@verb(
    "nanproof check bert.mlpackage --inputs batch.npz",
    "nanproof check bert.mlpackage --inputs batch.npz --reference pytorch.npz --unit gpu --unit strict",
)
def check(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Inputs as `nanproof run` takes them; may be repeated.", metavar="FILE")
    ] = None,
    reference: Annotated[
        list[Path] | None, typer.Option(help=".npz with the right outputs, one for each --inputs.", metavar="FILE")
    ] = None,
    unit: Units = None,
    tolerance: Tolerance = 1e-2,
) -> Answer:
    """Run an ML Program under the numerics of units: where Inf or NaN is born, and how far the outputs are off.

    The outputs are compared with those of --reference, or, without it, with the same file computed in float32. The file
    cannot show what its own constants have lost: pass --reference to learn how far it is from PyTorch.
    """
    with face.progress(f"checking {model}") as progress:
        progress("read")
        from nanproof.cli.judgement import judge
        from nanproof.comparison.compare import measured
        from nanproof.mil.read import load_program
        from nanproof.numerics import get

        units = [get(name).name for name in dict.fromkeys(unit or ["gpu"])]
        program = load_program(model)
        interface = program.interface
        if not inputs:
            takes = "\n".join(f"    {name}: {feature}" for name, feature in interface.inputs.items())
            raise CouldNotCheckError(
                f"Nothing was checked: '{model}' has to run on something. Pass --inputs FILE.npz. It takes\n{takes}"
            )
        batches = [in_modes(named_arrays(path, needed(interface)), interface) for path in inputs]
        expected = _expected(reference or [], len(batches), measured(program))
        data = judge(program, batches, expected, units, tolerance, progress)
    data = {"model": str(model), **data}
    exit_code = {"failed": 1, "unknown": 3}.get(data["verdict"], 0)
    return Answer("check", data, lambda console: _show(console, data), exit_code)


def _expected(files: list[Path], count: int, names: list[str]) -> list[list[Any]] | None:
    """The right outputs in the order of the program's, for each batch."""
    if not files:
        return None
    if len(files) != count:
        raise InputError(f"There are {count} --inputs but {len(files)} --reference files: pass one for each.")
    batches: list[list[Any]] = []
    for path in files:
        arrays = named_arrays(path, names)
        missing = [name for name in names if name not in arrays]
        if missing:
            raise InputError(
                f"'{path}' lacks the output {', '.join(map(repr, missing))}; it holds "
                f"{', '.join(arrays) or 'nothing'}.\n"
                f"  The program's outputs are {', '.join(names)}."
            )
        batches.append([arrays[name] for name in names])
    return batches


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.console import Group, RenderableType
    from rich.text import Text

    from nanproof.report.labels import labelled
    from nanproof.report.terminal import error_table, verdict_text

    units: dict[str, Any] = data["units"]
    rows: list[tuple[str, RenderableType]] = []
    births = list(dict.fromkeys(b["described"] for unit in units.values() for b in unit["births"]))
    rows.append(("births", _lines(births, "no op makes Inf or NaN of finite operands")))
    if data["constants"]:
        rows.append(("constants", _lines([c["described"] for c in data["constants"]], "")))
    against = "from the reference outputs" if data["reference"] == "files" else "from the same file in float32"
    table = error_table({name: unit["outputs"] for name, unit in units.items()})
    rows.append(("error", Group(Text(f"{against}, relative to the range of the output", "dim"), table)))
    rows.append((data["verdict"], verdict_text(data)))
    console.print(labelled(rows))


def _lines(texts: list[str], otherwise: str, most: int = 8) -> Any:
    from rich.text import Text

    shown = texts[:most] + ([f"and {len(texts) - most} more: --json shows all"] if len(texts) > most else [])
    return Text("\n".join(shown) or otherwise)
