"""Mutation tests of the rules of bounds: the laws catch seeded faults. `make mutations` seeds all of them."""

from __future__ import annotations

import pytest

from tests.laws.draws import THOROUGH
from tests.laws.faults import FAULTS, Fault, first_violation

TURNS = 8
SAMPLE = (
    "ball without roundings",
    "limit of binary16",
    "repeated rows",
    "reversed places",
    "inverted inverse",
    "one branch of two",
)
"""Faults that a usual run seeds; a thorough one seeds all."""


@pytest.mark.parametrize("fault", [f for f in FAULTS if THOROUGH or f.name in SAMPLE], ids=str)
def test_a_seeded_fault_is_caught(fault: Fault) -> None:
    with fault.seeded():
        assert first_violation(fault.shown_by, TURNS) is not None, f"{fault} survives in {fault.module}"


def test_all_faults_can_be_seeded_and_taken_back() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25
    for fault in FAULTS:
        with fault.seeded():
            pass
    assert first_violation(("add", "sums", "moved"), 2) is None
