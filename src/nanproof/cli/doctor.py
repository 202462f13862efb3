"""``nanproof doctor``: is this environment known to work, and if not, what mends it."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from nanproof.cli.face import Answer, Face
from nanproof.cli.verb import verb

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BREAKAGES", "REQUIREMENTS", "Breakage", "Requirement", "diagnose", "doctor"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """Versions of a package that are known to work: ``low <= version < high``; no upper end if ``high`` is empty."""

    package: str
    low: str
    high: str = ""
    optional: bool = False
    note: str = ""

    @property
    def range(self) -> str:
        """The range in pip's spelling."""
        return f">={self.low}" + (f",<{self.high}" if self.high else "")

    def holds(self, version: str) -> bool:
        """Whether a version lies in the range."""
        parts = _parts(version)
        return parts >= _parts(self.low) and (not self.high or parts < _parts(self.high))


@dataclass(frozen=True, slots=True)
class Breakage:
    """What is known to break, with what, and the command that mends it. ``low`` is the first version that breaks."""

    package: str
    low: str
    what: str
    mend: str


REQUIREMENTS = (
    Requirement("torch", "2.7", note="newer than coremltools 9.0 was tested with (2.7) is fine: measured up to 2.13"),
    Requirement("coremltools", "9.0", "9.1"),
    Requirement("numpy", "1.26", "2.4"),
    Requirement("transformers", "5.0", optional=True, note="only needed for Hugging Face models"),
)
"""The ranges in pyproject.toml (a test compares them)."""

BREAKAGES = (
    Breakage(
        "numpy",
        "2.4",
        "coremltools 9.0 calls int() on an array of shape (1,) where a traced model computes a shape, such as "
        "x.view(b, c, h * w). An error since NumPy 2.4: 'only 0-dimensional arrays can be converted to "
        "Python scalars'. Measured with 2.4.0 and 2.4.6: torch.jit.trace fails; torch.export, which nanproof uses, "
        "passes (apple/coremltools issue 2633).",
        "pip install 'numpy<2.4'",
    ),
)


@verb("nanproof doctor", "nanproof doctor --json")
def doctor(face: Face) -> Answer:
    """Look at the versions of what nanproof works with: what is known to work, what to break, and how to mend it.

    Exit codes: 0 fine, 1 something is known to break or was never tried, 3 something is missing.
    """
    from nanproof.report.versions import installed

    names = ("nanproof", "torchvision", *(r.package for r in REQUIREMENTS))
    data = diagnose({name: installed(name) for name in names}, platform.python_version(), _lacks_native_writer())
    return Answer("doctor", data, lambda console: _show(console, data), data["exit_code"])


def diagnose(versions: Mapping[str, str | None], python: str, lacks_writer: bool = False) -> dict[str, Any]:
    """What is to be said about an environment.

    Args:
        versions: Installed version by package, ``None`` for a missing one.
        python: Version of Python.
        lacks_writer: coremltools is there without the native library that writes weights.
    """
    rows = [_row("python", python, ">=3.11", ok=_parts(python) >= (3, 11))]
    problems: list[dict[str, str]] = []
    missing = False
    if not rows[0]["ok"]:
        problems.append(_problem("python", "nanproof needs Python 3.11 or later", "install a newer Python"))
    for requirement in REQUIREMENTS:
        version = versions.get(requirement.package)
        ok = version is not None and requirement.holds(version)
        rows.append(_row(requirement.package, version, requirement.range, ok or (not version and requirement.optional)))
        rows[-1]["note"] = requirement.note
        mend = f"pip install '{requirement.package}{requirement.range}'"
        known = [
            b for b in BREAKAGES if version and b.package == requirement.package and _parts(version) >= _parts(b.low)
        ]
        if version is None and not requirement.optional:
            missing = True
            problems.append(_problem(requirement.package, "it is not installed", mend))
        problems += [_problem(b.package, b.what, b.mend) for b in known]
        if version and not ok and not known:
            what = f"version {version} is outside the range that is known to work ({requirement.range})"
            problems.append(_problem(requirement.package, what, mend))
    problems += _torchvision(versions.get("torch"), versions.get("torchvision"))
    if lacks_writer and versions.get("coremltools"):
        what = "it is installed without its native library libmilstoragepython, so no model can be written or read"
        problems.append(
            _problem("coremltools", what, "pip install --force-reinstall --only-binary :all: 'coremltools>=9.0,<9.1'")
        )
    code = 3 if missing else 1 if problems else 0
    return {"nanproof": versions.get("nanproof"), "packages": rows, "problems": problems, "exit_code": code}


def _torchvision(torch: str | None, torchvision: str | None) -> list[dict[str, str]]:
    """torchvision has compiled operators for one release of PyTorch, and one kind of build: 0.(n + 15) for 2.n."""
    if not torch or not torchvision or _parts(torch)[:1] != (2,):
        return []
    wanted = (0, _parts(torch)[1] + 15)
    builds = [version.partition("+")[2] for version in (torch, torchvision)]
    if _parts(torchvision)[:2] == wanted and (not all(builds) or builds[0] == builds[1]):
        return []
    what = (
        f"version {torchvision} is not the one for PyTorch {torch}, so that its import fails: 'operator "
        "torchvision::nms does not exist'. transformers imports it where it is installed"
    )
    mend = f"pip install 'torchvision=={wanted[0]}.{wanted[1]}.*', from the index that torch came from"
    return [_problem("torchvision", what, mend)]


def _row(package: str, version: str | None, wanted: str, ok: bool) -> dict[str, Any]:
    return {"package": package, "version": version, "known_to_work": wanted, "ok": ok, "note": ""}


def _problem(package: str, what: str, mend: str) -> dict[str, str]:
    return {"package": package, "what": what, "mend": mend}


def _parts(version: str) -> tuple[int, ...]:
    """The numbers of a version; what follows them (``+cpu``, ``rc1``) does not count."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(p) for p in found.group().split(".")) if found else ()


def _lacks_native_writer() -> bool:
    """Whether coremltools was installed without its compiled parts, as from source on a Python it has no wheel for."""
    try:
        files = metadata.files("coremltools")
    except metadata.PackageNotFoundError:
        return False
    return files is not None and not any(f.name.startswith("libmilstoragepython") for f in files)


def _show(console: Console, data: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("", "package", "version", "known to work", ""):
        table.add_column(heading)
    table.add_row(Text("✓", "green"), Text("nanproof"), Text(data["nanproof"] or "not installed"), Text(""), Text(""))
    for row in data["packages"]:
        mark = Text("✓", "green") if row["ok"] else Text("✗", "red")
        cells = (row["package"], row["version"] or "not installed", row["known_to_work"])
        table.add_row(mark, *(Text(c) for c in cells), Text(row["note"], "dim"))
    console.print(table)
    for problem in data["problems"]:
        console.print()
        console.print(Text.assemble((problem["package"], "bold red"), f": {problem['what']}"))
        console.print(Text.assemble("  mend it with  ", (problem["mend"], "bold")), soft_wrap=True)
    if not data["problems"]:
        console.print(Text("Everything is as it is known to work.", "green"))
