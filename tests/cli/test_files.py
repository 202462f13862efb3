"""`nanproof run`, `check` and `inspect`: what they say about a file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nanproof.mil.coreml import ct, mb, quiet
from tests.cli.conftest import Command


def test_run_writes_outputs(nanproof: Command, attention: Path, batch: Path, tmp_path: Path):
    out = tmp_path / "out.npz"
    said = nanproof("run", attention, "--inputs", batch, "-o", out, "--numerics", "gpu")
    assert said.code == 0
    assert "float16[2, 5, 8]" in said.out
    assert "finite" in said.out
    assert f"written to {out}" in said.out
    with np.load(out) as outputs:
        (array,) = outputs.values()
    assert array.shape == (2, 5, 8)
    document = nanproof("run", attention, "--inputs", batch, "--numerics", "gpu", "--json").document
    assert document["kind"] == "run"
    (output,) = document["outputs"]
    assert (output["nan"], output["inf"], output["max"]) == (0, 0, float(array.max()))


def test_run_counts_nonfinite_outputs(nanproof: Command, loud: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.full((2, 3), 2.0, np.float32))
    said = nanproof("run", loud, "--inputs", tmp_path / "x.npy", "--numerics", "gpu")
    assert said.code == 0
    assert "6 Inf" in said.out


def test_run_takes_unnamed_arrays(nanproof: Command, attention: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", np.ones((2, 5, 8), np.float32), np.ones((2, 5), np.int32))
    assert nanproof("run", attention, "--inputs", tmp_path / "in.npz").code == 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones((2, 5, 8))}, "Wrong inputs: the input 'mask' is missing."),
        ({"x": np.ones((2, 5)), "mask": np.ones((2, 5))}, "Input 'x' has shape (2, 5), but the program takes"),
        ({}, "Wrong inputs"),
    ],
)
def test_wrong_inputs(nanproof: Command, attention: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    np.savez(tmp_path / "in.npz", **arrays)
    said = nanproof("run", attention, "--inputs", tmp_path / "in.npz")
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize("verb", ["run", "check"])
def test_wrong_files(nanproof: Command, attention: Path, batch: Path, tmp_path: Path, verb: str):
    (tmp_path / "m.mlmodel").write_bytes(b"")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    np.save(tmp_path / "one.npy", np.ones(3))
    for args, message in (
        ((tmp_path / "no.mlpackage", "--inputs", batch), "There is no file or folder"),
        ((tmp_path / "m.mlmodel", "--inputs", batch), "A .mlmodel file holds an older model type"),
        ((attention, "--inputs", tmp_path / "bad.npz"), "cannot be read"),
        ((attention, "--inputs", tmp_path / "none.npz"), "There is no file"),
        ((attention, "--inputs", tmp_path / "m.mlmodel"), "is no .npz, .npy, .json or image file"),
        ((attention, "--inputs", tmp_path / "one.npy"), "holds one array without a name, but 2 are needed: x, mask"),
    ):
        said = nanproof(verb, *args)
        assert said.code == 2
        assert message in said.err


def test_check_passes_a_sound_file(nanproof: Command, attention: Path, batch: Path, tmp_path: Path):
    said = nanproof("check", attention, "--inputs", batch, "--unit", "gpu", "--unit", "strict")
    assert said.code == 0
    assert "no op makes Inf or NaN of finite operands" in said.out
    assert "from the same file in float32" in said.out
    assert "on 1 given input; not proved for all inputs (numerics: gpu and strict; tolerance 0.01)" in said.out
    out = tmp_path / "right.npz"
    nanproof("run", attention, "--inputs", batch, "-o", out)
    document = nanproof("check", attention, "--inputs", batch, "--reference", out, "--json").document
    assert (document["kind"], document["verdict"], document["reference"]) == ("check", "tested", "files")


def test_check_refuses_to_pass_without_inputs(nanproof: Command, attention: Path):
    said = nanproof("check", attention)
    assert said.code == 3
    assert "Nothing was checked" in said.err
    assert "Pass --inputs FILE.npz. It takes\n    x: fp" in said.err
    assert nanproof("check", attention, "--json").document["error"]["type"] == "CouldNotCheckError"


def test_check_finds_births(nanproof: Command, loud: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", x=np.full((2, 3), 2.0, np.float32))
    said = nanproof("check", loud, "--inputs", tmp_path / "in.npz")
    assert said.code == 1
    assert "exp made 6 Inf of operands up to 30 under 'gpu'" in said.out
    document = nanproof("check", loud, "--inputs", tmp_path / "in.npz", "--json").document
    assert document["verdict"] == "failed"
    assert document["units"]["gpu"]["births"][0]["infinities"] == 6


def test_check_does_not_pass_a_sum_that_may_overflow_on_its_way(nanproof: Command, cancelling: Path, tmp_path: Path):
    """20000 + 20000 reaches 2**15 before -20000 - 20000 brings it back to 0, if they come in this order."""
    np.savez(tmp_path / "in.npz", input=np.full((1, 4), 20000, np.float32))
    arguments = ("check", cancelling, "--inputs", tmp_path / "in.npz", "--unit")
    assert nanproof(*arguments, "gpu").code == 0
    said = nanproof(*arguments, "ane")
    assert said.code == 3
    assert "the accumulator ends at 2**15; of 1 sums 1 may on the way (partial sums up to 4e+04)" in " ".join(
        said.out.split()
    )
    document = nanproof(*arguments, "ane", "--json").document
    assert document["verdict"] == "unknown"
    (found,) = document["units"]["ane"]["accumulators"]
    assert (found["op_type"], found["level"], found["possible"], found["largest"]) == ("linear", "possible", 1, 40000)
    np.savez(tmp_path / "in.npz", input=np.full((1, 4), 16000, np.float32))
    assert nanproof(*arguments, "ane").code == 0


def test_check_fails_a_file_that_is_nan_in_float32_too(nanproof: Command, tmp_path: Path):
    """The file itself holds -inf, so computing it in float32 gives the same NaN: equality is no pass."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS17)
    def program(mask):
        return mb.mul(x=mask, y=np.float32(-3.4e38), name="biased")

    with quiet():
        model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS17)
        model.save(str(tmp_path / "naive.mlpackage"))
    np.savez(tmp_path / "in.npz", mask=np.zeros((2, 3), np.float32))
    said = nanproof("check", tmp_path / "naive.mlpackage", "--inputs", tmp_path / "in.npz")
    assert said.code == 1
    assert "made 6 Inf or NaN: its constant input 'y' holds -inf" in said.out
    assert "has 6 Inf or NaN (if PyTorch has them too, pass its outputs with --reference)" in said.out


def test_check_wants_a_reference_for_each_input(nanproof: Command, attention: Path, batch: Path, tmp_path: Path):
    said = nanproof("check", attention, "--inputs", batch, "--inputs", batch, "--reference", batch)
    assert said.code == 2
    assert "There are 2 --inputs but 1 --reference files" in said.err
    said = nanproof("check", attention, "--inputs", batch, "--reference", batch)
    assert said.code == 2
    assert "lacks the output" in said.err


def test_inspect(nanproof: Command, attention: Path):
    said = nanproof("inspect", attention, "--ops")
    assert said.code == 0
    for part in ("mask", "int32[2, 5]", "CoreML7  (iOS17, macOS14 and later)", "main (", "matmul", "nanproof.version"):
        assert part in said.out
    assert "= softmax(" in said.out
    assert re.search(r"= softmax\(.*# .*nets\.py:\d+\n", said.out)
    document = nanproof("inspect", attention, "--json").document
    assert document["kind"] == "inspection"
    program = document["program"]
    assert [i["name"] for i in program["inputs"]] == ["x", "mask"]
    assert sum(row["count"] for row in program["types"]) == program["ops"]
    assert program["fp16"] + program["fp32"] + program["without_floats"] + program["casts"] == program["ops"]
    assert program["weights_bytes"] > 3 * 8 * 8 * 2
    assert document["sources"]["ops"] == program["ops"]
    assert [Path(file).name for file in document["sources"]["files"]] == ["nets.py"]
    assert "com.github.nanproof.sources" not in document["metadata"]
