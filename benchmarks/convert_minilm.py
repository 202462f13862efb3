"""What does verification cost? nanproof.convert against coremltools.convert alone, on all-MiniLM-L6-v2, in one run.

    python benchmarks/convert_minilm.py [repetitions]

`coremltools` is `coremltools.convert` (FP16) on the exported program. `nanproof` is all of `nanproof.convert`: export,
lowering, observation, planning, writing, reading back, execution of the written file on the given and the stress
inputs, comparison with PyTorch. Both run in turn, in one process, after one warm-up; medians are compared.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see nanproof.cli
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import sentence_embeddings
import torch

import nanproof
from nanproof.mil.coreml import ct, quiet


def timed(run: Callable[[], Any]) -> float:
    """Wall time of one call, in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main(repetitions: int = 5) -> None:
    """Measure and print."""
    module, (example, *rest) = sentence_embeddings.encoder(), sentence_embeddings.batches()
    exported = torch.export.export(module, example, strict=False).run_decompositions()

    def coremltools_alone() -> Any:
        with quiet():
            return ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)

    def one_batch() -> Any:
        return nanproof.convert(module, example)

    def all_batches() -> Any:
        return nanproof.convert(module, example, calibration=rest)

    runs: dict[str, Callable[[], Any]] = {
        "coremltools.convert, FP16": coremltools_alone,
        "nanproof.convert, 1 batch of 8 sentences": one_batch,
        "nanproof.convert, 4 batches": all_batches,
    }
    stages = all_batches().seconds
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(timed(run))
    base = statistics.median(times["coremltools.convert, FP16"])
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
    )
    print(f"coremltools {ct.__version__}, {repetitions} repetitions each, interleaved")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        print(
            f"{name:42s} median {middle:6.2f} s  (min {min(seconds):.2f}, max {max(seconds):.2f})  {middle / base:.2f}x"
        )
    print("stages of the last: " + ", ".join(f"{stage} {s:.2f} s" for stage, s in stages.items()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
