"""``nanproof ranges``: what range every value of a model has on given inputs, and which ones FP16 does not hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.arrays import check_file
from nanproof.cli.face import Answer, Face
from nanproof.cli.model import check_model, load_model
from nanproof.cli.verb import verb
from nanproof.errors import CouldNotCheckError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from nanproof.interpret.range import Range, Ranges
    from nanproof.program import Program

__all__ = ["ranges"]

_MOST = 20


@verb(
    "nanproof ranges bert.mlpackage --inputs folder -o ranges.json --workers 2",
    "nanproof ranges examples/bert_classifier.py:model --inputs batch.npz",
    "nanproof ranges --merge a.json b.json -o all.json",
)
def ranges(
    face: Face,
    models: Annotated[list[str], typer.Argument(help="The .mlpackage, or as for convert.", metavar="MODEL")],
    inputs: Annotated[
        list[Path] | None,
        typer.Option(help="A file as `nanproof run` takes it, or a folder of them; may be repeated.", metavar="PATH"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Keep the ranges in this .json.", metavar="FILE")
    ] = None,
    numerics: Annotated[
        str, typer.Option(help="reference, strict, gpu, cpu, ane or ane_m1.", metavar="NAME")
    ] = "reference",
    axis: Annotated[int | None, typer.Option(help="Also count by channel, along this axis.", metavar="N")] = None,
    workers: Annotated[int, typer.Option(help="How many processes run the model.", min=1, metavar="N")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the file of --output ends.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put files of ranges, named instead of MODEL, together.")
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open a .pt2 or .pt, which may run code that is in it.")
    ] = False,
) -> Answer:
    """Run a model on many inputs and tell the range of every value: what does not survive FP16, and what is lost.

    A PyTorch model is lowered first, and runs in float32: so the answer comes before any conversion. With --merge no
    model runs: files of -o, from several machines say, become one. The exit code is 1 if a value leaves FP16's range.
    """
    if output is not None:
        check_file(output, [".json"])
    if merge:
        return _merged(models, output)
    if len(models) != 1:
        raise UsageError(f"One MODEL is observed at a time, and these are {len(models)}. For files use --merge.")
    if resume and output is None:
        raise UsageError("--resume goes on where a file ends: name it with --output.")
    with face.progress(f"observing {models[0]}") as progress:
        progress("read")
        from nanproof.interpret.ranging import ranges as observed

        program, example = _program(models[0], trust, numerics)
        paths = inputs or []
        if not paths and example is None:
            raise CouldNotCheckError("Nothing was observed: the model has to run on something. Pass --inputs PATH.")
        found = observed(
            program,
            _calls(program, paths) if paths else [example],
            numerics=numerics,
            axis=axis,
            workers=workers,
            file=output,
            resume=resume,
            progress=lambda runs: progress(f"{runs} run{'s' * (runs != 1)} done"),
        )
    return _answer(models[0], found, _judged(program), {"numerics": numerics, "file": str(output) if output else None})


def _program(model: str, trust: bool, numerics: str) -> tuple[Program, Any]:
    """The program, and an example call if the model comes with one."""
    from nanproof.numerics import get

    get(numerics)
    if model.endswith(".mlpackage"):
        from nanproof.mil.read import load_program

        return load_program(Path(model)), None
    check_model(model, trust=trust)
    loaded = load_model(model, None, trust=trust)
    from nanproof.capture.batch import as_batch
    from nanproof.conductor import convert

    lowered = convert(loaded.module, loaded.example_inputs, precision="float32", units=("reference",), stress=False)
    given = loaded.example_inputs
    return lowered.fp32_program, None if given is None else tuple(as_batch(given, loaded.module).tensors)


def _calls(program: Program, paths: list[Path]) -> Iterator[Any]:
    from nanproof.interpret.batches import as_batches

    for path in paths:
        yield from as_batches(program.interface, path)


def _judged(program: Program) -> dict[str, str]:
    """The values that are to hold in FP16, each with where it comes from: all if the program is not FP16 yet."""
    from nanproof.program import DType

    floats = {v.name: v.type.dtype for v in program.main.inputs.values() if v.type.dtype.is_float}
    where = dict.fromkeys(floats, "input")
    for op in program.main.block.walk():
        for value in op.outputs:
            if value.type.dtype.is_float:
                floats[value.name] = value.type.dtype
                where[value.name] = f"{op.type}{f', {op.source}' if op.source else ''}"
    half = {name for name, dtype in floats.items() if dtype is DType.FP16}
    return {name: where[name] for name in floats if not half or name in half}


def _merged(files: list[str], output: Path | None) -> Answer:
    from nanproof.interpret.ranges_file import merged, write_ranges

    if output is None:
        raise UsageError("--merge needs the file to write: name it with --output.")
    together = merged(files)
    write_ranges(output, together)
    shown = dict.fromkeys(together.ranges.by_name, "")
    answer = _answer(", ".join(files), together.ranges, shown, {"numerics": together.numerics, "file": str(output)})
    return Answer(answer.kind, answer.data, answer.show)


def _answer(model: str, found: Ranges, judged: dict[str, str], more: dict[str, Any]) -> Answer:
    unfit = [name for name in judged if not found[name].survives_fp16]
    rows = [_row(name, found[name], judged.get(name)) for name in found.by_name]
    verdict = "failed" if unfit else "tested"
    data = {"model": model, "verdict": verdict, "runs": found.runs, "unfit": unfit, "values": rows, **more}
    return Answer("ranges", data, lambda console: _show(console, data), 1 if unfit else 0)


def _row(name: str, seen: Range, where: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "where": where,
        "low": seen.low,
        "high": seen.high,
        "smallest": seen.smallest,
        "magnitude": seen.magnitude,
        "count": seen.count,
        "zeros": seen.zeros,
        "infinities": seen.infinities,
        "nans": seen.nans,
        "overflows": seen.overflows,
        "subnormals": seen.subnormals,
        "lost": seen.lost,
        "survives_fp16": seen.survives_fp16,
        "histogram": [list(pair) for pair in seen.histogram],
    }


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = [row for row in data["values"] if row["where"] is not None]
    rows.sort(key=lambda row: (row["survives_fp16"], -row["magnitude"]))
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("value", "largest", "smallest", "lost", "FP16"):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("value", "FP16") else "right")
    table.add_column("", overflow="fold")
    for row in rows[:_MOST]:
        fits = Text("fits", "green") if row["survives_fp16"] else Text(_broken(row), "bold red")
        smallest = f"{row['smallest']:.3g}" if row["smallest"] < float("inf") else "-"
        lost = f"{row['lost'] / row['count']:.1%}" if row["count"] else "-"
        table.add_row(Text(row["name"]), f"{row['magnitude']:.4g}", smallest, lost, fits, Text(row["where"], "dim"))
    console.print(table)
    if len(rows) > _MOST:
        console.print(Text(f"and {len(rows) - _MOST} more of smaller magnitudes: --json shows all", "dim"))
    count = len(data["unfit"])
    said = f"{count} of {len(rows)} values do not survive FP16" if count else f"all {len(rows)} values fit into FP16"
    console.print(Text(f"{said}, on {data['runs']} run{'s' * (data['runs'] != 1)}", "bold red" if count else "green"))
    if data["file"]:
        console.print(Text.assemble("written to ", (data["file"], "bold")))


def _broken(row: dict[str, Any]) -> str:
    counts = (("infinities", "Inf"), ("nans", "NaN"), ("overflows", "overflow"))
    return ", ".join(f"{row[key]} {word}" for key, word in counts if row[key])
