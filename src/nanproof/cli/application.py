"""The application: its verbs, and what happens to arguments that fit none of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from nanproof import __version__
from nanproof.cli.check import check
from nanproof.cli.convert import convert
from nanproof.cli.diagnose import diagnose
from nanproof.cli.doctor import doctor
from nanproof.cli.explain import explain
from nanproof.cli.face import Face
from nanproof.cli.inspect import inspect
from nanproof.cli.ops import ops
from nanproof.cli.prove import prove
from nanproof.cli.ranges import ranges
from nanproof.cli.repair import repair
from nanproof.cli.run import run

__all__ = ["app", "execute"]

app = typer.Typer(name="nanproof", rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})
for verb in (convert, repair, run, check, diagnose, ranges, prove, inspect, ops, explain, doctor):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nanproof {__version__}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
]


@app.callback(invoke_without_command=True)
def nanproof(context: typer.Context, version: _Version = False) -> None:
    """Core ML models that run in FP16 without NaN, Inf or silent damage, checked on any machine.

    Exit codes: 0 proved or tested, 1 failed, 2 wrong use, 3 could not be checked.

    Example:
    [cyan]nanproof convert examples/bert_classifier.py:model -o bert.mlpackage[/cyan]
    [cyan]nanproof run bert.mlpackage --inputs batch.npz -o outputs.npz[/cyan]
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def execute(args: Sequence[str]) -> int:
    """Run the verb that the arguments name, and return its exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=list(args), prog_name="nanproof", standalone_mode=False)
    except Exception as error:  # typer keeps the base class of its parsing errors to itself
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        Face.of(args).refuse("UsageError", f"{message().rstrip()}{_usage(error)}", 2)
        return 2
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> str:
    context: Any = getattr(error, "ctx", None)
    if context is None:
        return ""
    usage = " ".join(context.get_usage().split())
    return f"\n  {usage}\n  `{context.command_path} --help` says more."
