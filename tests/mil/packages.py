"""Small packages for the tests, made by coremltools itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanproof.mil.coreml import ct, mb, quiet, types


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


def converted(program: Any, target: Any = ct.target.iOS17, **options: Any) -> Any:
    """A program of coremltools' builder as an ``MLModel``, its types as they are (``float16=True`` lowers them)."""
    precision = ct.precision.FLOAT16 if options.pop("float16", False) else ct.precision.FLOAT32
    with quiet():
        return ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=target,
            compute_precision=precision,
            skip_model_load=True,
            **options,
        )


def saved(model: Any, path: Path) -> Path:
    """The package of an ``MLModel``."""
    with quiet():
        model.save(str(path))
    return path


def edited(package: Path, edit: Callable[[Any], None]) -> Path:
    """The package after an edit of its specification in place: what coremltools does not write, but Core ML reads."""
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(spec_file(package).read_bytes())
    edit(spec)
    spec_file(package).write_bytes(spec.SerializeToString())
    return package


def image_model(
    given: str, made: str, *, shape: Any = None, scale: float = 1.0, bias: Any = None, add: float = 5.0
) -> Any:
    """``y = scale * x + bias + add``, from one colour layout to another, 6 x 4 pixels if not said."""
    channels = 1 if given.startswith("GRAYSCALE") else 3
    module = traced(_Plus(add), torch.zeros(1, channels, 4, 6))
    bias = ([0.0] * 3 if channels == 3 else 0.0) if bias is None else bias
    layout = getattr(ct.colorlayout, given)
    with quiet():
        return ct.convert(
            module,
            inputs=[ct.ImageType("x", shape or (1, channels, 4, 6), scale=scale, bias=bias, color_layout=layout)],
            outputs=[ct.ImageType("y", color_layout=getattr(ct.colorlayout, made))],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )


def traced(module: torch.nn.Module, *inputs: torch.Tensor) -> Any:
    """TorchScript, which coremltools takes with images and flexible shapes, and PyTorch calls deprecated."""
    with quiet():
        return torch.jit.trace(module, inputs)


class _Plus(torch.nn.Module):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


def scaling_model(factor: float, given: str, made: str, shape: Any = (2, 3), **options: Any) -> Any:
    """``made = factor * given``, float32."""

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS17)
    def program(x):
        return mb.mul(x=x, y=np.float32(factor), name=made)

    model = converted(program, **options)
    spec = model.get_spec()
    ct.utils.rename_feature(spec, "x", given)
    with quiet():
        return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def pipeline(*models: Any, path: Path) -> Path:
    """The package of a pipeline that coremltools makes of models."""
    with quiet():
        return saved(ct.utils.make_pipeline(*models), path)


def two_functions(folder: Path) -> Path:
    """Functions ``double`` (the default) and ``triple`` of ``x``; the second keeps ``seen``, the sum of all ``x``."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS18)
    def double(x):
        return mb.mul(x=x, y=np.float32(2), name="y")

    @mb.program(
        input_specs=[mb.TensorSpec(shape=(4,), dtype=types.fp16), mb.StateTensorSpec((4,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def triple(x, seen):
        total = mb.add(x=mb.read_state(input=seen), y=x)
        kept = mb.coreml_update_state(state=seen, value=total)
        return mb.mul(x=kept, y=np.float16(3), name="z")

    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, program in (("double", double), ("triple", triple)):
        path = saved(converted(program, ct.target.iOS18), folder / f"{name}.mlpackage")
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = "double"
    with quiet():
        ct.utils.save_multifunction(descriptor, str(folder / "two.mlpackage"))
    return folder / "two.mlpackage"
