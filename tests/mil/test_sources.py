"""The source map: every op of a written package knows its module and its line."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanproof
from nanproof.mil.sources import KEY, decode, encode, sources_of
from nanproof.program import Source


class Twice(nn.Module):
    """Two modules of one class: only the module path tells their lines apart."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Gated() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return F.softmax(x, -1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x):
        return F.hardswish(self.gate(x)) + x


@pytest.fixture(scope="module")
def converted():
    torch.manual_seed(0)
    return nanproof.convert(Twice(), (torch.randn(2, 4, 7),))


@pytest.fixture(scope="module")
def package(converted, tmp_path_factory):
    return converted.save(tmp_path_factory.mktemp("m") / "m.mlpackage")


def places(program):
    return {(op.type, op.source.module, op.source.code) for op in program.walk()}


def test_every_op_has_its_source(converted):
    found = places(converted.program)
    for i in range(2):
        assert ("conv", f"blocks.{i}.gate", "return F.hardswish(self.gate(x)) + x") in found
        assert ("add", f"blocks.{i}", "return F.hardswish(self.gate(x)) + x") in found
    assert ("softmax", "", "return F.softmax(x, -1)") in found
    assert all(op.source.file == __file__ for op in converted.program.walk())


def test_the_sources_are_read_back_from_the_package(converted, package, monkeypatch):
    loaded = nanproof.load(package)
    assert places(loaded) == places(converted.program)
    assert {op.source.line for op in loaded.walk()} == {op.source.line for op in converted.program.walk()}


def test_the_package_tells_no_path_outside_the_working_folder(converted, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    written = decode(encode(sources_of(converted.program)))
    assert {source.file for source in written.values()} == {Path(__file__).name}


def test_the_package_holds_nothing_beside_the_manifest_and_the_data(package):
    assert sorted(p.name for p in Path(package).iterdir()) == ["Data", "Manifest.json"]


def test_a_map_survives_its_encoding():
    sources = {"a": Source("/x/y.py", 3, "z = x + y", "layer.0"), "b": Source("/x/y.py", 3, "z = x + y", "layer.1")}
    assert decode(encode(sources)) == sources


def packed(text):
    return base64.b64encode(zlib.compress(text.encode())).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64",
        base64.b64encode(b"no zlib").decode(),
        packed("no json"),
        packed("[1, 2]"),
        packed('{"version": 2}'),
        packed('{"version": 1, "files": [], "modules": [], "lines": [[0, 1, ""]], "ops": {}}'),
        packed('{"version": 1, "files": [], "modules": [], "lines": [], "ops": {"a": [0, 0]}}'),
        packed("[" * 100_000),
        encode({"a": Source("f.py", 1)})[:-8],
    ],
)
def test_a_damaged_map_is_no_map(text):
    assert decode(text) == {}


def test_a_bomb_is_not_unpacked():
    bomb = base64.b64encode(zlib.compress(b'"' + b"a" * (1 << 27) + b'"')).decode()
    assert len(bomb) < 1 << 18
    assert decode(bomb) == {}


def test_a_damaged_map_leaves_the_package_usable(converted, tmp_path):
    model = converted.model
    model.user_defined_metadata[KEY] = "damaged"
    model.save(str(tmp_path / "m.mlpackage"))
    assert all(op.source is None for op in nanproof.load(tmp_path / "m.mlpackage").walk())
