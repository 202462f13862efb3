"""The description of a model: what coremltools was told on conversion is what a reader finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nanproof.errors import ModelFileError, UnsupportedOpError, UsageError
from nanproof.interpret.execute import Executor
from nanproof.mil.coreml import ct, mb, quiet, types
from nanproof.mil.read import load, load_program
from nanproof.mil.reflect import reflect
from nanproof.program import Color, DType, Shapes, Type
from tests.mil.packages import (
    converted,
    edited,
    image_model,
    linear_package,
    pipeline,
    saved,
    scaling_model,
    spec_file,
    traced,
    two_functions,
)


def relu_of(*shape):
    """``y = relu(x)``, anew for each test: coremltools changes a program when it converts it."""

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS17)
    def program(x):
        return mb.relu(x=x, name="y")

    return program


def flexible_model(shape, target=ct.target.iOS17):
    """relu of an input of a flexible shape."""
    symbolic = (ct.Shape(shape) if isinstance(shape, tuple) else shape).symbolic_shape

    @mb.program(input_specs=[mb.TensorSpec(shape=tuple(symbolic))], opset_version=target)
    def program(x):
        return mb.relu(x=x, name="y")

    return converted(program, target, inputs=[ct.TensorType("x", shape)])


def test_a_fixed_shape(tmp_path):
    interface = load(saved(converted(relu_of(2, 3)), tmp_path / "m.mlpackage")).interface
    assert list(interface.inputs) == ["x"]
    feature = interface.inputs["x"]
    assert (feature.shapes, feature.color, feature.optional) == (Shapes((2, 3)), None, False)
    assert str(feature) == "fp32[2, 3]"


def test_ranges(tmp_path):
    model = flexible_model((1, ct.RangeDim(2, 9, default=4), 3))
    feature = load(saved(model, tmp_path / "m.mlpackage")).interface.inputs["x"]
    assert feature.shapes == Shapes((1, 4, 3), (), ((1, 1), (2, 9), (3, 3)))
    assert str(feature) == "fp32[1, 2..9, 3]"
    assert [feature.shapes.allow(s) for s in ((1, 2, 3), (1, 9, 3), (1, 1, 3), (1, 10, 3), (1, 2))] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_enumerated_shapes(tmp_path):
    model = flexible_model(ct.EnumeratedShapes([(1, 4), (1, 8), (1, 2)], default=(1, 8)))
    feature = load(saved(model, tmp_path / "m.mlpackage")).interface.inputs["x"]
    assert feature.shapes.default == (1, 8)
    assert set(feature.shapes.enumerated) == {(1, 4), (1, 8), (1, 2)}
    assert str(feature) == "fp32[1, 8] or [1, 4] or [1, 2]"


def test_an_output_of_unknown_shape(tmp_path):
    feature = load(saved(flexible_model((ct.RangeDim(2, 9),)), tmp_path / "m.mlpackage")).interface.outputs["y"]
    assert feature.shapes == Shapes()
    assert str(feature) == "fp32[?]"


@pytest.mark.parametrize("name", ["RGB", "BGR", "GRAYSCALE", "GRAYSCALE_FLOAT16"])
def test_images(tmp_path, name):
    interface = load(saved(image_model(name, name), tmp_path / "m.mlpackage")).interface
    channels = 1 if name.startswith("GRAY") else 3
    for feature in (interface.inputs["x"], interface.outputs["y"]):
        assert feature.color is Color[name]
        assert feature.shapes == Shapes((1, channels, 4, 6))
        assert str(feature) == f"{name} image of 6 x 4 (width x height)"


def test_image_sizes(tmp_path):
    ranges = ct.Shape((1, 3, ct.RangeDim(2, 8, default=4), ct.RangeDim(3, 9, default=6)))
    interface = load(saved(image_model("RGB", "RGB", shape=ranges), tmp_path / "r.mlpackage")).interface
    assert interface.inputs["x"].shapes == Shapes((1, 3, 4, 6), (), ((1, 1), (3, 3), (2, 8), (3, 9)))
    assert str(interface.inputs["x"]) == "RGB image of 3..9 x 2..8 (width x height)"
    assert interface.outputs["y"].shapes.ranges == ((1, 1), (3, 3), (1, None), (1, None))
    listed = ct.EnumeratedShapes([(1, 1, 4, 6), (1, 1, 5, 7)])
    model = image_model("GRAYSCALE", "GRAYSCALE", shape=listed)
    feature = load(saved(model, tmp_path / "e.mlpackage")).interface.inputs["x"]
    assert feature.shapes == Shapes((1, 1, 4, 6), ((1, 1, 4, 6), (1, 1, 5, 7)))
    assert str(feature) == "GRAYSCALE image of 6 x 4 or 7 x 5 (width x height)"


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("intDefaultValue", 3, "fp32[2, 3], 3 if left out"),
        ("floatDefaultValue", 0.25, "fp32[2, 3], 0.25 if left out"),
        ("doubleDefaultValue", -1.5, "fp32[2, 3], -1.5 if left out"),
        (None, None, "fp32[2, 3], optional"),
    ],
)
def test_optional_inputs(tmp_path, field, value, text):
    def edit(spec):
        given = spec.description.input[0].type
        given.isOptional = True
        if field:
            setattr(given.multiArrayType, field, value)

    feature = load(edited(saved(converted(relu_of(2, 3)), tmp_path / "m.mlpackage"), edit)).interface.inputs["x"]
    assert feature.optional
    assert feature.default == value
    assert str(feature) == text


def test_what_the_author_wrote(tmp_path):
    model = converted(relu_of(2, 3))
    model.input_description["x"] = "Loudness of each band"
    assert load(saved(model, tmp_path / "m.mlpackage")).interface.inputs["x"].description == "Loudness of each band"


@pytest.mark.parametrize("labels", [["cat", "dog", "cow"], [7, 3, 5]])
def test_a_classifier(tmp_path, labels):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def program(x):
        return mb.softmax(x=x, name="p")

    model = converted(program, classifier_config=ct.ClassifierConfig(labels, "animal"))
    interface = load(saved(model, tmp_path / "m.mlpackage")).interface
    assert interface.classes == tuple(labels)
    assert interface.label == "animal"
    assert interface.probabilities in interface.outputs
    assert interface.outputs["animal"].type == Type(DType.STRING if labels[0] == "cat" else DType.INT64)


def test_types_are_all_that_a_program_in_memory_has():
    program = reflect(relu_of(2, 3))
    assert program.main.described is None
    assert program.interface.inputs["x"].shapes == Shapes((2, 3))


@pytest.mark.parametrize("name", ["double", "triple"])
def test_functions(tmp_path, name):
    path = two_functions(tmp_path)
    program = load(path)
    assert list(program.functions) == ["double", "triple"]
    assert program.default == "double"
    chosen = load(path, function_name=name)
    assert chosen.default == name
    assert chosen.inputs == program.using(name).inputs
    assert list(chosen.interface.inputs) == ["x"]
    assert list(chosen.interface.outputs) == (["y"] if name == "double" else ["z"])
    assert list(chosen.states) == ([] if name == "double" else ["seen"])
    with quiet():
        mlmodel = ct.models.MLModel(str(path), skip_model_load=True, function_name=name)
    assert load(mlmodel).default == name


def test_an_unknown_function(tmp_path):
    with pytest.raises(UsageError, match=r"There is no function 'half'\. The program holds double, triple\."):
        load(two_functions(tmp_path), function_name="half")
    with pytest.raises(UsageError, match=r"There is no function 'other'\. The program holds main\."):
        load(linear_package(tmp_path), function_name="other")


def test_a_pipeline(tmp_path):
    path = pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=tmp_path / "p.mlpackage")
    whole = load(path)
    assert list(whole.stages) == ["stage_0", "stage_1"]
    assert [list(stage.inputs) for stage in whole.stages.values()] == [["a"], ["b"]]
    assert whole.inputs == {"a": Type(DType.FP32, (2, 3))}
    assert whole.outputs == {"c": Type(DType.FP32, (2, 3))}
    with pytest.raises(UsageError, match="There is no function 'main': this is a pipeline"):
        load(path, function_name="main")
    with pytest.raises(ModelFileError, match=r"pipeline of 2 programs \(stage_0, stage_1\), and one program is needed"):
        load_program(path)


def test_the_names_of_stages(tmp_path):
    path = pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=tmp_path / "p.mlpackage")
    edited(path, lambda spec: spec.pipeline.names.extend(["first", "second"]))
    assert list(load(path).stages) == ["first", "second"]


def test_a_stage_of_another_kind(tmp_path):
    module = traced(torch.nn.ReLU(), torch.zeros(2, 3))
    with quiet():
        network = ct.convert(module, inputs=[ct.TensorType("b", (2, 3))], convert_to="neuralnetwork")
    path = pipeline(scaling_model(2, "a", "b"), network, path=tmp_path / "p.mlpackage")
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert "whose stage 'stage_1' is a model of type 'neuralNetwork', not an ML Program" in str(caught.value)
    assert "The stages are stage_0 (mlProgram), stage_1 (neuralNetwork)." in str(caught.value)


def test_a_stage_with_states(tmp_path):
    @mb.program(
        input_specs=[mb.TensorSpec((4,), dtype=types.fp16), mb.StateTensorSpec((4,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def keeper(b, kept):
        return mb.coreml_update_state(state=kept, value=mb.add(x=mb.read_state(input=kept), y=b))

    first = scaling_model(2, "a", "b", shape=(4,))
    path = pipeline(first, converted(keeper, ct.target.iOS18), path=tmp_path / "p.mlpackage")
    with pytest.raises(ModelFileError, match=r"(?s)Stage 'stage_1' .* keeps the state kept.*not documented"):
        load(path)


def test_a_pipeline_with_a_gap(tmp_path):
    path = pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=tmp_path / "p.mlpackage")
    edited(path, lambda spec: spec.pipeline.models.pop(0))
    with pytest.raises(ModelFileError, match=r"stage 'stage_0' .* takes 'b', which is no input of the pipeline"):
        load(path)
    edited(path, lambda spec: spec.pipeline.models.pop(0))
    with pytest.raises(ModelFileError, match="is a pipeline without stages"):
        load(path)


def wrong_name(spec):
    spec.description.input[0].name = "z"


def undescribed(spec):
    del spec.description.output[:]


def wrong_rank(spec):
    spec.description.input[0].type.multiArrayType.shape.append(7)


def wrong_range(spec):
    spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges.add(lowerBound=1, upperBound=4)


def odd_colour(spec):
    image = spec.description.input[0].type.imageType
    image.width, image.height, image.colorSpace = 4, 4, 33


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (wrong_name, "describes the input 'z', which the program does not have"),
        (undescribed, "has no description of 'y'"),
        (wrong_rank, r"describes the input 'x' as \[4, 32, 7\], but the program has fp32\[4, 32\]"),
        (wrong_range, r"describes the input 'x' as \[1..4\], but the program has fp32\[4, 32\]"),
        (odd_colour, "describes the input 'x' with the colour space 33"),
    ],
)
def test_a_description_that_does_not_fit(tmp_path, edit, message):
    with pytest.raises(ModelFileError, match=message):
        load(edited(linear_package(tmp_path), edit))


def test_an_image_of_other_channels(tmp_path):
    def edit(spec):
        spec.description.input[0].type.imageType.colorSpace = 20

    path = edited(saved(image_model("GRAYSCALE", "GRAYSCALE"), tmp_path / "m.mlpackage"), edit)
    with pytest.raises(ModelFileError, match=r"Damaged model: .* describes the input 'x' as"):
        load(path)


def test_weights_of_several_stages(tmp_path: Path):
    """Each stage has a weight file of its own beside the others."""
    linear = linear_package(tmp_path)
    with quiet():
        first = ct.models.MLModel(str(linear), skip_model_load=True)
    more = np.random.default_rng(1).standard_normal((8, 16)).astype(np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=(4, 16))], opset_version=ct.target.iOS17)
    def second(y):
        return mb.linear(x=y, weight=more, name="z")

    path = pipeline(first, converted(second), path=tmp_path / "p.mlpackage")
    assert sorted(p.name for p in (spec_file(path).parent / "weights").iterdir()) == ["0-weight.bin", "1-weight.bin"]
    whole = load(path)
    weights = [stage.main.block.ops[0].input("weight").const for stage in whole.stages.values()]
    np.testing.assert_array_equal(weights[0], load(linear).main.block.ops[0].input("weight").const)
    np.testing.assert_array_equal(weights[1], more)


@pytest.mark.parametrize("kind", ["pipelineRegressor", "pipelineClassifier"])
def test_other_kinds_of_pipelines(tmp_path, kind):
    def edit(spec):
        models = list(spec.pipeline.models)
        spec.ClearField("pipeline")
        getattr(spec, kind).pipeline.models.extend(models)

    path = pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=tmp_path / "p.mlpackage")
    before = load(path)
    after = load(edited(path, edit))
    assert list(after.stages) == list(before.stages)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_a_custom_layer_keeps_its_class(tmp_path):
    """Written as coremltools writes one: the op type ``custom_layer`` and the class as an attribute."""

    def edit(spec):
        (block,) = spec.mlProgram.functions["main"].block_specializations.values()
        (op,) = (op for op in block.operations if op.type == "relu")
        op.type = "custom_layer"
        op.attributes["class_name"].CopyFrom(op.attributes["name"])
        op.attributes["class_name"].immediateValue.tensor.strings.values[:] = ["AppRelu"]

    program = load(edited(saved(converted(relu_of(2, 3)), tmp_path / "m.mlpackage"), edit))
    (op,) = program.main.block.ops
    assert (op.type, op.attributes["class_name"]) == ("custom_layer", "AppRelu")
    with pytest.raises(UnsupportedOpError, match="it runs the class 'AppRelu' of an app"):
        Executor(program)
