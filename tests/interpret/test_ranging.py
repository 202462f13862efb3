"""Ranges over many inputs: the same however the work is cut, kept, resumed, merged or shared."""

from __future__ import annotations

import json
import tracemalloc
from itertools import islice

import numpy as np
import pytest
import torch

import nanproof
from nanproof.errors import CouldNotCheckError, InputError, UsageError
from nanproof.interpret.ranges_file import merged, read_ranges, write_ranges
from nanproof.program import Block, DType, Function, Op, Program, Type, Value


def program(op_type="square", rows=2):
    x, y, z = (Value(name, Type(DType.FP32, (rows, 3))) for name in "xyz")
    turned = Value("turned", Type(DType.FP32, (3, rows)))
    perm = Value("perm", Type(DType.INT32, (2,)), np.array([1, 0], np.int32))
    ops = (
        Op(op_type, "y", {"x": (x,)}, (y,)),
        Op("transpose", "turned", {"x": (y,), "perm": (perm,)}, (turned,)),
        Op("relu", "z", {"x": (y,)}, (z,)),
    )
    return Program({"main": Function("main", {"x": x}, Block((x,), ops, (z, turned)), "CoreML7")})


def calls(count, rows=2):
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 100, (rows, 3)).astype(np.float32)} for _ in range(count)]


def test_ranges_are_those_of_numpy():
    given = calls(5)
    found = nanproof.ranges(program(), given)
    squares = np.square(np.stack([call["x"] for call in given]))
    assert found.runs == 5
    assert (found["y"].low, found["y"].high) == (squares.min(), squares.max())
    assert found["turned"] == found["z"] == found["y"]
    assert found["y"].count == squares.size
    assert found["x"].smallest == np.abs([call["x"] for call in given]).min()


def test_the_same_from_every_source(tmp_path):
    given = calls(4)
    expected = nanproof.ranges(program(), given)
    stacked = np.concatenate([call["x"] for call in given])
    for i, call in enumerate(given):
        np.savez(tmp_path / f"{i}.npz", **call)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.from_numpy(stacked), torch.zeros(8)), batch_size=4
    )
    for source in (
        (call["x"] for call in given),
        [(call["x"], "label") for call in given],
        [{**call, "label": 3} for call in given],
        [stacked],
        stacked,
        loader,
        tmp_path,
    ):
        assert nanproof.ranges(program(), source) == expected
    assert nanproof.ranges(program(), str(tmp_path / "1.npz")) == nanproof.ranges(program(), given[1:2])


def test_channels():
    given = calls(3)
    found = nanproof.ranges(program(), given, axis=-1).channels["y"]
    squares = np.square(np.stack([call["x"] for call in given]))
    assert [channel.high for channel in found] == squares.max((0, 1)).tolist()
    assert [channel.low for channel in found] == squares.min((0, 1)).tolist()


def test_several_processes():
    given = calls(11)
    seen: list[int] = []
    assert nanproof.ranges(program(), given, workers=2, progress=seen.append) == nanproof.ranges(program(), given)
    assert seen == sorted(seen)
    assert seen[-1] == 11


def test_errors_of_a_worker_are_told():
    with pytest.raises(InputError, match=r"Input 'x' has shape \(5,\)"):
        nanproof.ranges(program(), [*calls(2), {"x": np.zeros(5, np.float32)}], workers=2)


def test_resuming(tmp_path):
    given, file = calls(7), tmp_path / "ranges.json"
    nanproof.ranges(program(), given[:3], file=file)
    done: list[int] = []
    found = nanproof.ranges(program(), given, file=file, resume=True, progress=done.append)
    assert done == [4, 5, 6, 7], "three runs were done"
    assert found == nanproof.ranges(program(), given) == read_ranges(file).ranges
    with pytest.raises(InputError, match="holds ranges of another program"):
        nanproof.ranges(program("abs"), given, file=file, resume=True)
    with pytest.raises(UsageError, match="resume needs the file"):
        nanproof.ranges(program(), given, resume=True)
    fresh = tmp_path / "fresh.json"
    assert nanproof.ranges(program(), given, file=fresh, resume=True) == found


def test_merging(tmp_path):
    given, paths = calls(6), [tmp_path / "a.json", tmp_path / "b.json"]
    nanproof.ranges(program(), given[:2], file=paths[0], axis=0)
    nanproof.ranges(program(), given[2:], file=paths[1], axis=0)
    assert merged(paths).ranges == nanproof.ranges(program(), given, axis=0)
    other = tmp_path / "c.json"
    nanproof.ranges(program("abs"), given, file=other)
    with pytest.raises(InputError, match=r"c.json' and '.*a.json' do not belong together: their program differs"):
        merged([paths[0], other])


def test_files_keep_what_is_not_finite(tmp_path):
    call = {"x": np.array([[np.inf, np.nan, 0], [1, -2, 3e38]], np.float32)}
    file = tmp_path / "ranges.json"
    found = nanproof.ranges(program(), [call], file=file)
    assert found["y"].infinities == 2, "3e38 squared, too"
    assert read_ranges(file).ranges == found
    json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no ranges"),
        ("[1]", "its schema is None"),
        ('{"schema": "nanproof-ranges/9"}', "its schema is 'nanproof-ranges/9'"),
        ('{"schema": "nanproof-ranges/1"}', "is damaged: KeyError"),
    ],
)
def test_files_that_hold_something_else(tmp_path, content, message):
    file = tmp_path / "ranges.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_ranges(file)


def test_damaged_counts(tmp_path):
    file = tmp_path / "ranges.json"
    nanproof.ranges(program(), calls(1), file=file)
    good = file.read_text()
    for old, new in (('"runs": 1', '"runs": -1'), ('"zeros": 0', '"zeros": "0"'), ('"low": ', '"low": "x", "l": ')):
        assert old in good
        file.write_text(good.replace(old, new))
        with pytest.raises(InputError, match="is damaged"):
            read_ranges(file)


def test_no_file_is_left_half_written(tmp_path):
    observed = read_ranges_of(tmp_path)
    with pytest.raises(UsageError, match=r"Cannot write the ranges '.*missing/r.json'"):
        write_ranges(tmp_path / "missing" / "r.json", observed)


def read_ranges_of(tmp_path):
    nanproof.ranges(program(), calls(1), file=tmp_path / "r.json")
    return read_ranges(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], CouldNotCheckError, "Nothing was observed: there are no inputs"),
        (3, InputError, "The inputs are of type int"),
        ([()], InputError, "A call has 0 values, but the program takes 1 inputs: x."),
        ("nowhere.npz", InputError, "There is no file 'nowhere.npz'"),
    ],
)
def test_sources_that_hold_nothing(source, error, message):
    with pytest.raises(error, match=message):
        nanproof.ranges(program(), source)


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="holds no inputs"):
        nanproof.ranges(program(), tmp_path)


def test_no_workers():
    with pytest.raises(UsageError, match="workers=0: at least one process"):
        nanproof.ranges(program(), calls(1), workers=0)


def test_memory_does_not_grow():
    def peak(count):
        endless = (calls(1)[0] for _ in iter(int, 1))
        tracemalloc.start()
        nanproof.ranges(program(), islice(endless, count))
        return tracemalloc.get_traced_memory()[1], tracemalloc.stop()

    peak(2)
    few, many = peak(10)[0], peak(2000)[0]
    assert many < 1.2 * few + 20_000
