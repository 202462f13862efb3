"""Cases of coremltools' tests: what became of each, which of them to run, and which are known to fail."""

from __future__ import annotations

import enum
import fnmatch
import json
import random
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanproof.errors import UsageError

__all__ = ["Case", "KnownFailure", "Outcome", "Sample", "function_of", "known_failures", "read_cases"]

KNOWN_FAILURES = Path(__file__).with_name("known_failures.toml")
_KINDS = ("coremltools", "torch", "nanproof", "numerics")


class Outcome(enum.Enum):
    """What became of one case. Only the first two judge nanproof."""

    PASSED = "passed"
    """Predictions were made, and the case is content with them; or one was refused, as the case expects."""
    FAILED = "failed"
    """Predictions were made or asked for, and the case is not content."""
    NOT_JUDGED = "not judged"
    """The case passed without asking for a prediction, which says nothing about nanproof."""
    NOT_CONVERTED = "not converted"
    """coremltools could not convert the model with the installed versions."""
    NOT_PREDICTED = "not predicted"
    """The case failed outside the conversion, before it asked for a prediction: in PyTorch, or in its own checks."""
    NOT_RUNNABLE = "not runnable"
    """The case needs a package that is not installed."""
    SKIPPED = "skipped"
    """coremltools skips the case or expects it to fail."""
    NEURAL_NETWORK = "neural network"
    """The case is about the older model type, which nanproof does not execute."""

    @property
    def judges(self) -> bool:
        """Whether the case says anything about nanproof."""
        return self in (Outcome.PASSED, Outcome.FAILED)


@dataclass(frozen=True, slots=True)
class Case:
    """One case that was run.

    Attributes:
        id: pytest's node id, from the folder that holds the coremltools package.
        outcome: What became of it.
        reason: Why, in a line; ``""`` for a case that passed.
        predictions: How many predictions were made for it.
        seconds: How long it took.
    """

    id: str
    outcome: Outcome
    reason: str = ""
    predictions: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        """One line."""
        return json.dumps({**asdict(self), "outcome": self.outcome.value})

    @classmethod
    def from_json(cls, line: str) -> Case:
        """The case that :meth:`to_json` wrote."""
        fields: Any = json.loads(line)
        return cls(**fields | {"outcome": Outcome(fields["outcome"])})


def read_cases(record: Path) -> list[Case]:
    """The cases of a record, none if there is none. Of a case that ran twice the last; a line cut short is left out."""
    if not record.exists():
        return []
    lines = [line for line in record.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return list({case.id: case for case in map(Case.from_json, lines)}.values())


def function_of(id: str) -> str:
    """The test function of a case: its file name, class and function.

    >>> function_of("coremltools/converters/mil/frontend/torch/test/test_torch_ops.py::TestConv::test_conv2d[a-b::c]")
    'torch/test/test_torch_ops.py::TestConv::test_conv2d'
    """
    path, *names = id.partition("[")[0].split("::")
    return "::".join(("/".join(path.split("/")[-3:]), *names))


def parameters_of(id: str) -> str:
    """What stands in the brackets of a case.

    >>> parameters_of("test_torch_ops.py::TestConv::test_conv2d[a-b]")
    'a-b'
    """
    return id.partition("[")[2].removesuffix("]")


@dataclass(frozen=True, slots=True)
class Sample:
    """Which cases to run: all, a fraction of them, or so many of each test function. The choice hangs on the seed."""

    fraction: float = 1.0
    per_function: int | None = None
    seed: int = 0

    def choose(self, ids: Sequence[str]) -> set[str]:
        """The chosen among the ids of cases. The choice in one function does not depend on the others."""
        functions: dict[str, list[str]] = {}
        for id in ids:
            functions.setdefault(function_of(id), []).append(id)
        chosen: set[str] = set()
        for function, cases in functions.items():
            order = random.Random(f"{self.seed} {function}").sample(sorted(cases), len(cases))  # noqa: S311
            count = len(cases) if self.per_function is None else min(self.per_function, len(cases))
            chosen.update(order[:count])
        kept = random.Random(self.seed).sample(sorted(chosen), round(self.fraction * len(chosen)))  # noqa: S311
        return set(kept)


@dataclass(frozen=True, slots=True)
class KnownFailure:
    """Cases that are known to fail, and why.

    Attributes:
        test: The test function, as :func:`function_of` names it.
        cases: Pattern (as of a shell) for the parameters of those that fail.
        kind: Whose fault it is: ``"coremltools"``, ``"torch"`` (its version), ``"nanproof"``, or ``"numerics"``.
        reason: Why, in words.
    """

    test: str
    cases: str
    kind: str
    reason: str

    def covers(self, id: str) -> bool:
        """Whether a case is one of them."""
        return function_of(id) == self.test and fnmatch.fnmatchcase(parameters_of(id), self.cases)


def known_failures(path: Path = KNOWN_FAILURES) -> list[KnownFailure]:
    """The checked-in list.

    Raises:
        UsageError: An entry lacks something, or its kind is unknown.
    """
    entries: list[Mapping[str, str]] = tomllib.loads(path.read_text(encoding="utf-8")).get("failure", [])
    known: list[KnownFailure] = []
    for entry in entries:
        if not {"test", "kind", "reason"} <= set(entry) or entry["kind"] not in _KINDS:
            raise UsageError(f"'{path}': an entry needs test, reason, and a kind of {', '.join(_KINDS)}: {dict(entry)}")
        known.append(KnownFailure(entry["test"], entry.get("cases", "*"), entry["kind"], entry["reason"]))
    return known


def count(cases: Iterable[Case]) -> dict[Outcome, int]:
    """How many cases had each outcome; all outcomes are there."""
    counted = Counter(case.outcome for case in cases)
    return {outcome: counted[outcome] for outcome in Outcome}
