"""The conductor: capture → MIL → observe → plan → edit → save → read back → execute → compare → verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn
from torch.export import ExportedProgram

from nanproof.building import Build, Lowered, pass_check, pass_finding
from nanproof.capture.batch import Batch, as_batch
from nanproof.capture.examples import generated, widened, widened_batch
from nanproof.capture.huggingface import load_folder
from nanproof.capture.module import Captured, capture
from nanproof.capture.pretrained_inputs import example_of, is_pretrained
from nanproof.comparison.compare import compare_outputs
from nanproof.comparison.criteria import Metric
from nanproof.comparison.passes import PassChange
from nanproof.errors import InputError, ModelFileError, UsageError
from nanproof.findings import Finding
from nanproof.interpret.observe import observe
from nanproof.mil.checkpoints import Visitor
from nanproof.mil.declared import declared_inputs, output_types, tensor_types
from nanproof.mil.frontend import Options, Packaged, Typing, lower, package
from nanproof.mil.reflect import handles_of, reflect
from nanproof.plan.author import requests_of
from nanproof.proving import with_proof
from nanproof.request import CoremltoolsOptions, Precision, Progress, Request, checked
from nanproof.result import Conversion
from nanproof.stress.kinds import Stated
from nanproof.trial import gather

__all__ = ["Precision", "convert"]

_LOWERING_TOLERANCE = 1e-3
"""Rounding in another order stays far below this on any sane model; a wrong operator does not."""


def convert(
    model: nn.Module | ExportedProgram | str | PathLike[str],
    example_inputs: Any = None,
    *,
    task: str | None = None,
    precision: Precision = "auto",
    units: Sequence[str] = ("gpu",),
    calibration: Iterable[Any] | None = None,
    tolerance: float | Mapping[str, float] = 1e-2,
    metric: Metric | Mapping[str, Metric] = "max",
    keep_fp32: str | Sequence[str] = (),
    keep_fp16: str | Sequence[str] = (),
    stress: bool = True,
    kinds: Stated | None = None,
    prove: bool = True,
    assume: Stated | None = None,
    dynamic_shapes: Any = None,
    verify_passes: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CoremltoolsOptions],
) -> Conversion:
    """Convert a PyTorch model to an ML Program that is finite in FP16, and show it on the written file.

    Args:
        model: The module (converted in evaluation mode, and in float32 if its weights are half or bfloat16), an
            ``ExportedProgram``, a TorchScript module, or the path of a Hugging Face folder.
        example_inputs: What you would pass to the module: a tensor, a tuple, or a dict of keyword arguments. Without
            it, inputs are drawn from ``inputs``; for a model of transformers they are such as its tokenizer gives.
        task: For a Hugging Face folder, a task of the Hub (``"fill-mask"``) or a class of transformers.
        precision: ``"auto"``: FP16, with rewrites where they make it safe and FP32 where nothing else does;
            ``"float16"``: FP16 throughout, rewrites included, no FP32 islands; ``"float32"``: FP32 throughout.
        units: Numerics under which the written file is executed and judged: ``"gpu"``, ``"strict"``, ``"reference"``.
        calibration: Further inputs, each as ``example_inputs``, to observe ranges and judge the result on.
        tolerance: Largest distance that counts as the same, for all outputs or by output name.
        metric: That distance: ``"max"``, ``"snr"``, ``"cosine"``, ``"top-5"``, or a function of ours and PyTorch's.
        keep_fp32: What stays FP32: ops by name or type, module paths, ``"file.py:line"``.
        keep_fp16: What becomes FP16 in any case, named the same way.
        stress: Also run inputs at the limits of their kind: a row masked everywhere, the last id, a black image, ...
        kinds: What inputs are, where the guess is wrong: by name a kind (``"mask"``, ...) or a range.
        prove: Also prove for what was tested that no input inside the assumptions, which it states, makes Inf or NaN.
        assume: What the proof assumes beside ``kinds``, for instance of states: by name a range or a kind.
        dynamic_shapes: As in ``torch.export.export``. The file is executed at its smallest and largest shapes, too.
        verify_passes: Always look for graph passes that change a result, not only where the lowered program is wrong.
        progress: Called with the name of each stage as it begins.
        options: The options of ``coremltools.convert``, with their meaning there: ``inputs``, ``outputs``,
            ``classifier_config``, ``pass_pipeline``, ...; see :class:`nanproof.request.CoremltoolsOptions`.

    Returns:
        The conversion. Nothing is written to a place of yours before you call its ``save``, but for ``package_dir``.

    Raises:
        UsageError: A wrong argument; no such numerics; inputs missing; the module cannot be captured or lowered.
        CouldNotCheckError: The program holds an op that cannot be executed, so nothing is known of it.
    """
    asked: dict[str, Any] = {"precision": precision, "units": units, "tolerance": tolerance, "metric": metric}
    asked |= {"keep_fp32": keep_fp32, "keep_fp16": keep_fp16, "progress": progress}
    asked |= {"dynamic_shapes": dynamic_shapes, "stress": stress, "kinds": kinds, "verify_passes": verify_passes}
    asked |= {"prove": prove, "assume": assume}
    request = checked(options, **asked)
    return _saved(_convert(_loaded(model, task, request), example_inputs, list(calibration or ()), request), request)


def _saved(conversion: Conversion, request: Request) -> Conversion:
    if request.package_dir is not None:
        conversion.save(request.package_dir)
    return conversion


def _loaded(model: Any, task: str | None, request: Request) -> Any:
    """The model itself, from its folder if a path is given.

    Raises:
        UsageError: There is no such folder, its model cannot be loaded, or a task is given for something else.
    """
    if isinstance(model, (str, PathLike)):
        folder = Path(model)
        if not folder.is_dir():
            raise ModelFileError(
                f"'{folder}' is no folder. nanproof.convert takes a module, an ExportedProgram, TorchScript, or the "
                "path of a\n  Hugging Face folder. Load a .pt2 with torch.export.load and TorchScript with "
                "torch.jit.load, and pass the result."
            )
        with request.clock("load"):
            return load_folder(folder, task)
    if task is not None:
        raise UsageError(
            f"task='{task}' is for the path of a Hugging Face folder, and this is a {type(model).__name__}."
        )
    return model


def _convert(model: Any, example_inputs: Any, calibration: Sequence[Any], request: Request) -> Conversion:
    clock = request.clock
    with clock("capture"):
        module = widened(model)
        example = _example(example_inputs, module, request)
        example = example if example is None else _fitting(example, module, model)
        captured = capture(module, example, request.dynamic_shapes, with_author=request.precision != "float32")
        request = replace(request, options=_completed(request.options, captured))
    batches = [captured.example, *(_fitting(as_batch(c, module), module, model) for c in calibration)]
    lowered = _lowered(module, captured, batches, request)
    passes: list[Finding] = []
    if request.verify_passes or _lowering_findings(lowered):
        changes = _changes(lowered, request)
        passes = [pass_finding(change, "left out") for change in changes]
    if passes:
        request = replace(request, options=replace(request.options, without_passes=frozenset(f.op for f in passes)))
        lowered = _lowered(module, captured, batches, request)
    findings = [*_start_findings(captured), *passes, *_lowering_findings(lowered)]
    conversion = replace(Build(request, lowered).finish(findings), ranges=lowered.ranges)
    return with_proof(conversion, request, lowered.trial)


def _example(example_inputs: Any, module: Any, request: Request) -> Batch | None:
    """The call to capture the module on: the given one, or one of the declared inputs; ``None`` for a program's own.

    Raises:
        InputError: There is none, or the declared inputs are not those of the call.
    """
    if example_inputs is None and isinstance(module, ExportedProgram):
        return None
    if example_inputs is None and request.declared:
        return as_batch(generated(request.declared), module)
    if example_inputs is None and is_pretrained(module):
        return example_of(module)
    batch = as_batch(example_inputs, module)
    if request.declared and len(request.declared) != len(batch.tensors):
        raise InputError(
            f"`inputs` declares {len(request.declared)} inputs, and the example inputs hold {len(batch.tensors)} "
            "tensors.\n  Declare one for each tensor, in the order of the module's forward."
        )
    return batch


def _fitting(batch: Batch, module: Any, given: Any) -> Batch:
    """A call of the given model as one of the module that is converted, which may be its float32 copy."""
    return batch if module is given else widened_batch(batch)


def _completed(options: Options, captured: Captured) -> Options:
    """The options with what only the capture knows: inputs of TorchScript, sizes of the example, names of outputs."""
    tensors = captured.example.tensors
    if options.outputs is None and captured.output_names:
        options = replace(options, outputs=output_types(captured.output_names))
    options = options.with_states({name: tuple(value.shape) for name, value in captured.states.items()})
    if options.inputs is None and not isinstance(captured.exported, ExportedProgram):
        declarations = tensor_types(captured.input_names, [t.detach().numpy() for t in tensors])
        return replace(options, inputs=declarations)
    return replace(options, default_shapes=[tuple(t.shape) for t in tensors])


def _lowered(module: Any, captured: Captured, batches: Sequence[Batch], request: Request) -> Lowered:
    def lower_again(visitor: Visitor | None) -> Any:
        return lower(captured.exported, request.options, visitor)

    def packaged(pymil: Any, typing: Typing, visitor: Visitor | None) -> Packaged:
        return package(pymil, typing, request.options, captured.sources, visitor)

    with request.clock("lower"):
        pymil = lower_again(None)
        fp32 = reflect(pymil, captured.sources)
        requests = requests_of(captured.author, fp32, handles_of(pymil))
    request.criteria.check(list(fp32.outputs))
    with request.clock("observe"):
        inputs = declared_inputs(pymil)
        trial = gather(
            module,
            fp32,
            batches,
            inputs,
            with_stress=request.stress,
            states=captured.states,
            stated=request.kinds,
        )
        ranges, answers = observe(fp32, trial.all_inputs)
        fidelity = compare_outputs(trial.outputs, answers[: len(trial.inputs)], trial.expected, "reference")
    return Lowered(
        pymil=pymil,
        lower=lower_again,
        package=packaged,
        sources=captured.sources,
        fp32=fp32,
        trial=trial,
        ranges=ranges,
        answers=answers,
        fidelity=fidelity,
        requests=requests,
        # Without this the package would claim a source of its own making, "milinternal".
        origin={"com.github.apple.coremltools.source": f"torch=={torch.__version__}"},
    )


def _changes(lowered: Lowered, request: Request) -> list[PassChange]:
    """The passes before the FP16 cast that change what the program computes."""
    check = pass_check(lowered.trial)
    with request.clock("check passes"):
        lowered.lower(check)
    return check.changes


def _start_findings(captured: Captured) -> list[Finding]:
    """A finding for each state that PyTorch begins with anything but zeros."""
    return [
        Finding(
            "NP301",
            name,
            "state",
            f"the state '{name}' begins with values up to {float(value.abs().max()):.4g} in PyTorch, and with zeros in "
            "Core ML",
            "judged with PyTorch's values; the app must write them",
        )
        for name, value in captured.states.items()
        if value.numel() and bool((value != 0).any())
    ]


def _lowering_findings(lowered: Lowered) -> list[Finding]:
    """A finding for each output that is not PyTorch's already in float32."""
    makers = {value.name: op for op in lowered.fp32.main.block.ops for value in op.outputs}
    findings: list[Finding] = []
    for output in lowered.fidelity.outputs:
        if output.name in makers and not output.worst.within(_LOWERING_TOLERANCE):
            detail = f"output '{output.name}' is off by {output.worst.error:.3g} of its range in float32"
            findings.append(Finding.at("NP201", makers[output.name], detail, "not repaired"))
    return findings
