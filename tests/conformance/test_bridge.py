"""coremltools' own tests judge nanproof's predictions, and do notice when these are wrong."""

from __future__ import annotations

import json

import pytest

from nanproof.testing.conformance import TESTS, main

TORCH = [f"{TESTS[0]}::{name}" for name in ("TestFull", "TestPad")]
MIL = [f"{TESTS[1]}/iOS14/{name}" for name in ("test_reduction.py", "test_random.py")]


def run(folder, *options, tests=(*TORCH, *MIL)):
    summary = folder / "summary.json"
    code = main([*tests, "--workers", "0", "--seed", "3", "--json", str(summary), *options])
    return code, json.loads(summary.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    folder = tmp_path_factory.mktemp("right")
    return run(folder, "--record", str(folder / "cases.jsonl")), folder


def test_correct_predictions_pass(right):
    (code, summary), _ = right
    assert code == 0
    assert summary["judged"] >= 15
    assert summary["pass_rate"] == 1
    assert summary["predictions"] >= summary["judged"]


def test_cases_that_judge_nothing_are_counted_apart(right):
    outcomes = right[0][1]["outcomes"]
    assert outcomes["not judged"] > 0  # those that only fold constants or check types
    assert sum(outcomes.values()) == right[0][1]["ran"]
    assert right[0][1]["collected"]["neural network"] > 0


def test_wrong_predictions_fail(right, tmp_path):
    """What cannot notice is little: the shapes of random numbers, and values beside which 1 is within FP16's error."""
    code, summary = run(tmp_path, "--spoil")
    assert code == 1
    assert summary["judged"] == right[0][1]["judged"]
    assert summary["pass_rate"] < 0.1
    assert any("Not equal to tolerance" in case["reason"] for case in summary["failed"])


def test_a_run_goes_on_where_its_record_ends(right, tmp_path):
    lines = (right[1] / "cases.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    random = [line for line in lines if "test_random.py" in line]
    record = tmp_path / "cases.jsonl"
    record.write_text("".join(random[2:]), encoding="utf-8")
    _, summary = run(tmp_path, "--record", str(record), tests=MIL[1:])
    again = record.read_text(encoding="utf-8").splitlines(keepends=True)
    assert again[:-2] == random[2:]
    assert sorted(json.loads(line)["id"] for line in again) == sorted(json.loads(line)["id"] for line in random)
    assert summary["ran"] == len(random)
