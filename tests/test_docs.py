"""What the documents show works: every bash, console and python block of README.md and docs/*.md runs.

The blocks of one file run in order, in one temporary folder (with a copy of examples/), and its python blocks share
their names, as a reader who follows the page would have it. A block is left out only by a line directly before it:

    <!-- test: skip because REASON -->

and then shows up among the skipped tests with that reason. To run one document by hand: python tests/test_docs.py FILE
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUNNABLE = ("bash", "console", "python")
# Blocks that are to be read, not run. Any other tag is refused, so that a block cannot escape by its spelling.
READABLE = ("text", "json", "toml", "yaml", "html", "diff", "mermaid")

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<tag>[^`\s]*).*$")
_SKIP = re.compile(r"^\s*<!-- test: skip because (?P<reason>\S.*?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block: where its first line of text stands (counted from 1), its language and text."""

    path: Path
    line: int
    language: str
    text: str
    skip: str | None

    @property
    def where(self) -> str:
        return f"{os.path.relpath(self.path, ROOT)}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in order."""
    found: list[Block] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            continue
        start = at
        while at < len(lines) and not _closes(lines[at], opening["fence"]):
            at += 1
        exempt = _SKIP.match(lines[start - 2]) if start >= 2 else None
        text = textwrap.dedent("\n".join(lines[start:at])) + "\n"
        found.append(Block(path, start + 1, opening["tag"], text, exempt["reason"] if exempt else None))
        at += 1
    return found


def _closes(line: str, fence: str) -> bool:
    stripped = line.strip()
    return len(stripped) >= len(fence) and not stripped.strip(fence[0])


def _documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


DOCUMENTS = _documents()
BLOCKS = [block for path in DOCUMENTS for block in blocks(path)]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Running one document, in a process of its own ------------------------------------------------------------------------


def run_document(path: Path) -> None:
    """Run the blocks of a document in the current folder; raises at the first one that fails."""
    reader = types.ModuleType("__main__")
    sys.modules["__main__"] = reader  # where classes of the python blocks say they live
    sys.path[0] = str(Path.cwd())
    for block in blocks(path):
        if block.language not in RUNNABLE or block.skip:
            continue
        _show(f"--- {block.where} ({block.language})\n")
        if block.language == "python":
            # Padded, so that tracebacks and warnings name the line of the document.
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, str(path), "exec", dont_inherit=True), reader.__dict__)
        elif block.language == "bash":
            subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], check=True)
        else:
            _run_session(block)


def _show(text: str) -> None:
    """Write at once, so that it stands in order with what child processes write."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _run_session(block: Block) -> None:
    """Run the `$ ` lines of a console block; output that it shows must be what comes, `...` standing for anything."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, rest = re.match(r"((?:.*\\\n)*.*\n)((?s:.*))", part).groups()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], check=False, stdout=subprocess.PIPE, text=True
        )
        _show(done.stdout)
        done.check_returncode()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if rest.strip() and not doctest.OutputChecker().check_output(rest.strip(), done.stdout.strip(), flags):
            raise AssertionError(f"{block.where}: '{command.strip()}' shows something else than the document says")


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_blocks_have_a_known_language(path: Path):
    wrong = [
        f"{block.where}: '{block.language}'" for block in blocks(path) if block.language not in RUNNABLE + READABLE
    ]
    assert not wrong, f"every block needs one of the tags {RUNNABLE + READABLE}: {wrong}"


@pytest.mark.slow
@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_document_runs(path: Path, tmp_path: Path):
    if not any(block.language in RUNNABLE and not block.skip for block in blocks(path)):
        pytest.skip("it has no blocks to run")
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": binaries, "NO_COLOR": "1", "COLUMNS": "120"}
    command = [sys.executable, str(Path(__file__).resolve()), str(path)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"a block of {_name(path)} failed, the last one named here:\n{done.stdout}"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.skip], ids=lambda block: block.where)
def test_exempted_block(block: Block):
    pytest.skip(f"{block.where}: {block.skip}")


def test_exemptions_stand_directly_before_a_block():
    written = sum("<!-- test: skip" in line for path in DOCUMENTS for line in path.read_text("utf-8").splitlines())
    assert written == sum(block.skip is not None for block in BLOCKS), "an exemption that exempts nothing"


if __name__ == "__main__":
    run_document(Path(sys.argv[1]).resolve())
