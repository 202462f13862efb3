"""``nanproof ranges``: values that FP16 does not hold, files that go on, and files that come together."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def package(nanproof, tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return (x * x).sum(-1).sqrt()\n"
        "def model():\n"
        "    return Net(), (torch.ones(2, 3),)\n"
    )
    out = tmp_path / "net.mlpackage"
    assert nanproof("convert", f"{tmp_path / 'net.py'}:model", "-o", out, "--precision", "float32").code == 0
    return out


def saved(path, value):
    np.savez(path, x=np.full((2, 3), value, np.float32))
    return path


def test_what_leaves_fp16(nanproof, package, tmp_path):
    small, large = saved(tmp_path / "a.npz", 2.0), saved(tmp_path / "b.npz", 300.0)
    assert nanproof("ranges", package, "--inputs", small).code == 0
    said = nanproof("ranges", package, "--inputs", small, "--inputs", large, "--json")
    assert said.code == 1
    document = said.document
    assert (document["kind"], document["verdict"], document["runs"]) == ("ranges", "failed", 2)
    values = {row["name"]: row for row in document["values"]}
    assert (values["x"]["low"], values["x"]["high"]) == (2, 300)
    assert all(values[name]["magnitude"] >= 65520 for name in document["unfit"])
    assert document["unfit"]
    text = nanproof("ranges", package, "--inputs", large).out
    assert "do not survive FP16, on 1 run" in text
    assert "overflow" in text


def test_before_any_conversion(nanproof, package, tmp_path):
    said = nanproof("ranges", f"{tmp_path / 'net.py'}:model", "--json")
    assert said.code == 0
    assert said.document["runs"] == 1
    assert any("net.py:4" in (row["where"] or "") for row in said.document["values"])


def test_files_go_on_and_come_together(nanproof, package, tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    saved(folder / "1.npz", 1.0)
    first, second, both = (tmp_path / name for name in ("first.json", "second.json", "both.json"))
    assert nanproof("ranges", package, "--inputs", folder, "-o", first).code == 0
    saved(folder / "2.npz", 2.0)
    assert nanproof("ranges", package, "--inputs", folder, "-o", first, "--resume", "--json").document["runs"] == 2
    nanproof("ranges", package, "--inputs", saved(tmp_path / "c.npz", 5.0), "-o", second)
    said = nanproof("ranges", "--merge", first, second, "-o", both, "--json")
    assert (said.code, said.document["runs"]) == (0, 3)
    assert json.loads(both.read_text())["values"]["x"]["high"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 3, "Nothing was observed: the model has to run on something. Pass --inputs PATH."),
        (("--inputs", "nowhere"), 2, "There is no file 'nowhere'."),
        (("--inputs", "nowhere", "--resume"), 2, "--resume goes on where a file ends: name it with --output."),
        (("other.mlpackage",), 2, "One MODEL is observed at a time, and these are 2. For files use --merge."),
        (("--merge",), 2, "--merge needs the file to write: name it with --output."),
        (("--inputs", "nowhere", "-o", "r.txt"), 2, "The output 'r.txt' must end in .json."),
    ],
)
def test_wrong_use(nanproof, package, arguments, code, message):
    said = nanproof("ranges", package, *arguments)
    assert said.code == code
    assert message in said.err
