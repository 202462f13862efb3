"""The message classes are coremltools' own, and reading them does not import coremltools."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import nanproof

FIRST_OURS = """
from nanproof.mil import proto
import sys
assert "coremltools" not in sys.modules
import coremltools as ct
assert ct.proto.Model_pb2.Model is proto.Model.Model and ct.proto.MIL_pb2.Program is proto.MIL.Program
"""
FIRST_THEIRS = """
import coremltools as ct
from nanproof.mil import proto
assert ct.proto.Model_pb2.Model is proto.Model.Model and ct.proto.MIL_pb2.Program is proto.MIL.Program
"""


READING = """
import sys
import nanproof
program = nanproof.load(sys.argv[1])
assert program.outputs
assert not {"coremltools", "torch"} & set(sys.modules), "reading imports what it does not need"
"""


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", [FIRST_OURS, FIRST_THEIRS], ids=["ours first", "theirs first"])
def test_both_packages_share_the_message_classes(code):
    run(code)


def test_reading_a_package_imports_neither_coremltools_nor_pytorch(tmp_path):
    path = nanproof.convert(torch.nn.Linear(2, 3), (torch.ones(1, 2),)).save(tmp_path / "m.mlpackage")
    run(READING, str(path))
