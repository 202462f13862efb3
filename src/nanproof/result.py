"""What a conversion returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from nanproof.comparison.compare import Comparison
from nanproof.diagnosis.births import Birth
from nanproof.findings import Finding
from nanproof.interpret.proof import Proof
from nanproof.interpret.range import Ranges
from nanproof.mil.package import ScratchFolder, copy_package, mlmodel
from nanproof.plan.plan import Plan
from nanproof.program import Program
from nanproof.stress.kinds import InputKind
from nanproof.stress.masks import StressInput

__all__ = ["Conversion", "Original", "StressOutcome", "UnitResult", "Verdict"]

Verdict = Literal["proved", "tested", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class StressOutcome:
    """What one stress input did: whether Inf or NaN came out where PyTorch has none, and how far the rest is off.

    The error does not decide the verdict: in rows that mask everything PyTorch itself computes nothing meaningful.
    """

    what: str
    nonfinite: int
    error: float
    compared: bool


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The written file, executed under the numerics of one unit.

    ``comparison`` is over the given inputs, against PyTorch; ``births`` over given and stress inputs.
    """

    unit: str
    verdict: Verdict
    reasons: tuple[str, ...]
    comparison: Comparison
    births: tuple[Birth, ...]
    stress: tuple[StressOutcome, ...]


@dataclass(frozen=True, slots=True)
class Original:
    """The package that was repaired, as it was.

    Attributes:
        path: Where it is.
        units: The file itself, executed on the same inputs and judged in the same way.
        healthy: Whether there was nothing to repair: the result is the file itself then.
        generated: Whether the inputs were drawn at random, since none were given.
    """

    path: Path
    units: Mapping[str, UnitResult]
    healthy: bool
    generated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Conversion:
    """A converted model, with everything that is known about it.

    Attributes:
        program: The written file, read back.
        fp32_program: The same model in float32, before any rewrite or cast.
        verdict: The worst of all units: ``"tested"`` if on all given inputs and all stress inputs nothing is non-finite
            that is finite in PyTorch, and all given inputs are within tolerance; ``"proved"`` if moreover no input
            inside the assumptions of :attr:`proof` makes Inf or NaN; ``"failed"`` if not.
        units: Results by unit.
        findings: Hazards, with what was done about each.
        plan: Rewrites and FP32 islands.
        fidelity: The float32 program against PyTorch: what the lowering itself changed.
        stress: The stress inputs that were used.
        kinds: What each input was taken for, by name: within its bounds it was stressed.
        precision: ``"auto"``, ``"float16"`` or ``"float32"``, as asked for.
        tolerance: Largest error, relative to an output's range, that counts as the same.
        seconds: Wall time by stage.
        package: The verified package, in a folder of our own that lives as long as this object (:meth:`save` copies
            it).
        folder: That folder.
        original: Of a repair the package that was repaired. PyTorch is nowhere then: what is said of it here is meant
            of ``fp32_program``, the float32 twin of the file.
        functions: Of a repaired multifunction package the results of all its functions; the others here are those of
            its default function, but for the verdict.
        proof: What is proved of the written file, and what that assumes; ``None`` if nothing was to be proved.
        ranges: What the float32 program was seen to compute on all inputs of the trial, by value name.
        loading: ``skip_model_load`` and ``compute_units`` of :attr:`model`, as in ``coremltools.convert``.
    """

    program: Program
    fp32_program: Program
    verdict: Verdict
    units: Mapping[str, UnitResult]
    findings: tuple[Finding, ...]
    plan: Plan
    fidelity: Comparison
    stress: tuple[StressInput, ...]
    kinds: Mapping[str, InputKind]
    precision: str
    tolerance: float
    seconds: Mapping[str, float]
    package: Path
    folder: ScratchFolder
    proof: Proof | None = None
    ranges: Ranges | None = None
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    original: Original | None = None
    functions: Mapping[str, Conversion] = field(default_factory=dict[str, "Conversion"])

    @property
    def passed(self) -> bool:
        """Whether the verdict is ``"tested"`` or ``"proved"``, on every unit."""
        return self.verdict in ("tested", "proved")

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Verdict by unit."""
        return {name: unit.verdict for name, unit in self.units.items()}

    @property
    def comparison(self) -> Comparison:
        """The comparison with PyTorch on the given inputs, of the unit that is farthest off."""
        return max((u.comparison for u in self.units.values()), key=lambda c: (c.nonfinite, c.error))

    @property
    def model(self) -> Any:
        """The written package as a ``coremltools.models.MLModel``, which Core ML has loaded if it is there."""
        return mlmodel(self.package, **self.loading)

    def save(self, path: str | PathLike[str]) -> Path:
        """Copy the verified package to ``path``, which is either untouched or complete afterwards.

        Raises:
            ModelFileError: The name does not end in ``.mlpackage``, something else is there, or the disk refuses.
        """
        return copy_package(self.package, path)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write the report, one HTML file that opens without a network.

        Raises:
            UsageError: The file cannot be written.
        """
        from nanproof.report.html import write_html  # the report imports this module

        return write_html(self, path)

    def _repr_html_(self) -> str:
        """The report, as a notebook shows it."""
        from nanproof.report.html import frame

        return frame(self)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data: the JSON that ``nanproof convert --json`` prints."""
        from nanproof.report.data import conversion_data

        return conversion_data(self)
