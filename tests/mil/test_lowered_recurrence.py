"""Recurrent layers stay whole, and compute what PyTorch does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nanproof.capture.module import capture
from nanproof.errors import ConversionError
from nanproof.interpret.execute import Executor
from nanproof.mil.frontend import Options, lower
from nanproof.mil.reflect import reflect

LAYERS = {
    "GRU": (nn.GRU, {}),
    "GRU, two layers, both directions": (nn.GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "GRU without biases": (nn.GRU, {"bias": False}),
    "RNN": (nn.RNN, {}),
    "RNN with relu, both directions": (nn.RNN, {"nonlinearity": "relu", "bidirectional": True}),
    "RNN, two layers, without biases": (nn.RNN, {"num_layers": 2, "bias": False, "batch_first": True}),
}


def converted(name, with_state, target):
    torch.manual_seed(1)
    kind, settings = LAYERS[name]
    module = kind(5, 7, **settings).eval()
    x = torch.randn(4, 3, 5)
    directions = module.num_layers * (1 + module.bidirectional)
    inputs = (x, torch.randn(directions, 4 if module.batch_first else 3, 7)) if with_state else (x,)
    captured = capture(module, inputs)
    program = reflect(lower(captured.exported, Options(minimum_deployment_target=target)))
    found = Executor(program).once(dict(zip(captured.input_names, (t.numpy() for t in inputs), strict=True)))
    with torch.no_grad():
        return module, program, list(found.values()), module(*inputs)


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_pytorch(name, with_state, target):
    module, program, found, expected = converted(name, with_state, target)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)
    kind = "rnn" if isinstance(module, nn.RNN) else "while_loop" if target == "iOS17" else "gru"
    layers = sum(op.type == kind for op in program.walk())
    assert layers == module.num_layers * (1 + module.bidirectional)


def test_length_of_a_sequence_does_not_matter():
    counts = []
    for length in (3, 300):
        captured = capture(nn.GRU(5, 7).eval(), (torch.randn(length, 2, 5),))
        counts.append(len(list(reflect(lower(captured.exported, Options())).walk())))
    assert counts[0] == counts[1] < 40


class Given(nn.Module):
    def forward(self, x, h, *weights):
        return torch.gru(x, h, list(weights), False, 1, 0.0, False, False, False)


def test_weights_that_are_inputs_are_refused():
    captured = capture(Given(), (torch.randn(4, 3, 5), torch.randn(1, 3, 7), torch.randn(21, 5), torch.randn(21, 7)))
    with pytest.raises(ConversionError, match="the weights of a recurrent layer have to be constants"):
        lower(captured.exported, Options())
