"""Does the search for a witness show every hazard, and spare every benign twin?

    python benchmarks/refutation.py [--budget EXECUTIONS] [--json FILE] [name of a case ...]

Each case of `../shared/hazards` (or of NANPROOF_SHARED) is converted by coremltools with every op in FP16, without
any rewrite, written, and loaded again. What is assumed of an input is the hull of its elements over all inputs of the
case. The unit is the one whose arithmetic the case asks for. The search is given the example input alone, and neither
the case's stress inputs nor its benign ones. A case is shown by

    NaN, Inf   a witness whose outputs are not finite, or off by more than the limit
    sum        a witness on which some order of products overflows the accumulator
    error      outputs that are finite, and off by more than the limit
    lowering   the float32 program, off from PyTorch on the example input by more than the limit

The limit is three times the tolerance of the case, because the search looks for the worst input. `own` is the error
on the case's own stress inputs, from PyTorch: where it is within the tolerance, the program that coremltools makes does
not have the hazard that the module has (it raises a vanishing epsilon to the smallest number of FP16, say).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nanproof
from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.interpret.proof import prove
from nanproof.mil.frontend import Options, Typing, lower, package
from nanproof.mil.package import write_model
from nanproof.mil.reflect import reflect
from nanproof.numerics import get
from nanproof.refutation.refute import refute
from nanproof.refutation.trial import harm
from nanproof.refutation.witness import Budget

SHARED = Path(os.environ.get("NANPROOF_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()
UNITS = {
    "fp16_accum": "strict",
    "ftz": "ane",
    "ane_acc15": "ane",
    "ane_softplus": "ane",
    "ane_logsumexp": "ane",
    "ane_round": "ane",
}
"""The unit with the arithmetic of a case's rule; of the others the GPU."""
LIMIT = 3


@dataclass(frozen=True)
class Row:
    """What came of one case."""

    name: str
    hazard_class: str
    twin: bool
    expected: str
    unit: str
    proved: str
    shown: str
    harm: float
    own: float
    tolerance: float
    start: str
    obstacles: int
    executions: int
    prove_seconds: float
    seconds: float

    @property
    def present(self) -> bool:
        """Whether the case's own stress inputs break the program."""
        return self.own > self.tolerance


def arrays(program: nanproof.Program, batch: Any) -> dict[str, np.ndarray]:
    """A call of the module by input name."""
    return {name: tensor.detach().numpy() for name, tensor in zip(program.inputs, batch, strict=True)}


def hull(batches: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """The least and the largest element of each input."""
    found: dict[str, tuple[float, float]] = {}
    for name in batches[0]:
        values = np.concatenate([b[name].astype(np.float64).reshape(-1) for b in batches])
        values = values[np.isfinite(values)]
        found[name] = (float(values.min()), float(values.max()))
    return found


def error(program: nanproof.Program, module: Any, batches: Any, numerics: Any) -> float:
    """The largest error of the outputs from PyTorch, over some calls."""
    executor = Executor(program, numerics)
    worst = 0.0
    for batch in batches:
        right = module(*batch)
        right = list(right) if isinstance(right, (list, tuple)) else [right]
        expected = {str(i): r.detach().numpy() for i, r in enumerate(right)}
        worst = max(worst, harm(program, executor.once(arrays(program, batch)), expected, {}))
    return worst


def judge(case: Any, folder: Path, budget: int) -> Row:
    """Convert, prove and search one case."""
    captured = capture(case.module, tuple(case.example_inputs))
    path = folder / f"{case.name}.mlpackage"
    write_model(package(lower(captured.exported, Options()), Typing(), Options()).model, path)
    program, reference = nanproof.load(path), reflect(lower(captured.exported, Options()), captured.sources)
    batches = [arrays(program, b) for b in (case.example_inputs, *case.stress_inputs, *case.benign_inputs)]
    unit, exact = UNITS.get(case.rule, "gpu"), case.rule == "fp16_accum"
    own = error(program, case.module, case.stress_inputs, get(unit, exact=exact))
    lowering = error(reference, case.module, [case.example_inputs], "reference")
    began = time.perf_counter()
    shapes = {name: array.shape for name, array in batches[0].items()}
    proof = prove(program, hull(batches), units=(unit,), shapes=shapes)
    proved_at = time.perf_counter()
    answers = refute(
        program,
        proof,
        reference=reference,
        batches=batches[:1],
        budget=Budget(budget),
        tolerance=LIMIT * case.tolerance,
        accuracy=True,
        exact=exact,
    )
    ended = time.perf_counter()
    witnesses = [a.witness for a in answers if a.verdict == "refuted" and a.witness is not None]
    witnesses.sort(key=lambda w: w.what == "error")
    shown = witnesses[0].what if witnesses else "lowering" if lowering > LIMIT * case.tolerance else ""
    return Row(
        name=case.name,
        hazard_class=case.hazard_class,
        twin=bool(case.twin_of),
        expected=case.naive_fp16,
        unit=f"{unit}, exact" if exact else unit,
        proved=proof.verdict,
        shown=shown,
        harm=witnesses[0].harm if witnesses else lowering,
        own=own,
        tolerance=case.tolerance,
        start=witnesses[0].start if witnesses else "",
        obstacles=sum(len(one.obstacles) for one in proof.units.values()),
        executions=answers[0].executions if answers else 0,
        prove_seconds=round(proved_at - began, 2),
        seconds=round(ended - proved_at, 2),
    )


def line(row: Row) -> str:
    """One row of the table."""
    kind = "twin" if row.twin else row.expected
    own = f"{row.own:.2g}" + ("" if row.present else " (fine)")
    return (
        f"{row.name:28} {kind:12} {row.unit:14} {row.proved:8} {row.shown or '-':8} {row.harm:8.2g} {own:14} "
        f"{row.executions:5} {row.prove_seconds:6.1f} {row.seconds:6.1f}  {row.start}"
    )


def summary(rows: list[Row], failures: Mapping[str, str]) -> str:
    """What the issue is about, in numbers."""
    hazards, twins = [r for r in rows if not r.twin], [r for r in rows if r.twin]
    present = [r for r in hazards if r.present]
    shown, of_present = [r for r in hazards if r.shown], [r for r in present if r.shown]
    wrong = [r.name for r in twins if r.shown]
    parts = [
        f"hazardous cases: {len(shown)} of {len(hazards)} shown; of the {len(present)} whose own stress inputs break "
        f"the program, {len(of_present)} ({100 * len(of_present) / max(len(present), 1):.0f} %)",
        f"missed: {', '.join(r.name for r in present if not r.shown) or 'none'}",
        f"not in the program: {', '.join(r.name for r in hazards if not (r.present or r.shown)) or 'none'}",
        f"benign twins: {len(twins)}, of them refuted: {', '.join(wrong) or 'none'}; "
        f"proved: {sum(r.proved == 'proved' for r in twins)}",
    ]
    parts += [f"could not be judged: {name}: {reason}" for name, reason in failures.items()]
    return "\n".join(parts)


def main() -> None:
    """Judge the cases and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--budget", type=int, default=300)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (SHARED / "hazards").is_dir():
        print(f"skipped: the cases are in {SHARED / 'hazards'}, and there is no such folder (see NANPROOF_SHARED)")
        return
    sys.path.insert(0, str(SHARED))
    import hazards

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    failures: dict[str, str] = {}
    print(
        f"{'case':28} {'naive FP16':12} {'unit':14} {'prove':8} {'shown':8} {'harm':>8} {'own':14} {'runs':>5} "
        f"{'prove':>6} {'search':>6}  start"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or hazards.names():
            try:
                rows.append(judge(hazards.load(name), Path(folder), options.budget))
                print(line(rows[-1]), flush=True)
            except Exception as error:  # a case that cannot be judged is one more line, and not the end
                failures[name] = f"{type(error).__name__}: {str(error)[:200]}"
                print(f"{name:28} could not be judged", flush=True)
                traceback.print_exc(limit=-2)
    print(summary(rows, failures))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
