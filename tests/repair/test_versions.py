"""Packages of several versions of coremltools are repaired to the same verdict.

One environment holds one coremltools. So the packages are written beforehand: for each version, in an environment with
it, `python tests/repair/packages.py FOLDER`; then NANPROOF_PACKAGES=FOLDER:FOLDER:... names the folders.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nanproof

FOLDERS = [Path(folder) for folder in os.environ.get("NANPROOF_PACKAGES", "").split(os.pathsep) if folder]
NAMES = sorted({path.stem for folder in FOLDERS for path in folder.glob("*.mlpackage")})


def test_each_version_of_coremltools_is_repaired_alike() -> None:
    if len(FOLDERS) < 2:
        pytest.skip("needs packages of several versions of coremltools (NANPROOF_PACKAGES names their folders)")
    assert NAMES
    for name in NAMES:
        found: dict[str, Any] = {}
        for folder in FOLDERS:
            if (folder / f"{name}.mlpackage").exists():  # states, and weights in blocks, came with coremltools 8
                result = nanproof.repair(folder / f"{name}.mlpackage", units=("gpu", "ane"), prove=False)
                rewrites = sorted({rewrite.name for rewrite in result.plan.rewrites})
                found[str(folder)] = (
                    result.verdicts,
                    result.plan.fp32_ops,
                    rewrites,
                    result.original is not None and result.original.healthy,
                )
        assert len({str(one) for one in found.values()}) == 1, (name, found)
