"""What makes a function a verb: the options that every verb has, its help text, and its :class:`Face`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from nanproof.cli.face import Answer, Face

__all__ = ["Tolerance", "Units", "verb"]

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.", show_default=False)]
_Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors; the exit code tells.", show_default=False)
]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", show_default=False)]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", help="Judge under these numerics; may be repeated.", metavar="NAME", show_default="gpu"),
]
"""Numerics by name, as every verb that judges takes them."""
Tolerance = Annotated[
    float, typer.Option(min=0.0, help="Largest error, relative to an output's range.", metavar="NUMBER")
]
"""The tolerance, as every verb that judges takes it."""
_SHARED = {"json": _Json, "quiet": _Quiet, "debug": _Debug}


def verb(*examples: str) -> Callable[[Callable[..., Answer]], Callable[..., None]]:
    """Decorate ``function(face, ...) -> Answer`` so that typer sees its other parameters and the shared options.

    Args:
        examples: Command lines for the help text.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for name, annotation in _SHARED.items()
        ]

        @functools.wraps(function)
        def command(**given: Any) -> None:
            face = Face(*(given.pop(name) for name in _SHARED))
            raise typer.Exit(face.run(lambda: function(face, **given)))

        del command.__wrapped__  # type: ignore[attr-defined]
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
        command.__signature__ = signature.replace(parameters=parameters, return_annotation=None)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = _help(function.__doc__ or "", examples)
        return command

    return decorate


def _help(doc: str, examples: tuple[str, ...]) -> str:
    """The docstring, its paragraphs on one line each so that the terminal wraps them, and the examples."""
    paragraphs = [" ".join(p.split()) for p in inspect.cleandoc(doc).split("\n\n")]
    lines = "\n".join(f"[cyan]{escape(example)}[/cyan]" for example in examples)
    return "\n\n".join([*(escape(p) for p in paragraphs), f"Example:\n{lines}"])
