"""A conversion judged as the tests of rewrites judge it: the written file against PyTorch in float64, on every unit."""

from __future__ import annotations

import copy

import torch

import nanproof
from nanproof.capture.batch import as_batch
from nanproof.comparison.compare import compare_outputs, named_inputs
from nanproof.interpret.execute import Executor

UNITS = ("gpu", "strict", "ane")


def converted(module, *calls, units=UNITS, **options):
    """Convert with the first call as the example and the others as calibration."""
    return nanproof.convert(module.eval(), calls[0], calibration=list(calls[1:]), units=units, **options)


def errors(result, module, *calls, units=UNITS):
    """Of each unit the largest error relative to the range of the output, over all calls; inf if not finite."""
    double = copy.deepcopy(module).double()
    with torch.no_grad():
        outputs = [double(*(t.double() if t.is_floating_point() else t for t in call)) for call in calls]
    expected = [[t.numpy() for t in as_batch(output, None).tensors] for output in outputs]
    feeds = [named_inputs(result.program, as_batch(call, module)) for call in calls]
    found = {}
    for unit in units:
        executor = Executor(result.program, unit)
        comparison = compare_outputs(list(result.program.outputs), [executor.once(f) for f in feeds], expected, unit)
        found[unit] = float("inf") if comparison.nonfinite else comparison.error
    return found


def applied(result):
    """Names of the rewrites of a conversion, but for bounds that coremltools completed with 3.4e38."""
    return {rewrite.name for rewrite in result.plan.rewrites} - {"clip-bound"}
