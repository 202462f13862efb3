"""How fast does a program run, against PyTorch eager on the same network? All engines in one run, interleaved.

    python benchmarks/execution.py [repetitions] [name of a network ...]

Each network is converted to an FP16 ML Program, written, and loaded again; what runs is the loaded file. `eager` is the
PyTorch module in float32, `half` the same module in PyTorch's own float16 on this CPU. ONNX Runtime takes part
if it is installed. Every row gives the median time, and its ratio to eager.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see nanproof.cli

import numpy as np
import torch
from networks import NETWORKS, Network

import nanproof
from nanproof.capture.module import capture
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, Typing, lower, package
from nanproof.mil.package import write_model

NUMERICS = ("reference", "gpu", "cpu", "strict", "ane")
_SLOWEST = 60.0
"""Seconds after which an engine is not asked again: PyTorch's half convolutions may take that long."""


def program(network: Network, folder: Path) -> nanproof.Program:
    """The network as an FP16 program, read back from its package."""
    captured = capture(network.module(), (network.example(),))
    path = folder / "network.mlpackage"
    write_model(package(lower(captured.exported, Options()), Typing(), Options()).model, path)
    return nanproof.load(path)


def onnx_session(module: torch.nn.Module, x: torch.Tensor) -> Any:
    """The module in ONNX Runtime, two threads, or ``None`` if that or the exporter is not installed."""
    if not all(importlib.util.find_spec(name) for name in ("onnxruntime", "onnx", "onnxscript")):
        return None
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(module, (x,), dynamo=True, verbose=False).save(file)  # type: ignore[union-attr]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def engines(network: Network, folder: Path) -> dict[str, Callable[[], Any]]:
    """What runs the network on one input, by name."""
    torch.manual_seed(1)
    module, x = network.module(), network.example()
    half, x_half = copy.deepcopy(module).half(), x.half() if x.is_floating_point() else x
    loaded = program(network, folder)
    (name,) = loaded.inputs
    array = x.numpy().astype(loaded.inputs[name].dtype.numpy)
    runs: dict[str, Callable[[], Any]] = {"eager": lambda: module(x), "half": lambda: half(x_half)}
    for numerics in NUMERICS:
        runs[numerics] = partial(Executor(loaded, numerics), {name: array})
    session = onnx_session(module, x)
    if session is not None:
        runs["ONNX Runtime"] = lambda: session.run(None, {session.get_inputs()[0].name: x.numpy()})
    expected = np.asarray(module(x).detach())
    (result,) = runs["reference"]().values()
    error = float(np.abs(result - expected).max() / np.ptp(expected))
    if not error < 1e-2:
        raise SystemExit(f"the program does not compute what the module does: off by {error:.3g} of the range")
    return runs


def measure(runs: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median seconds by engine, after one warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repetitions + 1):
        for name, run in runs.items():
            if times[name] and times[name][-1] > _SLOWEST:
                continue
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if i or seconds > _SLOWEST:
                times[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


@torch.inference_mode()
def main(repetitions: int, names: list[str]) -> None:
    """Measure and print."""
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__},"
    )
    print(f"{repetitions} repetitions each, interleaved; median milliseconds (ratio to eager)")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(engines(NETWORKS[name], Path(folder)), repetitions)
        rows = ", ".join(f"{engine} {1e3 * t:.1f} ({t / found['eager']:.2f}x)" for engine, t in found.items())
        print(f"{name}: {rows}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, sys.argv[2:] or list(NETWORKS))
