"""The answer of the verbs that make a package, convert and repair: what was done, and where the file is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanproof.cli.face import Answer

if TYPE_CHECKING:
    from rich.console import Console

    from nanproof.result import Conversion

__all__ = ["Files", "answer", "checked_units", "written"]

_BAD = frozenset({"failed", "unknown"})
_EXIT_CODES = {"proved": 0, "tested": 0, "failed": 1, "unknown": 3}


@dataclass(frozen=True, slots=True)
class Files:
    """The output that was asked for, and the files that were written."""

    output: Path
    written: Path | None
    report: Path | None


def checked_units(names: Sequence[str] | None) -> list[str]:
    """The numerics to judge under, each once; ``gpu`` if none are named.

    Raises:
        NumericsError: There is no such numerics.
    """
    from nanproof.numerics import get

    return [get(name).name for name in dict.fromkeys(names or ["gpu"])]


def written(conversion: Conversion, model: str, output: Path, report: Path | None, *, keep_failed: bool) -> Files:
    """Save the package, unless it is a bad one that nobody wants to keep, and the report."""
    good = conversion.verdict not in _BAD or keep_failed
    files = Files(output, conversion.save(output) if good else None, report)
    if report is not None:
        from nanproof.report.html import write_html

        write_html(conversion, report, title=model)
    return files


def answer(conversion: Conversion, model: str, files: Files) -> Answer:
    """What the verb says, in words and as JSON."""
    paths = {"file": files.written, "report": files.report}
    data = {**conversion.to_dict(), "model": model, **{k: str(p) if p else None for k, p in paths.items()}}

    def show(console: Console) -> None:
        from nanproof.report.terminal import print_conversion

        print_conversion(conversion, console, ending=_ending(conversion, files))

    return Answer("conversion", data, show, _EXIT_CODES[conversion.verdict])


def _ending(conversion: Conversion, files: Files) -> Any:
    """Where the file is, or why there is none."""
    from rich.console import Group
    from rich.text import Text

    from nanproof.report.wording import package_bytes, size_text

    if files.written is not None:
        kept = ", kept although it failed" if conversion.verdict in _BAD else ""
        if conversion.original is not None and conversion.original.healthy:
            kept = ", a copy: there was nothing to repair"
        lines = [Text.assemble((str(files.written), "bold"), f"  {size_text(package_bytes(files.written))}{kept}")]
    else:
        done = "conversion" if conversion.original is None else "repair"
        state = conversion.verdict if conversion.verdict == "failed" else "could not be judged"
        lines = [Text(f"{files.output} was not written, since the {done} {state}.", "red")]
        lines.append(Text(f"--keep-failed writes it nevertheless; {_advice(conversion)}.", "dim"))
    if files.report is not None:
        lines.append(Text(f"report: {files.report}"))
    return Group(*lines)


def _advice(conversion: Conversion) -> str:
    if conversion.original is not None:
        return "`nanproof convert` does more, from the model's source"
    if conversion.precision == "float16":
        return "--precision auto keeps FP32 what needs it"
    return "--precision float32 gives up FP16"
