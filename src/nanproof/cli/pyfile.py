"""A Python file of the user's, and a name in it: ``file.py:name``."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from nanproof.errors import ModelFileError, UsageError

__all__ = ["PyFile", "PyName", "called", "is_spec"]


@dataclass(frozen=True, slots=True)
class PyFile:
    """A Python file that exists."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> PyFile:
        """The file.

        Raises:
            ModelFileError: There is none.
        """
        if not path.is_file():
            raise ModelFileError(f"There is no file '{path}'.")
        return cls(path)

    @property
    def module_name(self) -> str:
        """The name under which the file is imported; of its own, since ``types.py`` must not hide ``types``."""
        return f"nanproof_file_{self.path.stem}_{abs(hash(self.path.resolve())):x}"

    def candidates(self) -> list[str]:
        """Public names that the file binds at its top level, imports left out. Nothing is executed."""
        try:
            tree = ast.parse(self.path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):
            return []
        names: list[str] = []
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.append(node.name)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names += [t.id for t in targets if isinstance(t, ast.Name)]
        return [name for name in dict.fromkeys(names) if not name.startswith("_")]

    def load(self) -> ModuleType:
        """Import the file, once. Its folder goes to the front of ``sys.path``, as ``python file.py`` has it.

        Raises:
            UsageError: The file fails while it is imported.
        """
        if self.module_name in sys.modules:
            return sys.modules[self.module_name]
        spec = importlib.util.spec_from_file_location(self.module_name, self.path)
        if spec is None or spec.loader is None:
            raise ModelFileError(f"'{self.path}' cannot be imported.")
        folder = str(self.path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        module = importlib.util.module_from_spec(spec)
        sys.modules[self.module_name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # the file is the user's code: it may raise anything
            del sys.modules[self.module_name]
            raise UsageError(f"'{self.path}' fails when it is imported: {self._told(error)}") from error
        return module

    def _told(self, error: BaseException) -> str:
        """An error of the user's code with the last line of this file that led to it."""
        if isinstance(error, SystemExit):
            return "it ends the interpreter. Put what is to run as a script under `if __name__ == '__main__':`."
        if isinstance(error, SyntaxError):
            return f"SyntaxError: {error.msg} (line {error.lineno})"
        here = str(self.path.resolve())
        frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) == here]
        where = f"\n  at {self.path}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
        return f"{type(error).__name__}: {error}{where}"

    def told(self, name: str, error: BaseException) -> str:
        """What happened when a function of the file was called."""
        return f"The function '{name}' of '{self.path}' fails: {self._told(error)}"


@dataclass(frozen=True, slots=True)
class PyName:
    """A name in a Python file."""

    file: PyFile
    name: str

    @classmethod
    def parse(cls, spec: str) -> PyName:
        """Take ``file.py:name`` apart.

        Raises:
            ModelFileError: There is no such file.
        """
        path, _, name = spec.rpartition(":")
        return cls(PyFile.at(Path(path)), name)

    @property
    def module(self) -> ModuleType:
        """The imported file."""
        return self.file.load()

    def __str__(self) -> str:
        return f"{self.file.path}:{self.name}"


def is_spec(text: str) -> bool:
    r"""Whether a text has the form ``file.py:name``.

    >>> is_spec("nets.py:bert"), is_spec("C:\\nets.py"), is_spec("bert.pt2")
    (True, False, False)
    """
    path, _, name = text.rpartition(":")
    return path.endswith(".py") and name.isidentifier()


def called(name: PyName) -> Any:
    """What a name is bound to; if that is a function or a class, what it returns.

    Raises:
        UsageError: There is no such name, the function takes arguments, or it fails.
    """
    from torch import nn

    module = name.module
    if name.name not in vars(module):
        names = name.file.candidates()
        listed = f" It defines {', '.join(names)}." if names else " It defines no names."
        raise UsageError(f"'{name.file.path}' has no name '{name.name}'.{listed}")
    value = vars(module)[name.name]
    if not callable(value) or isinstance(value, nn.Module):
        return value
    needed = _needed(value)
    if needed:
        what = "class" if isinstance(value, type) else "function"
        raise UsageError(
            f"The {what} '{name.name}' of '{name.file.path}' needs arguments ({', '.join(needed)}).\n"
            "  Name a function without arguments that returns the module, for example:\n"
            f"    def model():\n        return {name.name}({', '.join(f'{n}=...' for n in needed)})"
        )
    try:
        return value()
    except (Exception, SystemExit) as error:  # the user's code
        raise UsageError(name.file.told(name.name, error)) from error


def _needed(function: Any) -> list[str]:
    """Names of the parameters without which a function cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
