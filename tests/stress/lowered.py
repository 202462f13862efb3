"""A module as the float32 program that coremltools lowers it to, and its example by input name."""

from __future__ import annotations

import numpy as np

from nanproof.capture.batch import as_batch
from nanproof.capture.module import capture
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect


def lowered(module, example):
    captured = capture(module.eval(), as_batch(example, module), None)
    program = reflect(lower(captured.exported, Options()), captured.sources)
    arrays = [np.asarray(tensor) for tensor in captured.example.tensors]
    return program, dict(zip(program.inputs, arrays, strict=True))
