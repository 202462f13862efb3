"""Runs proved programs on as many points as fit into some minutes: ``python -m tests.soundness --minutes 10``.

Points are random, corners, and found by a search that pushes values towards their bounds. Counted are the elements of
all values of programs that are proved for the unit; each is held against its own bound.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np

from tests.laws.bounded import UNITS, Boxed, Tally, check
from tests.laws.bounded_programs import PATTERNS, boxed_program
from tests.soundness.models import MODELS, boxed_model
from tests.soundness.search import climbed


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _programs(rng: np.random.Generator, names: list[str]) -> Iterator[tuple[str, Boxed, bool]]:
    """Models now and then, small programs in between, without an end."""
    models = iter(names)
    while True:
        model = next(models, None)
        if model is not None:
            yield model, boxed_model(model), False
        for name, pattern in PATTERNS.items():
            yield name, boxed_program(pattern, int(rng.integers(2**31)), half=bool(rng.random() < 0.7)), True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soundness", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rng, end = np.random.default_rng(given.seed), time.monotonic() + 60 * given.minutes
    _say(f"seed {given.seed}, {given.minutes:g} minutes")
    total, points, violations, proved = 0, 0, 0, Counter[str]()
    for name, boxed, exact in _programs(rng, given.models):
        for unit in UNITS if exact else UNITS[:3]:
            tally = Tally()
            found = list(check(boxed, boxed.points(rng, 10), unit, tally, exact=exact))
            if tally.proved:
                pushed = list(climbed(boxed, unit, rng, 24))
                found += check(boxed, pushed, unit, tally, exact=False)
                proved[name] += 1
                points += 10 + len(pushed)
            elif not exact:
                _say(f"{name} is not proved for {unit}: {'; '.join(sorted(tally.reasons))[:200]}")
            total, violations = total + tally.elements, violations + len(found)
            for text in found[:3]:
                _say(f"VIOLATION {name}: {text[:1000]}")
        if time.monotonic() > end:
            break
    _say(f"{total} elements at {points} points of {sum(proved.values())} proofs, {violations} violations")
    _say(", ".join(f"{name} {count}" for name, count in proved.items()))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
