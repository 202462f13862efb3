"""Range monitoring of a PyTorch model while it is developed or trained: what will not survive FP16, and where."""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nanproof.errors import UsageError
from nanproof.interpret.range import NOTHING, Range
from nanproof.interpret.tally import Tally
from nanproof.program import Source

__all__ = ["WATCH_SCHEMA", "Log", "Overflow", "Place", "Seen", "watch"]

WATCH_SCHEMA = "nanproof-watch/1"
"""Name and version of what :meth:`Log.to_dict` returns."""
_LIBRARY = str(Path(torch.__file__).parent)
_HERE = __file__
_UNSET = ("empty", "new_empty")
"""Ops that return memory as it was, which means nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """An op of a model: the module that runs it, its PyTorch name, and the line that calls it.

    ``op`` is ``"gradient"`` for the gradient of a parameter; ``module`` is then the name of the parameter.
    """

    module: str
    op: str
    source: Source | None = None

    def __str__(self) -> str:
        where = f", {Path(self.source.file).name}:{self.source.line}" if self.source else ""
        return f"{self.op} at {self.module or 'the model itself'}{where}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What one op returned in one call: the bounds of its finite elements, and whether all were finite."""

    place: Place
    low: float
    high: float
    finite: bool

    def __str__(self) -> str:
        bounds = f"{self.low:.4g} to {self.high:.4g}" if self.low <= self.high else "nothing finite"
        return f"{self.place}: {bounds}{'' if self.finite else ', with Inf or NaN'}"


@dataclass(frozen=True, slots=True)
class Overflow:
    """The first op whose result a format does not hold, in which step, and the ops that ran before it, oldest first."""

    seen: Seen
    step: int
    before: tuple[Seen, ...]


@dataclass(slots=True)
class Log:
    """What was seen since watching began. It grows with the number of ops in the model, not with the steps.

    Attributes:
        steps: How many calls of the model were watched.
        first_overflow: Where FP16 would first have been left: a magnitude that it rounds to infinity, or Inf or NaN.
        first_bf16_overflow: The same for bfloat16.
    """

    steps: int = 0
    first_overflow: Overflow | None = None
    first_bf16_overflow: Overflow | None = None
    _tallies: dict[Place, Tally] = field(default_factory=dict[Place, Tally], repr=False)
    _earlier: Mapping[Place, Range] = field(default_factory=dict[Place, Range], repr=False)

    @property
    def ranges(self) -> dict[Place, Range]:
        """What was seen of each op, in the order in which they first ran."""
        found = dict(self._earlier)
        for place, tally in self._tallies.items():
            found[place] = found.get(place, NOTHING) | Range.tallied(tally)
        return found

    def __or__(self, other: Log) -> Log:
        """Both together, as if ``other`` had come later."""
        ours, theirs = self.ranges, other.ranges
        both = {place: ours.get(place, NOTHING) | theirs.get(place, NOTHING) for place in {**ours, **theirs}}
        return Log(
            self.steps + other.steps,
            self.first_overflow or other.first_overflow,
            self.first_bf16_overflow or other.first_bf16_overflow,
            _earlier=both,
        )

    @property
    def modules(self) -> dict[str, Range]:
        """What was seen of all ops that a module runs itself, not those of its children."""
        found: dict[str, Range] = {}
        for place, seen in self.ranges.items():
            found[place.module] = found.get(place.module, NOTHING) | seen
        return found

    @property
    def unfit(self) -> list[str]:
        """One line for each op that FP16 does not hold, the largest first."""
        found = [(place, seen) for place, seen in self.ranges.items() if not seen.survives_fp16]
        return [_verdict(place, seen) for place, seen in sorted(found, key=lambda one: -_size(one[1]))]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that any logger takes: strings, numbers, booleans, ``None``, lists and dicts."""
        return {
            "schema": WATCH_SCHEMA,
            "steps": self.steps,
            "ops": [{**_place(place), **_numbers(seen)} for place, seen in self.ranges.items()],
            "modules": {name: _numbers(seen) for name, seen in self.modules.items()},
            "first_overflow": _event(self.first_overflow),
            "first_bf16_overflow": _event(self.first_bf16_overflow),
            "unfit": self.unfit,
        }

    def table(self, most: int = 20) -> str:
        """The ops of the largest magnitudes as text, those that FP16 does not hold first."""
        rows = sorted(self.ranges.items(), key=lambda one: -_size(one[1]))
        lines = [f"{'largest':>10} {'smallest':>10} {'lost':>7}  {'FP16':5} {'bf16':5} where"]
        for place, seen in rows[:most]:
            smallest = f"{seen.smallest:.3g}" if math.isfinite(seen.smallest) else "-"
            lost = f"{seen.lost / seen.count:.1%}" if seen.count else "-"
            fits = ["yes" if fit else "NO" for fit in (seen.survives_fp16, seen.survives_bf16)]
            lines.append(f"{_largest(seen):>10} {smallest:>10} {lost:>7}  {fits[0]:5} {fits[1]:5} {place}")
        if len(rows) > most:
            lines.append(f"and {len(rows) - most} more ops of smaller magnitudes")
        return "\n".join(lines)


@contextmanager
def watch(module: nn.Module, *, every: int = 1, gradients: bool = False, last: int = 12) -> Generator[Log]:
    """Watch what every op of a model returns, whenever the model is called within.

    Nothing is changed: neither results, nor gradients, nor random numbers. What happens within a single operator of
    PyTorch is not seen, such as the scores within ``scaled_dot_product_attention`` where that is fused.

    Args:
        module: The model. Its children are told apart.
        every: Watch each this many-th call only, the first included, to spend less time.
        gradients: Also watch the gradients of the parameters, which FP16 loses more often than it overflows.
        last: How many ops are kept that lead up to the first overflow.

    Yields:
        The log, which can be read at any time and after watching.

    Raises:
        UsageError: ``every`` or ``last`` is less than 1, or the model is TorchScript, which runs no Python.
    """
    if every < 1 or last < 1:
        raise UsageError(f"every={every} and last={last}: both have to be 1 or more.")
    if isinstance(module, torch.jit.ScriptModule):
        raise UsageError(
            "TorchScript runs without Python, so its ops cannot be watched. Watch the module it was made of."
        )
    watcher = _Watcher(Log(), every, last)
    handles = [handle for name, child in module.named_modules() for handle in watcher.hooks(name, child)]
    if gradients:
        handles += watcher.gradient_hooks(module)
    try:
        yield watcher.log
    finally:
        watcher.end()
        for handle in handles:
            handle.remove()


@final
class _Watcher(TorchDispatchMode):
    """Sees the ops of a call of the model. It is active during forward only, so that backward runs at full speed."""

    def __init__(self, log: Log, every: int, last: int) -> None:
        super().__init__()
        self.log = log
        self._every = every
        self._calls = 0
        self._path: list[str] = []
        self._active = False
        self._last: deque[Seen] = deque(maxlen=last)
        self._views: dict[Any, bool] = {}
        self._places: dict[tuple[str, Any, str, int], Place] = {}

    def hooks(self, name: str, module: nn.Module) -> list[Any]:
        """Hooks that tell which module runs."""

        def enter(*_: Any) -> None:
            if not self._path:
                self._begin()
            self._path.append(name)

        def leave(*_: Any) -> None:
            if self._path:
                self._path.pop()
            if not self._path:
                self.end()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]

    def gradient_hooks(self, module: nn.Module) -> list[Any]:
        """Hooks that count the gradient of each parameter once it is whole."""

        def counter(place: Place) -> Callable[[Tensor], None]:
            return lambda parameter: self._count(place, parameter.grad) if parameter.grad is not None else None

        trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad and p.is_leaf]
        return [p.register_post_accumulate_grad_hook(counter(Place(name, "gradient"))) for name, p in trained]

    def _begin(self) -> None:
        self._calls += 1
        if (self._calls - 1) % self._every == 0:
            self.log.steps += 1
            self._active = True
            self.__enter__()

    def end(self) -> None:
        """Stop seeing ops, wherever the call ended."""
        self._path.clear()
        if self._active:
            self._active = False
            self.__exit__(None, None, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._returns_news(func):
            place: Place | None = None
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                    place = place or self._place(func)
                    self._count(place, tensor)
        return result

    def _returns_news(self, func: Any) -> bool:
        """Whether the results are no views of what is known, and no memory that was never written."""
        known = self._views.get(func)
        if known is None:
            aliases = [r.alias_info for r in func._schema.returns]
            views = any(alias is not None and not alias.is_write for alias in aliases)
            known = self._views[func] = not views and not _name(func).startswith(_UNSET)
        return known

    def _place(self, func: Any) -> Place:
        frame = _caller()
        file, line = (frame.f_code.co_filename, frame.f_lineno) if frame else ("", 0)
        module = self._path[-1] if self._path else ""
        key = (module, func, file, line)
        place = self._places.get(key)
        if place is None:
            source = Source(file, line, module=module) if frame else None
            place = self._places[key] = Place(module, _name(func), source)
        return place

    def _count(self, place: Place, tensor: Tensor) -> None:
        log = self.log
        tally = log._tallies.get(place)  # pyright: ignore[reportPrivateUsage]
        if tally is None:
            tally = log._tallies[place] = Tally()  # pyright: ignore[reportPrivateUsage]
        low, high, broken = tally.low, tally.high, tally.infinities + tally.nans
        tally.low, tally.high = math.inf, -math.inf
        tally.add(tensor)
        finite = tally.infinities + tally.nans == broken
        seen = Seen(place, tally.low, tally.high, finite)
        tally.low, tally.high = min(tally.low, low), max(tally.high, high)
        self._judge(seen)
        self._last.append(seen)

    def _judge(self, seen: Seen) -> None:
        log = self.log
        if log.first_overflow is not None and log.first_bf16_overflow is not None:
            return
        range = Range(seen.low, seen.high)
        if log.first_overflow is None and not (seen.finite and range.magnitude < _FP16_OVERFLOW):
            log.first_overflow = Overflow(seen, log.steps, tuple(self._last))
        if log.first_bf16_overflow is None and not (seen.finite and range.survives_bf16):
            log.first_bf16_overflow = Overflow(seen, log.steps, tuple(self._last))


_FP16_OVERFLOW = 65520.0


def _caller() -> FrameType | None:
    """The innermost frame that is neither PyTorch's nor ours."""
    frame = inspect.currentframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_LIBRARY) and file != _HERE:
            return frame
        frame = frame.f_back
    return None


def _name(func: Any) -> str:
    """``aten.addmm.default`` is ``addmm``."""
    return str(func._schema.name).rpartition("::")[2]


def _size(seen: Range) -> float:
    return seen.magnitude if seen.finite else math.inf


def _largest(seen: Range) -> str:
    return f"{seen.magnitude:.4g}" if seen.finite else "Inf/NaN"


def _verdict(place: Place, seen: Range) -> str:
    if not seen.finite:
        return f"is not finite: {seen.infinities} Inf and {seen.nans} NaN of {place}"
    return f"will not survive FP16: max {seen.magnitude:.6g} of {place}"


def _place(place: Place) -> dict[str, Any]:
    source = place.source
    return {
        "module": place.module,
        "op": place.op,
        "file": source.file if source else None,
        "line": source.line if source else None,
    }


def _numbers(seen: Range) -> dict[str, Any]:
    def known(bound: float) -> float | None:
        return bound if math.isfinite(bound) else None

    return {
        "low": known(seen.low),
        "high": known(seen.high),
        "smallest": known(seen.smallest),
        "count": seen.count,
        "infinities": seen.infinities,
        "nans": seen.nans,
        "zeros": seen.zeros,
        "overflows": seen.overflows,
        "subnormals": seen.subnormals,
        "lost": seen.lost,
        "survives_fp16": seen.survives_fp16,
        "survives_bf16": seen.survives_bf16,
        "histogram": [list(pair) for pair in seen.histogram],
    }


def _event(overflow: Overflow | None) -> dict[str, Any] | None:
    if overflow is None:
        return None
    return {
        "step": overflow.step,
        "at": str(overflow.seen),
        **_place(overflow.seen.place),
        "before": [str(seen) for seen in overflow.before],
    }
