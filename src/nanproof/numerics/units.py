"""The numerics that exist, each in a fast and in an exact reading.

Row numbers such as G2 or T1 name the device facts on which a choice rests (docs, "Numerics and their evidence").
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nanproof.errors import NumericsError
from nanproof.numerics.arithmetic import Arithmetic, SingleInside
from nanproof.numerics.half import CpuInside, HalfInside, HalfSteps
from nanproof.numerics.multiplier import FixedPoint, FourLanes, Limited
from nanproof.numerics.neural_engine import NeuralEngine
from nanproof.numerics.overflow import Watched, worst
from nanproof.numerics.tables import TABULATED, TABULATED_M1
from nanproof.program import DType

__all__ = ["AVAILABLE", "Numerics", "get"]


@dataclass(frozen=True, slots=True)
class Numerics:
    """The arithmetic of one unit.

    An op that computes in ``fp32`` is always IEEE float32 (T1): on the Neural Engine it does not run at all (P1), but
    on CPU or GPU. So is, and does, an op of a type in ``elsewhere``; its result is stored as IEEE says.

    Attributes:
        name: The name to ask for it.
        summary: What it is, in a line.
        half: The arithmetic inside an op that computes in ``fp16``.
        rounds_storage: Whether an ``fp16`` result is rounded to binary16 when it is stored.
        elsewhere: Types of ops that the unit leaves to the CPU, whatever they compute in.
        integers: The arithmetic inside a sum of products of dequantised 8-bit integers, if it is another.
        exact: Whether sums are those of the unit bit for bit, as far as it has been measured.
    """

    name: str
    summary: str
    half: Arithmetic
    rounds_storage: bool = True
    elsewhere: frozenset[str] = frozenset()
    integers: Arithmetic | None = None
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.name}, exact" if self.exact else self.name

    def arithmetic(self, dtype: DType | None, op_type: str = "", *, of_integers: bool = False) -> Arithmetic:
        """The arithmetic inside an op of that type, if it computes in ``dtype``.

        ``of_integers`` tells that the factors of its products are dequantised 8-bit integers.
        """
        if dtype is not DType.FP16 or op_type in self.elsewhere:
            return _SINGLE
        return self.integers if of_integers and self.integers is not None else self.half


_SINGLE = SingleInside()

# P3, measured on an M4 through Core ML; `cast` is how a value crosses a boundary between units (P7).
_OFF_ENGINE = (
    frozenset(["acos", "asin", "atanh", "cosh", "sinh", "tan", "mod", "cumsum", "reduce_prod", "lstm", "gru", "rnn"])
    | frozenset(["band_part", "crop_resize", "one_hot", "random_normal", "range_1d", "sliding_windows", "cast"])
    | frozenset(["scatter", "scatter_along_axis", "scatter_nd"])
)
_OFF_ENGINE_M1 = _OFF_ENGINE | {"sin", "cos"}  # L6: native from an A15 on

# E1, A8: ties away from zero, measured on M4 (sums of products), M5 and M6. M1: to even.
_ANE = NeuralEngine(Limited(fixed_point=True), ties_away=True, tables=TABULATED)
_M1 = NeuralEngine(Limited(fixed_point=False), ties_away=False, tables=TABULATED_M1, crops=True)
# A16: 8-bit integers are summed in 32 bits and scaled afterwards. A sum of fewer than 131,072 such products cannot
# reach 2**31, where it would become Inf. Real on an A17 Pro, an M4 and later; others dequantise first (A17).
_INTEGERS = replace(_ANE, accumulator=_SINGLE)
_PESSIMISTIC = replace(_ANE, accumulator=Watched(_ANE.accumulator, worst, fixed_point=True), narrow=True)

_FAST = (
    Numerics("reference", "float32 throughout, whatever the types say", _SINGLE, rounds_storage=False),
    Numerics("strict", "IEEE binary16 for every step, accumulators included", HalfSteps()),
    # G2-G5: float32 accumulators by default, one rounding when stored; G7: IEEE infinities and NaN.
    Numerics("gpu", "binary16 storage, float32 inside an op (MPSGraph)", _SINGLE),
    Numerics("cpu", "binary16 storage, float32 inside most ops (BNNS)", _SINGLE),
    Numerics("ane", "Neural Engine, M4 or later", _ANE, elsewhere=_OFF_ENGINE, integers=_INTEGERS),
    Numerics("ane_m1", "Neural Engine, M1", _M1, elsewhere=_OFF_ENGINE_M1),
    Numerics("ane_pessimistic", "as ane, the worse reading where sources differ", _PESSIMISTIC, elsewhere=_OFF_ENGINE),
)
_EXACT: dict[str, Arithmetic] = {
    "strict": HalfInside(),
    "cpu": CpuInside(),
    "ane": replace(_ANE, accumulator=FixedPoint()),
    "ane_m1": replace(_M1, accumulator=FourLanes()),
    "ane_pessimistic": replace(_PESSIMISTIC, accumulator=Watched(FixedPoint(), worst, fixed_point=True)),
}

AVAILABLE: dict[str, Numerics] = {n.name: n for n in _FAST}
"""By name, in the fast reading: float32 sums, one rounding per result."""


def get(name: str | Numerics, *, exact: bool = False) -> Numerics:
    """The numerics of that name; ``exact`` asks for its sums bit for bit, which is slow.

    ``reference`` and ``gpu`` have one reading: nothing is known about their sums but that they are float32. A numerics
    is returned as it is.

    Raises:
        NumericsError: The name is unknown.
    """
    if isinstance(name, Numerics):
        return name
    if name not in AVAILABLE:
        raise NumericsError(f"Unknown numerics '{name}'. Available: {', '.join(AVAILABLE)}.")
    fast = AVAILABLE[name]
    return replace(fast, half=_EXACT.get(name, fast.half), exact=True) if exact else fast
