"""Which models convert, compute what PyTorch does, and in how many operations? nanproof beside plain coremltools.

    python benchmarks/models.py RESULTS.jsonl [--side ours|plain] [--again] [model ...]

The models are those of the shared test material, in tiny configurations with random weights. Each is converted in
float32 for iOS17, written, read back, and executed in `reference` numerics; plain coremltools is given each model by
each of its recipes: trace; export; export and core ATen decomposition. Each side has processes of its own: nothing of
nanproof is registered where plain coremltools converts. Seconds are those of capture and conversion, without
verification and without writing. The models of timm and torchvision take part where these can be imported.

A run goes on where the last one stopped: what RESULTS.jsonl knows is not asked again, but with --again.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from operator_samples import time_limit
from torch import Tensor, nn

import nanproof
from nanproof.interpret.execute import Executor
from nanproof.mil.coreml import ct, quiet

SHARED = Path(os.environ.get("NANPROOF_SHARED", Path(__file__).parent.parent.parent / "shared")) / "zoo"
_SECONDS = 600


def zoo() -> dict[str, Any]:
    """The models by name."""
    sys.path.insert(0, str(SHARED))
    if importlib.util.find_spec("torchvision"):
        import torchvision_ops_stub  # noqa: F401
    import zoo_dev

    return zoo_dev.zoo()


def judged(program: nanproof.Program, inputs: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, Any]:
    """How many operations a program has, how many of them know their line, and its error as part of the range."""
    ops = list(program.walk())
    arrays = [t.numpy().astype(np.int32) if t.dtype == torch.bool else t.numpy() for t in inputs]
    shaped = {n: a.reshape(of.shape) for (n, of), a in zip(program.inputs.items(), arrays, strict=True)}
    found = list(Executor(program).once(shaped).values())
    errors = [
        float(
            np.abs(ours.reshape(t.shape) - t.numpy()).max()
            / (float(np.ptp(t.numpy())) or float(np.abs(t.numpy()).max()) or 1.0)
        )
        for ours, t in zip(found, expected, strict=True)
    ]
    return {"ops": len(ops), "located": sum(op.source is not None for op in ops), "error": max(errors)}


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds of the run."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def ours(module: nn.Module, inputs: tuple[Tensor, ...], expected: Sequence[Tensor]) -> dict[str, Any]:
    """Convert and judge by nanproof."""
    from nanproof.capture.module import capture
    from nanproof.mil.frontend import Options, Typing, lower, package
    from nanproof.mil.package import write_model

    def run() -> Any:
        captured = capture(module, inputs)
        return package(lower(captured.exported, Options()), Typing(fp16=False), Options(), captured.sources).model

    model, seconds = timed(run)
    with tempfile.TemporaryDirectory() as folder:
        write_model(model, Path(folder) / "model.mlpackage")
        program = nanproof.load(Path(folder) / "model.mlpackage")
        return {"nanproof": {**judged(program, inputs, expected), "seconds": seconds}}


def plain(module: nn.Module, inputs: tuple[Tensor, ...], expected: Sequence[Tensor]) -> dict[str, Any]:
    """Convert by coremltools alone by each of its recipes, and judge."""
    assert "nanproof.mil.lowerings" not in sys.modules, "nanproof's lowerings are registered"
    captures: dict[str, Callable[[], Any]] = {
        "trace": lambda: torch.jit.trace(module, inputs, check_trace=False, strict=False),
        "export": lambda: torch.export.export(module, inputs, strict=False).run_decompositions({}),
        "core ATen": lambda: torch.export.export(module, inputs, strict=False).run_decompositions(),
    }
    found: dict[str, Any] = {}
    for recipe, captured in captures.items():
        given = [ct.TensorType(f"x{i}", t.shape, t.numpy().dtype) for i, t in enumerate(inputs)]
        declared = {"inputs": given} if recipe == "trace" else {}

        def run(captured: Callable[[], Any] = captured, declared: dict[str, Any] = declared) -> Any:
            with quiet():
                return ct.convert(
                    captured(),
                    minimum_deployment_target=ct.target.iOS17,
                    compute_precision=ct.precision.FLOAT32,
                    skip_model_load=True,
                    **declared,
                )

        try:
            model, seconds = timed(run)
            found[recipe] = {**judged(nanproof.load(model), inputs, expected), "seconds": seconds}
        except Exception as error:  # any failure is a result here
            found[recipe] = {"why": reason(error)}
    return found


def reason(error: Exception) -> str:
    """The first telling line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def work(path: Path, side: str, name: str) -> None:
    """Judge one model, and write down what is found."""
    warnings.simplefilter("ignore")
    gc.freeze()
    try:
        module, inputs = zoo()[name].build(name)
        with torch.no_grad():
            outputs = module(*inputs)
        expected = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        with time_limit(_SECONDS):
            found = {"ours": ours, "plain": plain}[side](module, inputs, expected)
    except Exception as error:  # any failure is a result here
        found = {"nanproof" if side == "ours" else "core ATen": {"why": reason(error)}}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"model": name, "side": side, **found}) + "\n")


def known(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The newest record of each model and side."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(r["model"], r["side"]): r for r in map(json.loads, lines)}


def main() -> None:
    """Judge what is not known yet, each model in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--side", choices=("ours", "plain"), help="judge one side alone")
    parser.add_argument("--again", action="store_true", help="judge what is known already, too")
    given = parser.parse_intermixed_args()
    for name in given.models or zoo():
        for side in (given.side,) if given.side else ("plain", "ours"):
            if not given.again and (name, side) in known(given.results):
                continue
            process = multiprocessing.get_context("fork").Process(target=work, args=(given.results, side, name))
            process.start()
            process.join()
            print(name, json.dumps(known(given.results).get((name, side), "the process died")), flush=True)


if __name__ == "__main__":
    main()
