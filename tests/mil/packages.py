"""Small packages for the tests, made by coremltools itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nanproof.mil.coreml import ct, mb, quiet


def linear_package(folder: Path) -> Path:
    """``y = relu(x @ w.T + b)``, float32, with weights large enough to live in ``weight.bin``."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 32)).astype(np.float32)
    bias = rng.standard_normal(16).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 32))], opset_version=ct.target.iOS17)
    def program(x):
        return mb.relu(x=mb.linear(x=x, weight=weight, bias=bias), name="y")

    with quiet():
        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        path = folder / "linear.mlpackage"
        model.save(str(path))
    return path


def weight_file(package: Path) -> Path:
    """The weight file of a package."""
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def spec_file(package: Path) -> Path:
    """The model specification of a package."""
    return package / "Data" / "com.apple.CoreML" / "model.mlmodel"
