"""Witnesses as files."""

from __future__ import annotations

import numpy as np
import pytest

from nanproof.cli.arrays import read_arrays
from nanproof.errors import UsageError
from nanproof.refutation.witness import Witness


def witness(**inputs):
    return Witness(inputs, "exp_0", "exp", "gpu", "Inf", 1e5, np.inf, "highest")


def test_a_saved_witness_is_what_the_command_line_reads(tmp_path):
    inputs = {"x": np.array([[1.5, 12.0]], np.float32), "ids": np.array([3], np.int32), "file": np.array([True])}
    path = witness(**inputs).save(tmp_path / "witness.npz")
    read = read_arrays(path)
    assert list(read) == list(inputs)
    for name, array in inputs.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["witness.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "witness.npz"
    witness(x=np.zeros(1)).save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Object arrays"):
        witness(x=np.array([None])).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["witness.npz"]


def test_where_it_cannot_be_saved(tmp_path):
    with pytest.raises(UsageError, match=r"saved as \.npz"):
        witness(x=np.zeros(1)).save(tmp_path / "witness.json")
    with pytest.raises(UsageError, match="Cannot write"):
        witness(x=np.zeros(1)).save(tmp_path / "missing" / "witness.npz")


def test_it_says_what_happened_and_how_to_see_it_again():
    one = witness(x=np.zeros(1))
    assert str(one) == "exp 'exp_0' makes Inf where float32 has 1e+05, on gpu; outputs are Inf or NaN (highest)"
    assert one.reproduction("m.mlpackage", "w.npz") == "nanproof check m.mlpackage --inputs w.npz --unit gpu"
