"""Reports: the data is strict JSON, the page is self-contained, escaped and well-formed, the text names what counts."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import pytest
from rich.console import Console

from nanproof.errors import UsageError
from nanproof.report.data import conversion_data, rests_on
from nanproof.report.encoding import document, encoded
from nanproof.report.html import page, write_html
from nanproof.report.terminal import print_conversion
from nanproof.result import Conversion

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script>\"'&[bold]{{ 7*7 }}"
KEPT = ("verdict", "schema", "kind", "dtype")


class Checker(HTMLParser):
    """Collects what a browser would see and insists that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    return checker


def mapped(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """The same data with every string changed, keys included, but for those that choose a style or stand for
    numbers."""
    if isinstance(value, dict):
        fixed = key in ("", "rests_on", "source", "plan", "program", "fidelity", "proof", "closest", "modules", "row")
        return {k if fixed else change(k): mapped(v, change, k if fixed else "row") for k, v in value.items()}
    if isinstance(value, list):
        return [mapped(v, change, "row" if isinstance(v, dict) else key) for v in value]
    if isinstance(value, str) and key not in KEPT and value not in ("inf", "-inf", "nan"):
        return change(value)
    return value


def test_the_data_is_strict_json(conversion: Conversion):
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    data = conversion.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False), parse_constant=refuse) == data
    assert (data["schema"], data["kind"], data["verdict"]) == ("nanproof/1", "conversion", "proved")
    assert {f["code"] for f in data["findings"]} == {"NP101", "NP110"} == set(data["kinds"])
    assert data["plan"]["rewrites"][0]["edits"]
    assert data["plan"]["islands"]
    assert data["program"]["fp32"] == data["plan"]["fp32_ops"] > 0
    assert len(data["units"]["gpu"]["stress"]) == len(data["stress"]) == 9
    assert data["versions"]["coremltools"]


def test_findings_carry_their_source(conversion: Conversion):
    finding = next(f for f in conversion.to_dict()["findings"] if f["code"] == "NP101")
    source = finding["source"]
    assert Path(source["file"]).name == "conftest.py"
    assert source["code"] == "bias = (1.0 - mask[:, None, :].float()) * torch.finfo(torch.float32).min"
    assert [row["line"] - source["line"] for row in source["excerpt"]] == [-2, -1, 0, 1, 2]


def test_numbers_that_json_lacks():
    assert encoded([math.inf, -math.inf, math.nan, 1.5, True, None]) == ["inf", "-inf", "nan", 1.5, True, None]
    assert json.loads(document("x", {"a": math.nan})) == {"schema": "nanproof/1", "kind": "x", "a": "nan"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("tested", 1, 0), "tested on 1 given input; not proved for all inputs"),
        (("tested", 2, 1), "tested on 2 given inputs and 1 stress input; not proved for all inputs"),
        (("failed", 1, 4), "failed on 1 given input and 4 stress inputs"),
    ],
)
def test_what_a_verdict_rests_on(arguments: tuple[str, int, int], sentence: str):
    assert rests_on(*arguments) == sentence


def test_the_page_is_well_formed_and_self_contained(conversion: Conversion, tmp_path: Path):
    path = write_html(conversion, tmp_path / "r.html", title="nets.py:everything")
    text = path.read_text(encoding="utf-8")
    checker = checked(text)
    tags = [tag for tag, _ in checker.tags]
    assert not {"link", "img", "iframe", "object"} & set(tags)
    assert [attrs for tag, attrs in checker.tags if tag == "script"] == [{}], "one script, which loads nothing"
    assert not re.search(r"https?://|url\(|@import", text)
    assert all(a.get("href", "#").startswith("#") for _, a in checker.tags)
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    assert tags.count("table") == tags.count("caption"), "every table says what it holds"
    ids = [a["id"] for _, a in checker.tags if "id" in a]
    assert len(ids) == len(set(ids))
    labels = {a["aria-labelledby"] for _, a in checker.tags if "aria-labelledby" in a}
    assert labels <= set(ids)
    assert ("html", {"lang": "en"}) in checker.tags


def test_the_page_shows_what_counts(conversion: Conversion):
    text = page(conversion_data(conversion))
    for part in (
        "Proved finite for all inputs that are assumed, and tested on 1 given input and 9 stress inputs",
        "NP101",
        "NP110",
        "torch.finfo(torch.float32).min",
        "first row masked everywhere",
        "activation-overflow",
        "softmax",
        "coremltools",
        "in all",
    ):
        assert part in text


def test_hostile_names_are_escaped(conversion: Conversion):
    data = mapped(conversion_data(conversion), lambda s: s + HOSTILE)
    assert HOSTILE in data["program"]["inputs"][0]["name"]
    text = page(data, HOSTILE)
    assert text.count("<script") == 1, "ours"
    assert "&lt;script&gt;" in text
    assert "{{ 7*7 }}" in text, "data is never read as a template"
    checked(text)


def test_a_failed_page(conversion: Conversion):
    data = conversion_data(conversion)
    unit = data["units"]["strict"]
    data["verdict"] = unit["verdict"] = "failed"
    unit["reasons"] = ["output 'y' has 2 Inf or NaN where PyTorch has none"]
    unit["outputs"][0] |= {"error": "inf", "within": False, "nonfinite": 2, "snr_db": "-inf"}
    unit["stress"][0]["nonfinite"] = 4
    unit["stress"][1]["compared"] = False
    unit["births"] = [{"op": "mul", "described": "mul made 2 NaN"}]
    text = page(data)
    checked(text)
    for part in ("Why it failed under", "4 Inf or NaN", "refused by the module", "mul made 2 NaN"):
        assert part in text


def test_the_page_is_written_whole_or_not_at_all(conversion: Conversion, tmp_path: Path):
    with pytest.raises(UsageError, match=r"Cannot write the report '.*nowhere/r.html': No such file or directory"):
        conversion.report(tmp_path / "nowhere" / "r.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="Cannot write the report"):
        conversion.report(tmp_path / "folder.html")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.html"]


def test_the_terminal_text(conversion: Conversion):
    stream = io.StringIO()
    print_conversion(conversion, Console(file=stream, width=120, markup=False), ending="[red]saved[/red]")
    text = stream.getvalue()
    for part in (
        "NP101 mask-sentinel",
        "NP110 activation-overflow",
        "compute in FP32",
        "gpu",
        "strict",
        "[red]saved[/red]",
    ):
        assert part in text
    assert "[0m" not in text
    assert max(len(line) for line in text.splitlines()) <= 120
