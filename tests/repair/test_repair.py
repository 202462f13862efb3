"""Packages of plain coremltools, repaired: what they compute, and what they are besides, stays theirs."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch

import nanproof
from nanproof.errors import InputError, ModelFileError
from nanproof.mil.coreml import quiet
from nanproof.mil.frontend import Typing
from nanproof.mil.package import open_package, write_model
from nanproof.mil.read import load_program
from nanproof.mil.reflect import reflect
from nanproof.mil.twin import Twin
from nanproof.program import DType, Program
from nanproof.result import Conversion

from . import packages
from .packages import mb, numbers, types

UNITS = ("gpu", "strict")
BROKEN = [name for name in packages.PROGRAMS if name != "healthy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def made(folder: Path) -> Any:
    """A package by name, made once by plain coremltools."""

    @cache
    def make(name: str) -> Path:
        return saved(packages.PROGRAMS[name], folder / f"{name}.mlpackage")

    return make


@pytest.fixture(scope="module")
def repaired(made: Any) -> Any:
    """The repair of a package, done once."""

    @cache
    def repair(name: str) -> Conversion:
        return nanproof.repair(made(name), units=UNITS)

    return repair


def saved(make: Any, path: Path) -> Path:
    with quiet():
        model = make()
        model.short_description = "what its author wrote"
        model.author = "somebody"
        model.user_defined_metadata["key"] = "value"
        model._mil_program = None
        model.save(str(path))
    return path


def spec(path: Path) -> Any:
    return open_package(path).spec


def written_bytes(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def plain_ops(program: Program) -> Counter[str]:
    return Counter(op.type for op in program.walk() if op.type != "cast")


@pytest.mark.parametrize("name", BROKEN)
def test_broken_packages_are_repaired(name: str, repaired: Any) -> None:
    result = repaired(name)
    assert result.passed
    assert result.original.generated
    assert not result.original.healthy
    assert "failed" in {unit.verdict for unit in result.original.units.values()}
    assert not any(outcome.nonfinite for unit in result.units.values() for outcome in unit.stress)


@pytest.mark.parametrize("name", BROKEN)
def test_the_package_stays_what_it_is_besides(name: str, made: Any, repaired: Any) -> None:
    old, new = spec(made(name)), spec(repaired(name).package)
    assert new.specificationVersion == old.specificationVersion
    assert new.mlProgram.functions["main"].opset == old.mlProgram.functions["main"].opset
    added = {k: v for k, v in new.description.metadata.userDefined.items() if k.startswith("com.github.nanproof")}
    assert set(added) == {"com.github.nanproof.version"}
    for key in added:
        del new.description.metadata.userDefined[key]
    assert new.description == old.description
    assert repaired(name).program.interface.inputs.keys() == load_program(made(name)).interface.inputs.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_the_written_program_is_minimal_and_coremltools_takes_it(name: str, repaired: Any) -> None:
    result = repaired(name)
    makers = {value: op for op in result.program.walk() for value in op.outputs}
    for op in result.program.walk():
        if op.type == "cast":
            (given,) = op.inputs["x"]
            assert given.const is None, "a constant is cast at run time"
            assert given not in makers or makers[given].type != "cast" or given.type.dtype.is_integer, "a double cast"
    with quiet():
        assert ct.models.MLModel(str(result.package), skip_model_load=True).get_spec().WhichOneof("Type") == "mlProgram"


@pytest.mark.parametrize("name", ["compressed", "quantized", "sparse", "blockwise", "palette_18"])
def test_compressed_weights_stay_compressed(name: str, made: Any, repaired: Any) -> None:
    old, new = load_program(made(name)), repaired(name).program
    assert {t: c for t, c in plain_ops(new).items() if t.startswith("constexpr_")} == {
        t: c for t, c in plain_ops(old).items() if t.startswith("constexpr_")
    }
    size = {path: sum(map(len, written_bytes(path).values())) for path in (made(name), repaired(name).package)}
    assert size[repaired(name).package] < 1.3 * size[made(name)] + 1000


@pytest.mark.parametrize("name", list(packages.PROGRAMS))
def test_a_twin_that_is_cast_again_is_the_file_it_came_from(name: str, made: Any, tmp_path: Path) -> None:
    old = load_program(made(name))
    twin = Twin.of(open_package(made(name)), old)
    pymil = twin.pymil()
    fp32 = reflect(pymil)
    half = {op.type.partition("_")[0] for op in fp32.walk() if op.dtype is DType.FP16}
    assert half <= {"cast", "constexpr", "read", "write"}  # states and compressed weights are FP16 by nature
    write_model(twin.package(pymil, Typing()).model, tmp_path / "again.mlpackage")
    again = load_program(tmp_path / "again.mlpackage")
    assert plain_ops(again) == plain_ops(old)
    assert again.outputs == old.outputs
    assert again.inputs == old.inputs


def test_a_healthy_package_is_left_alone_byte_for_byte(made: Any, repaired: Any, tmp_path: Path) -> None:
    result = repaired("healthy")
    assert result.passed
    assert result.original.healthy
    assert (result.plan.fp32_ops, result.plan.rewrites, result.plan.islands) == (0, (), ())
    saved_to = result.save(tmp_path / "copy.mlpackage")
    assert written_bytes(saved_to) == written_bytes(made("healthy"))


def test_the_mask_is_finite_without_any_fp32(repaired: Any) -> None:
    result = repaired("attention")
    assert result.plan.fp32_ops == 0
    assert {"NP101", "NP401"} <= {finding.code for finding in result.findings}
    ids, mask = np.arange(16, dtype=np.int32).reshape(2, 8), np.ones((2, 8), np.float32)
    mask[1, 3:] = 0
    ours = nanproof.predict(result.program, {"ids": ids, "attention_mask": mask}, numerics="gpu")["logits"]
    table, scale = numbers(50, 16).astype(np.float64), {1: 0.2, 2: 0.2, 3: 0.2}
    x = table[ids]
    q, k, v = (x @ numbers(16, 16, scale=s, seed=i).astype(np.float64).T for i, s in scale.items())
    scores = np.where(mask[:, None, :] == 1, q @ k.transpose(0, 2, 1), -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    right = (p / p.sum(-1, keepdims=True)) @ v @ numbers(4, 16, scale=0.3, seed=4).astype(np.float64).T
    assert np.abs(ours - right).max() < 1e-2 * (right.max() - right.min())


def test_a_state_goes_on_from_call_to_call(repaired: Any) -> None:
    result = repaired("state")
    assert str(result.program.states["memory"]) == "state<fp16[2, 16]>"
    state, kept = nanproof.make_state(result.program), np.zeros((2, 16))
    rng = np.random.default_rng(0)
    for _ in range(4):
        x = rng.standard_normal((2, 16)).astype(np.float32)
        ours = nanproof.predict(result.program, {"x": x}, numerics="gpu", state=state)["unit"]
        kept = 0.5 * kept + x
        right = kept / np.sqrt((kept**2).mean(-1, keepdims=True))
        assert np.abs(ours - right).max() < 2e-2
    assert np.abs(state.read_state("memory") - kept).max() < 1e-2


def test_a_classifier_keeps_its_labels_and_its_image(repaired: Any) -> None:
    program = repaired("classifier").program
    assert program.interface.classes == ("ant", "bee", "cat")
    assert program.interface.inputs["image"].color is not None
    given = nanproof.predict(program, {"image": np.full((16, 16, 3), 255, np.uint8)}, numerics="gpu")
    assert given["classLabel"] in program.interface.classes
    assert np.isfinite(list(given["classLabel_probs"].values())).all()


def test_other_shapes_are_tried(repaired: Any) -> None:
    result = repaired("flexible")
    rows = {np.shape(s.inputs["x"]) for s in result.stress}
    assert rows == {(3, 16)}
    assert result.fidelity.batches == 5  # three drawn ones, the smallest and the largest
    for count in (1, 12):
        out = nanproof.predict(result.program, {"x": np.ones((count, 16), np.float32)}, numerics="gpu")["unit"]
        assert out.shape == (count, 16)
        assert np.isfinite(out).all()


def test_given_inputs_count_and_are_named(made: Any, tmp_path: Path) -> None:
    small = np.full((2, 8, 32), 1e-3, np.float32)
    quiet_one = nanproof.repair(made("rms_norm"), {"x": small}, stress=False)
    assert quiet_one.original is not None
    assert quiet_one.original.healthy  # on these inputs nothing overflows
    assert not quiet_one.original.generated
    np.savez(tmp_path / "a.npz", x=small)
    np.savez(tmp_path / "b.npz", x=numbers(2, 8, 32, scale=2))
    loud = nanproof.repair(made("rms_norm"), tmp_path, stress=False)
    assert (loud.passed, loud.fidelity.batches) == (True, 2)
    assert not loud.original.healthy  # type: ignore[union-attr]


def test_what_was_fp32_stays_fp32_and_is_counted_apart(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2, 16), dtype=types.fp32)], opset_version=ct.target.iOS16)
    def program(x):
        wide = mb.mul(x=x, y=np.float32(300), name="wide")
        grown = mb.reduce_mean(x=mb.mul(x=wide, y=wide, name="square"), axes=[-1], keep_dims=True, name="mean")
        unit = mb.mul(x=wide, y=mb.rsqrt(x=grown, epsilon=np.float32(1e-5)), name="unit")
        return mb.softmax(x=unit, axis=-1, name="kept")

    def make() -> Any:
        kept = ct.transform.FP16ComputePrecision(op_selector=lambda op: op.op_type != "softmax")
        return packages.convert(program, compute_precision=kept)

    result = nanproof.repair(saved(make, tmp_path / "mixed.mlpackage"))
    (softmax,) = [op for op in result.program.walk() if op.type == "softmax"]
    assert softmax.dtype is DType.FP32
    assert result.plan.author_fp32_ops == 1
    assert [f.op for f in result.findings if f.code == "NP132"] == ["kept"]
    assert result.passed


def test_a_huge_constant_is_no_wish_for_fp32(repaired: Any) -> None:
    """coremltools leaves the product with -1e9 in FP32, and casts it to -inf right behind."""
    result = repaired("attention_1e9")
    assert not [f for f in result.findings if f.code == "NP132"]
    assert {op.dtype for op in result.program.walk() if op.type in ("mul", "softmax")} == {DType.FP16}


def test_a_lost_weight_is_never_a_pass(tmp_path: Path) -> None:
    result = nanproof.repair(saved(packages.lost, tmp_path / "lost.mlpackage"))
    assert result.verdict == "unknown"
    assert [f.code for f in result.findings if f.code == "NP402"] == ["NP402"]
    assert any("its weights 'weight' hold 1 Inf" in reason for reason in result.units["gpu"].reasons)


def test_an_epsilon_that_was_smaller_is_named(repaired: Any) -> None:
    found = [f for f in repaired("rms_norm").findings if f.code == "NP403"]
    assert found
    assert "5.96e-08" in found[0].detail


def test_what_else_is_in_the_package_comes_along(tmp_path: Path) -> None:
    path = saved(packages.rms_norm, tmp_path / "noted.mlpackage")
    notes = path / "Data" / "com.apple.CoreML" / "FeatureDescriptions.json"
    notes.write_text('{"Inputs": {"x": "what Xcode was told"}}')
    manifest = json.loads((path / "Manifest.json").read_text())
    item = {"author": "com.apple.CoreML", "description": "notes", "name": notes.name}
    manifest["itemInfoEntries"]["NOTES"] = {**item, "path": f"com.apple.CoreML/{notes.name}"}
    (path / "Manifest.json").write_text(json.dumps(manifest))
    fixed = nanproof.repair(path, prove=False).save(tmp_path / "fixed.mlpackage")
    assert (fixed / "Data" / "com.apple.CoreML" / notes.name).read_bytes() == notes.read_bytes()
    assert "NOTES" in json.loads((fixed / "Manifest.json").read_text())["itemInfoEntries"]
    with quiet():
        assert ct.models.MLModel(str(fixed), skip_model_load=True).get_spec().description.input[0].name == "x"


class Loud(torch.nn.Module):
    """Values far beyond the FP16 range inside, small ones outside."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.exp(x * 15.0) ** 0.1


def test_a_package_of_nanproof_keeps_its_source_map(tmp_path: Path) -> None:
    x = torch.linspace(0.5, 2.0, 6).reshape(2, 3)
    broken = nanproof.convert(Loud(), (x,), precision="float16").save(tmp_path / "loud.mlpackage")
    result = nanproof.repair(broken, {"x": x.numpy()}, prove=False)
    assert result.passed
    written = load_program(result.save(tmp_path / "fixed.mlpackage"))
    (exp,) = [op for op in written.walk() if op.type == "exp"]
    assert exp.source is not None
    assert "torch.exp(x * 15.0)" in exp.source.code
    assert [f.source.code for f in result.findings if f.source is not None]


def test_a_pipeline_is_refused(tmp_path: Path) -> None:
    with quiet():
        stages = [ct.models.MLModel(str(saved(packages.healthy, tmp_path / "a.mlpackage")), skip_model_load=True)]
        second = mb_program_of_five()
        stages.append(second)
        ct.utils.make_pipeline(*stages).save(str(tmp_path / "pipe.mlpackage"))
    with pytest.raises(ModelFileError, match="pipeline of 2 programs"):
        nanproof.repair(tmp_path / "pipe.mlpackage")


def mb_program_of_five() -> Any:
    @mb.program(input_specs=[mb.TensorSpec((2, 5), dtype=types.fp32)], opset_version=ct.target.iOS16)
    def program(p):
        return mb.relu(x=p, name="r")

    return packages.convert(program)


def test_only_packages_are_repaired(tmp_path: Path, made: Any) -> None:
    (tmp_path / "m.mlmodelc").mkdir()
    with pytest.raises(ModelFileError, match="compiled for a device"):
        nanproof.repair(tmp_path / "m.mlmodelc")
    with pytest.raises(ModelFileError, match="There is no file or folder"):
        nanproof.repair(tmp_path / "absent.mlpackage")
    with pytest.raises(ModelFileError, match="nanproof convert"):
        nanproof.repair(tmp_path / "net.pt2")
    with pytest.raises(InputError, match="missing"):
        nanproof.repair(made("healthy"), {"y": np.zeros((2, 16), np.float32)})


def test_a_model_of_coremltools_will_do(made: Any) -> None:
    with quiet():
        model = ct.models.MLModel(str(made("healthy")), skip_model_load=True)
    assert nanproof.repair(model).passed


def test_all_functions_are_repaired_and_share_their_weights(tmp_path: Path) -> None:
    with quiet():
        path = packages.multifunction(tmp_path)
    result = nanproof.repair(path, units=UNITS)
    assert result.passed
    assert {n: one.original.healthy for n, one in result.functions.items()} == {"plain": True, "normed": False}
    assert all(one.passed for one in result.functions.values())
    assert list(result.program.functions) == list(load_program(path).functions)
    old, new = spec(path), spec(result.package)
    assert new.description.functions == old.description.functions
    assert new.description.defaultFunctionName == "plain"
    size = {p: sum(map(len, written_bytes(p).values())) for p in (path, result.package)}
    assert size[result.package] < 1.2 * size[path]  # the weights are in it once
    written = load_program(result.save(tmp_path / "fixed.mlpackage"), "normed")
    x = numbers(2, 64)
    h = x.astype(np.float64) @ numbers(64, 64, scale=0.5).astype(np.float64).T
    right = h / np.sqrt((h**2).mean(-1, keepdims=True))
    (ours,) = nanproof.predict(written, {"x": x}, numerics="gpu").values()
    assert np.abs(ours - right).max() < 2e-2


def test_functions_that_are_all_healthy_stay_as_they_are(tmp_path: Path) -> None:
    with quiet():
        path = packages.multifunction(tmp_path)
    x = np.full((2, 64), 1e-4, np.float32)
    result = nanproof.repair(path, {"x": x}, kinds={"x": (-1e-4, 1e-4)})
    assert {n: one.original.healthy for n, one in result.functions.items()} == {"plain": True, "normed": True}
    assert written_bytes(result.package) == written_bytes(path)


@pytest.mark.shared
def test_a_real_package_that_is_fp32_is_left_alone(shared: Path) -> None:
    """Basic Pitch (Spotify, Apache-2.0), on windows of real music."""
    path = shared / "models" / "basic_pitch" / "nmp.mlpackage"
    with np.load(path.parent / "windows.npz") as windows:
        given, right = [{"input_2": one[np.newaxis]} for one in windows["input_2"]], windows["Identity_1"]
    result = nanproof.repair(path, given, prove=False)
    assert result.passed
    assert result.original is not None
    assert result.original.healthy
    assert result.plan.fp32_ops == 0
    assert written_bytes(result.package) == written_bytes(path)
    ours = nanproof.predict(result.program, given[0])["Identity_1"]
    assert np.abs(ours[0] - right[0]).max() < 1e-3
