"""Capture: what the user gets wrong is told in the user's words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nanproof.capture.batch import Batch, as_batch, call
from nanproof.capture.module import capture
from nanproof.errors import CaptureError, InputError


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, y=None):
        return self.dropout(self.linear(x)) if y is None else x * y


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def test_sources_name_module_and_line():
    captured = capture(Scale(), (torch.zeros(2, 3),))
    sources = {s.module: s for s in captured.sources.values()}
    assert sources["linear"].file == __file__
    assert sources["linear"].code == "return self.dropout(self.linear(x)) if y is None else x * y"
    assert captured.input_names == ("x",)


def test_training_flags_are_put_back():
    module = Scale().train()
    module.linear.eval()
    captured = capture(module, (torch.ones(2, 3),))
    assert [m.training for m in (module, module.dropout, module.linear)] == [True, True, False]
    assert "dropout" not in str(captured.exported.graph)


def test_an_exported_program_keeps_its_tensors_alone():
    class Mixed(nn.Module):
        def forward(self, x, factor, flag):
            y = x * factor
            return {"y": y, "again": y, "none": None, "three": 3}

    exported = torch.export.export(Mixed(), (torch.ones(2), 2.0, True))
    signature = capture(exported, None).exported.graph_signature
    assert [spec.arg.name for spec in signature.input_specs] == ["x"]
    assert [spec.arg.name for spec in signature.output_specs] == ["mul"]


def test_an_exported_program_on_other_arguments():
    exported = torch.export.export(Scale().eval(), (torch.ones(2, 3),))
    with pytest.raises(CaptureError, match=r"(?s)ExportedProgram fails on the example inputs.*float32\[5, 3\]"):
        capture(exported, (torch.ones(5, 3),))


def test_outputs_are_named_by_the_keys_of_a_mapping():
    class Naming(nn.Module):
        def forward(self, x):
            return {"double": x * 2, "parts": (x + 1, x + 2), "flag": None}

    assert capture(Naming(), (torch.ones(2),)).output_names == ("double", "parts_0", "parts_1")


@pytest.mark.parametrize("key", ["x", "two words", "add"])
def test_outputs_keep_their_names_where_a_key_is_no_name_of_its_own(key):
    class Naming(nn.Module):
        def forward(self, x):
            return {key: x * 2, "sum": x + 1}

    assert capture(Naming(), (torch.ones(2),)).output_names == ()


def test_keyword_inputs():
    batch = as_batch({"x": torch.ones(2, 3), "y": torch.full((2, 3), 2.0)})
    assert torch.equal(call(Scale(), batch)[0], torch.full((2, 3), 2.0))
    assert capture(Scale(), batch).input_names == ("x", "y")


@pytest.mark.parametrize("inputs", [None, (), [], {}, 3, "x"])
def test_missing_example_inputs(inputs):
    with pytest.raises(InputError, match="Pass what you would pass to the module"):
        capture(Scale(), inputs)


def test_a_module_that_fails_by_itself():
    with pytest.raises(CaptureError, match=r"(?s)fails on the example inputs, before any conversion.*float32\[2, 4\]"):
        capture(Scale(), (torch.zeros(2, 4),))


def test_a_module_that_cannot_be_exported():
    with pytest.raises(CaptureError, match=r"(?s)torch\.export cannot capture Branching.*depends on tensor values"):
        capture(Branching(), (torch.ones(3),))


def test_not_a_module():
    with pytest.raises(CaptureError, match=r"converts a torch\.nn\.Module, .*, not function"):
        capture(lambda x: x, (torch.ones(3),))


def test_replaced_tensors_keep_the_structure():
    batch = Batch((torch.zeros(1), [torch.zeros(2)]), {"flag": True, "z": torch.zeros(3)})
    changed = batch.with_tensors([torch.ones(1), torch.ones(2), torch.ones(3)])
    assert [float(t.sum()) for t in changed.tensors] == [1.0, 2.0, 3.0]
    assert changed.kwargs["flag"] is True


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls.add_(1)
        return x + self.calls


def test_buffers_that_change_are_states_under_their_own_names():
    captured = capture(Counter(), (torch.zeros(2),))
    assert list(captured.states) == ["calls"]
    assert torch.equal(captured.states["calls"], Counter().calls)
    assert list(captured.exported.graph_signature.buffers_to_mutate.values()) == ["calls"]
