"""The conversion as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coremltools.converters.mil.frontend.torch import torch_op_registry
from coremltools.converters.mil.mil.passes import pass_pipeline
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY
from torch import nn

import nanproof
from nanproof.errors import InputError, UsageError
from nanproof.mil.coreml import ct
from nanproof.mil.edit import ApplyEdits
from nanproof.mil.edits import SetConstant


class Perceptron(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))

    def forward(self, x, shift=None):
        y = self.layers(x)
        return y if shift is None else (y + shift, shift * 2)


class Growing(nn.Module):
    """Values beyond 65504 in the middle, small ones at the end."""

    def forward(self, x):
        return torch.floor(x * 300.0 * 300.0).sqrt() / 300.0


class Reborn(nn.Module):
    """Finite in FP32 and within range on the way, but FP16 rounding makes 1 - 1 of it, and a division by zero."""

    def forward(self, x):
        return 1.0 / ((1.0 + x) - 1.0)


@pytest.fixture(scope="module")
def x():
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def result(x):
    return nanproof.convert(Perceptron(), (x,), units=("gpu", "strict"))


def test_the_result(result, x):
    assert result.passed
    assert result.verdicts == {"gpu": "proved", "strict": "proved"}
    assert result.fidelity.error < 1e-6
    assert 0 < result.comparison.error < 1e-2
    assert result.plan.fp32_ops == 0
    assert isinstance(result.model, ct.models.MLModel)
    assert {op.dtype.value for op in result.program.walk() if op.dtype and op.type != "cast"} == {"fp16"}
    assert all(op.source and op.source.module for op in result.program.walk() if op.type == "linear")


def test_the_proof_says_what_it_assumes(result, x):
    (assumption,) = result.proof.assumptions
    assert (assumption.low, assumption.high) == (float(x.min()), float(x.max()))
    assert "range" in str(assumption)
    assert [(name, unit.verdict) for name, unit in result.proof.units.items()] == [
        *(("gpu", "proved"), ("strict", "proved"))
    ]


def test_what_is_not_proved_stays_tested(x):
    result = nanproof.convert(Perceptron(), (x,), assume={"x": (-6e4, 6e4)})
    assert (result.verdict, result.proof.verdict) == ("tested", "unknown")
    assert result.proof.assumptions[0].reason == "given"
    unproved = nanproof.convert(Perceptron(), (x,), prove=False)
    assert (unproved.verdict, unproved.proof) == ("tested", None)
    with pytest.raises(nanproof.errors.UsageError, match="There is no input 'y' to assume anything of"):
        nanproof.convert(Perceptron(), (x,), assume={"y": (0, 1)})


def test_what_is_saved_is_what_was_verified(result, x, tmp_path):
    path = result.save(tmp_path / "m.mlpackage")
    loaded = nanproof.load(path)
    assert loaded.inputs == result.program.inputs
    feeds = {"x": x}
    for numerics in ("reference", "gpu", "strict"):
        ours = nanproof.predict(result.program, feeds, numerics=numerics)
        again = nanproof.predict(loaded, feeds, numerics=numerics)
        assert all(np.array_equal(ours[k], again[k]) for k in ours)


def test_coremltools_reads_the_file(result, tmp_path):
    path = result.save(tmp_path / "m.mlpackage")
    model = ct.models.MLModel(str(path), skip_model_load=True)
    assert model.user_defined_metadata["com.github.nanproof.version"] == nanproof.__version__


def test_plain_data(result):
    text = json.dumps(result.to_dict(), allow_nan=False)
    assert json.loads(text)["verdict"] == "proved"


def test_keyword_inputs_and_several_outputs(x):
    shift = torch.ones(5, 4)
    result = nanproof.convert(Perceptron(), {"x": x, "shift": shift})
    assert list(result.program.inputs) == ["x", "shift"]
    assert len(result.program.outputs) == 2
    assert result.passed


def test_an_exported_program(x):
    exported = torch.export.export(Perceptron().eval(), (x,), strict=False)
    assert nanproof.convert(exported, None).passed


def test_float32(x):
    result = nanproof.convert(Perceptron(), (x,), precision="float32")
    assert result.plan.fp32_ops == len([op for op in result.program.walk() if op.type != "cast"])
    assert result.comparison.error < 1e-6


def test_outputs_have_the_type_that_coremltools_gives_them(x):
    assert str(next(iter(nanproof.convert(Perceptron(), (x,)).program.outputs.values()))) == "fp16[5, 4]"
    older = nanproof.convert(Perceptron(), (x,), minimum_deployment_target="iOS15")
    assert str(next(iter(older.program.outputs.values()))) == "fp32[5, 4]"


def test_overflow_stays_fp32():
    x = torch.rand(4, 8) + 0.5
    result = nanproof.convert(Growing(), (x,))
    assert result.passed
    assert result.plan.islands[0].reason == "activation-overflow"
    assert [f.code for f in result.findings] == ["NP110"]
    assert result.findings[0].source.code == "return torch.floor(x * 300.0 * 300.0).sqrt() / 300.0"
    naive = nanproof.convert(Growing(), (x,), precision="float16")
    assert naive.verdict == "failed"
    assert "Inf or NaN where PyTorch has none" in naive.units["gpu"].reasons[0]


class Masked(nn.Module):
    """The mask comes from the caller, sentinel and all."""

    def forward(self, x, bias):
        return torch.softmax(x + bias, -1)


def test_huge_inputs_are_read_in_fp32():
    bias = torch.zeros(4, 8)
    bias[:, 5:] = torch.finfo(torch.float32).min
    bias[1] = torch.finfo(torch.float32).min
    result = nanproof.convert(Masked(), (torch.randn(4, 8), bias))
    assert result.passed
    assert "input 'bias' has values up to 3.403e+38" in result.findings[0].detail
    assert result.program.inputs["bias"].dtype.value == "fp32"


class Offset(nn.Module):
    """A large number that is no mask, and that FP16 holds."""

    def forward(self, x):
        return (x * 1000.0 + 40000.0) * 0.001


def test_large_constants_within_range_are_left_alone():
    result = nanproof.convert(Offset(), (torch.rand(4, 8) * 5 + 5,))
    assert (result.findings, result.plan.fp32_ops) == ((), 0)


def test_a_birth_met_only_when_the_file_runs_is_repaired():
    x = torch.full((2, 8), 1e-4)
    result = nanproof.convert(Reborn(), (x,))
    assert "NP120" in {f.code for f in result.findings}
    assert result.units["gpu"].comparison.nonfinite == 0


def test_calibration_widens_what_is_observed():
    small, large = torch.rand(4, 8) * 0.1, torch.rand(4, 8) + 0.5
    assert nanproof.convert(Growing(), (small,)).plan.islands == ()
    assert nanproof.convert(Growing(), (small,), calibration=[(large,)]).plan.islands != ()


def test_out_of_tolerance_is_a_failure_with_its_number(x):
    result = nanproof.convert(Perceptron(), (x,), tolerance=1e-7, precision="float16")
    assert result.verdict == "failed"
    assert "of its range (tolerance 1e-07)" in result.units["gpu"].reasons[0]


class Divided(nn.Module):
    """coremltools 9.0 loses this division."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x):
        return 2.0 / (self.conv(x) + 3)


def test_a_pass_that_changes_the_result_is_named_and_left_out():
    result = nanproof.convert(Divided(), (torch.rand(1, 2, 4, 4),))
    (finding,) = result.findings
    assert (finding.code, finding.op, finding.remedy) == ("NP202", "common::fuse_conv_scale", "left out")
    assert finding.detail.startswith("coremltools' pass 'common::fuse_conv_scale' changed output 'mul' by ")
    assert result.passed
    assert result.fidelity.error < 1e-6


class Turned(nn.Module):
    """A square matrix from the left: coremltools 9.0 makes a linear op of it, with the bias on the other axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.weight, self.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.weight @ x + self.bias


class Powers(nn.Module):
    """A power by channel between two transposes, which coremltools 9.0 takes away from under its exponents."""

    def __init__(self):
        super().__init__()
        self.exponents = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x):
        return (x.transpose(1, 2) ** self.exponents).transpose(1, 2)


@pytest.mark.parametrize(
    ("module", "shape", "wrong"),
    [
        (Divided(), (1, 2, 4, 4), "common::fuse_conv_scale"),
        (Turned(), (4, 4), "common::fuse_matmul_weight_bias"),
        (Powers(), (2, 3, 3), "common::reduce_transposes"),
    ],
)
def test_miscompilations_of_coremltools_are_found(module, shape, wrong):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(2)) + 0.5
    result = nanproof.convert(module, (x,), units=("reference",), verify_passes=True)
    assert {(f.code, f.op, f.remedy) for f in result.findings} == {("NP202", wrong, "left out")}
    assert (result.passed, result.fidelity.error < 1e-6) == (True, True)


class Sine(nn.Module):
    def forward(self, x):
        return torch.sin(x)


def test_a_wrong_lowering_is_a_finding_and_a_failure(x, monkeypatch):
    lowerings = torch_op_registry._TORCH_OPS_REGISTRY.name_to_func_mapping
    monkeypatch.setitem(lowerings, "sin", lowerings["cos"])
    result = nanproof.convert(Sine(), (x,))
    assert result.verdict == "failed"
    assert [f.code for f in result.findings] == ["NP201"]


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_passes_that_keep_the_result_are_not_found(x, precision):
    result = nanproof.convert(Perceptron(), (x,), verify_passes=True, precision=precision)
    assert result.findings == ()
    assert result.seconds["check passes"] > 0


class _Halves(AbstractGraphPass):
    """Halves the weights of every linear op."""

    def apply(self, prog):
        layers = [op for op in prog.functions["main"].operations if op.op_type == "linear"]
        ApplyEdits([SetConstant(op.name, "weight", 0, op.weight.val / 2) for op in layers])(prog)


@pytest.mark.parametrize(
    ("before", "remedy"), [("common::add_fp16_cast", "left out"), ("common::add_int16_cast", "not repaired")]
)
def test_a_wrong_pass_is_found_before_and_after_the_cast(x, monkeypatch, before, remedy):
    monkeypatch.setitem(PASS_REGISTRY.passes, "test::halves", _Halves)
    names = list(pass_pipeline._COMMON_PASSES)
    names.insert(names.index(before), "test::halves")
    monkeypatch.setattr(pass_pipeline, "_COMMON_PASSES", names)
    result = nanproof.convert(Perceptron(), (x,), verify_passes=True)
    assert [(f.code, f.op, f.remedy) for f in result.findings] == [("NP202", "test::halves", remedy)]


@pytest.mark.parametrize("unit", ["cpu", "ane", "ane_m1"])
def test_every_unit_can_judge(unit, x):
    result = nanproof.convert(Perceptron(), (x,), units=(unit, "gpu"))
    assert result.verdicts == {unit: "proved", "gpu": "proved"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": ()}, "nothing could be checked"),
        ({"units": ("tpu",)}, "Unknown numerics 'tpu'"),
        ({"precision": "bfloat16"}, "Unknown precision 'bfloat16'"),
        ({"minimum_deployment_target": "iOS99"}, "Unknown deployment target 'iOS99'"),
        ({"minimum_deployment_target": "iOS13"}, "need iOS15 or later"),
    ],
)
def test_wrong_options(options, message, x):
    with pytest.raises(UsageError, match=message):
        nanproof.convert(Perceptron(), (x,), **options)


def test_wrong_calibration(x):
    with pytest.raises(InputError, match="Pass what you would pass"):
        nanproof.convert(Perceptron(), (x,), calibration=[None])


def test_nothing_is_left_behind(x, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = nanproof.convert(Perceptron(), (x,))
    folder = result.package.parent
    assert folder.is_dir()
    del result
    assert not folder.exists()


def test_an_unsupported_op_is_no_pass(x, monkeypatch):
    """Could not check is never a pass."""
    table = {name: record for name, record in nanproof.ops.TABLE.items() if name != "gelu"}
    monkeypatch.setattr("nanproof.interpret.loop.TABLE", table)
    with pytest.raises(nanproof.errors.UnsupportedOpError, match=r"(?s)gelu \(1x\).*Nothing was checked"):
        nanproof.convert(Perceptron(), (x,))


def test_interruption_leaves_the_destination_untouched(x, tmp_path, monkeypatch):
    path = Path(nanproof.convert(Perceptron(), (x,)).save(tmp_path / "m.mlpackage"))
    before = sorted((p.relative_to(path), p.stat().st_size) for p in path.rglob("*"))

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanproof.building.load_program", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nanproof.convert(Perceptron(), (x,)).save(path)
    assert sorted((p.relative_to(path), p.stat().st_size) for p in path.rglob("*")) == before
