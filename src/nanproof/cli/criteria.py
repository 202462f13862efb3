"""``--metric`` and ``--output-tolerance``: when an output counts as the same."""

from __future__ import annotations

from collections.abc import Sequence

from nanproof.errors import UsageError

__all__ = ["stated_metric", "stated_tolerance"]


def stated_metric(options: Sequence[str]) -> dict[str, str]:
    """The metrics by output; ``*`` stands for all others. Whether there are such is for others to check.

    >>> stated_metric(["snr", "logits=top-5"])
    {'*': 'snr', 'logits': 'top-5'}

    Raises:
        UsageError: An option has another form, or comes twice.
    """
    found: dict[str, str] = {}
    for option in options:
        output, equals, metric = option.rpartition("=")
        name = output if equals else "*"
        if not name or not metric:
            raise UsageError(f"'--metric {option}' says nothing. Write --metric NAME or --metric OUTPUT=NAME.")
        if name in found:
            raise UsageError(f"--metric is given twice for {'all outputs' if name == '*' else repr(name)}.")
        found[name] = metric
    return found


def stated_tolerance(tolerance: float, options: Sequence[str]) -> dict[str, float]:
    """The tolerances by output; ``*`` stands for all others.

    >>> stated_tolerance(0.01, ["depth=0.1"])
    {'*': 0.01, 'depth': 0.1}

    Raises:
        UsageError: An option has another form, or comes twice.
    """
    found = {"*": tolerance}
    for option in options:
        name, _, number = option.rpartition("=")
        if name in found:
            raise UsageError(f"--output-tolerance is given twice for '{name}'.")
        try:
            found[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(f"'--output-tolerance {option}' has no number. Write --output-tolerance OUTPUT=NUMBER.")
    return found
