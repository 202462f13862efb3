"""Snapshots of verdicts: what a conversion has reached once it must not lose again, unless a person says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanproof.errors import UsageError

if TYPE_CHECKING:
    from nanproof.result import Conversion

__all__ = ["Snapshots", "worsened"]

_RANKS = ("failed", "unknown", "tested", "proved")


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of one test file.

    Attributes:
        path: The JSON file that holds them, by test.
    """

    path: Path

    def known(self) -> dict[str, Any]:
        """What has been reached, by test.

        Raises:
            UsageError: The file holds something else.
        """
        if not self.path.exists():
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            return {str(key): dict(value) for key, value in found.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError(f"'{self.path}' holds no snapshots: {error}. Restore it, or delete it.") from error

    def check(self, key: str, conversion: Conversion, *, update: bool) -> None:
        """Compare a conversion with what was reached before.

        Args:
            key: Names the test, and the conversion in it.
            conversion: The conversion.
            update: Write down what is new or better. What is worse is never written.

        Raises:
            AssertionError: It is worse; or there is no snapshot, and it may not be written.
        """
        now, known = _reached(conversion), self.known()
        before = known.get(key)
        worse = [] if before is None else worsened(before, now)
        if worse:
            raise AssertionError(
                f"The conversion is worse than it was: {'; '.join(worse)}.\n"
                f"  If this is meant, a person says so: change '{key}' in {self.path} to {json.dumps(now)}."
            )
        if before == now:
            return
        if update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**known, key: now}, indent=2, sort_keys=True)
            fresh = self.path.with_suffix(".new")
            fresh.write_text(text + "\n", encoding="utf-8")
            fresh.replace(self.path)
        elif before is None:
            raise AssertionError(
                f"There is no snapshot of '{key}' in {self.path}, so that nothing could be compared.\n"
                "  Run pytest with --nanproof-update once, and commit the file."
            )


def _reached(conversion: Conversion) -> dict[str, Any]:
    return {"verdicts": dict(conversion.verdicts), "fp32_ops": conversion.plan.fp32_ops}


def worsened(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is worse than before, in words.

    >>> worsened({"verdicts": {"gpu": "proved"}, "fp32_ops": 0}, {"verdicts": {"gpu": "tested"}, "fp32_ops": 2})
    ["'gpu' was proved and is tested", '0 ops computed in FP32 and 2 do']
    """
    found: list[str] = []
    for unit, verdict in before["verdicts"].items():
        is_now = now["verdicts"].get(unit)
        if is_now is None:
            found.append(f"'{unit}' was {verdict} and is not judged")
        elif _RANKS.index(is_now) < _RANKS.index(verdict):
            found.append(f"'{unit}' was {verdict} and is {is_now}")
    if now["fp32_ops"] > before["fp32_ops"]:
        found.append(f"{before['fp32_ops']} ops computed in FP32 and {now['fp32_ops']} do")
    return found
