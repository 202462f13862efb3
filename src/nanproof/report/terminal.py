"""A conversion as text: about ten lines, each with its label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from nanproof.report.data import conversion_data
from nanproof.report.labels import labelled
from nanproof.report.proof_text import proof_lines
from nanproof.report.wording import error_text, joined, nearby, nothing_found, plural

if TYPE_CHECKING:
    from nanproof.result import Conversion

__all__ = ["error_table", "print_conversion", "verdict_text"]

_MOST = 6
"""So many findings or islands are shown; the HTML report and the JSON have all."""


def print_conversion(conversion: Conversion, console: Console, *, ending: RenderableType | None = None) -> None:
    """Print what was found, what was changed, what stays FP32 and why, how far it is from PyTorch, and the verdict.

    Of a repair also what was wrong before.

    Args:
        conversion: The result.
        console: Where to.
        ending: A last line, such as where the file is.
    """
    data = conversion_data(conversion)
    rows = [
        *([("before", _before(data["original"]))] if data["original"] else []),
        ("found", _found(data)),
        ("changed", _changed(data["plan"]["rewrites"])),
        ("FP32", _islands(data)),
        ("error", _errors(data)),
        ("stress", _stress(data)),
        *([("proof", proof_lines(data["proof"]))] if data["proof"] else []),
        (data["verdict"], verdict_text(data)),
    ]
    rows += [("file", ending)] if ending is not None else []
    console.print(labelled(rows))


def error_table(columns: Mapping[str, Iterable[Mapping[str, Any]]]) -> Table:
    """Error by output (rows) and by numerics (columns), each relative to the output's range."""
    by_column = {name: {o["name"]: o for o in outputs} for name, outputs in columns.items()}
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("output", overflow="fold")
    for name in by_column:
        table.add_column(name, justify="right", no_wrap=True)
    outputs = list(dict.fromkeys(name for found in by_column.values() for name in found))
    for output in outputs[: 2 * _MOST]:
        table.add_row(Text(output), *(_error(found[output]) for found in by_column.values()))
    if len(outputs) > 2 * _MOST:
        table.add_row(Text(f"and {len(outputs) - 2 * _MOST} more", "dim"))
    return table


def verdict_text(data: Mapping[str, Any]) -> RenderableType:
    """What the verdict rests on, and the reasons of a bad one."""
    units = data["units"]
    statement: str = data["rests_on"]["statement"].removeprefix(data["verdict"]).strip()
    lines = [Text(f"{statement} (numerics: {joined(units)}; tolerance {data['tolerance']:g})")]
    for name, unit in units.items():
        lines += [Text(f"{name}: {reason}", "red") for reason in unit["reasons"][:_MOST]]
        if len(unit["reasons"]) > _MOST:
            lines.append(Text(f"{name}: and {len(unit['reasons']) - _MOST} more reasons", "red"))
    return Group(*lines)


def _error(output: Mapping[str, Any]) -> Text:
    if output["nonfinite"]:
        return Text(f"{output['nonfinite']} Inf/NaN", "bold red")
    return Text(error_text(output["error"]), "" if output["within"] else "bold red")


def _found(data: Mapping[str, Any]) -> RenderableType:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for finding in data["findings"]:
        source = finding["source"] or {}
        place = (source.get("file"), source.get("line")) if source else (finding["op"],)
        groups.setdefault((finding["code"], *place), []).append(finding)
    if not groups:
        return Text(nothing_found(data))
    return _listed([_finding(group) for group in groups.values()], "findings")


def _finding(group: list[Mapping[str, Any]]) -> RenderableType:
    first, source = group[0], group[0]["source"]
    line = Text.assemble((f"{first['code']} {first['name']}", "bold"), "  ", first["detail"])
    if len(group) > 1:
        line.append(f" ({len(group)} ops)", "dim")
    if not source:
        return Group(line, Padding(Text(f"at the op '{first['op']}' ({first['op_type']})", "dim"), (0, 0, 0, 2)))
    where = Text.assemble((f"{nearby(source['file'])}:{source['line']}", "cyan"), "  ", (source["code"], "dim"))
    return Group(line, Padding(where, (0, 0, 0, 2)))


def _changed(rewrites: list[Mapping[str, Any]]) -> RenderableType:
    if not rewrites:
        return Text("nothing")
    texts: list[RenderableType] = []
    for rewrite in rewrites:
        line = Text.assemble(
            rewrite["statement"], (f"  ({rewrite['name']}, {plural(len(rewrite['ops']), 'op')})", "dim")
        )
        texts.append(Group(line, Padding(Text(rewrite["condition"], "dim"), (0, 0, 0, 2))))
    return _listed(texts, "rewrites")


def _islands(data: Mapping[str, Any]) -> RenderableType:
    program, islands = data["program"], data["plan"]["islands"]
    computing = program["fp16"] + program["fp32"]
    count = (
        f"{program['fp32']} of {plural(computing, 'op')} {'computes' if program['fp32'] == 1 else 'compute'} in FP32"
    )
    if data["plan"]["author_fp32_ops"]:
        why = "as before" if data["original"] else "because the model's own code says so"
        count += f", {data['plan']['author_fp32_ops']} of them {why}"
    if not program["fp32"]:
        count = f"nothing: all {plural(computing, 'op')} compute in FP16"
    texts: list[RenderableType] = []
    for island in islands:
        names = ", ".join(island["ops"][:3]) + (", ..." if len(island["ops"]) > 3 else "")
        line = Text.assemble((island["reason"], "bold"), f"  {plural(len(island['ops']), 'op')}: {names}")
        texts.append(Group(line, Padding(Text(island["evidence"], "dim"), (0, 0, 0, 2))))
    return Group(Text(count), _listed(texts, "islands")) if texts else Text(count)


def _errors(data: Mapping[str, Any]) -> RenderableType:
    columns = {"lowered, FP32": data["fidelity"]["outputs"]}
    if data["original"]:  # its float32 twin is what all is compared with
        columns = {f"{name}, before": unit["outputs"] for name, unit in data["original"]["units"].items()}
    columns |= {name: unit["outputs"] for name, unit in data["units"].items()}
    against = f"from {data['reference']}, relative to the range of the output"
    return Group(Text(against, "dim"), error_table(columns))


def _before(original: Mapping[str, Any]) -> RenderableType:
    """What is wrong with the package as it was."""
    if original["healthy"]:
        return Text("the package passes as it is: nothing to repair", "green")
    lines = [Text(f"{name}: {reason}", "red") for name, unit in original["units"].items() for reason in unit["reasons"]]
    births = dict.fromkeys(birth["described"] for unit in original["units"].values() for birth in unit["births"])
    return Group(*lines[:_MOST], *(Text(birth, "dim") for birth in list(births)[:3]))


def _stress(data: Mapping[str, Any]) -> RenderableType:
    if not data["stress"]:
        return Text("none: of no input there is more to try, or stress was switched off")
    texts = [Text("; ".join(_kind_text(one) for one in data["inputs"]), "dim")]
    for name, unit in data["units"].items():
        compared = [s for s in unit["stress"] if s["compared"]]
        bad = [s for s in compared if s["nonfinite"]]
        skipped = len(unit["stress"]) - len(compared)
        text = Text(f"{name}: {plural(len(compared), 'input')} at {'its' if len(compared) == 1 else 'their'} limits, ")
        if bad:
            text.append(f"Inf or NaN on {len(bad)}: {'; '.join(s['what'] for s in bad)}", "red")
        else:
            worst = max((float(s["error"]) for s in compared), default=0.0)
            text.append(f"no Inf or NaN, off by {error_text(worst)} at most")
        if skipped:
            text.append(f" ({skipped} refused by the module itself)", "dim")
        texts.append(text)
    return Group(*texts)


def _kind_text(one: Mapping[str, Any]) -> str:
    bounds = (one["low"], one["high"])
    limits = "any number" if any(isinstance(b, str) for b in bounds) else f"{bounds[0]:.4g} to {bounds[1]:.4g}"
    return f"{one['name']} is {one['kind']}, {limits}"


def _listed(texts: list[RenderableType], what: str) -> RenderableType:
    shown = texts[:_MOST]
    if len(texts) > _MOST:
        shown.append(Text(f"and {len(texts) - _MOST} more {what}: --report FILE.html shows all", "dim"))
    return Group(*shown)
