"""Buffers that forward changes become states, and the file is judged over several calls."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.capture.module import capture
from nanproof.errors import CaptureError, InputError, UsageError
from nanproof.mil.coreml import ct

STEP = (torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0]))


class Attention(nn.Module):
    """One step of attention, which writes its keys and values into caches."""

    def __init__(self, how: str = "slice"):
        super().__init__()
        torch.manual_seed(0)
        self.how = how
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))
        self.register_buffer("k_cache", torch.zeros(1, 6, 8))
        self.register_buffer("v_cache", torch.zeros(1, 6, 8), persistent=False)

    def forward(self, x, position):
        if self.how == "slice":
            self.k_cache[:, position] = self.k(x)
            self.v_cache[:, position] = self.v(x)
        elif self.how == "index_copy":
            self.k_cache.index_copy_(1, position, self.k(x))
            self.v_cache.index_copy_(1, position, self.v(x))
        else:
            here = (torch.arange(6) == position)[None, :, None]
            self.k_cache.copy_(torch.where(here, self.k(x), self.k_cache))
            self.v_cache.copy_(torch.where(here, self.v(x), self.v_cache))
        scores = self.q(x) @ self.k_cache.transpose(1, 2)
        scores = scores.masked_fill(torch.arange(6) > position, -1e4)
        return torch.softmax(scores, -1) @ self.v_cache


class Sum(nn.Module):
    def __init__(self, start=0.0, dtype=torch.float32):
        super().__init__()
        self.register_buffer("total", torch.full((3,), start, dtype=dtype))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Sum(), Sum()])

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


def steps(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(1, 1, 8, generator=generator), torch.tensor([i])) for i in range(count)]


@pytest.mark.parametrize("how", ["slice", "index_copy", "copy"])
def test_a_cache_follows_pytorch_over_a_conversation(how):
    module = Attention(how).eval()
    result = nanproof.convert(module, STEP, calibration=steps(6)[1:], minimum_deployment_target="iOS18")
    assert result.passed
    assert result.comparison.batches == 7, "the six, and one that reads what the sixth has written"
    beyond = [o for o in result.units["gpu"].stress if not o.compared]
    assert how == "copy" or beyond, "positions that PyTorch refuses are told, and not executed"
    assert {name: str(type) for name, type in result.program.states.items()} == {
        "k_cache": "state<fp16[1, 6, 8]>",
        "v_cache": "state<fp16[1, 6, 8]>",
    }
    assert not module.k_cache.any(), "the user's module is as it was"

    # What an app does with the file, beside PyTorch on a copy.
    twin, state = copy.deepcopy(module), nanproof.make_state(result.program)
    for x, position in steps(6):
        given = {"x": x.numpy(), "position": position.int().numpy()}
        (ours,) = nanproof.predict(result.program, given, numerics="gpu", state=state).values()
        with torch.no_grad():
            theirs = twin(x, position).numpy()
        assert np.abs(ours - theirs).max() < 0.01
    assert np.abs(state.read_state("k_cache") - twin.k_cache.numpy()).max() < 0.01


def test_a_single_call_is_followed_by_others():
    result = nanproof.convert(Sum(), (torch.ones(3),), minimum_deployment_target="iOS18", stress=False)
    assert result.comparison.batches == 3
    statement = result.to_dict()["rests_on"]["statement"]
    assert statement == "tested on 3 calls in a row (1 state kept); not proved for all inputs"


def test_what_goes_wrong_after_the_first_call_is_seen():
    """A program that keeps the sum, judged against a module that forgets a part of it."""

    class Forgetful(Sum):
        def forward(self, x):
            self.total.mul_(0.5).add_(x)
            return self.total * 2

    program = nanproof.convert(Sum(), (torch.ones(3),), minimum_deployment_target="iOS18").program
    call = (torch.tensor([1.0, 2.0, 3.0]),)
    assert nanproof.compare(program, Forgetful(), [call]).error == 0
    assert nanproof.compare(program, Forgetful(), [call, call]).error > 0.2
    assert nanproof.compare(program, Sum(), [call, call, call]).error == 0


def test_names_of_buffers_inside():
    result = nanproof.convert(Nested(), (torch.ones(3),), minimum_deployment_target="iOS18")
    assert list(result.program.states) == ["layers_0_total", "layers_1_total"]
    assert result.passed


@pytest.mark.parametrize("form", ["exported", "traced"])
def test_other_forms(form):
    module, example = Sum(), (torch.tensor([1.0, 2.0, 3.0]),)
    if form == "exported":
        model = torch.export.export(module, example)
    else:
        with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
            model = torch.jit.trace(copy.deepcopy(module), example, check_trace=False)
    start = dict(model.named_buffers())["total"].clone()
    result = nanproof.convert(model, example, minimum_deployment_target="iOS18")
    assert result.passed
    assert list(result.program.states) == ["total"]
    assert torch.equal(dict(model.named_buffers())["total"], start)


def test_a_state_that_does_not_begin_with_zeros_is_told():
    result = nanproof.convert(Sum(start=2.5), (torch.ones(3),), minimum_deployment_target="iOS18")
    assert result.passed
    (finding,) = result.findings
    assert (finding.code, finding.op) == ("NP301", "total")
    assert finding.detail == "the state 'total' begins with values up to 2.5 in PyTorch, and with zeros in Core ML"


def test_a_state_that_leaves_the_fp16_range_fails():
    call = (torch.full((3,), 40_000.0),)
    result = nanproof.convert(Sum(), call, calibration=[call], minimum_deployment_target="iOS18")
    assert result.verdict == "failed"
    (reason,) = result.units["gpu"].reasons
    assert "has 3 Inf or NaN where PyTorch has none" in reason


def test_declared_states_mean_what_they_mean_to_coremltools():
    given = [ct.StateType(ct.TensorType(shape=(3,), dtype=np.float16), name="total")]
    result = nanproof.convert(Sum(), (torch.ones(3),), states=given, minimum_deployment_target=ct.target.iOS18)
    assert result.passed
    assert list(result.program.states) == ["total"]
    open_dtype = [ct.StateType(ct.TensorType(shape=(3,)), name="total")]
    nanproof.convert(Sum(), (torch.ones(3),), states=open_dtype, minimum_deployment_target="iOS18")
    assert open_dtype[0].dtype is None, "the user's declaration is as it was"


def state(name="total", shape=(3,), dtype=np.float16):
    return ct.StateType(ct.TensorType(shape=shape, dtype=dtype), name=name)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([ct.TensorType(shape=(3,))], "`states` is a list of coremltools.StateType, and this holds TensorType."),
        (state(), "`states` is a list of coremltools.StateType, and this is StateType."),
        ([state(name=None)], "A state has no name. It is that of the buffer: coremltools.StateType("),
        ([state(dtype=np.float32)], "The state 'total' is declared as fp32, and Core ML keeps states in FP16 alone."),
        ([state("sum")], "`states` declares sum, and forward changes total in place."),
        ([state(shape=(4,))], "declared with the shape (4,), and the buffer has the shape (3,). Declare that."),
    ],
    ids=["no state", "no list", "no name", "fp32", "another buffer", "another shape"],
)
def test_wrong_declarations(given, text):
    with pytest.raises(UsageError) as caught:
        nanproof.convert(Sum(), (torch.ones(3),), states=given, minimum_deployment_target="iOS18")
    assert text in str(caught.value)


def test_states_for_a_module_that_keeps_nothing():
    with pytest.raises(UsageError, match="`states` declares total, and forward changes no buffer in place"):
        nanproof.convert(nn.ReLU(), (torch.ones(3),), states=[state()], minimum_deployment_target="iOS18")


def test_an_older_target_has_no_states():
    with pytest.raises(UsageError) as caught:
        nanproof.convert(Nested(), (torch.ones(3),))
    text = str(caught.value)
    assert text.startswith("forward changes the buffers layers.0.total, layers.1.total in place: they are states of ")
    assert "the deployment target is iOS17. Pass minimum_deployment_target='iOS18'" in text


def test_whole_numbers_cannot_be_states():
    with pytest.raises(CaptureError) as caught:
        capture(Sum(start=0, dtype=torch.int64), (torch.ones(3, dtype=torch.int64),))
    text = str(caught.value)
    assert text.startswith("forward changes the buffer 'total' in place, which holds int64, and Core ML keeps states ")
    assert f"{__file__}:" in text


def test_inputs_cannot_be_changed():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.mul_(2)

    with pytest.raises(CaptureError, match="forward changes its input x in place, and the inputs of an ML Program"):
        nanproof.convert(InPlace(), (torch.ones(3),))


def test_a_failing_module_keeps_its_buffers():
    class Failing(Sum):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError("no")

    module = Failing()
    with pytest.raises(CaptureError, match="fails on the example inputs"):
        nanproof.convert(module, (torch.ones(3),), minimum_deployment_target="iOS18")
    assert not module.total.any()


def test_comparison_with_a_module_without_the_buffer():
    program = nanproof.convert(Sum(), (torch.ones(3),), minimum_deployment_target="iOS18").program
    with pytest.raises(InputError, match="The program keeps the state total, and ReLU has no such buffer: it has none"):
        nanproof.compare(program, nn.ReLU(), (torch.ones(3),))
