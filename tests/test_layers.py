"""The house keeps its shape: sizes, layers, light imports, and documented public names."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "nanproof"
CODE = {".py", ".pyi", ".html", ".jinja", ".j2", ".css", ".js"}

MAX_FILE = 450
MAX_FUNCTION = 60
NAMELESS = {"utils", "util", "common", "helpers", "helper", "misc"}
HEAVY = ("torch", "coremltools", "transformers")


def code_files() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*") if path.suffix in CODE)


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, in the root of the repository."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in code_files()}
    long = [
        f"{path.relative_to(ROOT)} has {length} lines, {MAX_FILE} are allowed: split it by what it defines"
        for path, length in lengths.items()
        if length > MAX_FILE
    ]
    assert not long, "\n" + "\n".join(long)


def test_functions_are_short():
    long: list[str] = []
    for path in code_files():
        for node in functions(path) if path.suffix == ".py" else []:
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                long.append(f"{where}: {node.name} has {length} lines, {MAX_FUNCTION} are allowed: split it")
    assert not long, "\n" + "\n".join(long)


def test_modules_are_named_by_what_they_define():
    names = {path: path.parent.name if path.stem == "__init__" else path.stem for path in code_files()}
    nameless = [str(path.relative_to(ROOT)) for path, name in names.items() if name.strip("_") in NAMELESS]
    assert not nameless, f"name these by the noun they define: {nameless}"


def test_imports_point_downwards():
    done = python("from importlinter.cli import lint_imports_command as lint; lint(['--no-cache', '--no-logo'])")
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import nanproof", id="import nanproof"),
        pytest.param("from nanproof.cli import main; main(['--help'])", id="nanproof --help"),
    ],
)
def test_nothing_heavy_is_loaded(code: str):
    report = f"print('heavy:', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = python(
        f"import sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\n{report}"
    )
    assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"
    assert done.stdout.splitlines()[-1].split() == ["heavy:"], "loaded, though nothing needs it yet"


def test_public_names_exist_and_are_documented():
    import nanproof

    assert nanproof.__all__
    assert len(set(nanproof.__all__)) == len(nanproof.__all__)
    assert set(nanproof.__all__) <= set(dir(nanproof)), "a lazily loaded name must be listed by dir(nanproof) too"
    undocumented: list[str] = []
    for name in nanproof.__all__:
        value = getattr(nanproof, name)
        if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
            text = value.__doc__ or ""
            # A dataclass without a docstring gets its signature as one.
            if not text.strip() or text.startswith(f"{name}("):
                undocumented.append(name)
    assert not undocumented, f"without a docstring: {undocumented}"
