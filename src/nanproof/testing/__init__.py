"""For tests: that a module converts (:func:`assert_converts`), and snapshots of verdicts that only a person loosens.

The pytest plugin comes with the package. Also here: the bridge by which coremltools' own tests judge our predictions.
"""

from __future__ import annotations

from nanproof.testing.assertions import assert_converts

__all__ = ["assert_converts"]
