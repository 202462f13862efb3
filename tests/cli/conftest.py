"""Small models in a file of the user's, converted once, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from nanproof.cli.application import execute

NETS = '''
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, mask):
        bias = (1.0 - mask[:, None, :].float()) * torch.finfo(torch.float32).min
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        return torch.softmax(scores + bias, -1) @ self.v(x)

class Loud(nn.Module):
    """Values far beyond the FP16 range inside, small ones outside."""

    def forward(self, x):
        return torch.exp(x * 15.0) ** 0.1

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.randn(3, 4),)

def attention():
    torch.manual_seed(0)
    mask = torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    return Attention(), (torch.randn(2, 5, 8), mask)

def loud():
    return Loud(), (torch.linspace(0.5, 2.0, 6).reshape(2, 3),)

def bare():
    return mlp()[0]

def sized(width):
    return nn.Linear(width, width)

def broken():
    raise RuntimeError("the weights are gone")

def nothing():
    return {"not": "a module"}

def talkative():
    print("hello from the model")
    return mlp()

def interrupted():
    raise KeyboardInterrupt

def batch():
    return (torch.ones(3, 4),)

def cancelling():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    return layer, (torch.ones(1, 4),)

constant = 42
'''


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout, strictly read."""
        document = json.loads(self.out, parse_constant=_refuse)
        assert document["schema"] == "nanproof/1"
        return document


def _refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


Command = Callable[..., Said]


@pytest.fixture
def nanproof(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command line."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*args: object) -> Said:
        capsys.readouterr()
        code = execute([str(a) for a in args])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python file with models."""
    path = tmp_path_factory.mktemp("user") / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture(scope="session")
def attention(nets: Path) -> Path:
    """The converted mini attention."""
    return _converted(nets, "attention")


@pytest.fixture(scope="session")
def loud(nets: Path) -> Path:
    """A model that overflows in FP16, converted to FP16 throughout nevertheless."""
    return _converted(nets, "loud", "--precision", "float16", "--keep-failed")


@pytest.fixture(scope="session")
def cancelling(nets: Path) -> Path:
    """A sum of two positive and two negative terms of the same size."""
    return _converted(nets, "cancelling")


def _converted(nets: Path, name: str, *options: str) -> Path:
    path = nets.parent / f"{name}.mlpackage"
    execute(["convert", f"{nets}:{name}", "-o", str(path), "--quiet", *options])
    return path


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Inputs of the mini attention."""
    path = tmp_path / "batch.npz"
    rng = np.random.default_rng(0)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], np.int32)
    np.savez(path, x=rng.standard_normal((2, 5, 8)).astype(np.float32), mask=mask)
    return path
