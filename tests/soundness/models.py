"""Models of the tests, converted to FP16, with boxes for their inputs: any token ids, any mask, any image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

import nanproof
from tests.laws.bounded import Boxed, exposed
from tests.laws.boxes import Box
from tests.test_zoo import TEXT, VISUAL, model_and_inputs

MODELS = tuple(name for name in (*TEXT, *VISUAL) if name in ("bert", "distilbert", "gpt2", "llama", "vit", "qwen3"))
_ENDS: Mapping[str, tuple[float, float]] = {"input_ids": (0, 299), "attention_mask": (0, 1), "pixel_values": (-3, 3)}


def boxed_model(name: str) -> Boxed:
    """The converted program, all of its values being outputs."""
    module, inputs = model_and_inputs(name)
    program = exposed(nanproof.convert(module, inputs, precision="float16").program)
    boxes: dict[str, Box] = {}
    for label, value in program.main.inputs.items():
        shape = tuple(int(n) for n in value.type.shape)
        low, high = _ENDS.get(label, (0, 1))
        sample = np.full(shape, low, value.type.dtype.numpy)
        boxes[label] = Box(sample, *(np.full([1] * len(shape), float(v)) for v in (low, high)))
    return Boxed(program, boxes)
