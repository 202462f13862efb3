"""What each input of a program is, guessed from its signature, its dataflow and its name; and why it was guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nanproof.errors import UsageError
from nanproof.program import Color, DType, Op, Program, Value
from nanproof.stress.uses import Consumers, Use, consumers, follow, scalar, uses

__all__ = ["KINDS", "InputKind", "Stated", "input_kinds"]

KINDS = ("mask", "ids", "positions", "image", "audio", "bool", "index", "real")
"""Every kind, by its name."""

Stated = Mapping[str, "str | tuple[float, float]"]
"""What the user says of inputs by name: the name of a kind, or the least and the largest value."""

_NORMALISED = 2.7
"""Pixels in [0, 1] less ImageNet's mean, over its deviation, end at -2.12 and 2.64; [0, 1] and [-1, 1] lie within."""
_LARGE = 1e3
"""Nobody multiplies a real input by so much, but a mask by its sentinel."""
_SHORTEST_WAVEFORM = 2000
_POSITION = re.compile(r"position|timestep|(^|_)pos(_ids?)?($|_)", re.IGNORECASE)
_MASK = re.compile(r"mask|(^|_)(valid|keep|present|visible|padding)($|_)", re.IGNORECASE)
_IDS = re.compile(r"(^|_)(ids?|tokens?|labels?)(_\d+)?$", re.IGNORECASE)
_AUDIO = re.compile(r"audio|wav(e|$|_)|speech|input_values", re.IGNORECASE)
_IMAGE = re.compile(r"image|(^|_)img|pixel|picture|photo", re.IGNORECASE)
_NO_IMAGE = re.compile(r"latent|noise|sample|mel|spec|feature|mask|(^|_)z($|_)", re.IGNORECASE)
_COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"})
_SCALINGS = frozenset({"add", "sub", "mul", "real_div", "pad", "resize_bilinear", "upsample_bilinear"})


@dataclass(frozen=True, slots=True)
class InputKind:
    """What an input is, and between which values it is assumed to lie.

    Attributes:
        name: One of :data:`KINDS`.
        low: The least value assumed, included; ``-inf`` where nothing can be assumed.
        high: The largest value assumed, included; ``inf`` where nothing can be assumed.
        integral: Whether it holds whole numbers only.
        reason: How it was guessed, in one line: ``"gathers rows of the table 'word_embeddings' (30522 rows)"``.
    """

    name: str
    low: float
    high: float
    integral: bool
    reason: str

    @property
    def bounded(self) -> bool:
        """Whether both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __str__(self) -> str:
        return f"{self.name} in [{self.low:g}, {self.high:g}]: {self.reason}"


def input_kinds(
    program: Program,
    batches: Sequence[Mapping[str, np.ndarray]] = (),
    stated: Stated | None = None,
) -> dict[str, InputKind]:
    """Guess the kind of every input of the default function, states excluded.

    What the program does with an input counts most, then its shape, then its name. A guess that the batches contradict
    is not made: a mask that holds 0.5 is a real input.

    Args:
        program: The program; the PyTorch model is not needed.
        batches: Inputs by name, as far as there are any. A real input is then assumed to stay in the range that it has
            there, and an image or a waveform in the usual range that holds them.
        stated: What you know better.

    Returns:
        One kind for each input, in the order of ``program.inputs``.

    Raises:
        UsageError: ``stated`` names no input, no kind, or no range.
    """
    stated = stated or {}
    unknown = sorted(set(stated) - set(program.inputs))
    if unknown:
        raise UsageError(
            f"There is no input {', '.join(map(repr, unknown))} to state the kind of: the program takes "
            f"{', '.join(program.inputs)}."
        )
    readers = consumers(program)
    makers = {value: op for op in program.main.block.walk() for value in op.outputs}
    found: dict[str, InputKind] = {}
    for name in program.inputs:
        look = _Look(program, program.main.inputs[name], _seen(name, batches), readers, makers)
        found[name] = _stated(look, stated[name]) if name in stated else look.guess()
    return found


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the batches hold for one input: range of its finite values, and whether these are whole or 0 and 1 only."""

    low: float
    high: float
    whole: bool
    binary: bool


def _seen(name: str, batches: Sequence[Mapping[str, np.ndarray]]) -> _Seen | None:
    arrays = [np.asarray(batch[name]) for batch in batches if name in batch]
    finite = [a[np.isfinite(a)].astype(np.float64) for a in arrays if a.dtype.kind in "biuf"]
    finite = [a for a in finite if a.size]
    if not finite:
        return None
    return _Seen(
        min(float(a.min()) for a in finite),
        max(float(a.max()) for a in finite),
        all(bool((a == np.trunc(a)).all()) for a in finite),
        all(bool(np.isin(a, (0, 1)).all()) for a in finite),
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """One input, and all there is to guess by."""

    program: Program
    value: Value
    seen: _Seen | None
    readers: Consumers
    makers: Mapping[Value, Op]

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def integral(self) -> bool:
        return self.value.type.dtype.is_integer

    def guess(self) -> InputKind:
        """The first guess that fits, the surest first."""
        if self.value.type.dtype is DType.BOOL:
            kind = "mask" if _MASK.search(self.name) or len(self.value.type.shape) > 1 else "bool"
            return InputKind(kind, 0, 1, True, "is of type bool")
        found = uses(self.value, self.readers)
        for guess in (self.described, self.gathering, self.masking, self.phase, self.named_ids, self.image, self.audio):
            kind = guess(found)
            if kind is not None:
                return kind
        return self.real()

    def real(self) -> InputKind:
        """Any number, or any of the observed range."""
        if self.seen is None:
            return InputKind("real", -math.inf, math.inf, self.integral, "nothing says what it is: any number")
        return InputKind("real", self.seen.low, self.seen.high, self.integral, "lay in this range on the given inputs")

    def described(self, found: Sequence[Use]) -> InputKind | None:
        """An image by the description of the file; the program scales its pixels itself."""
        feature = self.program.interface.inputs.get(self.name)
        if feature is None or feature.color is None:
            return None
        if feature.color is Color.GRAYSCALE_FLOAT16:
            return self.within(InputKind("image", 0, 1, False, "is described as an image of half-precision pixels"))
        return InputKind("image", 0, 255, True, f"is described as a {feature.color.value} image of 8-bit pixels")

    def gathering(self, found: Sequence[Use]) -> InputKind | None:
        """Rows of a table, or places in something computed."""
        limits = [limit for use in found if (limit := self._limit(use)) is not None]
        if not limits:
            return None
        # What repairs negative indices adds the number of rows on one branch: the untouched branch counts.
        plain = {limit.of for limit in limits if limit.offset == 0}
        limits = [limit for limit in limits if limit.offset == 0 or limit.of not in plain]
        limit = min(limits, key=lambda one: one.size - one.offset)
        low, high = max(0.0, -limit.offset), limit.size - 1 - limit.offset
        if not limit.table:
            return InputKind("index", low, high, True, f"picks one of {limit.size:g} along an axis of '{limit.of}'")
        what = "positions" if _POSITION.search(self.name) or _POSITION.search(limit.of) else "ids"
        return InputKind(what, low, high, True, f"gathers rows of the table '{limit.of}' ({limit.size:g} rows)")

    def _limit(self, use: Use) -> _Limit | None:
        if use.op.type == "one_hot" and use.argument == "indices":
            depth = scalar(use.op.input("one_hot_vector_size"))
            return None if depth is None else _Limit(depth, use.offset, use.op.name, table=False)
        data = use.op.input("x")
        if use.op.type not in ("gather", "gather_along_axis") or use.argument != "indices" or data is None:
            return None
        size = data.type.shape[int(scalar(use.op.input("axis")) or 0)] if data.type.shape else "?"
        if isinstance(size, str):
            return None
        return _Limit(float(size), use.offset, data.name, table=self._is_table(data))

    def _is_table(self, data: Value) -> bool:
        """Whether a value is a constant, as it is or unpacked from its compressed form."""
        maker = self.makers.get(data)
        if data.const is not None or maker is None:
            return data.const is not None
        return maker.type.startswith("constexpr_") or (
            maker.type in ("cast", "dequantize") and all(self._is_table(v) for v in maker.operands if v.type.shape)
        )

    def masking(self, found: Sequence[Use]) -> InputKind | None:
        """0 and 1, by what is done with it, or by its name."""
        if self.seen is not None and not self.seen.binary:
            return None
        reason = next((why for use in found if (why := self._mask_use(use))), "")
        if not reason and found and all(_is_comparison(use) for use in found):
            reason = f"is only compared with {scalar(found[0].other):g} in '{found[0].op.name}'"
        if not reason and _MASK.search(self.name):
            if not self.integral and found and all(u.op.type == "add" and u.other is not None for u in found):
                return replace(self.real(), reason="is named a mask and is added as it is: its values are not 0 and 1")
            reason = "is named a mask"
        return InputKind("mask", 0, 1, True, reason) if reason else None

    def _mask_use(self, use: Use) -> str:
        """Why a use says that the input can only hold 0 and 1, or nothing."""
        op = use.op
        if (op.type == "select" and use.argument == "cond") or op.type.startswith("logical_"):
            return f"decides as a truth value in {op.type} '{op.name}'"
        constant = scalar(use.other)
        if op.type in ("equal", "not_equal") and self.integral and constant in (0, 1):
            return f"is compared with {constant:g} in '{op.name}'"
        if op.type == "mul" and self.integral and constant is not None and abs(constant) >= _LARGE:
            return f"is multiplied by {constant:g} in '{op.name}'"
        if op.type == "sub" and constant == 1:
            for behind in follow(op.outputs, self.readers, frozenset()):
                factor = scalar(behind.other) if behind.op.type == "mul" else None
                if factor is not None and abs(factor) >= _LARGE:
                    return f"is taken from 1, which is multiplied by {factor:.4g} in '{behind.op.name}'"
                if behind.op.type == "select" and behind.argument == "cond":
                    return f"is taken from 1, which decides in select '{behind.op.name}'"
        return ""

    def phase(self, found: Sequence[Use]) -> InputKind | None:
        """Positions of which the sine is taken, as rotary embeddings and timesteps do."""
        if self.seen is not None and self.seen.low < 0:
            return None
        if not (self.integral or _POSITION.search(self.name)):
            return None
        turning = frozenset({"mul", "matmul", "linear", "real_div", "einsum", "concat"})
        if any(u.op.type in ("sin", "cos") for u in follow([self.value], self.readers, turning)):
            return InputKind("positions", 0, math.inf, self.integral, "is the angle of a sine but for a factor")
        if _POSITION.search(self.name):
            return InputKind("positions", 0, math.inf, self.integral, "is named a position")
        return None

    def named_ids(self, found: Sequence[Use]) -> InputKind | None:
        """Whole numbers by the name of ids, whose number nothing tells."""
        if not self.integral or not _IDS.search(self.name) or (self.seen is not None and self.seen.low < 0):
            return None
        high = math.inf if self.seen is None else self.seen.high
        return InputKind("ids", 0, high, True, "is a whole number that is named an id; no table tells how many")

    def image(self, found: Sequence[Use]) -> InputKind | None:
        """Four axes, as many channels as a picture, and a convolution that takes it."""
        shape = self.value.type.shape
        if len(shape) != 4 or not self.value.type.dtype.is_float or _NO_IMAGE.search(self.name):
            return None
        if _IMAGE.search(self.name):
            return self.pixels("is named an image", found)
        channels = {shape[1], shape[-1]}
        rgba = 4 in channels and self.seen is not None and self.seen.low >= 0  # else rather the latent of a diffusion
        if not channels & {1, 3} and not rgba:
            return None
        convolved = [u for u in follow([self.value], self.readers, _SCALINGS) if u.op.type == "conv"]
        if not convolved or convolved[0].argument != "x":
            return None
        return self.pixels(f"has the shape of an image and goes into conv '{convolved[0].op.name}'", found)

    def pixels(self, reason: str, found: Sequence[Use]) -> InputKind:
        """The usual range of pixels that holds the given ones."""
        if self.seen is None:
            if any(_is_255(u) for u in found):
                return InputKind("image", 0, 255, False, f"{reason}, divided by 255")
            return InputKind(
                "image", -_NORMALISED, _NORMALISED, False, f"{reason}; its range is that of normalised pixels"
            )
        seen = self.seen
        for low, high in ((0, 1), (-1, 1), (-_NORMALISED, _NORMALISED), (0, 255)):
            if low <= seen.low and seen.high <= high:
                return InputKind("image", low, high, False, f"{reason}; given pixels lie in [{low:g}, {high:g}]")
        return InputKind("image", seen.low, seen.high, False, f"{reason}; the range is that of the given pixels")

    def audio(self, found: Sequence[Use]) -> InputKind | None:
        """A waveform: one long axis, or a name that says so."""
        shape = self.value.type.shape
        if not self.value.type.dtype.is_float or not 1 <= len(shape) <= 3 or _NO_IMAGE.search(self.name):
            return None
        if _AUDIO.search(self.name):
            return self.within(InputKind("audio", -1, 1, False, "is named a waveform"))
        channels = shape[-2] if len(shape) == 3 else 1
        if not isinstance(shape[-1], int) or shape[-1] < _SHORTEST_WAVEFORM or channels not in (1, 2):
            return None
        loud = self.seen is not None and max(-self.seen.low, self.seen.high) > 1
        convolved = any(u.op.type == "conv" for u in follow([self.value], self.readers, _SCALINGS))
        if loud or not convolved:
            return None
        return InputKind("audio", -1, 1, False, f"is one row of {shape[-1]} samples that goes into a convolution")

    def within(self, kind: InputKind) -> InputKind:
        """The kind, its range widened to what was given."""
        if self.seen is None or (kind.low <= self.seen.low and self.seen.high <= kind.high):
            return kind
        low, high = min(kind.low, self.seen.low), max(kind.high, self.seen.high)
        return replace(kind, low=low, high=high, reason=f"{kind.reason}; the range is that of the given inputs")


@dataclass(frozen=True, slots=True)
class _Limit:
    """How many places an index may name, what is added to it before, and of what."""

    size: float
    offset: float
    of: str
    table: bool


def _is_comparison(use: Use) -> bool:
    constant = scalar(use.other)
    return constant is not None and 0 <= constant <= 1 and use.op.type in _COMPARISONS


def _is_255(use: Use) -> bool:
    constant = scalar(use.other)
    if constant is None:
        return False
    return (use.op.type == "real_div" and constant == 255) or (use.op.type == "mul" and abs(constant * 255 - 1) < 1e-3)


def _stated(look: _Look, said: str | tuple[float, float]) -> InputKind:
    """The kind that the user states; what he leaves open is guessed."""
    guess = look.guess()
    if not isinstance(said, str):
        low, high = _bounds(look.name, said)
        kept = guess.name if guess.name not in ("mask", "bool") or (low, high) == (0, 1) else "real"
        return InputKind(kept, low, high, (guess.integral and kept == guess.name) or look.integral, "is stated")
    if said not in KINDS:
        raise UsageError(
            f"'{said}' is no kind of input, as stated for '{look.name}': choose {', '.join(KINDS)}, or a range "
            "(low, high)."
        )
    if said == guess.name:
        return replace(guess, reason=f"is stated; {guess.reason}")
    if said == "real":
        return replace(look.real(), reason="is stated")
    if said == "image":
        return look.pixels("is stated", uses(look.value, look.readers))
    low, high = {"mask": (0, 1), "bool": (0, 1), "audio": (-1, 1)}.get(said, (0, math.inf))
    if said in ("ids", "index") and look.seen is not None:
        high = look.seen.high
    kind = InputKind(said, low, high, said != "audio", "is stated")
    return look.within(kind) if said == "audio" else kind


def _bounds(name: str, said: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in said)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low <= high:
        raise UsageError(f"{said!r} is no range for the input '{name}': write (low, high), the smaller number first.")
    return low, high
