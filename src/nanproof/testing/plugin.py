"""The pytest plugin: the fixture ``nanproof``, and the option ``--nanproof-update``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nanproof.testing.snapshots import Snapshots

if TYPE_CHECKING:
    from nanproof.result import Conversion

__all__ = ["Checker", "nanproof", "pytest_addoption"]

FOLDER = "__nanproof__"
"""The folder of snapshots, beside the test file."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes snapshots."""
    parser.getgroup("nanproof").addoption(
        "--nanproof-update",
        action="store_true",
        help="write snapshots of verdicts where there are none, or where a conversion has become better",
    )


@dataclass(frozen=True, slots=True)
class Checker:
    """What the fixture ``nanproof`` gives to a test."""

    test: str
    snapshots: Snapshots
    update: bool

    def assert_converts(self, module: Any, inputs: Any = None, **options: Any) -> Conversion:
        """See :func:`nanproof.testing.assert_converts`."""
        from nanproof.testing.assertions import assert_converts

        return assert_converts(module, inputs, **options)

    def assert_no_worse(self, conversion: Conversion, name: str = "") -> None:
        """Assert that verdicts and the number of ops in FP32 are no worse than in the snapshot of this test.

        Args:
            conversion: The conversion.
            name: Tells several conversions of one test apart.

        Raises:
            AssertionError: They are worse, or there is no snapshot yet. ``pytest --nanproof-update`` writes it, and
                tightens those that have become better; only a person who edits the file loosens one.
        """
        self.snapshots.check(f"{self.test}[{name}]" if name else self.test, conversion, update=self.update)


@pytest.fixture
def nanproof(request: pytest.FixtureRequest) -> Checker:
    """Assertions on conversions, with snapshots of their verdicts in ``__nanproof__`` beside the test file."""
    path = Path(request.path)
    home = Snapshots(path.parent / FOLDER / f"{path.stem}.json")
    test = request.node.nodeid.partition("::")[2]
    return Checker(test, home, bool(request.config.getoption("--nanproof-update")))
