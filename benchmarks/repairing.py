"""How many FP16 hazards does `nanproof.repair` cure, once plain coremltools has made packages of them?

    python benchmarks/repairing.py [--units gpu strict ane] [--json FILE] [NAME ...]

Each case of the shared test material (`../shared/hazards`, or where NANPROOF_SHARED names the folder around it) is
converted to FP16 by coremltools alone, in a process of its own in which nanproof is not loaded: traced, and exported
where that fails. The package is repaired with the example and stress inputs of the case, without PyTorch. Then the file
as it was, its float32 twin and the repaired file are executed on the example, stress and benign inputs and compared
with the module in float64. A row tells for each unit the largest error relative to the range of the output before and
after (`inf`: not finite), that of the twin, the verdict of the repair, the operations in FP32 that it added, and its
rewrites. Without the material the script says so and ends with 3, which is no pass.

    python benchmarks/repairing.py --packages FOLDER ...

repairs what `tests/repair/packages.py` has written into the folders, one for each version of coremltools, and shows the
verdicts side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SHARED = Path(os.environ.get("NANPROOF_SHARED") or Path(__file__).resolve().parents[2] / "shared").resolve()


def make(folder: Path, names: list[str]) -> None:
    """Let coremltools alone convert the cases. Runs in a process that has not loaded nanproof."""
    import coremltools as ct
    import hazards
    import numpy as np
    import torch

    for name in names:
        case = hazards.load(name)
        example = tuple(case.example_inputs)
        kinds = {torch.bool: np.bool_, torch.int64: np.int32, torch.int32: np.int32}
        types = [
            ct.TensorType(f"input_{i}", shape=t.shape or (1,), dtype=kinds.get(t.dtype, np.float32))
            for i, t in enumerate(example)
        ]
        options = {"minimum_deployment_target": ct.target.iOS17, "skip_model_load": True}
        said = ""
        for way in ("trace", "export"):
            try:
                if way == "trace":
                    model = ct.convert(torch.jit.trace(case.module, example), inputs=types, **options)
                else:
                    exported = torch.export.export(case.module, example).run_decompositions({})
                    model = ct.convert(exported, **options)
                model._mil_program = None
                model.save(str(folder / f"{name}.mlpackage"))
                break
            except Exception as error:  # whatever coremltools raises: the case has no package then
                said += f"{way}: {type(error).__name__}: {str(error).strip().splitlines()[:1]} "
        else:
            (folder / f"{name}.txt").write_text(said)


@dataclass(frozen=True)
class Row:
    """One case: errors by unit before and after, and what the repair did."""

    name: str
    twin_of: bool
    tolerance: float
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    twin: float = math.inf
    verdict: str = ""
    healthy: bool = False
    fp32: int = 0
    rewrites: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""

    def good(self, errors: dict[str, float]) -> bool:
        """Finite and within tolerance under every unit."""
        return bool(errors) and all(error <= self.tolerance for error in errors.values())


def measure(name: str, package: Path, units: list[str]) -> Row:
    """Repair a package, and run it as it was, its twin, and the result."""
    import hazards

    import nanproof

    case, start = hazards.load(name), time.perf_counter()
    row = Row(name, bool(case.twin_of), case.tolerance)
    if not package.exists():
        why = package.with_suffix(".txt").read_text() if package.with_suffix(".txt").exists() else "its process ended"
        return Row(name, row.twin_of, row.tolerance, failure=f"no package: {why}")
    try:
        old = nanproof.load(package)
        calls = [tuple(i) for i in (case.example_inputs, *case.stress_inputs, *case.benign_inputs)]
        feeds = [_feed(old, call) for call in calls]
        given = feeds[: 1 + len(case.stress_inputs)]
        result = nanproof.repair(package, given, units=units, tolerance=case.tolerance, prove=False)
        double = _double(case)
        answers = [_answer(double, call) for call in calls]
        return Row(
            name,
            row.twin_of,
            row.tolerance,
            before={unit: _error(old, feeds, answers, unit) for unit in units},
            after={unit: _error(result.program, feeds, answers, unit) for unit in units},
            twin=_error(result.fp32_program, feeds, answers, "reference"),
            verdict=result.verdict,
            healthy=result.original.healthy,
            fp32=result.plan.fp32_ops,
            rewrites=dict(Counter(rewrite.name for rewrite in result.plan.rewrites)),
            seconds=time.perf_counter() - start,
        )
    except Exception as error:
        return Row(name, row.twin_of, row.tolerance, failure=f"{type(error).__name__}: {str(error).splitlines()[0]}")


def _feed(program: Any, call: tuple[Any, ...]) -> dict[str, Any]:
    arrays = zip(program.inputs.items(), call, strict=True)
    return {name: t.detach().numpy().reshape(t.shape or type.shape) for (name, type), t in arrays}


def _double(case: Any) -> Any:
    """The module in float64; one that makes float32 tensors itself cannot be had in it."""
    import copy

    module = copy.deepcopy(case.module).double()
    try:
        _answer(module, tuple(case.example_inputs))
    except RuntimeError:
        return case.module
    return module


def _answer(module: Any, call: tuple[Any, ...]) -> list[Any]:
    import torch

    from nanproof.capture.batch import as_batch

    dtype = next((p.dtype for p in module.parameters()), torch.float64)
    with torch.no_grad():
        outputs = module(*(t.to(dtype) if t.is_floating_point() else t for t in call))
    return [t.numpy() for t in as_batch(outputs, None).tensors]


def _error(program: Any, feeds: list[Any], answers: list[Any], unit: str) -> float:
    from nanproof.comparison.compare import compare_outputs
    from nanproof.interpret.execute import Executor

    executor = Executor(program, unit)
    found = compare_outputs(list(program.outputs), [executor.once(f) for f in feeds], answers, unit)
    return math.inf if found.nonfinite else found.error


def _shown(errors: dict[str, float], tolerance: float) -> str:
    return " ".join(f"{unit}={e:.1e}{'' if e <= tolerance else '!'}" for unit, e in errors.items())


def _print(row: Row) -> None:
    if row.failure:
        print(f"--- {row.name:32s} {row.failure[:150]}", flush=True)
        return
    rewrites = ", ".join(f"{name} {n}x" if n > 1 else name for name, n in row.rewrites.items())
    print(
        f"{'ok ' if row.good(row.after) else 'BAD'} {row.name:32s} before {_shown(row.before, row.tolerance)}  "
        f"after {_shown(row.after, row.tolerance)}  twin {row.twin:.1e}  {row.verdict}{' healthy' * row.healthy}  "
        f"FP32 +{row.fp32}  {rewrites or '-'}  {row.seconds:.0f} s",
        flush=True,
    )


def _summary(rows: list[Row]) -> None:
    for what, some in (("hazards", [r for r in rows if not r.twin_of]), ("twins", [r for r in rows if r.twin_of])):
        made = [r for r in some if not r.failure]
        if not made:
            continue
        print(
            f"{what}: {len(made)} of {len(some)} have a package and could be repaired; good under every unit before "
            f"{sum(r.good(r.before) for r in made)}, after {sum(r.good(r.after) for r in made)}"
        )
        for unit in made[0].after:
            counts = [
                (
                    sum(not math.isinf(e[unit]) for e in errors),
                    sum(e[unit] <= r.tolerance for r, e in zip(made, errors, strict=True)),
                )
                for errors in ([r.before for r in made], [r.after for r in made])
            ]
            print(
                f"  {unit}: finite {counts[0][0]} before, {counts[1][0]} after; "
                f"within tolerance {counts[0][1]} before, {counts[1][1]} after"
            )
        reachable = [r for r in made if r.twin <= r.tolerance]
        good = sum(r.good(r.after) for r in reachable)
        print(f"  the float32 twin is within tolerance in {len(reachable)}; of these {good} are good after the repair")
        print(
            f"  verdicts: {dict(Counter(r.verdict for r in made))}; left alone: {sum(r.healthy for r in made)}; "
            f"without an added FP32 operation: {sum(r.fp32 == 0 for r in made)}"
        )
        wrong = [r.name for r in made if r.verdict in ("tested", "proved") and not r.good(r.after)]
        print(f"  passed, and yet not good against float64: {', '.join(wrong) or 'none'}")


def compare_versions(folders: list[Path], units: list[str]) -> int:
    """The verdicts on the same programs, as several versions of coremltools have written them."""
    import nanproof

    names = sorted({p.stem for folder in folders for p in folder.glob("*.mlpackage")})
    equal = True
    for name in names:
        found: dict[str, tuple[Any, ...]] = {}
        for folder in folders:
            if (folder / f"{name}.mlpackage").exists():
                result = nanproof.repair(folder / f"{name}.mlpackage", units=units, prove=False)
                rewrites = sorted({r.name for r in result.plan.rewrites})
                found[folder.name] = result.verdict, result.plan.fp32_ops, rewrites, sorted(result.verdicts.items())
        same = len({str(one) for one in found.values()}) == 1
        equal &= same
        told = " | ".join(f"{n}: {v[0]}, FP32 +{v[1]}, {', '.join(v[2]) or '-'}" for n, v in found.items())
        print(f"{'same ' if same else 'OTHER'} {name:16s} {told}", flush=True)
    print(f"{'all the same' if equal else 'not all the same'}: {len(names)} programs, {len(folders)} folders")
    return 0 if equal and names else 1


def main() -> int:
    """Measure and print; 0 if all was measured, 3 if it could not be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases; all without")
    parser.add_argument("--units", nargs="+", default=["gpu", "strict", "ane"])
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--packages", nargs="+", type=Path, help="compare folders of packages instead")
    parser.add_argument("--make", type=Path, help="only let coremltools write its packages into this folder")
    parser.add_argument("--made", type=Path, help="take the packages from this folder")
    given = parser.parse_args()
    if given.packages:
        return compare_versions(given.packages, given.units)
    if not (SHARED / "hazards").is_dir():
        print(f"skipped: needs the shared test material, and {SHARED / 'hazards'} is no folder (set NANPROOF_SHARED)")
        return 3
    sys.path.insert(0, str(SHARED))
    import hazards

    names = given.names or hazards.names()
    if given.make:
        make(given.make, names)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.made or Path(scratch)
        if given.made is None:
            command = [sys.executable, __file__, *names, "--make", scratch]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        rows = [_measured(name, folder / f"{name}.mlpackage", given.units) for name in names]
    _summary(rows)
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
    return 0


def _measured(name: str, package: Path, units: list[str]) -> Row:
    row = measure(name, package, units)
    _print(row)
    return row


if __name__ == "__main__":
    sys.exit(main())
