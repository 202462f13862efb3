"""``nanproof diagnose``: what it says of a module and of a package, and its exit codes."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def gate(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Gate(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        grown = torch.exp(x) + 1\n"
        "        return 1000 * (1 / grown)\n"
        "def model():\n"
        "    return Gate(), (torch.full((4,), 12.0),)\n"
        "small = (torch.ones(4),)\n"
    )
    return f"{tmp_path / 'net.py'}:model"


def test_a_module(nanproof, gate, tmp_path):
    said = nanproof("diagnose", gate, "--json")
    assert said.code == 1
    document = said.document
    assert (document["kind"], document["verdict"]) == ("diagnosis", "failed")
    first = document["culprits"][0]
    assert (first["code"], first["op_type"], first["source"]["line"]) == ("NP115", "exp", 4)
    assert first["sample"]["actual"] == "inf"
    assert first["trial"]["cures"] is True
    assert document["kinds"]["NP115"]["fix"] == first["fix"]
    text = nanproof("diagnose", gate).out
    for part in (
        "1. NP115 exponential-overflow",
        "> ",
        "grown = torch.exp(x) + 1",
        "net.py:4",
        "Inf becomes 0 in real_div",
    ):
        assert part in text
    assert "the outputs are wrong on 1 input (numerics: gpu; tolerance 0.01)" in text


def test_inputs_on_which_nothing_breaks(nanproof, gate, tmp_path):
    said = nanproof("diagnose", gate, "--inputs", f"{tmp_path / 'net.py'}:small", "--unit", "gpu", "--unit", "strict")
    assert said.code == 0
    assert "nothing that FP16 breaks on 1 input (numerics: gpu and strict; tolerance 0.01)" in said.out


def test_a_package(nanproof, gate, tmp_path):
    out = tmp_path / "gate.mlpackage"
    nanproof("convert", gate, "-o", out, "--precision", "float16", "--keep-failed")
    missing = nanproof("diagnose", out)
    assert missing.code == 3
    assert "Pass --inputs FILE.npz" in missing.err
    np.savez(tmp_path / "in.npz", x=np.full(4, 12.0, np.float32))
    said = nanproof("diagnose", out, "--inputs", tmp_path / "in.npz", "--json")
    assert said.code == 1
    assert said.document["culprits"][0]["op_type"] == "exp"


def test_wrong_use(nanproof, gate):
    assert nanproof("diagnose", "nowhere.mlpackage", "--inputs", "x.npz").code == 2
    assert nanproof("diagnose", gate, "--unit", "tpu").code == 2


def test_reduced_to_files_that_check_refuses(nanproof, gate, tmp_path):
    said = nanproof("diagnose", gate, "--reduce", tmp_path / "small", "--json")
    assert said.code == 1
    small = said.document["reproducer"]
    assert small["op_types"] == ["exp", "add", "real_div"]
    assert (tmp_path / "small" / "reproduce.py").exists()
    files = ["--inputs", small["inputs"], "--reference", small["expected"]]
    assert nanproof("check", small["package"], *files).code == 1
    text = nanproof("diagnose", gate, "--reduce", tmp_path / "again").out
    assert "to 3 ops of 5 that still fail: exp, add, real_div" in text
    fine = nanproof(
        "diagnose", gate, "--inputs", f"{tmp_path / 'net.py'}:small", "--reduce", tmp_path / "none", "--json"
    )
    assert (fine.code, fine.document["reproducer"]) == (0, None)


def test_by_module(nanproof, gate, tmp_path):
    said = nanproof("diagnose", gate, "--by-module", "--json")
    assert said.code == 1
    assert (said.document["kind"], said.document["blamed"], said.document["conversions"]) == ("modules", [""], 1)
    text = nanproof("diagnose", gate, "--bisect").out
    assert (
        "the fault is in the module itself, between its submodules (1 conversion; numerics: gpu; tolerance 0.01)"
        in text
    )
    assert nanproof("diagnose", gate, "--bisect", "--reduce", tmp_path / "x").code == 2
