"""The second half of a conversion, on a float32 program: rewrite → plan → write → read back → execute → verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nanproof import __version__
from nanproof.comparison.compare import Comparison
from nanproof.comparison.passes import PassChange, PassCheck
from nanproof.diagnosis.births import Birth, find_births
from nanproof.findings import Finding
from nanproof.interpret.observe import Ranges
from nanproof.mil.checkpoints import Visitor
from nanproof.mil.edit import ApplyEdits
from nanproof.mil.frontend import Packaged, Typing
from nanproof.mil.package import ScratchFolder, write_model
from nanproof.mil.read import load_program
from nanproof.mil.sources import with_sources
from nanproof.plan.author import Requests
from nanproof.plan.pins import check_pins, freed, pinned_islands, pins
from nanproof.plan.plan import Plan
from nanproof.plan.planner import without_islands
from nanproof.program import DType, Program, Source
from nanproof.request import Request
from nanproof.result import Conversion
from nanproof.rewrite.limits import Limits
from nanproof.rewriting import Rewritten, rewritten, unwritten
from nanproof.searching import Searched, searched
from nanproof.stress.variations import varied
from nanproof.trial import Trial, worst

__all__ = ["Build", "Lowered", "pass_check", "pass_finding"]

_Run = tuple[list[Birth], list[dict[str, np.ndarray]]]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model as a float32 program of which packages can be made as often as it takes.

    Attributes:
        pymil: coremltools' MIL program, to be edited in place.
        lower: Makes that MIL program once more; a visitor is shown it around every pass.
        package: Types a MIL program and makes a model of it, and uses it up.
        sources: Where ops come from, by ``debug_handle``.
        fp32: The program as data.
        trial: The inputs, and what is expected of them.
        ranges: What was observed of the program on the inputs of the trial, in float32.
        answers: Its outputs in these runs.
        fidelity: These outputs against what is expected.
        requests: What the planner is asked to keep in FP32.
        origin: Metadata that tell where the program comes from.
    """

    pymil: Any
    lower: Callable[[Visitor | None], Any]
    package: Callable[[Any, Typing, Visitor | None], Packaged]
    sources: Mapping[int, Source]
    fp32: Program
    trial: Trial
    ranges: Ranges
    answers: Sequence[Mapping[str, np.ndarray]]
    fidelity: Comparison
    requests: Requests
    origin: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Build:
    """The second half of a conversion: write, read back, execute, and plan again where that fails."""

    request: Request
    lowered: Lowered

    @property
    def fp32(self) -> Program:
        """The program in float32, as it was lowered."""
        return self.lowered.fp32

    @property
    def trial(self) -> Trial:
        """The inputs, and what is expected of them."""
        return self.lowered.trial

    def finish(self, findings: list[Finding]) -> Conversion:
        """The conversion; without the rewrites whose precision rests on the data, if it fails with them."""
        first = self._finished(findings, self.lowered.pymil, frozenset())
        scaled = any(rewrite.name == "power-of-two" for rewrite in first.plan.rewrites)
        if self.request.precision != "auto" or first.verdict != "failed" or not scaled:
            return first
        pymil = self.lowered.lower(None)
        second = self._finished(findings, pymil, frozenset({"power-of-two"}))
        return min(first, second, key=_badness)

    def _finished(self, findings: list[Finding], pymil: Any, without: frozenset[str]) -> Conversion:
        folder = ScratchFolder()
        path = folder.path / "model.mlpackage"
        rewritten = self._rewritten(pymil, without)
        plan, findings = rewritten.plan, [*findings, *rewritten.findings]
        program, runs = self._tried(rewritten.pymil, plan, path, rewritten.ranges)
        if self.request.precision == "auto":
            with self.request.clock("plan"):
                better = self._searched(plan, findings, rewritten, program, runs)
            if better.plan.kept != plan.kept or better.plan.fp32_outputs != plan.fp32_outputs:
                program, runs = self._tried(self._edited(better.plan), better.plan, path, rewritten.ranges)
            plan, findings = better.plan, better.findings
        if self.request.verify_passes:
            findings = [*findings, *self._typing_findings(plan)]
        units = {n: self.trial.judge(n, born, outputs, self.request.criteria) for n, (born, outputs) in runs.items()}
        return Conversion(
            program=program,
            fp32_program=self.fp32,
            verdict=worst([unit.verdict for unit in units.values()]),
            units=units,
            findings=tuple(findings),
            plan=_counted(plan, program),
            fidelity=self.lowered.fidelity,
            stress=tuple(self.trial.stress),
            kinds=self.trial.kinds,
            precision=self.request.precision,
            tolerance=self.request.tolerance,
            seconds=self.request.clock.seconds,
            package=path,
            folder=folder,
            loading={
                "skip_model_load": self.request.skip_model_load,
                "compute_units": self.request.options.compute_units,
            },
        )

    def _searched(
        self, plan: Plan, findings: list[Finding], rewritten: Rewritten, program: Program, runs: Mapping[str, _Run]
    ) -> Searched:
        """The plan that cures what the written file has shown, and keeps no island that need not be."""
        answers = self.lowered.answers
        barred = pins(rewritten.program, self.request.keep_fp16)
        return searched(plan, findings, rewritten, program, self.trial, runs, answers, self.request.criteria, barred)

    def _typing_findings(self, plan: Plan) -> list[Finding]:
        """What the passes from the FP16 cast on change beyond rounding."""
        check = pass_check(self.trial)
        with self.request.clock("check passes"):
            self.lowered.package(self._edited(plan), self._typing(plan), check)
        return [pass_finding(change, "not repaired") for change in check.changes]

    def _rewritten(self, pymil: Any, without: frozenset[str]) -> Rewritten:
        """The MIL program with all rewrites, and the plan of what stays FP32 beside them."""
        ranges = self.lowered.ranges
        if self.request.precision == "float32":
            return unwritten(pymil, self.fp32, ranges)
        requests = self.lowered.requests
        if self.request.precision == "float16":
            requests = requests.refused()
        lowered = self._with_pins(unwritten(pymil, self.fp32, ranges, requests))
        with self.request.clock("rewrite"):
            found = rewritten(
                lowered,
                self.trial,
                self.lowered.answers,
                Limits.of(self.request.numerics),
                lower=lambda: self.lowered.lower(None),
                sources=self.lowered.sources,
                without=without,
            )
        if self.request.precision == "float16":
            plan, findings = without_islands(found.plan, found.findings)
            return replace(found, plan=plan, findings=findings)
        plan, findings = freed(found.plan, found.findings, found.program, self.request.keep_fp16)
        return replace(found, plan=plan, findings=findings)

    def _with_pins(self, lowered: Rewritten) -> Rewritten:
        """The lowered program, with islands for what the user pins to FP32."""
        fp32, fp16 = self.request.keep_fp32, self.request.keep_fp16
        check_pins(self.fp32, fp32, fp16)
        islands = pinned_islands(self.fp32, fp32)
        outputs = {value.name for value in self.fp32.main.block.outputs}
        makers = {value.name: op.name for op in self.fp32.main.block.ops for value in op.outputs}
        pins = {name for island in islands for name in island.ops}
        kept = [name for name in outputs if makers.get(name) in pins]
        plan, findings = freed(lowered.plan, lowered.findings, self.fp32, fp16)
        return replace(lowered, plan=plan.with_islands(islands, kept), findings=findings)

    def _edited(self, plan: Plan) -> Any:
        """The MIL program once more, with the edits of a plan: to write a package of it uses it up."""
        with self.request.clock("lower"):
            pymil = self.lowered.lower(None)
            ApplyEdits(plan.edits)(pymil)
            return pymil

    def _tried(self, pymil: Any, plan: Plan, path: Path, ranges: Ranges) -> tuple[Program, dict[str, _Run]]:
        """The program as written and read back, and what it does under each unit's numerics on all inputs."""
        program = self._write(pymil, plan, path)
        with self.request.clock("verify"):
            runs: dict[str, _Run] = {}
            for name in self.request.numerics:
                births, outputs = find_births(program, self.trial.file_inputs, ranges, name)
                runs[name] = births, self.trial.answers(program, outputs)
            return program, runs

    def _write(self, pymil: Any, plan: Plan, path: Path) -> Program:
        with self.request.clock("write"):
            packaged = self.lowered.package(pymil, self._typing(plan), None)
            write_model(packaged.model, path)
            # The file's own map has paths that say less of this machine, and so can be shown but not always be opened.
            return with_sources(load_program(path), packaged.sources)

    def _typing(self, plan: Plan) -> Typing:
        return Typing(
            fp16=self.request.precision != "float32",
            fp32_ops=plan.kept,
            fp32_outputs=plan.fp32_outputs,
            metadata={**self.lowered.origin, "com.github.nanproof.version": __version__},
        )


def pass_check(trial: Trial) -> PassCheck:
    """A visitor that compares what a program computes before and after every pass."""
    given = trial.inputs[0]
    return PassCheck([given, varied(given)])


def pass_finding(change: PassChange, remedy: str) -> Finding:
    """The finding for a graph pass that changes a result."""
    return Finding("NP202", change.name, "graph pass", str(change), remedy)


def _badness(conversion: Conversion) -> tuple[bool, int, float]:
    """How far a conversion is from one that passes."""
    stressed = sum(outcome.nonfinite for unit in conversion.units.values() for outcome in unit.stress)
    return conversion.verdict == "failed", conversion.comparison.nonfinite + stressed, conversion.comparison.error


def _counted(plan: Plan, program: Program) -> Plan:
    """The plan with the ops of the written program that compute in FP32: the author's own, and those beyond."""
    names = [op.name for op in program.walk() if op.dtype is DType.FP32 and op.type != "cast"]
    authors = sum(name in plan.author for name in names)
    return replace(plan, fp32_ops=len(names) - authors, author_fp32_ops=authors)
