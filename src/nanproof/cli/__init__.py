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
    # OpenMP's threads spin while they wait, unless told otherwise before PyTorch is loaded. On a machine that does
    # other work too (CI) that costs an order of magnitude: with two busy processes on two cores, a forward pass of
    # MiniLM took 1.8 s spinning and 0.2 s waiting passively.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from nanproof.cli.application import execute

    sys.exit(execute(list(sys.argv[1:] if args is None else args)))
