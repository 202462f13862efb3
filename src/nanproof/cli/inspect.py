"""``nanproof inspect``: what is in an ML Program file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanproof.cli.face import Answer, Face
from nanproof.cli.interface import interface_data, interface_rows
from nanproof.cli.verb import verb

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from nanproof.program import Program

__all__ = ["inspect"]


@verb("nanproof inspect bert.mlpackage", "nanproof inspect bert.mlpackage --ops")
def inspect(
    face: Face,
    model: Annotated[Path, typer.Argument(help="The .mlpackage.", metavar="MODEL")],
    ops: Annotated[bool, typer.Option("--ops", help="List every op.")] = False,
) -> Answer:
    """Show what is in an ML Program: inputs, outputs, opset, ops by type and by float type, weights, metadata.

    Inputs and outputs are shown as a caller sees them: images with their sizes and colours, flexible shapes, optional
    inputs, the labels of a classifier, the functions of a multifunction program, the stages of a pipeline.
    """
    with face.progress(f"reading {model}"):
        from nanproof.mil.package import open_package
        from nanproof.mil.read import load
        from nanproof.mil.sources import KEY
        from nanproof.program import Pipeline
        from nanproof.report.wording import package_bytes

        program = load(model)
        metadata = open_package(model).spec.description.metadata
    own = {key: value for key, value in sorted(metadata.userDefined.items()) if key != KEY}
    fields = ("shortDescription", "versionString", "author", "license")
    described = {name: getattr(metadata, name) for name in fields if getattr(metadata, name)}
    data: dict[str, Any] = {
        "model": str(model),
        "package_bytes": package_bytes(model),
        "interface": interface_data(program.interface, program.states),
        "metadata": {**described, **own},
    }
    if isinstance(program, Pipeline):
        data["stages"] = [{"name": name, **_program_parts(stage, ops)} for name, stage in program.stages.items()]
    else:
        data |= _program_parts(program, ops)
    return Answer("inspection", data, lambda console: _show(console, data))


def _program_parts(program: Program, ops: bool) -> dict[str, Any]:
    from nanproof.report.census import program_data

    located = [op.source for op in program.walk() if op.source is not None]
    files = sorted({source.file for source in located})
    parts: dict[str, Any] = {"program": program_data(program), "sources": {"ops": len(located), "files": files}}
    if len(program.functions) > 1:
        parts["default_function"] = program.default
        parts["interfaces"] = {
            name: interface_data(program.using(name).interface, program.using(name).states)
            for name in program.functions
        }
    if ops:
        parts["listing"] = str(program).splitlines()
    return parts


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.text import Text

    from nanproof.report.labels import labelled
    from nanproof.report.wording import plural, size_text

    rows: list[tuple[str, RenderableType]] = interface_rows(data["interface"])
    if "stages" in data:
        rows.append(("stages", Text(", ".join(stage["name"] for stage in data["stages"]))))
    else:
        rows += _program_rows(data)
    rows += _source_rows(data)
    rows.append(("size", Text(f"{size_text(data['package_bytes'])} on disk")))
    if data["metadata"]:
        rows.append(("metadata", Text("\n".join(f"{k}: {v}" for k, v in data["metadata"].items()))))
    console.print(labelled(rows))
    for name, interface in data.get("interfaces", {}).items():
        default = "  (default)" if name == data["default_function"] else ""
        console.print(Text.assemble("\nfunction ", (name, "bold"), (default, "dim")))
        console.print(labelled(interface_rows(interface)))
    for stage in data.get("stages", ()):
        count = plural(stage["program"]["ops"], "op")
        console.print(Text.assemble("\nstage ", (stage["name"], "bold"), (f"  ({count})", "dim")))
        console.print(labelled(_program_rows(stage)))
    for part in (data, *data.get("stages", ())):
        for line in part.get("listing", ()):
            console.print(Text(line), soft_wrap=True)


def _source_rows(data: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    """Of how many ops the file knows the line of Python."""
    from rich.text import Text

    sources: dict[str, Any] | None = data.get("sources")
    if not sources or not sources["ops"]:
        return []
    return [("sources", Text(f"{sources['ops']} ops know their line, in {', '.join(sources['files'])}"))]


def _program_rows(data: dict[str, Any]) -> list[tuple[str, RenderableType]]:
    """What one program consists of."""
    from rich.text import Text

    from nanproof.report.wording import plural, size_text

    program: dict[str, Any] = data["program"]
    system = f"  ({program['system']} and later)" if program["system"] else ""
    names = ", ".join(f"{f['name']} ({plural(f['ops'], 'op')})" for f in program["functions"])
    counts = f"{program['fp16']} in FP16, {program['fp32']} in FP32, {program['without_floats']} without floats"
    rows: list[tuple[str, RenderableType]] = [
        ("opset", Text.assemble(program["opset"], (system, "dim"))),
        ("functions", Text(names)),
        ("ops", Text(f"{plural(program['ops'], 'op')}: {counts}, {plural(program['casts'], 'cast')}")),
        ("", _op_table(program["types"])),
    ]
    kept = program["fp32_ops"]
    if kept and program["fp16"]:
        shown = ", ".join(f"{op['name']} ({op['type']})" for op in kept[:8])
        rows.append(("FP32", Text(shown + (f" and {len(kept) - 8} more" if len(kept) > 8 else ""))))
    rows.append(("constants", Text(size_text(program["weights_bytes"]))))
    return rows


def _op_table(types: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("type")
    for heading in ("count", "fp16", "fp32", "no float"):
        table.add_column(heading, justify="right")
    for row in types:
        counts = (row["count"], row["fp16"], row["fp32"], row["without_floats"])
        table.add_row(Text(row["type"]), *(Text(str(c) if c else "·", "" if c else "dim") for c in counts))
    return table
