"""Ranges over any number of inputs: in constant memory, in several processes, and resumable."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing import get_context
from os import PathLike
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from nanproof.errors import CouldNotCheckError, InputError, UsageError
from nanproof.interpret.batches import as_batches
from nanproof.interpret.execute import Executor
from nanproof.interpret.inputs import check_inputs
from nanproof.interpret.observe import Observation
from nanproof.interpret.range import Ranges
from nanproof.interpret.ranges_file import Observed, fingerprint, read_ranges, write_ranges
from nanproof.numerics import get
from nanproof.program import Program

__all__ = ["ranges"]

_SAVED_EVERY = 30.0
"""Seconds of work that are lost at most if the machine goes down."""
_AT_ONCE = 4
"""Calls that a process is given at a time."""

Done = Callable[[int], None]
"""Told how many runs are done."""


def ranges(
    program: Program,
    batches: Any,
    *,
    numerics: str = "reference",
    axis: int | None = None,
    workers: int = 1,
    file: str | PathLike[str] | None = None,
    resume: bool = False,
    progress: Done | None = None,
) -> Ranges:
    """Run a program on every input; what range every value has, inputs included.

    Memory does not grow with the number of inputs.

    Args:
        program: From :func:`nanproof.load`, or ``result.program`` or ``result.fp32_program`` of a conversion.
        batches: An iterable of calls (dicts by input name, tuples in the order of the inputs, arrays for a single
            input), a DataLoader, or the path of an ``.npz``, of an image, or of a folder of such files. Labels beyond
            the inputs are left out; a batch of more rows than the program takes is run row by row.
        numerics: How to compute: float32 throughout, or as a unit does.
        axis: Also count by channel: along this axis of every float value that has it.
        workers: How many processes run it. With more than one, a script needs ``if __name__ == "__main__":``.
        file: Where to keep the ranges: every half minute, so that interrupted work can go on, and at the end.
        resume: Go on where ``file`` ends: as many runs as it holds are skipped, and counted from it.
        progress: Called with the number of runs that are done.

    Returns:
        The ranges. Read one by the name of a value: ``found["logits"].magnitude``.

    Raises:
        InputError: An input does not fit, or ``file`` holds something else than the beginning of this work.
        UsageError: Wrong ``workers``, or a script without the guard.
        CouldNotCheckError: There are no inputs, or an op cannot be executed.
    """
    if workers < 1:
        raise UsageError(f"workers={workers}: at least one process has to do the work.")
    observed = Observed(fingerprint(program), get(numerics).name, axis, Ranges())
    kept = _Kept(observed, None if file is None else Path(file))
    before = kept.earlier() if resume else Ranges()
    calls = islice(as_batches(program.interface, batches), before.runs, None)
    work = _Alone(program, observed) if workers == 1 else _Together(program, observed, workers)
    for runs in work(calls):
        if progress is not None:
            progress(before.runs + runs)
        if kept.due():
            kept.write(before | work.ranges())
    total = before | work.ranges()
    if not total.runs:
        raise CouldNotCheckError("Nothing was observed: there are no inputs. Pass at least one.")
    kept.write(total)
    return total


@dataclass(slots=True)
class _Kept:
    """The file, if one is wanted. It holds whole runs only: what an interrupted one has counted is not in it."""

    observed: Observed
    file: Path | None
    written: float = field(default_factory=time.monotonic)

    def earlier(self) -> Ranges:
        """What the file holds; nothing if it is not there.

        Raises:
            UsageError: There is no file to go on from.
            InputError: It is of other work.
        """
        if self.file is None:
            raise UsageError("resume needs the file of the earlier work: pass file.")
        if not self.file.exists():
            return Ranges()
        earlier = read_ranges(self.file)
        if replace(earlier, ranges=Ranges()) != self.observed:
            raise InputError(
                f"'{self.file}' holds ranges of another program, or of other numerics or channels, so the work cannot "
                "go on from there.\n  Write to another file, or observe anew without resuming."
            )
        return earlier.ranges

    def due(self) -> bool:
        """Whether the work since the last writing would be missed."""
        return self.file is not None and time.monotonic() - self.written > _SAVED_EVERY

    def write(self, ranges: Ranges) -> None:
        """Write the file, if one is wanted."""
        if self.file is not None:
            write_ranges(self.file, replace(self.observed, ranges=ranges))
            self.written = time.monotonic()


@final
class _Alone:
    """The work in this process."""

    def __init__(self, program: Program, observed: Observed) -> None:
        self._executor = Executor(program, observed.numerics)
        self._axis = observed.axis
        self._seen = Observation(program, observed.axis)

    def __call__(self, calls: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """Run the calls; after each, how many are done."""
        for call in calls:
            arrays = check_inputs(self._executor.interface, call)  # images are tensors there, and defaults filled in
            self._executor.once(call, [self._seen])
            self._seen.inputs(arrays)
            yield self._seen.runs

    def ranges(self) -> Ranges:
        """What was seen in all calls that are done."""
        return self._seen.ranges()

    def forget(self) -> None:
        """Begin anew, with the program made ready as it is."""
        self._seen = Observation(self._executor.program, self._axis)


@final
class _Together:
    """The work in several processes. What is done is always a beginning of the calls: results are taken in order."""

    def __init__(self, program: Program, observed: Observed, workers: int) -> None:
        self._given = (program, observed, max(1, torch.get_num_threads() // workers))
        self._workers = workers
        self._total = Ranges()

    def __call__(self, calls: Iterable[Mapping[str, Any]]) -> Iterator[int]:
        """Run the calls; after each few, how many are done."""
        pool = ProcessPoolExecutor(self._workers, get_context("spawn"), _begin, self._given)
        pending: deque[Future[Ranges]] = deque()
        calls = iter(calls)
        try:
            while True:
                while len(pending) < 2 * self._workers and (few := [_portable(c) for c in islice(calls, _AT_ONCE)]):
                    pending.append(pool.submit(_observe_few, few))
                if not pending:
                    return
                self._total |= pending.popleft().result()
                yield self._total.runs
        except BrokenProcessPool as error:
            raise UsageError(
                "The worker processes could not start, or were killed. A script that asks for workers has to do its "
                'work under\n  `if __name__ == "__main__":`, since each process imports it; else the memory may not be '
                "enough for so many."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def ranges(self) -> Ranges:
        """What was seen in all calls that are done."""
        return self._total


_here: list[_Alone] = []
"""What a worker process works with."""


def _begin(program: Program, observed: Observed, threads: int) -> None:
    torch.set_num_threads(threads)
    _here[:] = [_Alone(program, observed)]


def _observe_few(calls: list[dict[str, Any]]) -> Ranges:
    (work,) = _here
    work.forget()
    for _ in work(calls):
        pass
    return work.ranges()


def _portable(call: Mapping[str, Any]) -> dict[str, Any]:
    """The call with its tensors as arrays, which pass to another process as bytes."""
    return {name: _array(value) if isinstance(value, Tensor) else value for name, value in call.items()}


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
