"""The command line: one file per verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command ``nanproof`` and leave the interpreter with its exit code.

    0: proved or tested. 1: failed. 2: wrong use. 3: could not be checked. 130: interrupted.

    Args:
        args: The arguments, instead of those of the process.
    """
    from nanproof.cli.application import execute

    sys.exit(execute(list(sys.argv[1:] if args is None else args)))
