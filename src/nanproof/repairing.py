"""A package → the same package, finite in FP16: what convert does, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from nanproof import __version__
from nanproof.building import Build, Lowered
from nanproof.comparison.compare import compare_outputs
from nanproof.diagnosis.births import find_births
from nanproof.diagnosis.losses import losses, lost
from nanproof.errors import ModelFileError
from nanproof.findings import Finding
from nanproof.interpret.batches import as_batches
from nanproof.mil.checkpoints import Visitor
from nanproof.mil.frontend import Packaged, Typing
from nanproof.mil.functions import write_functions
from nanproof.mil.names import base_name
from nanproof.mil.package import PackageParts, ScratchFolder, carry_over, copy_package, open_package
from nanproof.mil.read import load_program
from nanproof.mil.reflect import reflect
from nanproof.mil.twin import Twin
from nanproof.package_trial import Tried, tried
from nanproof.plan.author import Requests
from nanproof.plan.plan import AUTHOR, Island, Plan, connected
from nanproof.program import DType, Op, Program
from nanproof.proving import with_proof
from nanproof.request import Progress, Request, checked
from nanproof.result import Conversion, Original, UnitResult, Verdict
from nanproof.stress.kinds import Stated
from nanproof.trial import worst
from nanproof.values.floats import FP16_MAX

__all__ = ["check_package", "repair"]

_INFINITE = 1e38
"""From here on coremltools lets a constant become infinite; from FP16's end up to here it leaves its op FP32."""
_NO_ARITHMETIC = frozenset({"classify", "cond", "while_loop"})


def repair(
    package: Any,
    inputs: Any = None,
    *,
    units: Sequence[str] = ("gpu",),
    tolerance: float = 1e-2,
    stress: bool = True,
    kinds: Stated | None = None,
    prove: bool = True,
    assume: Stated | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """Repair an FP16 package, made by coremltools 7 to 9, that gives Inf or NaN or is far off; and show it on the file.

    The casts to FP16 are undone first. The float32 twin that this gives is what the repaired file is compared with: its
    weights are rounded to FP16 already, and what the constants of the file have lost is named in ``findings``. A file
    that passes as it is stays as it is, byte for byte.

    Args:
        package: The path of an ``.mlpackage``, or a ``coremltools.models.MLModel``.
        inputs: Calls to judge the file on, as :func:`nanproof.ranges` takes them: arrays by input name, a list of such,
            the path of an ``.npz`` or of a folder. Your real inputs are the best; without any, inputs are drawn by what
            each one is taken for, and ``result.original.generated`` is true.
        units: Numerics under which the file is executed and judged: ``"gpu"``, ``"ane"``, ``"cpu"``, ``"strict"``, ...
        tolerance: Largest error that counts as the same, relative to the range of an output.
        stress: Also run inputs at the limits of their kind: a row masked everywhere, the last id, a black image, ...
        kinds: What inputs are, where the guess is wrong: by name a kind (``"mask"``, ...) or a range.
        prove: Also prove for what was tested that no input inside the assumptions makes Inf or NaN.
        assume: What the proof assumes beside ``kinds``, for instance of states: by name a range or a kind.
        progress: Called with the name of each stage as it begins.

    Returns:
        The result, as of a conversion. Nothing is written to a place of yours before you call its ``save``. The verdict
        is ``"unknown"`` if the file has lost what would be needed to judge a repair.

    Raises:
        ModelFileError: The file is no ML Program, or is damaged.
        ConversionError: coremltools cannot read the program back, or write it.
        InputError: An input does not fit.
        CouldNotCheckError: The program holds an op that cannot be executed, so nothing is known of it.
    """
    asked: dict[str, Any] = {"precision": "auto", "units": units, "dynamic_shapes": None, "progress": progress}
    asked |= {"tolerance": tolerance, "stress": stress, "kinds": kinds, "verify_passes": False}
    asked |= {"prove": prove, "assume": assume}
    request = checked({}, **asked)
    with request.clock("read"):
        path = Path(getattr(package, "package_path", package))
        check_package(path)
        old = load_program(package)
        parts = open_package(path)
        calls = [] if inputs is None else list(as_batches(old.interface, inputs))
    if len(old.functions) == 1:
        one = _Repair(parts, old, calls, request).done()
        return with_proof(replace(one.result, ranges=one.run.ranges), request, one.run.trial)
    done: dict[str, _Done] = {}
    for name in old.functions:
        of_name = old.using(name)
        mine = replace(request, kinds=_known(request.kinds, of_name, old), assume=_known(request.assume, of_name, old))
        done[name] = _Repair(parts, of_name, calls if name == old.default else [], mine).done()
    return _together(parts, old, done, request)


def check_package(path: str | PathLike[str]) -> None:
    """Tell by the name of a file what else than a package it is.

    Raises:
        ModelFileError: It is a model of PyTorch, or a Core ML model in another form.
    """
    suffix = Path(path).suffix
    if suffix == ".mlmodelc":
        raise ModelFileError(
            f"'{path}' is compiled for a device, and a compiled model is not made back into a package; an encrypted "
            "one cannot even be read.\n  Repair the .mlpackage that it was compiled from."
        )
    if suffix in (".py", ".pt", ".pth", ".pt2", ".onnx") or ".py:" in str(path):
        raise ModelFileError(f"'{path}' is no .mlpackage. `nanproof convert` takes models of PyTorch.")


@dataclass(frozen=True, slots=True)
class _Done:
    """A function that was repaired, and the trial that it had."""

    repair: _Repair
    run: Tried
    result: Conversion


@dataclass(frozen=True, slots=True)
class _Repair:
    """One function of a package, to be repaired."""

    parts: PackageParts
    old: Program
    calls: Sequence[Mapping[str, Any]]
    request: Request

    def done(self) -> _Done:
        """The repaired function; the file itself if it passes."""
        with self.request.clock("lower"):
            twin = Twin.of(self.parts, self.old)
            pymil = twin.pymil()
            fp32 = _described(reflect(pymil, twin.sources), self.old)
        with self.request.clock("observe"):
            run = tried(
                fp32, self.old.interface, self.calls, with_stress=self.request.stress, stated=self.request.kinds
            )
        with self.request.clock("check"):
            units = self.judged(run, self.old)
        names = {old: new for new, old in twin.wide.old_names.items()}
        single = _single(self.old, names)
        findings = losses(self.old, names)
        healthy = worst([unit.verdict for unit in units.values()]) == "tested"
        original = Original(self.parts.path, units, healthy, generated=not self.calls)
        if healthy:
            found = self._healthy(fp32, run, units, findings)
        else:
            requests = _requests(fp32, single) if len(single) < len(_computing(self.old)) else Requests()
            found = Build(self.request, self._lowered(twin, pymil, fp32, run, requests)).finish(findings)
            carry_over(self.parts.path, found.package)
        plan = _counted(found.plan, found.program, frozenset(single))
        return _Done(self, run, _doubted(replace(found, original=original, plan=plan), run))

    def judged(self, run: Tried, program: Program) -> dict[str, UnitResult]:
        """A file in the trial, by unit."""
        units: dict[str, UnitResult] = {}
        for name in self.request.numerics:
            births, outputs = find_births(program, run.trial.all_inputs, run.ranges, name)
            units[name] = run.trial.judge(name, births, run.trial.answers(program, outputs), self.request.criteria)
        return units

    def _healthy(
        self, fp32: Program, run: Tried, units: Mapping[str, UnitResult], findings: Sequence[Finding]
    ) -> Conversion:
        folder = ScratchFolder()
        return Conversion(
            program=self.old,
            fp32_program=fp32,
            verdict=worst([unit.verdict for unit in units.values()]),
            units=units,
            findings=tuple(replace(f, remedy="left as it is: it does no harm") for f in findings),
            plan=Plan(),
            fidelity=_fidelity(run),
            stress=tuple(run.trial.stress),
            kinds=run.trial.kinds,
            precision=self.request.precision,
            tolerance=self.request.tolerance,
            seconds=self.request.clock.seconds,
            package=copy_package(self.parts.path, folder.path / "model.mlpackage"),
            folder=folder,
        )

    def _lowered(self, twin: Twin, pymil: Any, fp32: Program, run: Tried, requests: Requests) -> Lowered:
        def lower_again(visitor: Visitor | None) -> Any:
            return twin.pymil()

        def packaged(pymil: Any, typing: Typing, visitor: Visitor | None) -> Packaged:
            return twin.package(pymil, typing)

        return Lowered(
            pymil=pymil,
            lower=lower_again,
            package=packaged,
            sources=twin.sources,
            fp32=fp32,
            trial=run.trial,
            ranges=run.ranges,
            answers=run.answers,
            fidelity=_fidelity(run),
            requests=requests,
            origin={},
        )


def _together(parts: PackageParts, old: Program, done: Mapping[str, _Done], request: Request) -> Conversion:
    """The result of a multifunction package: its default function, with the verdict on all of them.

    The file that was put together is read back and judged again, function by function.
    """
    results = {name: one.result for name, one in done.items()}
    repaired = {name: one.package for name, one in results.items() if not _is_healthy(one)}
    if repaired:
        folder = ScratchFolder()
        path = folder.path / "model.mlpackage"
        with request.clock("write"):
            write_functions(parts, repaired, path, {"com.github.nanproof.version": __version__})
            carry_over(parts.path, path)
            program = load_program(path)
        for name, one in done.items():
            of_name = program.using(name)
            with request.clock("verify"):
                units = one.repair.judged(one.run, of_name)
            found = replace(
                one.result, program=of_name, units=units, package=path, folder=folder, ranges=one.run.ranges
            )
            verdict = worst([unit.verdict for unit in units.values()])
            results[name] = _doubted(replace(found, verdict=verdict), one.run)
    results = {name: with_proof(one, done[name].repair.request, done[name].run.trial) for name, one in results.items()}
    verdict = worst([one.verdict for one in results.values()])
    return replace(results[old.default], verdict=verdict, functions=results)


def _known(stated: Stated | None, program: Program, whole: Program) -> Stated | None:
    """What the user says of inputs, as far as it is said of those of one function of several."""
    others = {name for function in whole.functions.values() for name in function.inputs}
    return {n: said for n, said in (stated or {}).items() if n in program.main.inputs or n not in others} or None


def _is_healthy(one: Conversion) -> bool:
    return one.original is not None and one.original.healthy


def _fidelity(run: Tried) -> Any:
    """The twin against itself, since there is nothing else."""
    return compare_outputs(run.trial.outputs, run.answers[: len(run.trial.inputs)], run.trial.expected, "reference")


def _described(fp32: Program, old: Program) -> Program:
    """The float32 program with what the file says of its interface: images, optional inputs, flexible shapes."""
    said, types = old.interface, fp32.outputs
    outputs = {name: replace(feature, type=types.get(name, feature.type)) for name, feature in said.outputs.items()}
    main = replace(fp32.main, described=replace(said, outputs=outputs))
    return replace(fp32, functions={**fp32.functions, fp32.default: main})


def _computing(program: Program) -> list[Op]:
    return [op for op in program.main.block.walk() if op.dtype is not None and op.type != "cast"]


def _single(old: Program, names: Mapping[str, str]) -> dict[str, Op]:
    """The ops that compute in FP32 in the file, by their names in the twin."""
    return {names[op.name]: op for op in _computing(old) if op.dtype is DType.FP32 and op.name in names}


def _requests(fp32: Program, single: Mapping[str, Op]) -> Requests:
    """What the file computes in FP32 stays FP32, but for what is so only since a constant does not fit into FP16.

    coremltools leaves such an op alone, and casts its huge result to FP16 right behind it.
    """
    wished = [n for n, op in single.items() if op.type not in _NO_ARITHMETIC and not _has_huge_constant(op)]
    findings: list[Finding] = []
    islands: list[Island] = []
    by_name = {op.name: op for op in fp32.walk()}
    for group in connected(fp32, wished):
        types = ", ".join(dict.fromkeys(by_name[name].type for name in group))
        detail = f"computes {types} in FP32 in the file"
        findings.append(Finding.at("NP132", by_name[group[0]], detail, "kept in FP32"))
        islands.append(Island(group, AUTHOR, "it is FP32 in the file"))
    return Requests(tuple(findings), tuple(islands))


def _has_huge_constant(op: Op) -> bool:
    for value in op.operands:
        if isinstance(value.const, np.ndarray) and value.const.dtype == np.float32 and value.const.size:
            size = np.abs(value.const)
            if bool(((size > FP16_MAX) & (size < _INFINITE)).any()):
                return True
    return False


def _counted(plan: Plan, program: Program, single: frozenset[str]) -> Plan:
    """The plan with the ops of the written file that compute in FP32: those that did before, and those beyond."""
    names = [base_name(op.name) for op in _computing(program) if op.dtype is DType.FP32]
    before = sum(name in single for name in names)
    return replace(plan, fp32_ops=len(names) - before, author_fp32_ops=before)


def _doubted(found: Conversion, run: Tried) -> Conversion:
    """The result, with a verdict of ``"unknown"`` where the float32 twin cannot be what the model once was."""
    doubts = [f"unknown, since the file has lost it: {what}" for what in lost(list(found.findings))]
    for name in run.trial.outputs:
        given = run.answers[: len(run.trial.inputs)]
        count = sum(int((~np.isfinite(answer[name])).sum()) for answer in given if answer[name].dtype.kind == "f")
        if count:
            doubts.append(f"output '{name}' has {count} Inf or NaN in float32 too, so nothing says what is right there")
    if not doubts:
        return found
    units: dict[str, UnitResult] = {}
    for name, unit in found.units.items():
        verdict: Verdict = worst([unit.verdict, "unknown"])
        units[name] = replace(unit, verdict=verdict, reasons=(*unit.reasons, *doubts))
    return replace(found, units=units, verdict=worst([found.verdict, "unknown"]))
