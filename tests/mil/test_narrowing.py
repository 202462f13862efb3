"""Integers become 16 bits wide only where every value fits; each expected value is PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.capture.module import capture
from nanproof.mil.coreml import ct, quiet
from nanproof.program import DType

VOCABULARY = 50_000
IDS = torch.tensor([[5, 40_000, 49_999, 32_768, 70_000]], dtype=torch.int32)


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rows = nn.Embedding(VOCABULARY, 2)

    def forward(self, ids):
        return self.rows(ids)


class Looked(nn.Module):
    """Ids, as data, through every op that coremltools makes 16 bits wide."""

    def forward(self, ids, at):
        flipped = torch.gather(ids, 1, at)
        return (
            flipped,
            ids[:, at[0]],
            ids.topk(2)[0],
            (ids.unsqueeze(1) + 1).squeeze(1),
            ids[torch.arange(1), at[0, :1]],
        )


class Columns(nn.Module):
    """``gather_nd``, whose indices coremltools narrows without a look at the sizes."""

    def forward(self, logits, ids):
        return logits[torch.arange(2), ids]


class Top(nn.Module):
    def forward(self, logits):
        return logits.topk(3)[1]


class Twice(nn.Module):
    """The same indices for two tables, some of them counted from the end."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Parameter(torch.randn(40, 4)), nn.Parameter(torch.randn(50, 4))

    def forward(self, ids):
        return self.first[ids], self.second[ids]


LOGITS = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(1)).half().float()
MANY = torch.randperm(70_000, generator=torch.Generator().manual_seed(1))[None].float() / 70_000
CALLS = {
    "embedding": (Embedded(), (IDS.clamp(max=VOCABULARY - 1),)),
    "data": (Looked(), (IDS, torch.tensor([[4, 2, 1]]))),
    "gather_nd": (Columns(), (LOGITS, torch.tensor([49_999, 40_000]))),
    "topk": (Top(), (MANY * 65_504,)),
    "twice": (Twice(), (torch.tensor([1, -1, 3]),)),
}


@pytest.mark.parametrize("target", ["iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("name", CALLS)
def test_values_beyond_16_bits_survive(name, target):
    module, inputs = CALLS[name]
    converted = nanproof.convert(module, inputs, units=("reference",), minimum_deployment_target=target, stress=False)
    answers = nanproof.predict(
        converted.program, dict(zip(converted.program.inputs, (t.numpy() for t in inputs), strict=True))
    )
    with torch.no_grad():
        expected = module(*inputs)
    for actual, wanted in zip(answers.values(), expected if isinstance(expected, tuple) else [expected], strict=True):
        np.testing.assert_allclose(actual, wanted.numpy(), rtol=1e-3)


def narrowed(program):
    kinds = {DType.INT16, DType.UINT16}
    return {op.type for op in program.walk() for v in op.operands if v.type.dtype in kinds and op.type != "cast"}


def test_indices_that_fit_are_narrowed():
    """16 bits are what the Neural Engine takes."""
    assert narrowed(nanproof.convert(Twice(), (torch.tensor([1, 2, 3]),)).program) == {"gather"}


def test_no_integer_is_narrowed_in_fp32():
    assert narrowed(nanproof.convert(Twice(), (torch.tensor([1, 2, 3]),), precision="float32").program) == set()


@pytest.mark.parametrize("how", ["removed", "selected"])
def test_the_user_can_keep_int32(how):
    pipeline = ct.PassPipeline()
    if how == "removed":
        pipeline.remove_passes({"common::add_int16_cast"})
    else:
        pipeline.set_options("common::add_int16_cast", {"op_selector": lambda op: op.op_type != "gather"})
    result = nanproof.convert(Twice(), (torch.tensor([1, 2, 3]),), pass_pipeline=pipeline)
    assert narrowed(result.program) == set()


def test_coremltools_alone_wraps():
    """The reason for all this: as soon as it fails, coremltools has mended its pass."""
    exported = capture(*CALLS["data"]).exported
    with quiet():
        model = ct.convert(exported, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    ids, at = (t.numpy() for t in CALLS["data"][1])
    first = next(iter(nanproof.predict(nanproof.load(model), {"ids": ids, "at": at}).values()))
    assert first.tolist() == [[70_000 - 65_536, 49_999 - 65_536, 40_000 - 65_536]]
