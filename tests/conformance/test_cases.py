"""The bookkeeping of coremltools' tests: nothing that was not judged counts as passed."""

from __future__ import annotations

import json

import pytest

from nanproof.errors import UsageError
from nanproof.testing import conformance
from nanproof.testing.cases import (
    Case,
    KnownFailure,
    Outcome,
    Sample,
    count,
    function_of,
    known_failures,
    read_cases,
)
from nanproof.testing.conformance import TESTS, judge

FILE = TESTS[0]
IDS = [f"{FILE}::TestA::test_{f}[{n}]" for f in "abc" for n in range(20)]
KNOWN = KnownFailure("torch/test/test_torch_ops.py::TestA::test_a", "1?", "torch", "for a reason")


def cases(**numbers):
    return [Case(f"{outcome}{i}", Outcome[outcome]) for outcome, number in numbers.items() for i in range(number)]


def test_a_sample_takes_as_many_of_each_function_and_depends_on_the_seed():
    chosen = Sample(per_function=2, seed=1).choose(IDS)
    assert sorted(function_of(id)[-1] for id in chosen) == ["a", "a", "b", "b", "c", "c"]
    assert chosen == Sample(per_function=2, seed=1).choose(IDS[::-1])
    assert chosen != Sample(per_function=2, seed=2).choose(IDS)
    of_one = Sample(per_function=2, seed=1).choose([id for id in IDS if "test_b" in id])
    assert of_one == {id for id in chosen if "test_b" in id}


def test_a_fraction_and_all():
    assert len(Sample(fraction=0.25).choose(IDS)) == 15
    assert Sample().choose(IDS) == set(IDS)
    assert len(Sample(per_function=100).choose(IDS)) == len(IDS)


def test_a_case_that_was_not_judged_is_not_a_pass():
    nothing = cases(NOT_JUDGED=5, SKIPPED=3, NEURAL_NETWORK=2, NOT_CONVERTED=1, NOT_PREDICTED=1, NOT_RUNNABLE=1)
    verdict = judge(nothing, [])
    assert (verdict.judged, verdict.pass_rate, verdict.exit_code) == (0, 0.0, 3)
    verdict = judge([*nothing, *cases(PASSED=3, FAILED=1)], [])
    assert (verdict.judged, verdict.pass_rate, verdict.exit_code) == (4, 0.75, 1)
    assert count(verdict.cases)[Outcome.NOT_JUDGED] == 5


def test_a_known_failure_is_expected_and_must_fail():
    many = cases(PASSED=1000)
    failing, mended = Case(IDS[11], Outcome.FAILED), Case(IDS[12], Outcome.PASSED)
    assert judge([*many, failing], [KNOWN]).exit_code == 0
    assert judge([*many, failing], [KNOWN]).explained == [(failing, KNOWN)]
    assert judge([*many, failing], []).unexpected == [failing]
    assert judge([*many, failing], []).exit_code == 1
    assert judge([*many, mended], [KNOWN]).mended == [mended]
    assert judge([*many, mended], [KNOWN]).exit_code == 1
    assert judge([*many, Case(IDS[2], Outcome.PASSED)], [KNOWN]).exit_code == 0  # the pattern is 1?, and this is 2


def test_known_failures_count_against_the_bar():
    listed = [Case(id, Outcome.FAILED) for id in IDS[10:20]]
    assert judge([*cases(PASSED=1989), *listed], [KNOWN]).exit_code == 1
    assert judge([*cases(PASSED=1990), *listed], [KNOWN]).exit_code == 0
    assert judge([*cases(PASSED=10), *listed], [KNOWN], bar=0).exit_code == 0


def test_the_checked_in_list_is_complete_and_its_kinds_are_known(tmp_path):
    assert all(entry.reason and entry.test.count("::") >= 1 for entry in known_failures())
    (tmp_path / "list.toml").write_text('[[failure]]\ntest = "a.py::b"\nkind = "weather"\nreason = "rain"\n', "utf-8")
    with pytest.raises(UsageError, match="a kind of coremltools, torch, nanproof, numerics"):
        known_failures(tmp_path / "list.toml")


def test_a_record_keeps_the_last_of_each_case_and_survives_a_cut(tmp_path):
    record = tmp_path / "cases.jsonl"
    first, again = Case(IDS[0], Outcome.FAILED, "why", 1, 0.5), Case(IDS[0], Outcome.PASSED, "", 2, 0.25)
    other = Case(IDS[1], Outcome.SKIPPED, "rdar")
    record.write_text("\n".join(c.to_json() for c in (first, other, again)) + '\n{"id": "cut', "utf-8")
    assert read_cases(record) == [again, other]
    assert json.loads(first.to_json())["outcome"] == "failed"
    assert read_cases(tmp_path / "none.jsonl") == []


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setattr(conformance, "find_spec", lambda name: None if name in ("PIL", "scipy") else name)
    assert conformance.main([]) == 3
    assert "The tests need pillow, scipy, not installed here: pip install 'nanproof[conf" in capsys.readouterr().out
