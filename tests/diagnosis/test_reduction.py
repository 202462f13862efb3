"""Reduction: a few ops that fail on their own, as the whole does, in files that stand alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nanproof
from nanproof.diagnosing import subject_of
from nanproof.diagnosis.reduction import fault_of, reduced
from nanproof.errors import CouldNotCheckError
from tests.diagnosis.hazards import Killed, Norm
from tests.diagnosis.test_diagnose import loop_program


class Deep(nn.Module):
    """A dozen layers, one of which overflows inside of its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.norm = Norm()

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(x))
            if i == 6:
                x = x + self.norm(x * 400)
        return x


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("reduced")
    return nanproof.reproduce(Deep(), torch.randn(1, 16) + 2, folder)


def test_a_deep_model_is_reduced_to_the_ops_that_fail(deep) -> None:
    types = [op.type for op in deep.reduction.program.main.block.ops]
    assert deep.reduction.whole > 30
    assert deep.reduction.ops <= 6
    assert types[0] == "pow"
    assert types[-1] == "rsqrt"  # where the Inf dies: the output of the whole is finite, and so is this
    assert deep.reduction.fault == "off"
    assert np.isfinite(deep.reduction.actual).all()


def test_the_files_fail_alone(deep) -> None:
    program = nanproof.load(deep.package)
    with np.load(deep.inputs) as arrays:
        inputs = {name: arrays[name] for name in program.inputs}
    with np.load(deep.expected) as arrays:
        (expected,) = (arrays[name] for name in program.outputs)
    (actual,) = nanproof.predict(program, inputs, numerics="gpu").values()
    assert fault_of(actual, expected, 1e-2) == "off"
    (right,) = nanproof.predict(program, inputs).values()
    np.testing.assert_allclose(right, expected, rtol=1e-3)


def test_the_script_needs_pytorch_alone(deep, tmp_path: Path) -> None:
    assert deep.script is not None
    assert "nanproof" not in deep.script.read_text()
    assert "NP111 square-overflow" in deep.script.read_text()
    ran = subprocess.run([sys.executable, deep.script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "1 of 1 numbers are wrong" in ran.stdout


def test_constants_are_those_of_the_module(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, keep: Tensor) -> Tensor:
            return torch.softmax(x + (1 - keep) * -3.4e38, -1) @ torch.ones(5, 2)

    small = nanproof.reproduce(Masked(), (torch.ones(2, 5), torch.ones(2, 5)), tmp_path)
    assert small.reduction.fault == "nan"
    assert small.script is not None
    ran = subprocess.run([sys.executable, small.script], capture_output=True, text=True, check=True)
    assert "float16: tensor([nan" in ran.stdout
    assert "float32: tensor([-0., -0." in ran.stdout


def test_a_loop_stays_together_and_can_be_written(tmp_path: Path) -> None:
    small = nanproof.reproduce(loop_program(), {"start": [3.0, 1.25]}, tmp_path)
    assert [op.type for op in small.reduction.program.main.block.ops] == ["while_loop", "log", "real_div"]
    assert small.script is None
    assert fault_of(small.reduction.actual, small.reduction.expected, 1e-2) == "off"


def test_what_does_not_fail_is_not_reduced(tmp_path: Path) -> None:
    subject = subject_of(Killed(), torch.ones(4))
    with pytest.raises(CouldNotCheckError, match="does not fail on these inputs"):
        nanproof.reproduce(subject, None, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(CouldNotCheckError, match="does not fail on these inputs"):
        reduced(subject.program, subject.inputs[0], "gpu")


def test_faults() -> None:
    right = np.array([1.0, 2.0, 3.0])
    assert fault_of(right, right, 1e-2) is None
    assert fault_of(np.array([1.0, 2, 3.1]), right, 1e-2) == "off"
    assert fault_of(np.array([1.0, 2, np.inf]), right, 1e-2) == "inf"
    assert fault_of(np.array([1.0, np.nan, np.inf]), right, 1e-2) == "nan"
    assert fault_of(right[:2], right, 1e-2) == "off"
    assert fault_of(right, np.array([np.inf, 2, 3]), 1e-2) is None
