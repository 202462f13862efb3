"""Expected values that coremltools publishes in its own tests, which Apple runs on devices.

The tests of the installed package are run with their ``run_compare_builder`` replaced: instead of asking Core ML it
executes the built program here and compares.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Function, Program

import nanproof
from nanproof.mil.coreml import quiet
from nanproof.mil.reflect import reflect

OPS = "coremltools.converters.mil.mil.ops.tests"


class Backend:
    """What their tests want to know about a backend."""

    backend, precision = "mlprogram", "fp32"

    def __init__(self, opset: str) -> None:
        self.opset_version = getattr(ct.target, opset)


class Theirs:
    """Runs coremltools' tests; ``compared`` counts the programs whose values were checked."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.compared = 0
        # Their helpers import Pillow for tests on images; ours has no use for it.
        patch.setitem(sys.modules, "PIL", sys.modules.get("PIL") or MagicMock())

    def run(self, where: str, name: str, opset: str, **arguments: Any) -> None:
        """One test of theirs, ``TestX.test_y`` of ``iOS15.test_z``."""

        def compare(
            build: Any, input_placeholders: Any, input_values: Any, types: Any, expected: Any, **rest: Any
        ) -> None:
            self._compare(build, opset, input_placeholders, input_values, expected)

        def compare_named(build: Any, *given: Any, **named: Any) -> None:
            names = ("input_placeholders", "input_values", "expected_output_types", "expected_outputs")
            compare(build, *given, *(named[n] for n in names[len(given) :]))

        with quiet():
            module: ModuleType = importlib.import_module(f"{OPS}.{where}")
        self.patch.setattr(module, "run_compare_builder", compare_named)
        group, test = name.split(".")
        getattr(getattr(module, group)(), test)(
            compute_unit=ct.ComputeUnit.CPU_ONLY, backend=Backend(opset), **arguments
        )

    def _compare(self, build: Any, opset: str, placeholders: Any, values: Any, expected: Any) -> None:
        with quiet(), Function(placeholders, opset_version=getattr(ct.target, opset)) as function:
            results = build(**function.inputs)
            function.set_outputs(list(results) if isinstance(results, list | tuple) else [results])
        program = Program()
        program.add_function("main", function)
        ours = list(nanproof.predict(reflect(program), values).values())
        theirs = expected if isinstance(expected, list) else [expected]
        self.compared += 1
        for mine, published in zip(ours, theirs, strict=True):
            assert mine.shape == published.shape
            np.testing.assert_allclose(mine, published, rtol=2e-4, atol=1e-4)


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Theirs]:
    runner = Theirs(monkeypatch)
    yield runner
    assert runner.compared, "nothing was compared"


@pytest.mark.parametrize("mode", range(5))
def test_crop_resize_of_ios15(theirs: Theirs, mode: int) -> None:
    test = "TestCropResize.test_builder_to_backend_smoke"
    theirs.run("iOS14.test_image_resizing", test, "iOS15", is_symbolic=False, mode=mode)


@pytest.mark.xfail(
    reason="a normalised box [2, 2, 1, 1], which the documentation excludes; they expect the whole image"
)
def test_crop_resize_of_ios15_with_a_box_outside_its_domain(theirs: Theirs) -> None:
    test = "TestCropResize.test_builder_to_backend_smoke"
    theirs.run("iOS15.test_image_resizing", test, "iOS15", is_symbolic=False)


@pytest.mark.parametrize("pad_value", [0.0, 1.0, 10.0])
def test_crop_resize_of_ios16(theirs: Theirs, pad_value: float) -> None:
    theirs.run(
        "iOS16.test_image_resizing", "TestCropResize.test_builder_to_backend_ios16", "iOS16", pad_value=pad_value
    )


@pytest.mark.parametrize("boxes", [1, 3])
def test_crop_resize_of_ios17(theirs: Theirs, boxes: int) -> None:
    theirs.run("iOS17.test_image_resizing", "TestCropResize.test_builder_to_backend_ios17", "iOS17", N=boxes)


def test_non_maximum_suppression(theirs: Theirs) -> None:
    theirs.run("iOS14.test_tensor_operation", "TestNonMaximumSuppression.test_builder_to_backend_smoke", "iOS15")


LAYER = {"seq_len": 3, "batch_size": 2, "input_size": 4, "hidden_size": 5, "has_bias": True}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("every", [True, False])
def test_recurrent_layers(theirs: Theirs, direction: str, every: bool) -> None:
    common = {**LAYER, "output_sequence": every, "direction": direction, "symbolic": False, "dtype": np.float32}
    # Core ML had a fault with batches of a gru, so they test one sequence.
    gru = {**common, "batch_size": 1, "activation_functions": ["tanh", "sigmoid"]}
    theirs.run("iOS14.test_recurrent", "TestGRU.test_builder_to_backend_smoke", "iOS15", **gru)
    theirs.run("iOS14.test_recurrent", "TestLSTM.test_builder_to_backend_smoke_unilstm", "iOS15", **common)
    theirs.run("iOS14.test_recurrent", "TestRNN.test_builder_to_backend_smoke", "iOS15", **common)


@pytest.mark.parametrize("every", [True, False])
def test_bidirectional_layers(theirs: Theirs, every: bool) -> None:
    settings = {**LAYER, "output_sequence": every, "symbolic": False, "dtype": np.float32}
    theirs.run("iOS14.test_recurrent", "TestLSTM.test_builder_to_backend_smoke_bidirlstm", "iOS15", **settings)


@pytest.mark.parametrize("clip", [50.0, 0.2, 0.01])
@pytest.mark.parametrize("outer", ["relu", "scaled_tanh", "hard_sigmoid", "linear"])
def test_peepholes_clips_and_activations(theirs: Theirs, outer: str, clip: float) -> None:
    gates = {"activation": "sigmoid", "inner_activation": "tanh", "outer_activation": outer}
    flags = {"return_seq": True, "has_bias": True, "forget_bias": True, "has_peephole": True}
    sizes = {"input_dims": [2, 7, 8], "output_dim": 4, "clip": clip, "coupled_input_forget": False}
    test = "TestLSTM.test_numpy_numerical"
    theirs.run("iOS14.test_recurrent", test, "iOS15", **gates, **flags, **sizes, dtype=np.float32)
