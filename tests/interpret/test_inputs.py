"""What a program takes beside one array of one shape: flexible shapes, defaults, numbers of other dtypes, functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nanproof
from nanproof.errors import InputError, UnsupportedOpError, UsageError
from nanproof.interpret.execute import Executor
from nanproof.interpret.state import make_state
from nanproof.mil.coreml import ct, mb, types
from nanproof.mil.read import load
from nanproof.program import Block, DType, Feature, Function, Interface, Op, Pipeline, Program, Shapes, Type, Value
from tests.mil.packages import converted, edited, pipeline, saved, scaling_model, two_functions

ANY = Shapes()


def identities(*features: Feature) -> Program:
    """A program that returns each of its inputs unchanged."""
    inputs = {f.name: Value(f.name, f.type) for f in features}
    outputs = tuple(Value(f"{f.name}_out", f.type) for f in features)
    ops = tuple(
        Op("identity", f"copy_{v.name}", {"x": (v,)}, (o,)) for v, o in zip(inputs.values(), outputs, strict=True)
    )
    described = Interface({f.name: f for f in features}, {o.name: Feature(o.name, o.type) for o in outputs})
    block = Block(tuple(inputs.values()), ops, outputs)
    return Program({"main": Function("main", inputs, block, "CoreML7", described)})


def tensor(name: str, shape: tuple[int | str, ...], shapes: Shapes = ANY, **more: object) -> Feature:
    return Feature(name, Type(DType.FP32, shape), shapes, **more)


def error_of(program: Program | Pipeline, inputs: dict[str, object]) -> str:
    with pytest.raises(InputError) as caught:
        nanproof.predict(program, inputs)
    return str(caught.value)


def test_a_range(tmp_path):
    shape = (1, ct.RangeDim(2, 5, default=3))

    @mb.program(input_specs=[mb.TensorSpec(shape=tuple(ct.Shape(shape).symbolic_shape))])
    def relu(x):
        return mb.relu(x=x, name="y")

    program = load(
        saved(converted(relu, ct.target.iOS15, inputs=[ct.TensorType("x", shape)]), tmp_path / "m.mlpackage")
    )
    for length in (2, 5):
        x = np.linspace(-1, 1, length, dtype=np.float32)[np.newaxis]
        np.testing.assert_array_equal(nanproof.predict(program, {"x": x})["y"], np.maximum(x, 0))
    for length in (1, 6):
        message = error_of(program, {"x": np.zeros((1, length))})
        assert message == f"Input 'x' has shape (1, {length}), but the program takes fp32[1, 2..5]."
    assert "takes fp32[1, 2..5]" in error_of(program, {"x": np.zeros(3)})


def test_one_enumeration():
    program = identities(tensor("x", ("?", 4), Shapes((1, 4), ((1, 4), (8, 4)))))
    assert nanproof.predict(program, {"x": np.ones((8, 4))})["x_out"].shape == (8, 4)
    message = error_of(program, {"x": np.zeros((4, 4))})
    assert message == "Input 'x' has shape (4, 4), but the program takes fp32[1, 4] or [8, 4]."


def test_of_many_shapes_a_few_are_shown():
    many = tuple((1, n) for n in range(1, 129))
    message = error_of(identities(tensor("x", (1, "?"), Shapes((1, 1), many))), {"x": np.zeros((1, 200))})
    assert message.endswith(
        "but the program takes fp32[1, 1] or [1, 2] or [1, 3] or [1, 4] or [1, 5] or [1, 6] or [1, 7] "
        "or [1, 8] or ... (128 in all)."
    )


def test_shapes_of_several_enumerations_belong_together():
    program = identities(
        tensor("a", (1, "?"), Shapes((1, 16), ((1, 16), (1, 32), (1, 32)))),
        tensor("b", (1, "?"), Shapes((1, 256), ((1, 256), (1, 512), (1, 256)))),
        tensor("n", ("?",), Shapes((1,), (), ((1, 9),))),
    )
    for a, b in ((16, 256), (32, 512), (32, 256)):
        nanproof.predict(program, {"a": np.ones((1, a)), "b": np.ones((1, b)), "n": np.ones(7)})
    message = error_of(program, {"a": np.ones((1, 16)), "b": np.ones((1, 512)), "n": np.ones(7)})
    assert message == (
        "The shapes of the inputs do not go together: a [1, 16], b [1, 512].\n  The program takes one of\n"
        "    a [1, 16], b [1, 256]\n    a [1, 32], b [1, 512]\n    a [1, 32], b [1, 256]"
    )


def test_enumerations_of_a_package_belong_together(tmp_path):
    """As coremltools writes them: it puts the default first, here the second of both."""
    shapes = {
        "x": ct.EnumeratedShapes([(1, 2), (1, 3)], default=(1, 3)),
        "y": ct.EnumeratedShapes([(2, 2), (2, 3)], default=(2, 3)),
    }

    @mb.program(
        input_specs=[mb.TensorSpec(shape=tuple(s.symbolic_shape)) for s in shapes.values()],
        opset_version=ct.target.iOS18,
    )
    def program(x, y):
        return mb.reduce_sum(x=x), mb.reduce_sum(x=y)

    inputs = [ct.TensorType(n, s) for n, s in shapes.items()]
    loaded = load(saved(converted(program, ct.target.iOS18, inputs=inputs), tmp_path / "m.mlpackage"))
    for length in (2, 3):
        outputs = nanproof.predict(loaded, {"x": np.ones((1, length)), "y": np.ones((2, length))})
        assert [float(v) for v in outputs.values()] == [length, 2 * length]
    assert "do not go together: x [1, 2], y [2, 3]" in error_of(loaded, {"x": np.ones((1, 2)), "y": np.ones((2, 3))})


def test_lists_of_different_lengths_are_free():
    program = identities(
        tensor("a", ("?",), Shapes((1,), ((1,), (2,)))), tensor("b", ("?",), Shapes((3,), ((3,), (4,), (5,))))
    )
    assert nanproof.predict(program, {"a": np.ones(1), "b": np.ones(5)})["b_out"].shape == (5,)


def test_one_symbol_has_one_size():
    program = identities(tensor("x", ("n", 2)), tensor("y", (3, "n")), tensor("z", ("?",)), tensor("w", ("?",)))
    nanproof.predict(program, {"x": np.ones((4, 2)), "y": np.ones((3, 4)), "z": np.ones(1), "w": np.ones(2)})
    message = error_of(program, {"x": np.ones((4, 2)), "y": np.ones((3, 5)), "z": np.ones(1), "w": np.ones(2)})
    assert message == (
        "The symbol 'n' stands for one size, but dimension 0 of input 'x' is 4 and dimension 1 of input 'y' is 5."
    )


def test_a_default_stands_in_for_an_optional_input(tmp_path):
    @mb.program(
        input_specs=[mb.TensorSpec(shape=(2, 3)), mb.TensorSpec(shape=(2, 3)), mb.TensorSpec((3,), dtype=types.int32)]
    )
    def program(x, gain, shift):
        return mb.add(x=mb.mul(x=x, y=gain), y=mb.cast(x=shift, dtype="fp32"), name="y")

    def edit(spec):
        _, gain, shift = (f.type for f in spec.description.input)
        gain.isOptional = shift.isOptional = True
        gain.multiArrayType.floatDefaultValue = 2.5
        shift.multiArrayType.intDefaultValue = -7

    path = edited(saved(converted(program, ct.target.iOS15), tmp_path / "m.mlpackage"), edit)
    loaded, x = load(path), np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(nanproof.predict(loaded, {"x": x})["y"], x * np.float32(2.5) - 7)
    np.testing.assert_array_equal(nanproof.predict(loaded, {"x": x, "gain": None})["y"], x * np.float32(2.5) - 7)
    shift = np.array([1, 2, 3])
    np.testing.assert_array_equal(nanproof.predict(loaded, {"x": x, "shift": shift})["y"], x * np.float32(2.5) + shift)
    message = error_of(loaded, {"gain": x})
    assert message == (
        "Wrong inputs: the input 'x' is missing.\n  The program takes\n    x: fp32[2, 3]\n"
        "    gain: fp32[2, 3], 2.5 if left out\n    shift: int32[3], -7 if left out"
    )


def test_the_default_of_a_flexible_input_has_its_default_shape():
    shapes = Shapes((3,), (), ((1, 9),))
    program = identities(tensor("x", ("?",), shapes, optional=True, default=1.5))
    assert nanproof.predict(program, {})["x_out"].tolist() == [1.5, 1.5, 1.5]


def test_an_optional_input_without_a_default():
    program = identities(tensor("x", (2,), Shapes((2,)), optional=True))
    assert error_of(program, {}) == (
        "The optional input 'x' was left out, and the file names no value to put in its place.\n"
        "  Pass it: the program takes fp32[2], optional."
    )
    unknown = identities(tensor("x", ("?",), optional=True, default=1.0))
    assert "the file names no shape for its default 1." in error_of(unknown, {})


def test_scalars_may_have_one_element():
    """Core ML has no scalars: coremltools describes such an input as [1]."""
    program = identities(tensor("x", (), Shapes(())))
    for value in (2, np.float64(2), [2], np.array([2])):
        assert nanproof.predict(program, {"x": value})["x_out"] == 2


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (DType.FP16, np.array([1.0, 0.1]), np.array([1, 0.1], np.float16)),
        (DType.FP16, np.array([1e6, -1e6]), np.array([np.inf, -np.inf], np.float16)),
        (DType.FP32, np.array([1e300, 3]), np.array([np.inf, 3], np.float32)),
        (DType.FP32, np.array([True, False]), np.array([1, 0], np.float32)),
        (DType.INT32, np.array([3.0, -2.0]), np.array([3, -2], np.int32)),
        (DType.INT8, np.array([-128, 127]), np.array([-128, 127], np.int8)),
        (DType.BOOL, np.array([2, 0]), np.array([True, False])),
        (DType.FP32, torch.tensor([1.0, 2.0], requires_grad=True), np.array([1, 2], np.float32)),
        (DType.FP32, torch.tensor([1.0, 2.0], dtype=torch.bfloat16), np.array([1, 2], np.float32)),
    ],
)
def test_numbers_of_another_dtype(dtype, given, expected):
    program = identities(Feature("x", Type(dtype, (2,)), Shapes((2,))))
    made = nanproof.predict(program, {"x": given}, numerics="gpu")["x_out"]
    assert made.dtype == dtype.numpy
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("dtype", "given", "message"),
    [
        (DType.INT8, [0, 128], "holds values from 0 to 128, beyond the range of int8 (-128 to 127)"),
        (DType.UINT8, [-1, 0], "beyond the range of uint8 (0 to 255)"),
        (DType.FP32, [1j, 0], "Input 'x' has dtype complex128, but the program takes fp32[2]: pass numbers."),
        (DType.FP32, [[1], [1, 2]], "Input 'x' is no array, but the program takes fp32[2]"),
    ],
)
def test_what_does_not_fit(dtype, given, message):
    assert message in error_of(identities(Feature("x", Type(dtype, (2,)), Shapes((2,)))), {"x": given})


def test_int8_inputs_and_outputs_of_ios26(tmp_path):
    @mb.program(input_specs=[mb.TensorSpec(shape=(3,), dtype=types.int8)], opset_version=ct.target.iOS26)
    def program(x):
        return mb.cast(x=mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(2)), dtype="int8", name="y")

    model = converted(
        program,
        ct.target.iOS26,
        inputs=[ct.TensorType("x", (3,), dtype=types.int8)],
        outputs=[ct.TensorType("y", dtype=types.int8)],
    )
    loaded = load(saved(model, tmp_path / "m.mlpackage"))
    assert loaded.inputs["x"].dtype is DType.INT8
    made = nanproof.predict(loaded, {"x": np.array([-3, 0, 60])})["y"]
    assert (made.dtype, made.tolist()) == (np.int8, [-6, 0, 120])


def test_functions_and_their_states(tmp_path):
    program = load(two_functions(tmp_path))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(nanproof.predict(program, {"x": x})["y"], 2 * x)
    state = make_state(program, "triple")
    assert list(state.types) == ["seen"]
    for turn in (1, 2):
        made = nanproof.predict(program, {"x": [1, 2, 3, 4]}, state=state, function_name="triple")
        assert made["z"].tolist() == [3 * turn * n for n in (1, 2, 3, 4)]
    chosen = program.using("triple")
    assert nanproof.predict(chosen, {"x": [1, 1, 1, 1]}, state=make_state(chosen))["z"].tolist() == [3] * 4
    with pytest.raises(InputError, match=r"keeps the state 'seen' .* none was passed"):
        nanproof.predict(program, {"x": [1, 2, 3, 4]}, function_name="triple")
    with pytest.raises(UsageError, match="There is no function 'half'"):
        nanproof.predict(program, {"x": x}, function_name="half")


def test_a_pipeline(tmp_path):
    models = scaling_model(2, "a", "b"), scaling_model(-0.5, "b", "c"), scaling_model(3, "c", "d")
    program = load(pipeline(*models, path=tmp_path / "p.mlpackage"))
    a = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    outputs = nanproof.predict(program, {"a": a})
    assert list(outputs) == ["d"]
    np.testing.assert_allclose(outputs["d"], a * 2 * -0.5 * 3, rtol=1e-6)
    assert "the input 'a' is missing" in error_of(program, {})
    assert "there is no input 'b'" in error_of(program, {"a": a, "b": a})
    assert "takes fp32[2, 3]" in error_of(program, {"a": a[0]})


def test_a_pipeline_of_a_classifier(tmp_path):
    """The stages are a scaling and a classifier; the second also takes an input of the pipeline itself."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3)), mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def classifier(b, bias):
        return mb.softmax(x=mb.add(x=b, y=bias), name="p")

    judge = converted(classifier, classifier_config=ct.ClassifierConfig(["x", "y", "z"]))
    program = load(pipeline(scaling_model(2, "a", "b", shape=(1, 3)), judge, path=tmp_path / "p.mlpackage"))
    assert list(program.inputs) == ["a", "bias"]
    outputs = nanproof.predict(program, {"a": [[1.0, 2.0, 0.5]], "bias": [[0.0, 0.0, 5.0]]})
    scores = np.exp(np.array([2.0, 4.0, 6.0]))
    assert outputs["classLabel"] == "z"
    assert outputs["classLabel_probs"] == pytest.approx(dict(zip("xyz", scores / scores.sum(), strict=True)), rel=1e-6)
    assert program.interface.classes == ("x", "y", "z")


@pytest.mark.parametrize("labels", [["cat", "dog", "cow"], [7, 3, 5]])
def test_a_classifier_gives_its_label_and_a_dictionary(tmp_path, labels):
    """As ``MLModel.predict``: a label of Python's own type, and its probabilities, here in the order of the labels."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=ct.target.iOS17)
    def program(x):
        return mb.softmax(x=x, name="p")

    loaded = load(saved(converted(program, classifier_config=ct.ClassifierConfig(labels)), tmp_path / "m.mlpackage"))
    outputs = nanproof.predict(loaded, {"x": [[0.5, 0.25, 2.0]]})
    assert list(outputs) == ["classLabel", "classLabel_probs"]
    assert outputs["classLabel"] == labels[2]
    assert type(outputs["classLabel"]) is type(labels[2])
    scores = np.exp([0.5, 0.25, 2.0])
    assert list(outputs["classLabel_probs"]) == labels
    assert list(outputs["classLabel_probs"].values()) == pytest.approx(list(scores / scores.sum()), rel=1e-6)
    module = torch.nn.Softmax(-1)
    assert nanproof.compare(loaded, module, torch.tensor([[0.5, 0.25, 2.0]])).within(1e-6)
    assert not nanproof.compare(loaded, torch.nn.Softmin(-1), torch.tensor([[0.5, 0.25, 2.0]])).within(1e-2)
    assert nanproof.compare(loaded, loaded, {"x": [[0.5, 0.25, 2.0]]}, numerics="gpu").within(1e-2)


def test_what_needs_one_program_refuses_a_pipeline(tmp_path):
    program = load(pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=tmp_path / "p.mlpackage"))
    with pytest.raises(
        UsageError, match=r"pipeline of 2 programs \(stage_0, stage_1\).*\n.*pipeline.stages\['stage_0'\]"
    ):
        Executor(program)
    with pytest.raises(UsageError, match="This is a pipeline of 2 programs"):
        nanproof.compare(program, program, {"a": np.ones((2, 3))})


def test_custom_layers_are_named():
    x = Value("x", Type(DType.FP32, (2,)))
    y = Value("y", Type(DType.FP32, (2,)))
    op = Op("custom_layer", "sparse", {"x": (x,)}, (y,), attributes={"class_name": "AppSparseMatMul"})
    program = Program({"main": Function("main", {"x": x}, Block((x,), (op,), (y,)), "CoreML7")})
    with pytest.raises(UnsupportedOpError) as caught:
        Executor(program)
    assert str(caught.value) == (
        "The op 'sparse' of function 'main' is a custom layer: it runs the class 'AppSparseMatMul' of an app, whose "
        "code is not in the model.\n  nanproof cannot execute it. Convert the model without it, or with a composite op "
        "of MIL ops. Nothing was checked."
    )
