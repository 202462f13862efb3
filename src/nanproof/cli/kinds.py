"""``--kind NAME=KIND`` and ``--kind NAME=LOW:HIGH``, or ``--assume``: what the user says of inputs."""

from __future__ import annotations

from collections.abc import Sequence

from nanproof.errors import UsageError

__all__ = ["stated_kinds"]


def stated_kinds(options: Sequence[str], flag: str = "--kind") -> dict[str, str | tuple[float, float]]:
    """What the options say, by input name. Whether there is such an input or kind is for others to check.

    >>> stated_kinds(["x=image", "t=-1:1e3"])
    {'x': 'image', 't': (-1.0, 1000.0)}

    Raises:
        UsageError: An option has another form, or an input comes twice.
    """
    found: dict[str, str | tuple[float, float]] = {}
    for option in options:
        name, equals, said = option.partition("=")
        if not (name and equals and said):
            raise UsageError(f"'{flag} {option}' says nothing. Write {flag} NAME=KIND or {flag} NAME=LOW:HIGH.")
        if name in found:
            raise UsageError(f"{flag} is given twice for '{name}'.")
        low, colon, high = said.partition(":")
        try:
            found[name] = (float(low), float(high)) if colon else said
        except ValueError:
            raise UsageError(f"'{flag} {option}' has no range. Write {flag} {name}=LOW:HIGH, with numbers.") from None
    return found
