"""What does it cost to observe the ranges of a program, and to watch a training step? Both in one run, interleaved.

    python benchmarks/observing.py [repetitions] [name of a network ...]

Plain execution against the same with all values observed, by `nanproof.ranges`; and a plain training step (forward,
backward, SGD) of the PyTorch module against the same within `nanproof.watch`. The least time of each counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see nanproof.cli

import torch
from execution import program
from networks import NETWORKS, Network

import nanproof
from nanproof.interpret.execute import Executor
from nanproof.interpret.observe import Observation


def least(runs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """The least seconds of each, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repetitions + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if i:
                times[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in times.items()}


def observing(network: Network, folder: Path) -> dict[str, Callable[[], object]]:
    """Plain and observed execution of the written program."""
    loaded = program(network, folder)
    (name,) = loaded.inputs
    call = {name: network.example().numpy().astype(loaded.inputs[name].dtype.numpy)}
    executor, seen = Executor(loaded, "reference"), Observation(loaded)
    return {"plain": lambda: executor(call), "observed": lambda: executor(call, [seen])}


def training(network: Network) -> dict[str, Callable[[], object]]:
    """Plain and watched training steps of the module."""
    torch.manual_seed(1)
    module, x = network.module().train(), network.example()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    def watched() -> None:
        with nanproof.watch(module):
            step()

    return {"plain": step, "watched": watched}


def main(repetitions: int, names: list[str]) -> None:
    """Measure and print."""
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {repetitions} repetitions, least milliseconds"
    )
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            ran = least(observing(NETWORKS[name], Path(folder)), repetitions)
        trained = least(training(NETWORKS[name]), repetitions)
        print(
            f"{name}: execution {1e3 * ran['plain']:.1f}, observed {ran['observed'] / ran['plain']:.2f}x; "
            f"training step {1e3 * trained['plain']:.1f}, watched {trained['watched'] / trained['plain']:.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or list(NETWORKS))
