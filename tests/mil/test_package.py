"""Bad files: each a clear error that says what, where and what to do, and never a crash or a half-written package."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nanproof.errors import ModelFileError
from nanproof.mil.package import copy_package
from nanproof.mil.read import load
from tests.mil.packages import linear_package, spec_file, weight_file


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return linear_package(tmp_path_factory.mktemp("package"))


@pytest.fixture
def package(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "linear.mlpackage"))


def error_of(path):
    with pytest.raises(ModelFileError) as caught:
        load(path)
    return str(caught.value)


def test_a_good_package_loads(package):
    program = load(package)
    assert [op.type for op in program.walk()] == ["linear", "relu"]
    assert list(program.inputs) == ["x"]
    assert str(program.outputs["y"]) == "fp32[4, 16]"


def test_nothing_there(tmp_path):
    assert "There is no file or folder" in error_of(tmp_path / "missing.mlpackage")


def test_a_file_is_no_package(tmp_path):
    path = tmp_path / "model.mlpackage"
    path.write_bytes(b"PK\x03\x04 not a model")
    assert "is no .mlpackage: it is a file" in error_of(path)


def test_an_older_model_file(tmp_path):
    path = tmp_path / "old.mlmodel"
    path.write_bytes(b"\x08\x01")
    assert "convert again with convert_to='mlprogram'" in error_of(path)


def test_a_folder_without_manifest(tmp_path):
    assert "has no Manifest.json" in error_of(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"itemInfoEntries": {}}', "\xff", '{"rootModelIdentifier": 3, "itemInfoEntries": 4}']
)
def test_a_damaged_manifest(package, text):
    (package / "Manifest.json").write_bytes(text.encode("latin-1"))
    assert "is damaged" in error_of(package)


def test_a_manifest_that_leads_out_of_the_package(package, tmp_path):
    (tmp_path / "secret").write_text("secret")
    manifest = json.loads((package / "Manifest.json").read_text())
    for item in manifest["itemInfoEntries"].values():
        item["path"] = "../../secret"
    (package / "Manifest.json").write_text(json.dumps(manifest))
    assert "leads out of the package" in error_of(package)


def test_missing_specification(package):
    spec_file(package).unlink()
    assert "lacks its model specification" in error_of(package)


def test_a_specification_that_is_no_protobuf(package):
    spec_file(package).write_bytes(b"\xff" * 64)
    assert "cannot be read" in error_of(package)


def test_an_empty_specification(package):
    spec_file(package).write_bytes(b"")
    assert "holds no model, not an ML Program" in error_of(package)


def test_missing_weights(package):
    weight_file(package).unlink()
    assert "is missing. An .mlpackage is a folder; copy it whole" in error_of(package)


def test_empty_weights(package):
    weight_file(package).write_bytes(b"")
    assert "is empty" in error_of(package)


def test_truncated_weights(package):
    path = weight_file(package)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off while it was copied" in error_of(package)


def test_weights_cut_inside_the_header(package):
    weight_file(package).write_bytes(b"\x01\x00\x00")
    assert "ends inside its header" in error_of(package)


def test_weights_of_another_version(package):
    path = weight_file(package)
    data = bytearray(path.read_bytes())
    data[4] = 9
    path.write_bytes(bytes(data))
    assert "has version 9; ML Programs use version 2" in error_of(package)


def test_a_damaged_weight_record(package):
    path = weight_file(package)
    data = bytearray(path.read_bytes())
    data[64:68] = b"\0\0\0\0"
    path.write_bytes(bytes(data))
    assert "has no valid record there" in error_of(package)


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_never_crash(package, seed):
    """Any damage is a ModelFileError, or the file still means something."""
    rng = np.random.default_rng(seed)
    path = spec_file(package) if seed % 2 else weight_file(package)
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[rng.integers(0, data.size, 5)] = rng.integers(0, 256, 5)
    path.write_bytes(data.tobytes()[: rng.integers(data.size // 2, data.size + 1)])
    with contextlib.suppress(ModelFileError):
        load(package)


def test_copy_replaces_a_package(package, original, tmp_path):
    target = tmp_path / "out.mlpackage"
    copy_package(original, target)
    copy_package(package, target)
    assert load(target).inputs == load(original).inputs
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_copy_refuses_what_is_no_package(package, tmp_path):
    target = tmp_path / "precious.mlpackage"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelFileError, match=r"exists and is no \.mlpackage"):
        copy_package(package, target)
    assert (target / "thesis.tex").read_text() == "years of work"


def test_copy_refuses_another_suffix(package, tmp_path):
    with pytest.raises(ModelFileError, match=r"must end in \.mlpackage"):
        copy_package(package, tmp_path / "model.zip")


def test_copy_needs_the_folder(package, tmp_path):
    with pytest.raises(ModelFileError, match="does not exist"):
        copy_package(package, tmp_path / "nowhere" / "m.mlpackage")


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_copy_leaves_the_destination_as_it_was(package, tmp_path, monkeypatch, failure):
    target = copy_package(package, tmp_path / "out.mlpackage")
    before = spec_file(target).read_bytes()

    def fail(source, destination, **kwargs):
        Path(destination).mkdir()
        raise failure

    monkeypatch.setattr("nanproof.mil.package.shutil.copytree", fail)
    with pytest.raises((ModelFileError, KeyboardInterrupt)):
        copy_package(package, target)
    assert spec_file(target).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["linear.mlpackage", "out.mlpackage"]
