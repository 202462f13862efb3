"""Weight files against coremltools' own writer, types of less than a byte included; kinds of values in programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader as BlobReader
from coremltools.libmilstoragepython import _BlobStorageWriter as BlobWriter

from nanproof.errors import ModelFileError
from nanproof.mil.blob import BlobFile
from nanproof.mil.read import load
from nanproof.mil.reflect import reflect
from nanproof.program import DType, Kind, Type
from tests.laws.programs import CASES, stateful

PACKED = [DType.INT4, DType.UINT1, DType.UINT2, DType.UINT3, DType.UINT4, DType.UINT6]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 1001])
@pytest.mark.parametrize("dtype", PACKED, ids=lambda d: d.value)
def test_packed_weights_are_those_that_were_written(tmp_path: Path, dtype: DType, count: int) -> None:
    low, high = (-8, 8) if dtype is DType.INT4 else (0, 2**dtype.packed_bits)
    values = np.random.default_rng(count).integers(low, high, count).astype(dtype.numpy)
    path = tmp_path / "weight.bin"
    writer = BlobWriter(str(path))
    offset = getattr(writer, f"write_{dtype.value}_data")(values)
    other = writer.write_float_data(np.ones(3, np.float32))
    del writer
    read = BlobFile(path).read(offset, dtype, (count,))
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(getattr(BlobReader(str(path)), f"read_{dtype.value}_data")(offset), values)
    assert BlobFile(path).read(other, DType.FP32, (3,)).tolist() == [1, 1, 1]
    with pytest.raises(ModelFileError, match="is declared uint8 but stored as element type"):
        BlobFile(path).read(offset, DType.UINT8, (count,))
    with pytest.raises(ModelFileError, match=f"but {dtype.value}.* was declared"):
        BlobFile(path).read(offset, dtype, (count + 9,))


def test_kinds_of_values() -> None:
    assert reflect(stateful()).states["total"] == Type(DType.FP16, (4,), Kind.STATE)
    lists = reflect(next(c for c in CASES if c.name == "lists").build())
    made = next(op for op in lists.walk() if op.type == "make_list")
    assert made.outputs[0].type == Type(DType.FP32, (3,), Kind.LIST, length=2)
    assert str(made.outputs[0].type) == "list<fp32[3], 2>"


def test_the_dictionary_of_a_classifier(tmp_path: Path) -> None:
    program = load(next(c for c in CASES if c.name == "labels").convert(tmp_path / "m.mlpackage"))
    label, probabilities = program.outputs.values()
    assert label == Type(DType.STRING)
    assert probabilities == Type(DType.FP64, (), Kind.DICTIONARY, keys=DType.STRING)
    classes = next(op for op in program.walk() if op.type == "classify").input("classes")
    assert classes is not None
    assert classes.type == Type(DType.STRING, (), Kind.LIST, length=3)
    assert list(classes.const) == ["a", "b", "c"]
