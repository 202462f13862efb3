"""coremltools' own ``MLModel.predict``, made to work here. Expected values come from PyTorch and NumPy."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.errors import NumericsError, UsageError
from nanproof.mil import predict
from nanproof.mil.coreml import ct, mb, quiet, types

FP32 = ct.precision.FLOAT32


class Head(nn.Module):
    """Two outputs, one of them of integers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 5)

    def forward(self, x):
        scores = torch.softmax(self.linear(x), dim=-1)
        return scores, scores.argmax(dim=-1)


class Tally(nn.Module):
    """Adds what it sees to a buffer, which becomes a state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x):
        self.total.add_(x)
        return self.total * 2


@pytest.fixture
def enabled():
    with nanproof.enable_predict() as predictions:
        yield predictions


def traced(module, shape):
    with quiet():  # PyTorch calls tracing deprecated
        return torch.jit.trace(module.eval(), torch.rand(shape))


def converted(module, shape, **keywords):
    keywords = {"inputs": [ct.TensorType("x", shape)], "compute_precision": FP32, **keywords}
    program = traced(module, shape)
    with quiet():
        return ct.convert(program, minimum_deployment_target=ct.target.iOS18, **keywords)


def head(**keywords):
    outputs = [ct.TensorType("scores"), ct.TensorType("best")]
    return converted(Head(), (4, 8), outputs=outputs, **keywords)


def built(function, inputs, **keywords):
    program = mb.program(input_specs=inputs, opset_version=ct.target.iOS17)(function)
    keywords = {"compute_precision": FP32, **keywords}
    with quiet():
        return ct.convert(program, minimum_deployment_target=ct.target.iOS17, **keywords)


def test_outputs_are_those_of_pytorch(enabled):
    x = torch.randn(4, 8)
    scores, best = Head()(x)
    outputs = head().predict({"x": x.numpy()})
    assert list(outputs) == ["scores", "best"]
    np.testing.assert_allclose(outputs["scores"], scores.detach().numpy(), atol=1e-6)
    assert (outputs["best"] == best.numpy()).all()
    assert (outputs["scores"].dtype, outputs["best"].dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("give", [lambda x: x, lambda x: x.numpy(), lambda x: x.tolist(), lambda x: x.double().numpy()])
def test_inputs_may_be_tensors_arrays_and_lists(enabled, give):
    x = torch.randn(4, 8)
    np.testing.assert_allclose(head().predict({"x": give(x)})["scores"], Head()(x)[0].detach().numpy(), atol=1e-6)


def test_a_list_of_inputs_gives_a_list_of_outputs(enabled):
    batch = [torch.randn(4, 8) for _ in range(3)]
    model = head()
    outputs = model.predict([{"x": x} for x in batch])
    assert isinstance(outputs, list)
    for x, each in zip(batch, outputs, strict=True):
        np.testing.assert_allclose(each["scores"], Head()(x)[0].detach().numpy(), atol=1e-6)


def test_float16_comes_back_as_float32_and_is_rounded(enabled):
    inputs, outputs = [ct.TensorType("x", (4, 8), dtype=np.float16)], [ct.TensorType("y", dtype=np.float16)]
    model = converted(nn.Hardtanh(-100.0, 100.0), (4, 8), inputs=inputs, outputs=outputs, compute_precision=None)
    x = np.random.default_rng(0).uniform(-90, 90, (4, 8)).astype(np.float32)
    y = model.predict({"x": x})["y"]
    assert y.dtype == np.float32
    assert np.array_equal(y, x.astype(np.float16).astype(np.float32))


def test_the_default_numerics_overflow_as_fp16_does_and_reference_does_not(enabled):
    class Square(nn.Module):
        def forward(self, x):
            return x * x / 1000

    fp16 = {"compute_precision": ct.precision.FLOAT16, "outputs": [ct.TensorType("y", dtype=np.float32)]}
    x = np.full((2,), 300, np.float32)
    model = converted(Square(), (2,), **fp16)
    assert np.isinf(model.predict({"x": x})["y"]).all()
    with nanproof.enable_predict("reference"):
        np.testing.assert_allclose(converted(Square(), (2,), **fp16).predict({"x": x})["y"], x * x / 1000, rtol=1e-3)


def test_numerics_follow_the_compute_units():
    numerics = {ct.ComputeUnit.CPU_ONLY: "reference", "CPU_AND_GPU": "strict"}
    with nanproof.enable_predict(numerics) as predictions:
        names = {unit: n.name for unit, n in predictions.numerics.items()}
        assert names == {"CPU_ONLY": "reference", "CPU_AND_GPU": "strict", "CPU_AND_NE": "gpu", "ALL": "gpu"}
        # 2048 + 1 rounds to 2048 if the sum is kept in FP16.
        inputs = {"compute_precision": ct.precision.FLOAT16, "outputs": [ct.TensorType("y", dtype=np.float32)]}
        results = {}
        for unit in (ct.ComputeUnit.CPU_ONLY, ct.ComputeUnit.CPU_AND_GPU):
            model = converted(Steps(), (3,), compute_units=unit, **inputs)
            results[unit.name] = model.predict({"x": np.array([2048, 1, 1], np.float32)})["y"].item()
    assert results == {"CPU_ONLY": 2050, "CPU_AND_GPU": 2048}


def test_units_stands_for_the_numerics_of_each():
    with nanproof.enable_predict("units") as predictions:
        names = {unit: n.name for unit, n in predictions.numerics.items()}
        assert names == {"CPU_ONLY": "cpu", "CPU_AND_GPU": "gpu", "CPU_AND_NE": "ane", "ALL": "ane"}


class Steps(nn.Module):
    """A sum, one after the other."""

    def forward(self, x):
        return (x[0] + x[1] + x[2]).reshape(1)


def test_states_are_kept_read_and_written(enabled):
    states = [ct.StateType(wrapped_type=ct.TensorType(shape=(3,), dtype=np.float16), name="total")]
    outputs = [ct.TensorType("y", dtype=np.float16)]
    model = converted(Tally(), (3,), states=states, outputs=outputs, compute_precision=ct.precision.FLOAT16)
    state, other = model.make_state(), model.make_state()
    reference = Tally()
    for step in range(3):
        x = torch.tensor([1.0, 2.0, step])
        assert np.array_equal(model.predict({"x": x}, state=state)["y"], reference(x).numpy())
    assert np.array_equal(state.read_state("total"), reference.total.numpy())
    assert state.read_state("total").dtype == np.float32
    assert not other.read_state("total").any()
    other.write_state("total", np.array([5, 6, 7]))
    assert np.array_equal(model.predict({"x": np.zeros(3)}, state=other)["y"], [10, 12, 14])
    with pytest.raises(RuntimeError, match=r"There is no state 'sum'\. The program keeps total"):
        state.read_state("sum")
    with pytest.raises(RuntimeError, match=r"State 'total' is .*, but the value has shape \(2,\)"):
        state.write_state("total", np.zeros(2))
    with pytest.raises(RuntimeError, match="keeps the state 'total'"):
        model.predict({"x": np.zeros(3)})


def test_a_function_of_a_multifunction_model_is_chosen_by_name(enabled, tmp_path):
    for name, module in (("relu", nn.ReLU()), ("tanh", nn.Tanh())):
        converted(module, (2, 3), outputs=[ct.TensorType("y")]).save(str(tmp_path / f"{name}.mlpackage"))
    description = ct.utils.MultiFunctionDescriptor()
    for name in ("relu", "tanh"):
        description.add_function(str(tmp_path / f"{name}.mlpackage"), "main", name)
    description.default_function_name = "relu"
    path = str(tmp_path / "both.mlpackage")
    with quiet():
        ct.utils.save_multifunction(description, path)
    x = torch.randn(2, 3)
    for function, expected in ((None, torch.relu(x)), ("relu", torch.relu(x)), ("tanh", torch.tanh(x))):
        model = ct.models.MLModel(path, function_name=function)
        np.testing.assert_allclose(model.predict({"x": x})["y"], expected.numpy(), atol=1e-6)


def test_images_go_in_and_come_out_as_pillow_images(enabled):
    image = pytest.importorskip("PIL.Image")

    class Invert(nn.Module):
        def forward(self, x):
            return 255 - x

    rgb = ct.colorlayout.RGB
    inputs = [ct.ImageType("x", shape=(1, 3, 4, 6), color_layout=rgb)]
    model = converted(Invert(), (1, 3, 4, 6), inputs=inputs, outputs=[ct.ImageType("y", color_layout=rgb)])
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    result = model.predict({"x": image.fromarray(pixels)})["y"]
    assert (result.mode, result.size) == ("RGBA", (6, 4))
    assert np.array_equal(np.asarray(result)[..., :3], 255 - pixels)
    with pytest.raises(TypeError, match=r"must be of type PIL\.Image\.Image"):
        model.predict({"x": pixels})


def test_a_classifier_gives_a_label_and_probabilities(enabled):
    labels = ["a", "b", "c", "d", "e"]
    module = nn.Sequential(Head().linear, nn.Softmax(-1))
    model = converted(module, (1, 8), classifier_config=ct.ClassifierConfig(labels))
    x = torch.randn(1, 8)
    expected = module(x)[0].detach().numpy()
    outputs = model.predict({"x": x})
    label = outputs.pop("classLabel")
    (probabilities,) = outputs.values()
    assert label == labels[expected.argmax()]
    assert isinstance(label, str)
    assert list(probabilities) == labels
    np.testing.assert_allclose(list(probabilities.values()), expected, atol=1e-6)


def test_a_scalar_has_one_dimension(enabled):
    model = built(lambda x: mb.reduce_sum(x=x, keep_dims=False, name="y"), [mb.TensorSpec(shape=(3,))])
    y = model.predict({"x": np.array([1.0, 2.0, 4.0])})["y"]
    assert y.shape == (1,)
    assert y.item() == 7


def test_models_made_before_predict_too(tmp_path):
    with quiet():
        before, unloaded = head(), head(skip_model_load=True)
    x = torch.randn(4, 8)
    expected = Head()(x)[0].detach().numpy()
    with nanproof.enable_predict():
        for model in (before, unloaded):
            np.testing.assert_allclose(model.predict({"x": x})["scores"], expected, atol=1e-6)
    for model in (before, unloaded):
        with pytest.raises(Exception, match="predict"):
            model.predict({"x": x})


def test_the_model_of_a_conversion_predicts(enabled):
    x = torch.randn(4, 8)
    result = nanproof.convert(Head(), (x,))
    (name,) = result.program.inputs
    scores = next(iter(result.model.predict({name: x}).values()))
    np.testing.assert_allclose(scores, Head()(x)[0].detach().numpy(), atol=2e-3)


def test_leaving_the_block_undoes_it():
    from coremltools.models import CompiledMLModel, model

    places = (model, sys.modules[CompiledMLModel.__module__], model.MLModel)
    before = [dict(vars(place)) for place in places]
    with nanproof.enable_predict(), nanproof.enable_predict("reference"):
        assert model._MLModelProxy is predict.ModelProxy
        inside = head()
    assert [dict(vars(place)) for place in places] == before
    x = torch.randn(4, 8)
    np.testing.assert_allclose(inside.predict({"x": x})["scores"], Head()(x)[0].detach().numpy(), atol=1e-6)
    with pytest.raises(Exception, match="macOS"):
        head().predict({"x": x})


def test_calls_nest_and_each_is_undone_once():
    outer = nanproof.enable_predict("reference")
    inner = nanproof.enable_predict("strict")
    outer.disable()
    outer.disable()
    model = head()
    assert model.predict({"x": np.zeros((4, 8))})["scores"].shape == (4, 5)
    inner.disable()
    with pytest.raises(Exception, match="macOS"):
        head().predict({"x": np.zeros((4, 8))})


def test_durations_and_specification_version(enabled):
    model = head()
    assert model.load_duration_in_nano_seconds > 0
    assert model.last_predict_duration_in_nano_seconds is None
    model.predict({"x": np.zeros((4, 8))})
    assert model.last_predict_duration_in_nano_seconds > 0


def test_what_goes_wrong_is_said(enabled):
    model = head()
    with pytest.raises(RuntimeError, match=r"Input 'x' has shape \(2, 8\), but the program takes"):
        model.predict({"x": np.zeros((2, 8))})
    with pytest.raises(RuntimeError, match="the input 'x' is missing"):
        model.predict({})
    with pytest.raises(KeyError, match='Provided key "z"'):
        model.predict({"z": np.zeros((4, 8))})


def test_an_op_that_fails_says_so_in_the_words_of_core_ml(enabled):
    def function(x, i):
        return mb.gather(x=x, indices=i, axis=0, validate_indices=True, name="y")

    model = built(function, [mb.TensorSpec(shape=(3,)), mb.TensorSpec(shape=(1,), dtype=types.int32)])
    x = np.array([1.0, 2.0, 4.0])
    assert model.predict({"x": x, "i": np.array([2])})["y"].item() == 4
    with pytest.raises(RuntimeError, match=r"^Unable to compute the prediction using ML Program\. The op 'y"):
        model.predict({"x": x, "i": np.array([3])})


def test_the_debugging_tools_of_coremltools_find_the_op(enabled):
    """Without predictions they answer that no op fails."""
    from coremltools.models.ml_program.experimental.debugging_utils import MLModelValidator

    def function(x):
        large = mb.exp(x=x, name="large")
        return mb.add(x=mb.sub(x=large, y=large, name="fatal"), y=np.float32(1), name="y")

    model = built(function, [mb.TensorSpec(shape=(4,))], compute_precision=ct.precision.FLOAT16)
    inputs = {"x": np.array([1, 2, 3, 20], np.float32)}
    with quiet():
        failing = asyncio.run(MLModelValidator(model).find_failing_ops_with_nan_output(inputs=inputs))
    assert [op.type for op in failing] == ["sub"]
    assert failing[0].outputs[0].name.startswith("fatal")


def test_a_package_can_be_opened_as_a_compiled_model(enabled, tmp_path):
    head().save(str(tmp_path / "head.mlpackage"))
    model = ct.models.CompiledMLModel(str(tmp_path / "head.mlpackage"))
    x = torch.randn(4, 8)
    np.testing.assert_allclose(model.predict({"x": x})["scores"], Head()(x)[0].detach().numpy(), atol=1e-6)


def test_what_only_core_ml_has_is_refused(enabled):
    with pytest.raises(RuntimeError, match="There is no compiled model: nanproof executes"):
        head().get_compiled_model_path()
    with pytest.raises(RuntimeError, match="There is no Core ML here, whose devices could be listed"):
        ct.models.MLModel.get_available_compute_devices()
    with pytest.raises(RuntimeError, match="There are no compiled assets without Core ML: make an MLModel"):
        ct.models.model.MLModelAsset.from_path("a.mlmodelc")
    with pytest.raises(RuntimeError, match="There are no compiled assets without Core ML"):
        ct.models.model.MLModelAsset.from_memory(b"")


def test_an_older_model_type_can_be_made_but_not_run(enabled):
    program = traced(nn.ReLU(), (2, 3))
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # by which coremltools says that a model cannot be loaded
        model = ct.convert(program, inputs=[ct.TensorType("x", (2, 3))], convert_to="neuralnetwork")
    with pytest.raises(
        RuntimeError, match=r"this is a model of an older type\. Convert it again with convert_to='mlpro"
    ):
        model.predict({"x": np.zeros((2, 3))})


def test_unknown_numerics_and_units_are_refused():
    with pytest.raises(NumericsError, match="Unknown numerics 'fast'"):
        nanproof.enable_predict("fast")
    with pytest.raises(
        UsageError, match=r"There is no compute unit 'TPU'\. Known: ALL, CPU_AND_GPU, CPU_ONLY, CPU_AND_NE"
    ):
        nanproof.enable_predict({"TPU": "gpu"})


def test_core_ml_itself_is_replaced_only_on_request(monkeypatch):
    monkeypatch.setattr(predict._ORIGINALS, "proxy", object())
    with pytest.raises(UsageError, match="Pass replace=True"):
        nanproof.enable_predict()
    with nanproof.enable_predict(replace=True):
        assert head().predict({"x": np.zeros((4, 8))})["scores"].shape == (4, 5)


def test_a_script_for_the_mac_runs_unchanged(tmp_path):
    head().save(str(tmp_path / "head.mlpackage"))
    script = textwrap.dedent(
        """
        import sys
        import numpy as np
        import coremltools as ct

        model = ct.models.MLModel(sys.argv[1], compute_units=ct.ComputeUnit.CPU_ONLY)
        print(model.predict({"x": np.ones((4, 8), np.float32)})["scores"][0].tolist())
        """
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    start = (
        "import runpy, sys, nanproof; nanproof.enable_predict(); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    )
    command = [sys.executable, "-c", start, str(tmp_path / "script.py"), str(tmp_path / "head.mlpackage")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = Head()(torch.ones(4, 8))[0][0].tolist()
    np.testing.assert_allclose([float(v) for v in done.stdout.strip()[1:-1].split(",")], expected, atol=1e-6)
