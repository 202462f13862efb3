"""Hazards and models made by others, where the shared test material is at hand."""

from __future__ import annotations

import numpy as np
import pytest

import nanproof

MASKS = ("mask_sentinel_overflow", "inf_algebra_in_mask", "clip_bound_sentinel")


@pytest.fixture
def hazards(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared))
    import hazards

    return hazards


def test_basic_pitch_agrees_with_onnx_runtime(shared):
    folder = shared / "models" / "basic_pitch"
    program = nanproof.load(folder / "nmp.mlpackage")
    windows = np.load(folder / "windows.npz")
    for i in range(len(windows["input_2"])):
        outputs = nanproof.predict(program, {"input_2": windows["input_2"][i : i + 1]})
        for name, output in outputs.items():
            assert np.abs(output - windows[name][i : i + 1]).max() < 1e-4


def test_mask_and_clip_hazards_are_cured_without_fp32(hazards):
    cases = [c for c in hazards.load_all() if c.hazard_class in MASKS and not c.twin_of and c.rule == "storage"]
    assert len(cases) >= 7
    for case in cases:
        result = nanproof.convert(case.module, case.example_inputs, tolerance=case.tolerance)
        assert result.passed, case.name
        assert result.plan.fp32_ops == 0, case.name
        for inputs in (*case.stress_inputs, *case.benign_inputs):
            comparison = nanproof.compare(result.program, case.module, tuple(inputs), numerics="gpu")
            assert comparison.within(case.tolerance), (case.name, comparison)


def test_benign_twins_gain_no_fp32(hazards):
    twins = [c for c in hazards.load_all() if c.twin_of]
    assert len(twins) >= 12
    for case in twins:
        result = nanproof.convert(case.module, case.example_inputs, tolerance=case.tolerance)
        assert result.passed, case.name
        assert result.plan.fp32_ops == 0, case.name
