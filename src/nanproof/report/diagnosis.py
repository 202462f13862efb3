"""A diagnosis as plain data and as text: what is wrong, who is to blame, and the lines of code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nanproof.report.data import kind_data, source_data
from nanproof.report.wording import joined, nearby, plural

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from nanproof.diagnosing import Reproducer
    from nanproof.diagnosis.culprit import Culprit, Diagnosis

__all__ = ["diagnosis_data", "print_diagnosis", "reproducer_data"]

_MOST = 5
_MOST_OUTPUTS = 6


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything that a diagnosis says. Infinities are floats here, and strings in a document."""
    return {
        "verdict": diagnosis.verdict,
        "units": list(diagnosis.units),
        "inputs": diagnosis.batches,
        "tolerance": diagnosis.tolerance,
        "outputs": [
            {
                "name": d.output,
                "unit": d.unit,
                "input": d.batch,
                "error": d.error,
                "nonfinite": d.nonfinite,
                "elements": d.elements,
                "within": d.error <= diagnosis.tolerance,
            }
            for d in diagnosis.outputs
        ],
        "culprits": [_culprit(c) for c in diagnosis.culprits],
        "kinds": {code: kind_data(code) for code in sorted({c.finding.code for c in diagnosis.culprits})},
        "harmless": list(diagnosis.harmless),
        "unexplained": diagnosis.unexplained,
        "executions": diagnosis.executions,
    }


def reproducer_data(small: Reproducer) -> dict[str, Any]:
    """What was reduced, and where the files are."""
    reduction = small.reduction
    return {
        "ops": reduction.ops,
        "whole": reduction.whole,
        "op_types": [op.type for op in reduction.program.main.block.ops],
        "fault": reduction.fault,
        "trials": reduction.trials,
        "package": str(small.package),
        "inputs": str(small.inputs),
        "expected": str(small.expected),
        "script": str(small.script) if small.script is not None else None,
    }


def _culprit(culprit: Culprit) -> dict[str, Any]:
    finding = culprit.finding
    return {
        "code": finding.code,
        "name": finding.kind.name,
        "op": finding.op,
        "op_type": finding.op_type,
        "detail": finding.detail,
        "fix": finding.remedy,
        "source": source_data(finding.source),
        "share": culprit.share,
        "ops": list(culprit.ops),
        "units": list(culprit.units),
        "input": culprit.batch,
        "sample": culprit.sample.to_dict() if culprit.sample is not None else None,
        "effects": list(culprit.effects),
        "trial": None
        if culprit.removes is None
        else {"fp32_ops": list(culprit.island), "removes": culprit.removes, "cures": culprit.cures},
    }


def print_diagnosis(data: Mapping[str, Any], console: Console) -> None:
    """Print what is wrong, each finding with its line, the values that did it and the fix, and the verdict."""
    from rich.text import Text

    from nanproof.report.terminal import labelled

    wrong = [o for o in data["outputs"] if not o["within"]]
    rows: list[tuple[str, RenderableType]] = []
    if wrong:
        rows.append(("wrong", _outputs(wrong, data["inputs"])))
    if rows:
        console.print(labelled(rows))
    for i, culprit in enumerate(data["culprits"][:_MOST]):
        console.print()
        console.print(_finding(i + 1, culprit, data))
    if len(data["culprits"]) > _MOST:
        console.print(Text(f"\nand {len(data['culprits']) - _MOST} more findings: --json shows all", "dim"))
    if data["culprits"]:
        console.print()
    rows = []
    if data["harmless"]:
        names = ", ".join(data["harmless"][:3]) + (", ..." if len(data["harmless"]) > 3 else "")
        rows.append(("harmless", Text(f"Inf in {names}, of which the right limit came out", "dim")))
    if data.get("reproducer"):
        rows.append(("reduced", _reproducer(data["reproducer"])))
    rows.append((data["verdict"], _verdict(data)))
    console.print(labelled(rows))


def _outputs(wrong: list[Mapping[str, Any]], inputs: int) -> RenderableType:
    from rich.text import Text

    lines: list[str] = []
    for output in wrong[:_MOST_OUTPUTS]:
        said = f"output '{output['name']}' is off by {output['error']:.3g} of its range"
        if output["nonfinite"]:
            said = (
                f"output '{output['name']}' has {output['nonfinite']:,} Inf or NaN in {output['elements']:,} elements"
            )
        where = f" on input {output['input'] + 1} of {inputs}" if inputs > 1 else ""
        lines.append(f"{said} ({output['unit']}{where})")
    if len(wrong) > _MOST_OUTPUTS:
        lines.append(f"and {len(wrong) - _MOST_OUTPUTS} more outputs")
    return Text("\n".join(lines), "red")


def _finding(number: int, culprit: Mapping[str, Any], data: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from nanproof.report.terminal import labelled

    share = culprit["share"]
    part = f"  {share:.0%} of the error" if share >= 0.005 else "  hidden behind what is above"
    title = Text.assemble((f"{number}. {culprit['code']} {culprit['name']}", "bold"), (part, "dim"))
    rows: list[tuple[str, RenderableType]] = [("what", Text(culprit["detail"])), ("where", _place(culprit))]
    if culprit["effects"]:
        rows.append(("then", Text("\n".join(culprit["effects"]))))
    if culprit["trial"] is not None:
        rows.append(("trial", _trial(culprit["trial"])))
    if len(data["units"]) > 1 or data["inputs"] > 1:
        shown = f"{joined(culprit['units'])}; input {culprit['input'] + 1} shows it"
        rows.append(("on", Text(shown)))
    rows.append(("fix", Text(culprit["fix"], "green")))
    return Group(title, Padding(labelled(rows), (0, 0, 0, 3)))


def _place(culprit: Mapping[str, Any]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    source, ops = culprit["source"], culprit["ops"]
    more = f" and {plural(len(ops) - 1, 'other')} of the same line" if len(ops) > 1 else ""
    op = Text(f"op '{culprit['op']}' ({culprit['op_type']}){more}", "dim")
    if not source:
        return op
    module = f"  in {source['module']}" if source["module"] else ""
    lines = [Text.assemble((f"{nearby(source['file'])}:{source['line']}", "cyan"), (module, "dim"))]
    for line in source["excerpt"] or [{"line": source["line"], "code": source["code"]}]:
        here = line["line"] == source["line"]
        shown = f"{'>' if here else ' '} {line['line']:4d}  {line['code']}"
        lines.append(Text(shown, "bold" if here else "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*lines, op)


def _trial(trial: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    with_these = f"with {plural(len(trial['fp32_ops']), 'op')} in FP32"
    if trial["cures"]:
        return Text(f"{with_these} the outputs are right")
    if trial["removes"] >= 0.01:
        return Text(f"{with_these} {trial['removes']:.0%} of the error is gone, and the outputs are still wrong")
    return Text(f"{with_these} the outputs are as wrong as before: there is more to mend")


def _reproducer(small: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    types = ", ".join(small["op_types"][:8]) + (", ..." if len(small["op_types"]) > 8 else "")
    text = Text(f"to {plural(small['ops'], 'op')} of {small['whole']:,} that still fail: {types}")
    files = [small["package"], small["inputs"], small["expected"], *([small["script"]] if small["script"] else [])]
    return text.append("\n" + "\n".join(files), "dim")


def _verdict(data: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    said = "nothing that FP16 breaks" if data["verdict"] == "tested" else "the outputs are wrong"
    rests = f"on {plural(data['inputs'], 'input')} (numerics: {joined(data['units'])}; tolerance {data['tolerance']:g})"
    return Text(f"{said} {rests}")
