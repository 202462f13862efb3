"""One case: damage a package, load it, run it, and see that nothing but an error of nanproof's own comes out of it."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import nanproof
from nanproof.errors import NanproofError
from nanproof.interpret.execute import executor
from nanproof.program import DType, Feature, Pipeline, Program
from tests.fuzz.mutations import Damage, draw

SECONDS = 20
"""How long a case may take. A whole one takes a fraction of a second."""
MEMORY = 6 * 2**30
"""Bytes of address space that a case may take beyond what the process has."""


class _TooLongError(BaseException):
    """The alarm rang. No `except Exception` on the way may take it for an error of its own."""


@dataclass(frozen=True)
class Failure:
    """A case that did not end as it must."""

    package: Path
    damages: tuple[Damage, ...]
    trace: str

    def __str__(self) -> str:
        return f"{self.package.name} {' '.join(map(str, self.damages))}\n{self.trace}"


class Fuzzer:
    """Makes cases from a corpus, as a seed says, in a folder of its own."""

    def __init__(self, corpus: list[Path], scratch: Path, seed: int) -> None:
        self._corpus, self._scratch = corpus, scratch
        self._rng = random.Random(seed)
        self.outcomes: Counter[str] = Counter()

    def case(self) -> Failure | None:
        """One case; its failure, if it is one."""
        package, damages = self._rng.choice(self._corpus), tuple(draw(self._rng))
        return self.run(package, damages)

    def run(self, package: Path, damages: tuple[Damage, ...]) -> Failure | None:
        """A case made of these damages."""
        target = self._scratch / "case.mlpackage"
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(package, target)
        for damage in damages:
            damage.apply(target)
        try:
            with _bounds():
                self.outcomes[use(target)] += 1
        except _TooLongError:
            if _has_loop(target):
                self.outcomes["an endless loop"] += 1  # which a valid program may have, too
                return None
            return Failure(package, damages, f"no end within {SECONDS} s\n{traceback.format_exc()}")
        except Exception:
            return Failure(package, damages, traceback.format_exc())
        return None

    def smallest(self, failure: Failure) -> Failure:
        """The same failure with as few damages as possible."""
        damages = failure.damages
        for damage in damages:
            fewer = tuple(d for d in failure.damages if d is not damage)
            found = self.run(failure.package, fewer) if fewer else None
            failure = found or failure
        return failure

    def save(self, failure: Failure, folder: Path) -> Path:
        """The damaged package, and a text that says where it fails."""
        self.run(failure.package, failure.damages)
        place = folder / "-".join([failure.package.stem, *(str(d).replace(":", "") for d in failure.damages)])
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        shutil.copytree(self._scratch / "case.mlpackage", place / "case.mlpackage", symlinks=True)
        (place / "failure.txt").write_text(str(failure), encoding="utf-8")
        return place


def use(package: Path) -> str:
    """Load a package, print it, and run all of its functions; how far it came.

    Raises:
        Exception: Anything that is no error of nanproof's own.
    """
    stage = "loaded"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's and PyTorch's, on the numbers that damage makes
            program = nanproof.load(package)
            assert str(program)
            assert program.inputs is not None
            stage = "made ready"
            names = [None] if isinstance(program, Pipeline) else list(program.functions)
            for name in names:
                _predict(program if name is None else program.using(name))
    except NanproofError as error:
        return f"{stage}, then {type(error).__name__}" if stage != "loaded" else type(error).__name__
    return "ran"


def _predict(program: Program | Pipeline) -> None:
    for numerics in ("reference", "strict"):
        ready = executor(program, numerics)
        inputs = _inputs(ready.interface.inputs)
        if inputs is None:
            return
        outputs = ready.once(inputs)
        assert list(outputs) == list(ready.interface.outputs)


def _inputs(features: Mapping[str, Feature]) -> dict[str, Any] | None:
    """Zeros of an allowed shape; ``None`` if an input is too large to be made here."""
    inputs: dict[str, Any] = {}
    for name, feature in features.items():
        default = feature.shapes.default or ()
        shape = [d if isinstance(d, int) else 1 for d in feature.type.shape]
        shape = list(default) if len(default) == len(shape) else shape
        if len(shape) > 16 or np.prod([float(d) for d in shape]) > 1e6 or feature.type.dtype is DType.STRING:
            return None
        inputs[name] = np.zeros(shape, np.uint8 if feature.type.dtype.value.startswith("uint") else np.int8)
    return inputs


def _has_loop(package: Path) -> bool:
    try:
        program = nanproof.load(package)
    except NanproofError:
        return False
    programs = program.stages.values() if isinstance(program, Pipeline) else [program]
    return any(op.type == "while_loop" for p in programs for op in p.walk())


@contextmanager
def _bounds() -> Iterator[None]:
    """The limits of a case: an alarm, and a bound on the memory of this process."""

    def ring(number: int, frame: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        with _less_memory():
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _less_memory() -> Iterator[None]:
    """Bounds the address space of this process where Linux tells how much it has."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
