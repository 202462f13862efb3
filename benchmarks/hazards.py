"""Which FP16 hazards does nanproof cure, by a rewrite or by FP32, and does it leave their benign twins alone?

    python benchmarks/hazards.py [--units gpu strict ane] [--json FILE] [NAME ...]

Each case of the shared test material (`../shared/hazards`, or where NANPROOF_SHARED names the folder around it) is
converted with its stress inputs as calibration. The written file is executed under the numerics of each unit on the
example and stress inputs and compared with the module in float64. A row tells, for each unit, whether all outputs are
finite and the largest error relative to the range of the output, and whether that is within the tolerance of the case
(in parentheses: on its benign inputs, which the conversion has not seen, where that is not); then the operations that
compute in FP32, the size of each island, the executions of the plan (in full, on all inputs under all units) and the
rewrites by name. Twins have to end with neither, and without a finding. The totals say what part of the matrix
products and convolutions of the hazards stayed FP16. Without the material the script says so and ends with 3, which is
no pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import nanproof
from nanproof.capture.batch import as_batch
from nanproof.comparison.compare import compare_outputs, named_inputs
from nanproof.errors import NanproofError
from nanproof.interpret.execute import Executor
from nanproof.program import DType
from nanproof.rewrite.limits import PRODUCTS

SHARED = Path(os.environ.get("NANPROOF_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()


@dataclass(frozen=True)
class Row:
    """One case: what its conversion did, and how far the written file is off, by unit (``inf``: not finite)."""

    name: str
    hazard: str
    twin: bool
    tolerance: float
    errors: dict[str, float]
    benign: dict[str, float]
    fp32: int
    ops: int
    rewrites: dict[str, int]
    codes: list[str]
    islands: list[int]
    products: tuple[int, int]
    executions: float
    trials: int
    seconds: float
    failure: str = ""

    @property
    def good(self) -> bool:
        """Finite and within tolerance under every unit; a twin also gained nothing."""
        near = bool(self.errors) and all(e <= self.tolerance for e in self.errors.values())
        return near and (self.alone or not self.twin)

    @property
    def alone(self) -> bool:
        """Whether nothing was done: a bound that coremltools completed with 3.4e38 is mended in any model."""
        return not (self.fp32 or self.codes or self.rewrites.keys() - {"clip-bound"})


def measure(case: Any, units: list[str]) -> Row:
    """Convert a case and run what was written."""
    start, twin = time.perf_counter(), bool(case.twin_of)
    double = _double(case)
    try:
        result = nanproof.convert(
            case.module,
            tuple(case.example_inputs),
            units=units,
            calibration=[tuple(i) for i in case.stress_inputs],
            tolerance=case.tolerance,
            prove=False,
        )
        sets: list[dict[str, float]] = []
        for inputs in ((case.example_inputs, *case.stress_inputs), case.benign_inputs):
            calls = [tuple(i) for i in inputs]
            answers = [_answer(double, call) for call in calls]
            feeds = [named_inputs(result.program, as_batch(call, case.module)) for call in calls]
            sets.append({unit: _error(result.program, feeds, answers, unit) for unit in units})
        errors, benign = sets
    except (NanproofError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        seconds = time.perf_counter() - start
        nothing = {}, {}, 0, 0, {}, [], [], (0, 0), 0.0, 0
        return Row(case.name, case.hazard_class, twin, case.tolerance, *nothing, seconds, first)
    rewrites = Counter(rewrite.name for rewrite in result.plan.rewrites)
    products = [op for op in result.program.walk() if op.type in PRODUCTS]
    return Row(
        name=case.name,
        hazard=case.hazard_class,
        twin=twin,
        tolerance=case.tolerance,
        errors=errors,
        benign=benign,
        fp32=result.plan.fp32_ops,
        ops=sum(op.type not in ("cast", "const") for op in result.program.walk()),
        rewrites=dict(rewrites),
        codes=sorted({finding.code for finding in result.findings}),
        islands=[len(i.ops) for i in result.plan.islands if not set(i.ops) <= result.plan.author],
        products=(sum(op.dtype is DType.FP16 for op in products), len(products)),
        executions=result.plan.executions,
        trials=result.plan.trials,
        seconds=time.perf_counter() - start,
    )


def _double(case: Any) -> Any:
    module = copy.deepcopy(case.module).double()
    try:
        _answer(module, tuple(case.example_inputs))
    except RuntimeError:
        return case.module
    return module


def _answer(module: Any, call: tuple[Any, ...]) -> list[Any]:
    """The outputs of the module in float64, integers and booleans as they are.

    A module that makes float32 tensors itself cannot be had in float64: it answers in float32.
    """
    dtype = next((p.dtype for p in module.parameters()), torch.float64)
    given = [t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in call]
    with torch.no_grad():
        outputs = module(*given)
    return [t.numpy() for t in as_batch(outputs, None).tensors]


def _error(program: Any, feeds: list[Any], answers: list[Any], unit: str) -> float:
    executor = Executor(program, unit)
    found = compare_outputs(list(program.outputs), [executor.once(f) for f in feeds], answers, unit)
    return math.inf if found.nonfinite else found.error


def _told(unit: str, error: float, tolerance: float) -> str:
    return f"{unit}={'not finite' if math.isinf(error) else f'{error:.1e}'}{'' if error <= tolerance else '!'}"


def _print(row: Row) -> None:
    errors = " ".join(_told(unit, e, row.tolerance) for unit, e in row.errors.items())
    unseen = " ".join(_told(unit, e, row.tolerance) for unit, e in row.benign.items() if e > row.tolerance)
    errors += f" ({unseen})" if unseen else ""
    rewrites = ", ".join(f"{name} {n}x" if n > 1 else name for name, n in row.rewrites.items())
    print(
        f"{'ok ' if row.good else 'BAD'} {row.name:32s} {errors or row.failure[:90]}  "
        f"FP32 {row.fp32}/{row.ops} {row.islands or ''}  runs {row.executions:.1f} ({row.trials})  "
        f"{rewrites or '-'}  {row.seconds:.0f} s",
        flush=True,
    )


def _summary(rows: list[Row]) -> None:
    cases, twins = [r for r in rows if not r.twin], [r for r in rows if r.twin]
    for unit in next((r.errors for r in rows if r.errors), {}):
        run = [r for r in cases if unit in r.errors]
        finite = sum(not math.isinf(r.errors[unit]) for r in run)
        near = sum(r.errors[unit] <= r.tolerance for r in run)
        print(f"{unit}: {finite} of {len(cases)} finite, {near} within tolerance")
    unseen = sum(any(e > r.tolerance for e in r.benign.values()) for r in rows)
    print(f"benign inputs, which the conversions have not seen: {unseen} of {len(rows)} off by more than the tolerance")
    good = [r for r in cases if r.good]
    free = sum(r.fp32 == 0 for r in good)
    print(f"cases: {len(good)} of {len(cases)} good under every unit, {free} of these without an FP32 operation")
    print(f"FP32 operations: {sum(r.fp32 for r in cases)}; cases with rewrites: {sum(bool(r.rewrites) for r in cases)}")
    if good:
        print(f"cured without an FP32 operation: {free / len(good):.0%} of the good ones (wanted: 60 %)")
    halves, products = (sum(r.products[i] for r in cases) for i in (0, 1))
    if products:
        print(
            f"matrix products and convolutions in FP16: {halves} of {products}, {halves / products:.1%} (wanted: 97 %)"
        )
    sizes = [size for r in cases for size in r.islands]
    if sizes:
        print(f"islands: {len(sizes)}, median of their sizes {statistics.median(sizes):g} (wanted: at most 3)")
    run = [r for r in cases if r.executions]
    if run:
        runs, tried = (statistics.median(getattr(r, name) for r in run) for name in ("executions", "trials"))
        print(f"a plan: {runs:.1f} full executions in the median (wanted: at most 12), in {tried:g} trials")
    if twins:
        alone, fine = sum(r.alone for r in twins), sum(r.good for r in twins)
        free = sum(r.fp32 == 0 for r in twins)
        print(f"twins: {free} of {len(twins)} without an FP32 operation, {alone} left alone, and {fine} good")


def main() -> int:
    """Measure and print; 0 if all was measured, 3 if it could not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases; all without")
    parser.add_argument("--units", nargs="+", default=["gpu", "strict", "ane"])
    parser.add_argument("--json", type=Path, help="where to write the rows")
    given = parser.parse_args()
    if not (SHARED / "hazards").is_dir():
        print(f"skipped: needs the shared test material, and {SHARED / 'hazards'} is no folder (set NANPROOF_SHARED)")
        return 3
    sys.path.insert(0, str(SHARED))
    import hazards

    rows: list[Row] = []
    for name in given.names or hazards.names():
        rows.append(measure(hazards.load(name), given.units))
        _print(rows[-1])
    _summary(rows)
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
