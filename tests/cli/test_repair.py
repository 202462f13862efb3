"""``nanproof repair`` on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command
from tests.repair import packages
from tests.repair.test_repair import saved, written_bytes


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(packages.rms_norm, tmp_path_factory.mktemp("cli") / "broken.mlpackage")


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(packages.healthy, tmp_path_factory.mktemp("cli") / "healthy.mlpackage")


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(packages.lost, tmp_path_factory.mktemp("cli") / "lost.mlpackage")


def test_repair_writes_the_package_and_the_report(nanproof: Command, broken: Path, tmp_path: Path) -> None:
    before = written_bytes(broken)
    fixed, page = tmp_path / "fixed.mlpackage", tmp_path / "fixed.html"
    said = nanproof("repair", broken, "-o", fixed, "--report", page)
    assert said.code == 0
    assert "from the float32 twin" in said.out
    assert "3 inputs drawn at random" in said.out
    assert "NP111 square-overflow" in said.out
    assert "Repair report" in page.read_text() or "broken.mlpackage" in page.read_text()
    assert "PyTorch has none" not in page.read_text()
    assert written_bytes(broken) == before
    np.savez(tmp_path / "in.npz", x=packages.numbers(2, 8, 32))
    assert nanproof("check", fixed, "--inputs", tmp_path / "in.npz").code == 0
    assert nanproof("check", broken, "--inputs", tmp_path / "in.npz").code == 1


def test_json_has_what_was_and_what_is(nanproof: Command, broken: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=packages.numbers(2, 8, 32))
    fixed = tmp_path / "fixed.mlpackage"
    said = nanproof("repair", broken, "-o", fixed, "--inputs", tmp_path / "in.npz", "--unit", "ane", "--json")
    document = said.document
    assert (document["verdict"], document["reference"]) == ("proved", "the float32 twin")
    assert document["rests_on"]["statement"].startswith(
        "proved finite for all inputs that are assumed, and tested on 1 given input and"
    )
    assert document["original"]["units"]["ane"]["verdict"] == "failed"
    assert not document["original"]["drawn_inputs"]
    assert not document["original"]["healthy"]
    assert document["file"] == str(fixed)
    assert document["plan"]["fp32_ops"] == 0


def test_a_healthy_package_is_said_to_be_so(nanproof: Command, healthy: Path, tmp_path: Path) -> None:
    said = nanproof("repair", healthy, "-o", tmp_path / "same.mlpackage")
    assert said.code == 0
    assert "nothing to repair" in said.out
    assert written_bytes(tmp_path / "same.mlpackage") == written_bytes(healthy)


def test_what_cannot_be_judged_is_not_written(nanproof: Command, lost: Path, tmp_path: Path) -> None:
    target = tmp_path / "fixed.mlpackage"
    said = nanproof("repair", lost, "-o", target)
    assert said.code == 3
    assert "was not written, since the repair could not be judged" in " ".join(said.out.split())
    assert "its weights 'weight' hold 1 Inf" in " ".join(said.out.split())
    assert not target.exists()
    assert nanproof("repair", lost, "-o", target, "--keep-failed").code == 3
    assert target.exists()


def test_without_any_tolerance_all_is_fp32(nanproof: Command, broken: Path, tmp_path: Path) -> None:
    said = nanproof("repair", broken, "-o", tmp_path / "fixed.mlpackage", "--tolerance", "0", "--json")
    assert said.code == 0
    assert said.document["program"]["fp16"] == 0


def test_the_package_is_never_written_over(nanproof: Command, broken: Path) -> None:
    said = nanproof("repair", broken, "-o", broken)
    assert said.code == 2
    assert "never written over" in said.err


def test_what_is_no_package_is_refused(nanproof: Command, tmp_path: Path) -> None:
    for name, message in (("net.pt2", "nanproof convert"), ("m.mlmodelc", "compiled"), ("x.mlpackage", "There is no")):
        said = nanproof("repair", tmp_path / name, "-o", tmp_path / "out.mlpackage")
        assert said.code == 2
        assert message in said.err
