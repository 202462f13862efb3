"""`nanproof.by_module`: each submodule converted and compared on the inputs that it really gets, or bisected."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from nanproof.capture.batch import Batch, as_batch, evaluating
from nanproof.capture.examples import widened, widened_batch
from nanproof.comparison.compare import compare
from nanproof.diagnosing import plain
from nanproof.errors import CouldNotCheckError, UsageError
from nanproof.numerics import get

__all__ = ["Dissection", "Part", "by_module"]

Status = Literal["good", "failed", "not converted", "not tried"]
_SPARE = 3
"""Sub-conversions that a bisection may take beyond the logarithm of the number of layers."""


@dataclass(frozen=True, slots=True)
class Part:
    """One submodule, as it was called first.

    Attributes:
        path: Its name in the module; empty for the module itself.
        kind: The name of its class.
        status: ``"good"`` if the FP16 file is within the tolerance of PyTorch on the inputs that the submodule got,
            ``"failed"`` if not, ``"not converted"`` if it could not be converted or executed, ``"not tried"``.
        error: The largest error of an output, relative to its range; NaN where it was not tried.
        nonfinite: How many Inf and NaN there are that should not be.
        message: Why it was not converted.
        children: The submodules that its forward calls, in their order.
    """

    path: str
    kind: str
    status: Status
    error: float
    nonfinite: int
    message: str
    children: tuple[Part, ...]

    @property
    def wrong(self) -> bool:
        """Whether something is the matter with it."""
        return self.status in ("failed", "not converted")

    def walk(self) -> Iterator[Part]:
        """Itself and all below it, in the order of the calls."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Dissection:
    """The submodules of a module, and which of them are to blame.

    Attributes:
        root: The module, with all that it calls.
        blamed: Paths of the innermost submodules that are wrong: what they call is good, or was not tried.
        conversions: How many conversions it took.
        numerics: Under which the files ran.
        tolerance: Largest error that counts as the same.
    """

    root: Part
    blamed: tuple[str, ...]
    conversions: int
    numerics: str
    tolerance: float

    @property
    def verdict(self) -> str:
        """``"failed"`` if a part is wrong, else ``"tested"``."""
        return "failed" if self.blamed else "tested"


def by_module(
    module: nn.Module,
    inputs: Any,
    *,
    numerics: str = "gpu",
    tolerance: float = 1e-2,
    bisect: bool = False,
    minimum_deployment_target: Any = "iOS17",
    progress: Callable[[str], None] | None = None,
) -> Dissection:
    """Convert every submodule alone, and compare it with PyTorch on the inputs that it gets in the whole.

    Each is converted to FP16 as coremltools types it, without rewrites. So a model that does not convert as a whole
    shows which of its parts do not. What is given are PyTorch's own numbers: an error is the part's own.

    Args:
        module: The module.
        inputs: What you would pass to it.
        numerics: How the files compute.
        tolerance: Largest error of an output, relative to its range, that counts as the same.
        bisect: Whether to convert only what it takes to find one submodule that is wrong: layers that feed each other
            are converted together, in halves. It takes at most ``log2(layers) + 3`` conversions.
        minimum_deployment_target: What it is converted for.
        progress: Told the path of each submodule as its turn comes.

    Raises:
        UsageError: The module is of another kind, or fails on the inputs.
        NumericsError: There is no such numerics.
    """
    given: Any = module
    if not isinstance(given, nn.Module) or isinstance(given, torch.jit.ScriptModule):
        raise UsageError(
            f"This is a {type(given).__name__}: only a torch.nn.Module can be taken apart into its submodules."
        )
    wide = widened(module)
    batch = as_batch(inputs, wide)
    root = _recorded(wide, batch if wide is module else widened_batch(batch))
    trial = _Trial(get(numerics).name, tolerance, minimum_deployment_target, progress or _silent)
    if bisect:
        _bisect(root, trial)
    else:
        for call in root.walk():
            trial.one(call)
    part = trial.part(root)
    blamed = tuple(p.path for p in part.walk() if p.wrong and not any(c.wrong for c in p.children))
    return Dissection(part, blamed, trial.conversions, trial.numerics, tolerance)


def _silent(path: str) -> None:
    """Say nothing."""


@dataclass(slots=True, eq=False)
class _Call:
    """The first call of a submodule: what it got, what it gave, and which submodules it called."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None
    children: list[_Call] = field(default_factory=list["_Call"])

    def walk(self) -> Iterator[_Call]:
        yield self
        for child in self.children:
            yield from child.walk()


def _recorded(module: nn.Module, batch: Batch) -> _Call:
    """Run a module, and keep the first call of each of its submodules.

    Raises:
        UsageError: It fails.
    """
    root: list[_Call] = []
    stack: list[_Call] = []
    seen: set[str] = set()
    paths = {submodule: name for name, submodule in module.named_modules()}

    def enter(submodule: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _Call(paths[submodule], submodule, args, kwargs)
        if not stack:
            root.append(call)
        elif call.path not in seen and any(isinstance(t, Tensor) for t in tree_leaves((args, kwargs))):
            stack[-1].children.append(call)
        seen.add(call.path)
        stack.append(call)

    def leave(submodule: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        stack.pop().output = output

    hooks: list[Any] = []
    try:
        for submodule in paths:
            hooks.append(submodule.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(submodule.register_forward_hook(leave, with_kwargs=True))
        with evaluating(module), torch.no_grad():
            module(*batch.args, **dict(batch.kwargs))
    except Exception as error:  # the module is the user's code: it may raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"The module {type(module).__name__} fails on the inputs, before any conversion: "
            f"{type(error).__name__}: {first}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return root[0]


@final
class _Span(nn.Module):
    """Some submodules in a row, of which each gets what the one before has given, as in the recorded calls."""

    def __init__(self, calls: Sequence[_Call]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(call.module for call in calls)
        self._calls = [(call.args[1:], dict(call.kwargs)) for call in calls]

    def forward(self, x: Tensor) -> Any:
        result: Any = x
        for part, (args, kwargs) in zip(self.parts, self._calls, strict=True):
            result = part(_first(result), *args, **kwargs)
        return result


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _runs(calls: Sequence[_Call]) -> list[list[_Call]]:
    """The calls in rows of such as feed each other."""
    runs = [[call] for call in calls[:1]]
    for before, call in pairwise(calls):
        feeds = bool(call.args) and isinstance(call.args[0], Tensor) and call.args[0] is _first(before.output)
        if feeds:
            runs[-1].append(call)
        else:
            runs.append([call])
    return runs


@final
class _Trial:
    """Converts parts and compares them, each only once."""

    def __init__(self, numerics: str, tolerance: float, target: Any, progress: Callable[[str], None]) -> None:
        self.numerics = numerics
        self.conversions = 0
        self._tolerance = tolerance
        self._target = target
        self._progress = progress
        self._found: dict[str, tuple[Status, float, int, str]] = {}

    def one(self, call: _Call) -> bool:
        """Whether a submodule is wrong."""
        if call.path not in self._found:
            self._progress(call.path or type(call.module).__name__)
            self._found[call.path] = self._tried(call.module, Batch(tuple(call.args), dict(call.kwargs)))
        return self._found[call.path][0] != "good"

    def row(self, calls: Sequence[_Call]) -> bool:
        """Whether submodules that feed each other are wrong together."""
        if len(calls) == 1:
            return self.one(calls[0])
        self._progress(f"{calls[0].path} to {calls[-1].path}")
        status, error, *_ = self._tried(_Span(calls), Batch((calls[0].args[0],), {}))
        if status == "good":
            for call in calls:
                self._found.setdefault(call.path, ("good", error, 0, "converted together with its neighbours"))
        return status != "good"

    def part(self, call: _Call) -> Part:
        """What is known of a call and of all below it."""
        status, error, nonfinite, message = self._found.get(call.path, ("not tried", math.nan, 0, ""))
        children = tuple(self.part(child) for child in call.children)
        return Part(call.path, type(call.module).__name__, status, error, nonfinite, message, children)

    def _tried(self, module: nn.Module, batch: Batch) -> tuple[Status, float, int, str]:
        self.conversions += 1
        try:
            made = plain(module, batch, minimum_deployment_target=self._target)
            found = compare(made.program, module, batch, numerics=self.numerics)
        except (UsageError, CouldNotCheckError) as error:
            return "not converted", math.nan, 0, (str(error).strip().splitlines() or [type(error).__name__])[0]
        wrong = found.nonfinite > 0 or not found.error <= self._tolerance
        return ("failed" if wrong else "good"), found.error, found.nonfinite, ""


def _bisect(root: _Call, trial: _Trial) -> None:
    """Go down to one submodule that is wrong, by halves of what each level calls."""
    widest = max(len(call.children) for call in root.walk())
    most = math.floor(math.log2(max(2, widest)) + _SPARE)
    here = root
    if not trial.one(root):
        return
    while here.children and trial.conversions < most:
        found = _wrong_child(here.children, trial, most)
        if found is None:
            return
        here = found


def _wrong_child(children: Sequence[_Call], trial: _Trial, most: int) -> _Call | None:
    """One of the submodules that a wrong one calls, if one is wrong; the fault may lie between them."""
    left = list(children)
    while len(left) > 1 and trial.conversions < most:
        half = (len(left) + 1) // 2
        runs = _runs(left[:half])
        wrong = next((run for run in runs if trial.conversions < most and trial.row(run)), None)
        left = list(wrong) if wrong is not None else left[half:]
    if len(left) == 1 and trial.conversions < most and trial.one(left[0]):
        return left[0]
    return None
