"""Damages packages for a while: ``python -m tests.fuzz --minutes 10 --seed 7 --save build/fuzz``."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.corpus import build
from tests.fuzz.harness import Failure, Fuzzer


def _key(failure: Failure) -> str:
    """Where a failure comes from: its last line, and the places of nanproof in its trace."""
    lines = failure.trace.strip().splitlines()
    return "\n".join([*(line for line in lines if "/nanproof/" in line), lines[-1].split(":")[0]])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--save", type=Path, default=Path("build/fuzz"))
    given = parser.parse_args()
    _say(f"seed {given.seed}, {given.minutes:g} minutes")
    seen: set[str] = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fuzzer = Fuzzer(build(folder), folder / "cases", given.seed)
        (folder / "cases").mkdir()
        end, cases = time.monotonic() + 60 * given.minutes, 0
        while time.monotonic() < end:
            cases += 1
            failure = fuzzer.case()
            if failure is not None and _key(failure) not in seen:
                seen.add(_key(failure))
                place = fuzzer.save(fuzzer.smallest(failure), given.save)
                _say(f"case {cases}: {failure.trace.strip().splitlines()[-1]}\n  saved in {place}")
    _say(f"{cases} cases: " + ", ".join(f"{count} {name}" for name, count in fuzzer.outcomes.most_common()))
    _say(f"{len(seen)} different failures")
    return 1 if seen else 0


if __name__ == "__main__":
    sys.exit(main())
