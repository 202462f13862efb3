"""Run coremltools' own tests with nanproof's predictions: ``python -m nanproof.testing.conformance``.

coremltools' wheel carries the tests by which its authors check each lowering of a PyTorch operator and each MIL op
against PyTorch or NumPy. Elsewhere than on macOS they compare nothing. Here they do: every prediction is nanproof's,
while expected values and tolerances are theirs. A case that asked for no prediction is never counted as passed.

Exit codes: 0 all judged cases passed but for those listed in ``known_failures.toml``, 1 others failed, or listed ones
passed (take them off the list), 3 nothing was judged, or a package is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanproof.mil.coreml import ct
from nanproof.testing.cases import Case, KnownFailure, Outcome, count, function_of, known_failures, read_cases

__all__ = ["Verdict", "judge", "main"]

_PACKAGE = Path(ct.__file__).parent
TESTS = (
    "coremltools/converters/mil/frontend/torch/test/test_torch_ops.py",
    "coremltools/converters/mil/mil/ops/tests",
)
BAR = 0.995
"""The part of the judged cases that must pass, the known failures counted as failures.

It is about cases. In a sample of one case per function a rare case weighs as much as a thousand, so that there only the
list of known failures decides.
"""
_SHOWN = 15
_NEEDED = {"pillow": "PIL", "pytest": "pytest", "pytest-xdist": "xdist", "scipy": "scipy"}
"""What the tests and the run import beside nanproof's own requirements, by the name to install it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a set of cases says.

    Attributes:
        cases: All cases that ran.
        unexpected: Cases that failed and are not on the list of known failures.
        explained: Cases that failed, each with its entry on the list.
        mended: Cases that passed although they are on the list.
        bar: The part of the judged cases that must pass.
    """

    cases: Sequence[Case]
    unexpected: Sequence[Case]
    explained: Sequence[tuple[Case, KnownFailure]]
    mended: Sequence[Case]
    bar: float

    @property
    def judged(self) -> int:
        """How many cases compared a prediction."""
        return sum(case.outcome.judges for case in self.cases)

    @property
    def pass_rate(self) -> float:
        """The part of the judged cases that passed; 0 if none was judged."""
        passed = sum(case.outcome is Outcome.PASSED for case in self.cases)
        return passed / self.judged if self.judged else 0.0

    @property
    def exit_code(self) -> int:
        """0 as expected, 1 not, 3 nothing judged."""
        if not self.judged:
            return 3
        return 1 if self.unexpected or self.mended or self.pass_rate < self.bar else 0


def judge(cases: Sequence[Case], known: Sequence[KnownFailure], bar: float = BAR) -> Verdict:
    """Compare cases with the list of known failures."""
    failed = [case for case in cases if case.outcome is Outcome.FAILED]
    entries = {case: next((entry for entry in known if entry.covers(case.id)), None) for case in failed}
    mended = [c for c in cases if c.outcome is Outcome.PASSED and any(entry.covers(c.id) for entry in known)]
    return Verdict(
        cases,
        [case for case, entry in entries.items() if entry is None],
        [(case, entry) for case, entry in entries.items() if entry is not None],
        mended,
        bar,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests and report. Returns the exit code."""
    options = _parser().parse_args(arguments)
    missing = [package for package, module in _NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.stdout.write(
            f"The tests need {', '.join(missing)}, not installed here: pip install 'nanproof[conformance]'\n"
        )
        return 3
    with tempfile.TemporaryDirectory(prefix="nanproof-conformance-") as scratch:
        record = Path(options.record or Path(scratch) / "cases.jsonl").absolute()
        status = subprocess.run(  # noqa: S603 (this very Python, and what the person at the shell has typed)
            _command(options, record), cwd=_PACKAGE.parent, env=_environment(options), check=False
        )
        collected_file = record.with_suffix(".collected.json")
        collected = json.loads(collected_file.read_text(encoding="utf-8")) if collected_file.exists() else {}
        by_function = options.sample == "one-per-function"
        verdict = judge(read_cases(record), known_failures(), bar=0.0 if by_function else BAR)
    sys.stdout.write(_text(verdict, collected))
    if options.json:
        Path(options.json).write_text(json.dumps(_data(verdict, collected, options), indent=1), encoding="utf-8")
    if status.returncode not in (0, 1, 5):  # 1: some failed, which the verdict weighs; 5: the record holds all of them
        sys.stdout.write(f"pytest ended with {status.returncode}: the tests did not run to their end\n")
        return 3
    return verdict.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nanproof.testing.conformance",
        description="Run coremltools' own tests, as installed, with nanproof's predictions in place of Core ML's.",
    )
    add = parser.add_argument
    add("tests", nargs="*", default=TESTS, help="files, folders or node ids, from the folder that holds coremltools")
    add("--sample", choices=("all", "one-per-function"), default="one-per-function", help="which cases to run")
    add("--fraction", type=float, default=1.0, help="run this part of the sample, chosen at random")
    add("--seed", type=int, default=0, help="of the choice")
    add("--precision", choices=("fp16", "both"), default="both", help="fp16, tolerance 0.5, is coremltools' default")
    add("--numerics", default="gpu", help="how to compute")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes; 0 for pytest's own")
    add("--record", help="file of cases, one JSON object in a line: what it holds already is not run again")
    add("--json", help="file to write the summary to")
    add("--spoil", action="store_true", help="add 1 to every prediction: nearly all cases must fail then")
    return parser


def _command(options: argparse.Namespace, record: Path) -> list[str]:
    pytest = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(_PACKAGE.parent)]
    quiet = ["-q", "--no-header", "--no-summary", "--tb=no", "-W", "ignore", "-p", "no:cacheprovider"]
    # Cases of one class go to one worker: their fixtures belong to the class. A worker that dies is replaced.
    parallel = ["-n", str(options.workers), "--dist", "loadscope"]
    bridge = ["-p", "nanproof.testing.bridge", "--record", str(record), "--numerics", options.numerics]
    sample = ["--seed", str(options.seed), "--fraction", str(options.fraction)]
    if options.sample == "one-per-function":
        sample += ["--per-function", "1"]
    if options.spoil:
        sample += ["--spoil"]
    return [*pytest, *quiet, *parallel, *bridge, *sample, *options.tests]


def _environment(options: argparse.Namespace) -> dict[str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["INCLUDE_MIL_FP32_UNIT_TESTS"] = "1" if options.precision == "both" else "0"
    return environment


def _text(verdict: Verdict, collected: dict[str, int]) -> str:
    counted = count(verdict.cases)
    lines = [f"\n{len(verdict.cases)} cases ran"]
    if collected:
        left_out = f"{collected['neural network']} about neural networks, {collected['float16 as float32']} that hold "
        lines[0] += f", of {collected['collected']} (left out: {left_out}float16 to the tolerance of float32)"
    lines += [f"  {number:6} {outcome.value}" for outcome, number in counted.items() if number]
    predictions = sum(case.predictions for case in verdict.cases)
    lines.append(f"{predictions} predictions; of {verdict.judged} judged cases {100 * verdict.pass_rate:.2f} % passed")
    for outcome in (Outcome.NOT_CONVERTED, Outcome.NOT_PREDICTED, Outcome.NOT_RUNNABLE):
        lines += _grouped(outcome.value, [case for case in verdict.cases if case.outcome is outcome])
    kinds = Counter(entry.kind for _, entry in verdict.explained)
    lines += [f"known failures: {number} ({kind})" for kind, number in sorted(kinds.items())]
    lines += _grouped("failed", verdict.unexpected)
    lines += [f"passed, though listed as failing; take it off the list: {case.id}" for case in verdict.mended]
    if verdict.judged and verdict.pass_rate < verdict.bar:
        lines.append(f"below the bar of {100 * verdict.bar} %")
    return "\n".join(lines) + "\n"


def _grouped(title: str, cases: Sequence[Case]) -> list[str]:
    functions = Counter((function_of(case.id), case.reason[:150]) for case in cases)
    lines = [f"{title}: {number}x {name}: {reason}" for (name, reason), number in functions.most_common()]
    return lines if len(lines) <= _SHOWN or title == "failed" else [*lines[:_SHOWN], f"{title}: ... (see --json)"]


def _data(verdict: Verdict, collected: dict[str, int], options: argparse.Namespace) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    others = [c for c in verdict.cases if c.outcome not in (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED)]
    return {
        "versions": {**versions, "coremltools": ct.__version__},
        "options": {name: value for name, value in vars(options).items() if name not in ("record", "json")},
        "collected": collected,
        "ran": len(verdict.cases),
        "outcomes": {outcome.value: number for outcome, number in count(verdict.cases).items()},
        "predictions": sum(case.predictions for case in verdict.cases),
        "seconds": round(sum(case.seconds for case in verdict.cases), 1),
        "judged": verdict.judged,
        "pass_rate": verdict.pass_rate,
        "failed": [json.loads(case.to_json()) for case in verdict.unexpected],
        "known": [{"id": case.id, "kind": entry.kind, "reason": entry.reason} for case, entry in verdict.explained],
        "mended": [case.id for case in verdict.mended],
        "reasons": Counter(f"{case.outcome.value}: {function_of(case.id)}: {case.reason}" for case in others),
        "skipped": Counter(c.reason for c in verdict.cases if c.outcome is Outcome.SKIPPED),
    }


if __name__ == "__main__":
    sys.exit(main())
