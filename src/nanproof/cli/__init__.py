"""The command line: one file per verb. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command ``nanproof`` and leave the interpreter with its exit code.

    0: proved or tested. 1: failed. 2: wrong use. 3: could not be checked. 130: interrupted.

    Args:
        args: The arguments, instead of those of the process.
    """
    # The threads of PyTorch (libgomp) spin while they wait for each other, which a busy machine such as a CI worker
    # pays for dearly. A short spin costs nothing: a forward pass of MiniLM on two cores took 37 ms either way on an
    # idle machine, and 92 ms instead of 80 to 260 beside two busy processes (1.8 s beside a parallel test run).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

    from nanproof.cli.application import execute

    sys.exit(execute(list(sys.argv[1:] if args is None else args)))
