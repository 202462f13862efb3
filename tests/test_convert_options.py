"""The options of `coremltools.convert`, as a script has them that was written for it."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import nanproof
from nanproof.errors import CaptureError, ConversionError, InputError, ModelFileError, UsageError
from nanproof.mil.coreml import ct
from nanproof.request import CoremltoolsOptions
from nanproof.trial import Trial

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # people have such models still


class Photo(nn.Module):
    """Scores of three classes for a picture of eight by eight."""

    def __init__(self, channels: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return torch.softmax(self.linear(self.conv(x).mean((2, 3))), -1)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(x)


class Lookup(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(2, 4)

    def forward(self, ids):
        return self.table(ids)


X = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
LABELS = ["cat", "dog", "emu"]


def test_every_option_of_coremltools_is_taken():
    theirs = set(inspect.signature(ct.convert).parameters)
    assert theirs == {"model", *CoremltoolsOptions.__annotations__}
    with pytest.raises(TypeError, match="unexpected keyword argument 'classifier'"):
        nanproof.convert(Head(), (X,), classifier=LABELS)


LAYOUTS = {
    "rgb": (3, dict(scale=1 / 127.5, bias=[-1.0, -0.9, -1.1])),
    "bgr": (3, dict(scale=1 / 255, bias=[-0.4, -0.5, -0.6], color_layout=ct.colorlayout.BGR)),
    "gray": (1, dict(scale=1 / 255, bias=-0.5, color_layout=ct.colorlayout.GRAYSCALE)),
    "gray in half": (1, dict(scale=0.01, bias=0.5, color_layout=ct.colorlayout.GRAYSCALE_FLOAT16)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("traced", [False, True], ids=["module", "traced"])
def test_images(layout, traced):
    channels, given = LAYOUTS[layout]
    module = Photo(channels).eval()
    shape = (1, channels, 8, 8)
    model = torch.jit.trace(module, torch.rand(shape)) if traced else module
    result = nanproof.convert(model, inputs=[ct.ImageType(name="photo", shape=shape, **given)])
    assert result.passed
    assert result.comparison.error > 0
    pixels = np.random.default_rng(4).integers(0, 256, (8, 8, 3) if channels == 3 else (8, 8)).astype(np.uint8)
    planes = pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]
    if layout == "bgr":
        planes = planes[::-1]
    seen = planes.astype(np.float32) * given["scale"] + np.reshape(given["bias"], (-1, 1, 1))
    wanted = module(torch.tensor(seen[None], dtype=torch.float32)).detach().numpy()
    image = Image.fromarray(pixels.astype(np.float32) if layout == "gray in half" else pixels)
    (scores,) = nanproof.predict(result.program, {"photo": image}, numerics="gpu").values()
    np.testing.assert_allclose(scores, wanted, atol=2e-3)


def test_pytorch_sees_only_what_pixels_can_hold():
    """A tensor beyond the range of an image is no image: the nearest one stands for it, and both sides get that."""
    declared = ct.ImageType(shape=(1, 3, 8, 8), scale=1 / 255)
    result = nanproof.convert(Photo(), (torch.randn(1, 3, 8, 8) * 9,), inputs=[declared])
    assert result.passed


@pytest.mark.parametrize("target", ["iOS15", "iOS17"])
@pytest.mark.parametrize("labels", [LABELS, [7, 8, 9]], ids=["names", "numbers"])
def test_classifiers(target, labels):
    module, x = Photo().eval(), torch.rand(1, 3, 8, 8)
    config = ct.ClassifierConfig(labels, predicted_feature_name="kind")
    result = nanproof.convert(module, (x,), classifier_config=config, minimum_deployment_target=target)
    assert result.passed
    assert 0 < result.comparison.error < 1e-2
    outputs = nanproof.predict(result.program, {"x": x})
    wanted = module(x).detach().numpy()[0]
    assert outputs["kind"] == labels[int(wanted.argmax())]
    assert outputs["kind_probs"] == pytest.approx(dict(zip(labels, wanted, strict=True)), abs=1e-3)


class Two(nn.Module):
    def forward(self, x):
        return torch.softmax(x, -1), torch.relu(x)


def test_the_classified_output_can_be_named():
    config = ct.ClassifierConfig(LABELS, predicted_probabilities_output="scores")
    x = torch.randn(1, 3)
    outputs = [ct.TensorType(name="scores"), ct.TensorType(name="rest")]
    result = nanproof.convert(Two(), (x,), outputs=outputs, classifier_config=config)
    assert result.passed
    assert [o.name for o in result.comparison.outputs] == ["scores", "rest"]


def test_a_classified_tensor_that_is_no_output():
    config = ct.ClassifierConfig(LABELS, predicted_probabilities_output="scores")
    with pytest.raises(UsageError, match=r"(?s)'scores' is no output of the model, which has .*Name one of these"):
        nanproof.convert(Head(), (X[:1],), classifier_config=config)


def test_probabilities_that_belong_to_no_output_are_not_compared():
    result = nanproof.convert(Head(), (X[:1],), classifier_config=ct.ClassifierConfig(LABELS))
    trial = Trial(("scores", "rest"), [], [], [], [])
    with pytest.raises(UsageError, match=r"(?s)does not return.*predicted_probabilities_output='scores'"):
        trial.answers(result.program, [])


def test_inputs_without_examples():
    declared = [ct.TensorType(name="features", shape=(4, 8))]
    result = nanproof.convert(Head(), inputs=declared)
    assert result.passed
    assert {n: str(t) for n, t in result.program.inputs.items()} == {"features": "fp32[4, 8]"}
    assert (declared[0].dtype, declared[0].name) == (None, "features"), "the user's declaration stays as it was"
    ids = nanproof.convert(Lookup(), inputs=[ct.TensorType(shape=(2, 6), dtype=np.int32)])
    assert ids.passed
    assert str(ids.program.inputs["ids"]) == "int32[2, 6]"
    half = nanproof.convert(Head(), inputs=[ct.TensorType(shape=(4, 8), dtype=np.float16)])
    assert str(half.program.inputs["x"]) == "fp16[4, 8]"


def test_outputs_are_named_and_typed():
    named = nanproof.convert(Head(), (X,), outputs=[ct.TensorType(name="score")])
    assert {n: str(t) for n, t in named.program.outputs.items()} == {"score": "fp16[4, 3]"}
    typed = nanproof.convert(Head(), (X,), outputs=[ct.TensorType(name="score", dtype=np.float32)])
    assert {n: str(t) for n, t in typed.program.outputs.items()} == {"score": "fp32[4, 3]"}


class Painter(nn.Module):
    def forward(self, x):
        return x.clamp(0, 1) * 255


def test_an_image_as_output():
    x = torch.rand(1, 3, 4, 6)
    result = nanproof.convert(Painter(), (x,), outputs=[ct.ImageType(name="picture")])
    assert result.passed
    picture = nanproof.predict(result.program, {"x": x})["picture"]
    assert (picture.mode, picture.size) == ("RGBA", (6, 4))


def fp32_types(result):
    return {op.type for op in result.program.walk() if op.dtype and op.dtype.value == "fp32" and op.type != "cast"}


def test_compute_precision():
    x = torch.rand(1, 3, 8, 8)
    single = nanproof.convert(Photo(), (x,), compute_precision=ct.precision.FLOAT32)
    assert (single.precision, single.comparison.error < 1e-6) == ("float32", True)
    half = nanproof.convert(Photo(), (x,), compute_precision=ct.precision.FLOAT16)
    assert (half.precision, fp32_types(half)) == ("float16", set())
    chosen = ct.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type != "linear")
    mixed = nanproof.convert(Photo(), (x,), compute_precision=chosen)
    assert (mixed.precision, fp32_types(mixed)) == ("auto", {"linear"})


class Growing(nn.Module):
    def forward(self, x):
        return torch.floor(x * 300.0 * 300.0).sqrt() / 300.0


def test_a_selector_takes_nothing_away_from_what_must_be_fp32():
    chosen = ct.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type != "relu")
    result = nanproof.convert(Growing(), (torch.rand(4, 8) + 0.5,), compute_precision=chosen)
    assert result.passed
    assert "mul" in fp32_types(result)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(x))


def types(result):
    return {op.type for op in result.program.walk()}


def test_a_pass_pipeline():
    x = torch.rand(1, 2, 4, 4)
    assert "batch_norm" not in types(nanproof.convert(Normed(), (x,)))
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::fuse_conv_batchnorm"})
    before = list(pipeline.passes)
    result = nanproof.convert(Normed(), (x,), pass_pipeline=pipeline, verify_passes=True)
    assert (result.passed, "batch_norm" in types(result)) == (True, True)
    assert pipeline.passes == before


def test_options_of_passes():
    skipping = ct.PassPipeline()
    skipping.set_options("common::add_fp16_cast", {"skip_ops_by_type": "conv"})
    assert fp32_types(nanproof.convert(Normed(), (torch.rand(1, 2, 4, 4),), pass_pipeline=skipping)) == {"conv"}
    whole = ct.PassPipeline()
    whole.set_options("common::const_elimination", {"skip_const_by_size": "1"})
    assert nanproof.convert(Head(), (X,), pass_pipeline=whole).passed


def test_a_pipeline_without_the_cast_is_fp32():
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::add_fp16_cast"})
    result = nanproof.convert(Head(), (X,), pass_pipeline=pipeline)
    assert (result.precision, fp32_types(result)) == ("float32", {"linear"})
    empty = nanproof.convert(Head(), (X,), pass_pipeline=ct.PassPipeline.EMPTY)
    assert (empty.precision, empty.passed) == ("float32", True)


def test_package_dir(tmp_path):
    path = tmp_path / "m.mlpackage"
    result = nanproof.convert(Head(), (X,), package_dir=str(path), skip_model_load=True)
    assert nanproof.load(path).inputs == result.program.inputs


def test_compute_units_are_those_of_the_model():
    result = nanproof.convert(Head(), (X,), compute_units=ct.ComputeUnit.CPU_ONLY, skip_model_load=True)
    assert result.model.compute_unit is ct.ComputeUnit.CPU_ONLY


def both():
    pipeline = ct.PassPipeline()
    pipeline.set_options("common::add_fp16_cast", {"skip_ops_by_type": "conv"})
    return {
        "pass_pipeline": pipeline,
        "compute_precision": ct.transform.FP16ComputePrecision(op_selector=lambda op: True),
    }


def without_cast():
    pipeline = ct.PassPipeline()
    pipeline.remove_passes({"common::add_fp16_cast"})
    return pipeline


def other_option():
    pipeline = ct.PassPipeline()
    pipeline.set_options("common::add_fp16_cast", {"sparingly": "1"})
    return pipeline


WRONG = {
    "network": ({"convert_to": "neuralnetwork"}, UsageError, "Leave convert_to out: ML Programs run from iOS15 on"),
    "mil": ({"convert_to": "milinternal"}, UsageError, "for a MIL program use coremltools.convert"),
    "source": ({"source": "tensorflow"}, UsageError, "nanproof converts PyTorch models. Leave source out"),
    "states": (
        {"states": [object()]},
        UsageError,
        "`states` is a list of coremltools.StateType, and this holds object",
    ),
    "precision": ({"compute_precision": "half"}, UsageError, r"Pass coremltools\.precision\.FLOAT16 or FLOAT32"),
    "contradiction": (
        {"precision": "float16", "compute_precision": ct.precision.FLOAT32},
        UsageError,
        "ask for two things. Pass one of them",
    ),
    "two selectors": (both(), UsageError, "select the ops for FP16. Use one"),
    "no cast": (
        {"precision": "float16", "pass_pipeline": without_cast()},
        UsageError,
        "Leave the pass in, or pass precision='float32'",
    ),
    "option": (
        {"pass_pipeline": other_option()},
        UsageError,
        "'sparingly' of common::add_fp16_cast.*Known: op_selector",
    ),
    "pipeline": (
        {"pass_pipeline": ["common::fuse_conv_bias"]},
        UsageError,
        "is a coremltools.PassPipeline, and not a list",
    ),
    "classifier": ({"classifier_config": LABELS}, UsageError, "is a coremltools.ClassifierConfig, and not a list"),
    "folder": ({"package_dir": "m.mlmodel"}, ModelFileError, "must end in .mlpackage"),
    "inputs": (
        {"inputs": [(4, 8), 3]},
        UsageError,
        "list of coremltools.TensorType and ImageType, and this holds a int",
    ),
    "one input": ({"inputs": ct.TensorType(shape=(4, 8))}, UsageError, "and this holds a TensorType"),
    "count": (
        {"inputs": [ct.TensorType(shape=(4, 8)), ct.TensorType(shape=(1,))]},
        InputError,
        "declares 2 inputs, and the example inputs hold 1 tensors",
    ),
    "shape": ({"inputs": [ct.TensorType(shape=(4, 9))]}, ConversionError, "inconsistent shape"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options(case):
    options, error, message = WRONG[case]
    with pytest.raises(error, match=f"(?s){message}"):
        nanproof.convert(Head(), (X,), **options)


def test_declared_without_a_shape():
    with pytest.raises(InputError, match=r"(?s)Input 0 \(x\) is declared without a shape.*pass example_inputs"):
        nanproof.convert(Head(), inputs=[ct.TensorType(name="x")])
    with pytest.raises(InputError, match="Example inputs are missing"):
        nanproof.convert(Head())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_weights(dtype):
    module = Head().to(dtype)
    before = {name: t.clone() for name, t in module.state_dict().items()}
    result = nanproof.convert(module, (X.to(dtype),), calibration=[(X.to(dtype) * 2,)])
    assert result.passed
    assert all(t.dtype is dtype and torch.equal(t, before[n]) for n, t in module.state_dict().items())
    wanted = module.float()(X.to(dtype).float()).detach().numpy()
    (ours,) = nanproof.predict(result.program, {"x": X.to(dtype).float()}).values()
    np.testing.assert_allclose(ours, wanted, atol=5e-3)


class Narrowing(nn.Module):
    def forward(self, x):
        return (x.bfloat16() * 2).float()


def test_bfloat16_in_forward_itself():
    with pytest.raises(CaptureError, match="The model computes with bfloat16 tensors"):
        nanproof.convert(Narrowing(), (X,))
