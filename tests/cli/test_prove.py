"""`nanproof prove`: what it says about a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nanproof import convert
from tests.cli.conftest import Command


def test_an_attention_is_proved(nanproof: Command, attention: Path):
    said = nanproof("prove", attention, "--assume", "x=-4:4")
    assert said.code == 0
    assert "x: numbers from -4 to 4 (given)" in said.out
    assert "mask: whole numbers from 0 to 1" in said.out
    assert "no Inf and no NaN for any input as assumed (numerics: gpu, cpu and ane)" in said.out


@pytest.fixture(scope="module")
def squares(nets: Path) -> Path:
    """A square, in FP16."""
    path = nets.parent / "squares.mlpackage"
    module = torch.nn.Sequential(torch.nn.Identity(), Square()).eval()
    convert(module, torch.ones(1, 4), precision="float16").save(path)
    return path


class Square(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def test_what_is_not_proved_names_the_op_and_the_line(nanproof: Command, squares: Path):
    said = nanproof("prove", squares, "--assume", "input=-300:300", "--unit", "gpu")
    assert said.code == 3
    assert "it may reach 90000, and its type ends at 65504" in said.out
    assert "test_prove.py:" in said.out
    assert "not proved for gpu: this is no evidence that it fails" in said.out
    document = nanproof("prove", squares, "--assume", "input=-300:300", "--unit", "gpu", "--json").document
    assert (document["kind"], document["verdict"]) == ("prove", "unknown")
    (obstacle,) = (o for o in document["units"]["gpu"]["obstacles"] if o["first"])
    assert obstacle["source"]["file"].endswith("test_prove.py")


def test_a_witness_refutes_and_can_be_run(nanproof: Command, squares: Path, tmp_path: Path):
    path = tmp_path / "broken.npz"
    said = nanproof("prove", squares, "--assume", "input=-300:300", "--unit", "gpu", "--witness", path)
    assert said.code == 1
    assert "refuted: " in said.out
    assert f"nanproof check {squares} --inputs {path} --unit gpu" in " ".join(said.out.split())
    with np.load(path) as arrays:
        assert 255 < np.abs(arrays["input"]).max() <= 300
    assert nanproof("check", squares, "--inputs", path, "--unit", "gpu").code == 1
    said = nanproof("prove", squares, "--assume", "input=-200:200", "--unit", "gpu", "--refute")
    assert said.code == 0


def test_inputs_give_the_range_of_what_has_none(nanproof: Command, attention: Path, batch: Path):
    with np.load(batch) as arrays:
        least = float(arrays["x"].min())
    document = nanproof("prove", attention, "--inputs", batch, "--json").document
    (x,) = (a for a in document["assumptions"] if a["name"] == "x")
    assert x["low"] == least


def test_wrong_use(nanproof: Command, attention: Path):
    said = nanproof("prove", attention, "--assume", "x=wide:4")
    assert (said.code, "'--assume x=wide:4' has no range. Write --assume x=LOW:HIGH" in said.err) == (2, True)
    said = nanproof("prove", attention, "--shape", "x=a")
    assert (said.code, "--shape 'x=a' is no NAME=SIZES" in said.err) == (2, True)
    said = nanproof("prove", attention, "--assume", "z=0:1")
    assert (said.code, "There is no input 'z' to assume anything of" in said.err) == (2, True)
