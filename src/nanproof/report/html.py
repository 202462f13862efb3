"""A conversion as one HTML file that opens without a network, on a phone, on paper and in a screen reader."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import datetime
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nanproof.errors import UsageError
from nanproof.report.data import conversion_data
from nanproof.report.modules import place
from nanproof.report.wording import error_text, joined, nearby, nothing_found, plural, size_text

if TYPE_CHECKING:
    from nanproof.result import Conversion

__all__ = ["frame", "page", "write_html"]

_WORDS = {
    "proved": "Finite for every input inside the stated assumptions, and within tolerance on the given inputs.",
    "tested": "Finite wherever {reference} is on everything that was tried, and within tolerance on the given inputs.",
    "failed": "The written file gives Inf or NaN where {reference} has none, or is off by more than the tolerance.",
    "unknown": "Nothing is known about the written file.",
}


def write_html(conversion: Conversion, path: str | PathLike[str], *, title: str = "") -> Path:
    """Write the report, so that ``path`` is either untouched or complete.

    Args:
        conversion: The result.
        path: The file to write.
        title: What was converted, for the heading.

    Raises:
        UsageError: The file cannot be written.
    """
    target = Path(path)
    text = page(conversion_data(conversion), title)
    try:
        with tempfile.TemporaryDirectory(prefix=".nanproof-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "report.html"
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(target)
    except OSError as error:
        raise UsageError(f"Cannot write the report '{target}': {error.strerror or error}.") from error
    return target


def frame(conversion: Conversion) -> str:
    """The report as a frame in another page: its styles stay its own, and no script runs in it."""
    title = f"Conversion: {conversion.verdict}"
    text = escape(page(conversion_data(conversion)))
    style = "width: 100%; height: 40em; border: 1px solid #8888; border-radius: 6px"
    return f'<iframe sandbox title="{escape(title)}" style="{style}" srcdoc="{text}"></iframe>'


def page(data: Mapping[str, Any], title: str = "") -> str:
    """The report on a conversion's data as HTML text. Everything in the data is escaped."""
    environment = Environment(
        loader=PackageLoader("nanproof.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "error": error_text,
        "joined": joined,
        "nearby": nearby,
        "plural": plural,
        "size": size_text,
        "place": place,
        "shape": _shape,
        "share": _share,
    }
    environment.filters.update(filters)
    total = data["program"]["fp16"] + data["program"]["fp32"]
    return environment.get_template("page.html.j2").render(
        data=data,
        title=title,
        nothing=nothing_found(data),
        words=_words(data),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        fp16_share=100 * data["program"]["fp16"] / total if total else 0,
    )


def _words(data: Mapping[str, Any]) -> str:
    if data["original"] and data["original"]["healthy"]:
        return "The package passes as it is, and was left as it is."
    return _WORDS[data["verdict"]].format(reference=data["reference"])


def _shape(value: Mapping[str, Any]) -> str:
    return f"{value['dtype']}[{', '.join(str(d) for d in value['shape'])}]"


def _share(error: Any, tolerance: float) -> float:
    """How much of the tolerance an error uses up, in percent, at most 100."""
    return min(100.0, 100.0 * float(error) / tolerance) if tolerance else 100.0
