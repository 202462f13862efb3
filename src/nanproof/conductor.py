"""The conductor: capture → MIL → observe → plan → edit → save → read back → execute → compare → verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram

from nanproof import __version__
from nanproof.capture.batch import as_batch
from nanproof.capture.module import Captured, capture
from nanproof.comparison.compare import Comparison, compare_outputs
from nanproof.comparison.metrics import difference
from nanproof.diagnosis.births import Birth, find_births
from nanproof.errors import UsageError
from nanproof.findings import Finding
from nanproof.interpret.execute import Executor
from nanproof.interpret.observe import Ranges, observe
from nanproof.mil.edit import ApplyEdits
from nanproof.mil.frontend import Options, Typing, lower, package
from nanproof.mil.names import base_name
from nanproof.mil.package import ScratchFolder, write_model
from nanproof.mil.read import load
from nanproof.mil.reflect import reflect
from nanproof.numerics import get
from nanproof.plan.plan import Plan
from nanproof.plan.planner import first_plan, replan, take_back, without_islands
from nanproof.program import Block, DType, Program, Source
from nanproof.result import Conversion
from nanproof.trial import Trial, gather, worst

__all__ = ["Precision", "convert"]

Precision = Literal["auto", "float16", "float32"]
Progress = Callable[[str], None]

_Run = tuple[list[Birth], list[dict[str, np.ndarray]]]
_MOST_ROUNDS = 8
_LOWERING_TOLERANCE = 1e-3
"""Rounding in another order stays far below this on any sane model; a wrong operator does not."""
_REWRITE_TOLERANCE = 1e-4
"""A rewrite claims the same result; in float32 it may differ by rounding, not more."""


@dataclass(slots=True)
class _Clock:
    """Wall time by stage; tells ``progress`` what begins."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        if self.progress is not None:
            self.progress(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def convert(
    module: nn.Module | ExportedProgram,
    example_inputs: Any,
    *,
    precision: Precision = "auto",
    units: Sequence[str] = ("gpu",),
    calibration: Iterable[Any] | None = None,
    tolerance: float = 1e-2,
    stress: bool = True,
    minimum_deployment_target: Any = "iOS17",
    inputs: Any = None,
    outputs: Any = None,
    compute_units: Any = None,
    progress: Progress | None = None,
) -> Conversion:
    """Convert a PyTorch model to an ML Program that is finite in FP16, and show it on the written file.

    Args:
        module: The module (converted in evaluation mode), or an ``ExportedProgram``.
        example_inputs: What you would pass to the module: a tensor, a tuple, or a dict of keyword arguments.
        precision: ``"auto"``: FP16, with rewrites where they make it safe and FP32 where nothing else does;
            ``"float16"``: FP16 throughout, rewrites included, no FP32 islands; ``"float32"``: FP32 throughout.
        units: Numerics under which the written file is executed and judged: ``"gpu"``, ``"strict"``, ``"reference"``.
        calibration: Further inputs, each as ``example_inputs``. Ranges are observed and the result is judged on all.
        tolerance: Largest error that counts as the same, relative to the range of an output.
        stress: Also run masks at their worst (a row masked everywhere, padding on the left, ...).
        minimum_deployment_target: As in ``coremltools.convert``; a name such as ``"iOS17"`` will do. The default
            differs from coremltools', since from iOS17 on small epsilons stay FP32 beside FP16 data.
        inputs: As in ``coremltools.convert``.
        outputs: As in ``coremltools.convert``.
        compute_units: As in ``coremltools.convert``.
        progress: Called with the name of each stage as it begins.

    Returns:
        The conversion. Nothing is written to a place of yours before you call its ``save``.

    Raises:
        UsageError: A wrong argument; no such numerics; inputs missing; the module cannot be captured or lowered.
        CouldNotCheckError: The program was converted but holds an op that cannot be executed, so nothing is known of
            it.
    """
    request = _Request(
        precision=precision,
        numerics=_checked_units(units, precision),
        tolerance=tolerance,
        stress=stress,
        options=Options(minimum_deployment_target, inputs, outputs, compute_units),
        clock=_Clock(progress),
    )
    return _convert(module, example_inputs, list(calibration or ()), request)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the user asked for, checked."""

    precision: Precision
    numerics: Sequence[str]
    tolerance: float
    stress: bool
    options: Options
    clock: _Clock


def _checked_units(units: Sequence[str], precision: str) -> list[str]:
    if not units:
        raise UsageError("No units were given, so nothing could be checked. Pass units=('gpu',), for example.")
    if precision not in ("auto", "float16", "float32"):
        raise UsageError(f"Unknown precision '{precision}'. Use 'auto', 'float16' or 'float32'.")
    return [get(unit).name for unit in ([units] if isinstance(units, str) else units)]


def _convert(module: Any, example_inputs: Any, calibration: Sequence[Any], request: _Request) -> Conversion:
    clock = request.clock
    with clock("capture"):
        captured = capture(module, example_inputs)
    with clock("lower"):
        pymil = lower(captured.exported, request.options)
        fp32 = _with_sources(reflect(pymil), captured.sources)
    with clock("observe"):
        batches = [captured.example, *(as_batch(c, module) for c in calibration)]
        trial = gather(module, fp32, batches, with_stress=request.stress)
        ranges, answers = observe(fp32, trial.all_inputs)
        fidelity = compare_outputs(trial.outputs, answers[: len(trial.inputs)], trial.expected, "reference")
        lowering = _lowering_findings(fp32, fidelity)
    with clock("plan"):
        plan, findings = first_plan(fp32, ranges) if request.precision != "float32" else (Plan(), [])
        if request.precision == "float16":
            plan, findings = without_islands(plan, findings)
    return _Build(captured, request, fp32, ranges, trial, answers).finish(pymil, plan, [*lowering, *findings], fidelity)


@dataclass(frozen=True, slots=True)
class _Build:
    """The second half of a conversion: write, read back, execute, and plan again while something is born non-finite."""

    captured: Captured
    request: _Request
    fp32: Program
    ranges: Ranges
    trial: Trial
    answers: Sequence[Mapping[str, np.ndarray]]

    def finish(self, pymil: Any, plan: Plan, findings: list[Finding], fidelity: Comparison) -> Conversion:
        folder = ScratchFolder()
        path = folder.path / "model.mlpackage"
        plan, findings, pymil = self._checked(plan, findings, pymil)
        program, runs = self._tried(pymil, plan, path)
        for _ in range(_MOST_ROUNDS if self.request.precision == "auto" else 0):
            better, more = replan(plan, self.fp32, [birth for born, _ in runs.values() for birth in born])
            if better == plan:
                break
            plan, findings, pymil = self._checked(better, [*findings, *more], self._lower())
            program, runs = self._tried(pymil, plan, path)
        units = {n: self.trial.judge(n, born, outputs, self.request.tolerance) for n, (born, outputs) in runs.items()}
        return Conversion(
            program=_with_sources(program, self.captured.sources),
            fp32_program=self.fp32,
            verdict=worst([unit.verdict for unit in units.values()]),
            units=units,
            findings=tuple(findings),
            plan=replace(plan, fp32_ops=count_fp32(program)),
            fidelity=fidelity,
            stress=tuple(self.trial.stress),
            precision=self.request.precision,
            tolerance=self.request.tolerance,
            seconds=self.request.clock.seconds,
            package=path,
            folder=folder,
        )

    def _lower(self) -> Any:
        with self.request.clock("lower"):
            return lower(self.captured.exported, self.request.options)

    def _checked(self, plan: Plan, findings: list[Finding], pymil: Any) -> tuple[Plan, list[Finding], Any]:
        """The MIL program with all edits applied, once float32 execution has shown that they change nothing.

        Rewrites that do change something are taken back: their ops stay FP32 instead.
        """
        if not plan.edits:
            return plan, findings, pymil
        with self.request.clock("check rewrites"):
            ApplyEdits(plan.edits)(pymil)
            changed = self._change(reflect(pymil))
        if not changed:
            return plan, findings, pymil
        plan, findings = take_back(plan, findings, self.fp32, changed)
        if self.request.precision == "float16":
            plan, findings = without_islands(plan, findings)
        return plan, findings, self._lower()

    def _change(self, rewritten: Program) -> str:
        """How the rewritten program differs from the original in float32, or an empty string.

        On given inputs it may differ by rounding. On stress inputs it has to be finite where the original is: rows that
        mask everything hold nothing meaningful (see ``rewrite.mask_sentinel``).
        """
        executor, count = Executor(rewritten), len(self.trial.inputs)
        for i, (batch, answer) in enumerate(zip(self.trial.all_inputs, self.answers, strict=True)):
            result = executor.once(batch)
            for name, reference in answer.items():
                found = difference(result[name], reference)
                if found.nonfinite or (i < count and not found.within(_REWRITE_TOLERANCE)):
                    return f"rewritten, output '{name}' changed by {found.error:.3g} of its range in float32"
        return ""

    def _tried(self, pymil: Any, plan: Plan, path: Path) -> tuple[Program, dict[str, _Run]]:
        """The program as written and read back, and what it does under each unit's numerics on all inputs."""
        program = self._write(pymil, plan, path)
        with self.request.clock("verify"):
            return program, {
                n: find_births(program, self.trial.all_inputs, self.ranges, n) for n in self.request.numerics
            }

    def _write(self, pymil: Any, plan: Plan, path: Path) -> Program:
        with self.request.clock("write"):
            typing = Typing(
                fp16=self.request.precision != "float32",
                fp32_ops=plan.kept,
                fp32_outputs=plan.fp32_outputs,
                metadata={
                    # Without this the package would claim a source of its own making, "milinternal".
                    "com.github.apple.coremltools.source": f"torch=={torch.__version__}",
                    "com.github.nanproof.version": __version__,
                },
            )
            write_model(package(pymil, typing, self.request.options), path)
            return load(path)


def _lowering_findings(fp32: Program, fidelity: Comparison) -> list[Finding]:
    """A finding for each output that is not PyTorch's already in float32."""
    makers = {value.name: op for op in fp32.main.block.ops for value in op.outputs}
    findings: list[Finding] = []
    for output in fidelity.outputs:
        if output.name in makers and not output.worst.within(_LOWERING_TOLERANCE):
            detail = f"output '{output.name}' is off by {output.worst.error:.3g} of its range in float32"
            findings.append(Finding.at("NP201", makers[output.name], detail, "not repaired"))
    return findings


def count_fp32(program: Program) -> int:
    """Ops of a program that compute in FP32, casts not included."""
    return sum(op.dtype is DType.FP32 and op.type != "cast" for op in program.walk())


def _with_sources(program: Program, sources: Mapping[str, Source]) -> Program:
    """The program with the line of the user's code at every op whose name is known to the exported graph."""

    def sourced(block: Block) -> Block:
        ops = tuple(
            replace(
                op,
                source=sources.get(base_name(op.name), op.source),
                blocks=tuple(sourced(inner) for inner in op.blocks),
            )
            for op in block.ops
        )
        return replace(block, ops=ops)

    functions = {name: replace(f, block=sourced(f.block)) for name, f in program.functions.items()}
    return replace(program, functions=functions)
