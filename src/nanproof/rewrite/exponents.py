"""Which power of two each value is divided by: the state on which the rules of ``rewrite.homogeneous`` work.

A value ``v`` is *carried at the exponent* ``e`` if the program computes ``v * 2**-e`` in its place.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from nanproof.interpret.observe import Ranges
from nanproof.mil.edits import OUTPUT, Argument, Edit, Feed, Named, Operand, Replace, SetConstant, Step
from nanproof.program import Op, Program, Value
from nanproof.rewrite.limits import Limits

__all__ = ["Exponents", "GivenUpError", "Known"]

_ROOM = 3
"""What is scaled is scaled below the limit by this many powers of two: inputs may grow by a factor of 8."""
_TINY = 2.0**-24
"""The smallest positive binary16 number."""
_NORMAL = 2.0**-14
"""The smallest normal binary16 number."""
_PRECISE = 2.0**-15
"""Down to here half a unit in the last place of a binary16 number is at most 2**-10 of it."""


class GivenUpError(Exception):
    """A value cannot be carried at the exponent that it would have to have; the text says why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the rules know beforehand.

    Attributes:
        program: The float32 program.
        ranges: What was observed on it.
        limits: Where numbers end.
        frozen: Names of ops that have to stay what they are.
        smallest: Of each value the smallest magnitude above 0 that was observed.
        typical: Of each value the median of the magnitudes above 0, in the run where it was smallest.
        inside: Of norms, by op name, the largest sum of squared deviations that was observed.
        variance: Of norms, by op name, the smallest variance above 0 that was observed.
    """

    program: Program
    ranges: Ranges
    limits: Limits
    frozen: Collection[str] = ()
    smallest: Mapping[str, float] = field(default_factory=dict[str, float])
    typical: Mapping[str, float] = field(default_factory=dict[str, float])
    inside: Mapping[str, float] = field(default_factory=dict[str, float])
    variance: Mapping[str, float] = field(default_factory=dict[str, float])
    makers: Mapping[Value, Op] = field(init=False)
    _readers: Counter[Value] = field(init=False)

    def __post_init__(self) -> None:
        block = self.program.main.block
        readers = Counter(value for op in self.program.walk() for value in dict.fromkeys(op.operands))
        readers.update(block.outputs)
        object.__setattr__(self, "makers", {value: op for op in block.ops for value in op.outputs})
        object.__setattr__(self, "_readers", readers)

    def readers(self, value: Value) -> int:
        """How many ops and outputs read a value."""
        return self._readers[value]

    def constant(self, value: Value) -> tuple[Op | None, np.ndarray | None]:
        """The array of which a value consists, and the op that moves its elements about, if one does."""
        if isinstance(value.const, np.ndarray):
            return None, value.const
        maker = self.makers.get(value)
        if maker is None or maker.type not in ("transpose", "reshape", "expand_dims", "squeeze"):
            return None, None
        inner = maker.inputs["x"][0].const
        return (maker, inner) if isinstance(inner, np.ndarray) and self.readers(value) == 1 else (None, None)


class Exponents:
    """The exponents of all values on one way through the program, and the edits that bring them about.

    Args:
        known: What is known beforehand.
        given_up: Names of ops whose results may overflow: they are left to FP32.
        plain: Names of ops that read their operands unscaled, although there is a rule for them.
        wishes: Exponents at which all readers of a value want it, for ops that can choose.
    """

    def __init__(
        self, known: Known, given_up: Collection[str], plain: Collection[str], wishes: Mapping[Value, int]
    ) -> None:
        self.known = known
        self.given_up = given_up
        self.plain = plain
        self.wishes = wishes
        self.edits: list[Edit] = []
        self.hazards: dict[Op, int] = {}
        self.touched: dict[str, None] = {}
        self.wanted: dict[Value, set[int]] = {}
        self._base: dict[Value, int] = {}
        self._names: dict[Value, dict[int, str]] = {}
        self._origins: dict[Value, frozenset[str]] = {}
        self._lowest: set[Value] = set()
        self._taken = {v.name for op in known.program.walk() for v in op.outputs}

    # -- what rules ask -----------------------------------------------------------------------------------------------

    def of(self, value: Value) -> int:
        """The exponent at which a value is carried by the op that computes it; 0 for constants and inputs."""
        return self._base.get(value, 0)

    def available(self, value: Value) -> list[int]:
        """All exponents at which a value can be had for nothing; first the one of the op that computes it."""
        return list(dict.fromkeys((self.of(value), *self._names.get(value, {}))))

    def magnitude(self, value: Value) -> float:
        """The largest magnitude that was observed, or that a constant holds."""
        _, constant = self.known.constant(value)
        if constant is not None:
            return float(np.abs(constant[np.isfinite(constant)]).max(initial=0.0))
        return self.known.ranges[value.name].magnitude

    def fits(self, op: Op, exponent: int, inside: float = 0.0) -> bool:
        """Whether the results of an op can be carried at an exponent.

        Args:
            op: The op.
            exponent: The exponent.
            inside: The largest magnitude of its intermediate results, at the same exponent.
        """
        room = 1.0 if exponent == 0 else 0.5
        scale = 2.0**-exponent
        results = all(self.magnitude(v) * scale <= room * self.known.limits.of_result(op) for v in op.outputs)
        return results and inside * scale <= room * self.known.limits.stored

    def needed(self, op: Op, exponent: int, inside: float = 0.0) -> int:
        """The exponent itself, if the results of an op fit at it, or else the one that brings them into range.

        Raises:
            GivenUpError: None does, since the op is left to FP32.
        """
        if self.fits(op, exponent, inside):
            return exponent
        if op.name in self.given_up:
            return exponent
        limit = self.known.limits.of_result(op)
        over = max((self.magnitude(v) / limit for v in op.outputs), default=0.0)
        over = max(over, inside / self.known.limits.stored)
        found = math.ceil(math.log2(over)) + _ROOM
        found += found % 2  # a root behind it halves the exponent
        self.hazards[op] = found
        return found

    def precise(self, value: Value, exponent: int, *, also_at_its_lowest: bool = False) -> bool:
        """Whether the small elements of a value keep their precision when it is carried at an exponent.

        Zeros do; ``also_at_its_lowest`` asks it of the smallest sum of a value and a constant as well, which is what
        zeros become by an epsilon.
        """
        if exponent <= 0:
            return True
        maker = self.known.makers.get(value)
        if maker is not None and maker.type in ("add", "maximum", "clip") and not also_at_its_lowest:
            inner = [v for v in maker.operands if v.const is None]
            if len(inner) == 1:
                value = inner[0]
        return self.known.smallest.get(value.name, math.inf) * 2.0**-exponent >= _PRECISE

    def constant(self, value: Value) -> bool:
        """Whether a value is known beforehand, and may be changed for its reader."""
        return self.known.constant(value)[1] is not None

    # -- what rules do ------------------------------------------------------------------------------------------------

    def read(self, op: Op, name: str, exponent: int, index: int = 0) -> None:
        """Let an op read an operand at an exponent; constants are scaled themselves.

        Raises:
            GivenUpError: The operand does not fit at this exponent.
        """
        value = op.inputs[name][index]
        self._inherit(op, value)
        if self.constant(value):
            self.scale_constant(op, name, exponent, index)
            return
        self.wanted.setdefault(value, set()).add(exponent)
        if exponent == self.of(value):
            return
        self.touched[op.name] = None
        self._require_normal(value, exponent)
        if value in self._lowest and exponent > self.of(value):
            raise GivenUpError(f"'{value.name}' may be the smallest FP16 number already, which '{op.name}' would halve")
        if self.magnitude(value) * 2.0**-exponent > self.known.limits.stored:
            raise GivenUpError(f"'{op.name}' ({op.type}) reads '{value.name}', which does not fit as it is")
        names = self._names.setdefault(value, {})
        steps: tuple[Step, ...] = ()
        if exponent not in names:
            shift = self.of(value) - exponent
            name_ = self._fresh(f"{value.name}_{'times' if shift > 0 else 'over'}_{2 ** abs(shift)}")
            names[exponent] = name_
            factor: Argument = 2.0**shift
            # The operand, and not the value by its name: an edit may have put another one in its place.
            steps = (Step("mul", name_, {"x": Operand(name, index), "y": factor}),)
        self.edits.append(Feed(op.name, name, index, Named(names[exponent]), steps))

    def scale_constant(self, op: Op, name: str, exponent: int, index: int = 0, *, floor: float = _TINY) -> None:
        """Divide a constant operand by a power of two. Elements above 0 do not fall below ``floor``."""
        mover, constant = self.known.constant(op.inputs[name][index])
        if exponent == 0 or constant is None or not constant.any():
            return
        scaled = np.ldexp(constant.astype(np.float64), -exponent)
        vanishing = (np.abs(scaled) < floor) & (constant != 0)
        scaled = np.where(vanishing, np.copysign(floor, constant), scaled)
        if vanishing.any():
            self._lowest.update(op.outputs)
        self.touched[op.name] = None
        place = (op.name, name, index) if mover is None else (mover.name, "x", 0)
        with np.errstate(over="ignore"):
            self.edits.append(SetConstant(*place, scaled.astype(constant.dtype)))

    def scalable(self, value: Value, exponent: int) -> bool:
        """Whether a constant factor can be divided by a power of two without leaving the precise numbers."""
        largest = self.magnitude(value) * 2.0**-exponent
        return exponent == 0 or largest == 0 or 2.0**-6 <= largest <= self.known.limits.stored / 2

    def write(self, op: Op, exponent: int) -> None:
        """Say at which exponent the results of an op are carried."""
        for value in op.outputs:
            self._require_normal(value, exponent)
        if exponent and op.name not in self.given_up and not self.fits(op, 0):
            self.hazards.setdefault(op, exponent)
        origins = frozenset((op.name,) if op in self.hazards else ())
        for value in op.operands:
            origins |= self._origins.get(value, frozenset()) if self.of(value) else frozenset()
        for value in op.outputs:
            if exponent and value.type.dtype.is_float:
                self.touched[op.name] = None
                self._base[value] = exponent
                self._origins[value] = origins

    def _require_normal(self, value: Value, exponent: int) -> None:
        """Most elements of what is scaled down have to stay normal numbers.

        Raises:
            GivenUpError: They would not.
        """
        if exponent > 0 and self.known.typical.get(value.name, math.inf) * 2.0**-exponent < _NORMAL:
            raise GivenUpError(f"most elements of '{value.name}' would become subnormal at 2^{-exponent} of themselves")

    def append(self, op: Op, step_type: str, constant: float) -> None:
        """Put one more op with a constant behind an op: ``result * constant``, say."""
        name = self._fresh(f"{op.outputs[0].name}_rescaled")
        self.touched[op.name] = None
        self.edits.append(Replace(op.name, (Step(step_type, name, {"x": OUTPUT, "y": constant}),)))

    def origins(self, op: Op) -> frozenset[str]:
        """Names of the ops because of whose results the operands of an op are scaled, or its own."""
        found = frozenset((op.name,) if op in self.hazards else ())
        return found.union(*(self._origins.get(v, frozenset()) for v in op.operands))

    def _inherit(self, op: Op, value: Value) -> None:
        if self.of(value):
            self.touched[op.name] = None

    def _fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name
