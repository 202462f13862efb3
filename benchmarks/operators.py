"""Which of PyTorch's operators convert, and compute what PyTorch does? nanproof beside plain coremltools.

    python benchmarks/operators.py RESULTS.jsonl [--side ours|plain] [--again] [operator ...]

The calls are those of PyTorch's own operator database, at most five of an operator, in float32 and integers. Each is
wrapped in a module, exported, converted in float32 for iOS17, written, read back, and executed in `reference` numerics.
Plain coremltools gets the same calls by each of its recipes (trace; export; export and core ATen decomposition) until
one agrees; nothing of nanproof is registered in its process, whose files our runtime executes all the same.

A run goes on where the last one stopped: what RESULTS.jsonl knows is not asked again, but with --again.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import coremltools  # noqa: F401
import numpy as np
import torch
import torch.export.exported_program as exported_program
from operator_samples import Sample, Unjudged, agreement, arrays, names, samples, time_limit

_SECONDS = 120
_COLLECT = "_collect_all_valid_cia_ops"
"""What PyTorch finds out anew, in a tenth of a second, for each program that it decomposes."""


def known(path: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The newest records of each operator and side."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        found[record["operator"], record["side"]] = record["samples"]
    return found


def ours(sample: Sample) -> dict[str, Any]:
    """Convert and judge by nanproof."""
    import nanproof
    from nanproof.capture.module import capture
    from nanproof.interpret.execute import Executor
    from nanproof.mil.frontend import Options, Typing, lower, package

    captured = capture(sample.module, sample.inputs)
    model = package(lower(captured.exported, Options()), Typing(fp16=False), Options()).model
    program = nanproof.load(model)
    found = Executor(program).once(arrays(sample.inputs, program.inputs))
    return {"why": agreement(list(found.values()), sample.expected)}


def plain(sample: Sample) -> dict[str, Any]:
    """Convert by coremltools alone, and judge: the first recipe that agrees, or what each failed with."""
    assert "nanproof.mil.lowerings" not in sys.modules, "nanproof's lowerings are registered"
    try:
        exported = torch.export.export(sample.module, sample.inputs, strict=False)
        core = exported.run_decompositions()
    except Exception as error:
        raise Unjudged(f"torch.export fails: {type(error).__name__}") from error
    targets = {getattr(n.target, "overloadpacket", n.target) for n in core.graph.nodes if n.op == "call_function"}
    facts = {"core": sorted(str(t).removeprefix("aten.") for t in targets if str(t).startswith("aten."))}
    why: dict[str, str] = {}
    for recipe in ("trace", "export", "core ATen"):
        try:
            model = {
                "trace": lambda: torch.jit.trace(sample.module, sample.inputs, check_trace=False),
                "export": lambda: exported.run_decompositions({}),
                "core ATen": lambda: core,
            }[recipe]()
            why[recipe] = _plain_difference(model, sample)
        except Exception as error:
            why[recipe] = reason(error)
        if not why[recipe]:
            return {"why": "", "recipe": recipe, **facts}
    return {"why": "; ".join(f"{recipe}: {text}" for recipe, text in why.items()), **facts}


def _plain_difference(model: Any, sample: Sample) -> str:
    import nanproof
    from nanproof.interpret.execute import Executor
    from nanproof.mil.coreml import ct, quiet

    given: dict[str, Any] = {}
    if not isinstance(model, torch.export.ExportedProgram):
        given["inputs"] = [
            ct.TensorType(f"x{i}", t.shape or (1,), np.float32 if t.is_floating_point() else np.int32)
            for i, t in enumerate(sample.inputs)
        ]
    with quiet():
        converted = ct.convert(
            model,
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            **given,
        )
    program = nanproof.load(converted)
    found = Executor(program).once(arrays(sample.inputs, program.inputs))
    return agreement(list(found.values()), sample.expected)


def reason(error: Exception) -> str:
    """The first telling line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    for noise in ("ConversionError: coremltools 9.0 cannot convert this program: ", "CaptureError: ", "RuntimeError: "):
        text = text.removeprefix(noise)
    return text[:160]


def judged(name: str, side: str) -> Iterator[dict[str, Any]]:
    """The records of one operator's samples: ``why`` is empty where one agrees, ``unjudged`` says why there is none."""
    for sample in samples(name):
        if isinstance(sample, Unjudged):
            yield {"unjudged": str(sample)}
            continue
        place = {"dtype": sample.dtype, "number": sample.number}
        try:
            with time_limit(_SECONDS):
                yield {**place, **{"ours": ours, "plain": plain}[side](sample)}
        except Unjudged as unjudged:
            yield {**place, "unjudged": str(unjudged)}
        except Exception as error:  # any failure is a result here
            yield {**place, "why": reason(error)}


def work(path: Path, side: str, operators: Sequence[str]) -> None:
    """Judge operators one by one, and write down what is found at once."""
    warnings.simplefilter("ignore")
    gc.freeze()  # coremltools collects garbage for each conversion: a third of a second with the database in memory
    setattr(exported_program, _COLLECT, functools.cache(getattr(exported_program, _COLLECT)))
    for name in operators:
        record = {"operator": name, "side": side, "samples": list(judged(name, side))}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def forked(path: Path, side: str, operators: Sequence[str]) -> None:
    """Judge operators in a process of its own: compilers pile up memory, and a crash ends a process."""
    process = multiprocessing.get_context("fork").Process(target=work, args=(path, side, operators))
    process.start()
    process.join()
    finished = {name for name, of in known(path) if of == side}
    if operators[0] not in finished:
        with path.open("a", encoding="utf-8") as file:
            died = {"operator": operators[0], "side": side, "samples": [{"why": "the process died"}]}
            file.write(json.dumps(died) + "\n")


def main() -> None:
    """Judge what is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--side", choices=("ours", "plain"), help="judge one side alone")
    parser.add_argument("--again", action="store_true", help="judge what is known already, too")
    given = parser.parse_intermixed_args()
    operators = given.operators or names()
    for side in (given.side,) if given.side else ("plain", "ours"):
        done = set() if given.again else {name for name, of in known(given.results) if of == side}
        left = [name for name in operators if name not in done]
        while left:
            forked(given.results, side, left[:25])
            finished = {name for name, of in known(given.results) if of == side}
            left = left[25:] if given.again else [name for name in left if name not in finished]
            print(f"{side}: {len(operators) - len(left)} of {len(operators)} operators", flush=True)


if __name__ == "__main__":
    main()
