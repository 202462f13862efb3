"""The numerics that exist: ``reference``, ``strict`` and ``gpu``.

Row numbers such as G2 or T1 name the device facts on which a choice rests (docs, "Numerics and their evidence").
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nanproof.errors import NumericsError
from nanproof.numerics.arithmetic import Arithmetic, HalfInside, SingleInside
from nanproof.program import DType
from nanproof.values.floats import round_fp16

__all__ = ["AVAILABLE", "PLANNED", "Numerics", "get"]


@dataclass(frozen=True, slots=True)
class Numerics:
    """The arithmetic of one unit.

    ``rounds_storage`` tells whether a ``fp16`` result is rounded to binary16 when it is stored; ``half`` is the
    arithmetic inside an op that computes in ``fp16``. An op that computes in ``fp32`` is always IEEE float32 (T1).
    """

    name: str
    summary: str
    rounds_storage: bool
    half: Arithmetic

    def arithmetic(self, dtype: DType | None) -> Arithmetic:
        """The arithmetic inside an op that computes in ``dtype``."""
        return self.half if dtype is DType.FP16 else _SINGLE

    def store(self, x: Tensor, dtype: DType) -> Tensor:
        """Round a result to its type. ``x`` is the carrier of ``dtype``; same shape and carrier."""
        return round_fp16(x) if dtype is DType.FP16 and self.rounds_storage else x


_SINGLE = SingleInside()

AVAILABLE: dict[str, Numerics] = {
    n.name: n
    for n in (
        Numerics("reference", "float32 throughout, whatever the types say", rounds_storage=False, half=_SINGLE),
        Numerics("strict", "IEEE binary16 everywhere, accumulators included", rounds_storage=True, half=HalfInside()),
        # G2-G5: float32 accumulators by default, one rounding when stored; G7: IEEE infinities and NaN.
        Numerics("gpu", "binary16 storage, float32 inside an op (MPSGraph)", rounds_storage=True, half=_SINGLE),
    )
}
PLANNED = ("cpu", "ane", "ane_m1")
"""Numerics that are announced but not modelled yet: asking for one is an error, never a guess."""


def get(name: str | Numerics) -> Numerics:
    """The numerics of that name.

    Raises:
        NumericsError: The name is unknown, or its model is not available in this version.
    """
    if isinstance(name, Numerics):
        return name
    if name in AVAILABLE:
        return AVAILABLE[name]
    have = ", ".join(AVAILABLE)
    if name in PLANNED:
        raise NumericsError(
            f"The numerics '{name}' are not available in this version of nanproof, so nothing can be said about that "
            f"unit. Available: {have}. 'gpu' and 'strict' bracket IEEE behaviour."
        )
    raise NumericsError(f"Unknown numerics '{name}'. Available: {have}.")
