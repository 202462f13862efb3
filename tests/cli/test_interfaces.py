"""`nanproof run` and `nanproof inspect` on images, flexible shapes, defaults, classifiers, functions and pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nanproof.mil.coreml import ct, mb
from tests.cli.conftest import Command
from tests.mil.packages import converted, edited, image_model, pipeline, saved, scaling_model, two_functions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def colours(folder: Path) -> Path:
    """Adds 5 to each channel of a 6 x 4 image."""
    return saved(image_model("BGR", "BGR"), folder / "colours.mlpackage")


@pytest.fixture(scope="module")
def animal(folder: Path) -> Path:
    """A classifier of three numbers, with a gain that may be left out."""

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3)), mb.TensorSpec(shape=(1,))], opset_version=ct.target.iOS17)
    def program(x, gain):
        return mb.softmax(x=mb.mul(x=x, y=gain), name="p")

    def edit(spec):
        gain = spec.description.input[1].type
        gain.isOptional, gain.multiArrayType.floatDefaultValue = True, 2.0

    model = converted(program, classifier_config=ct.ClassifierConfig(["cat", "dog", "cow"], "animal"))
    return edited(saved(model, folder / "animal.mlpackage"), edit)


@pytest.fixture(scope="module")
def chain(folder: Path) -> Path:
    """A pipeline: a → 2a → 6a."""
    return pipeline(scaling_model(2, "a", "b"), scaling_model(3, "b", "c"), path=folder / "chain.mlpackage")


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """The functions double and triple."""
    return two_functions(folder)


@pytest.fixture
def photo(tmp_path: Path) -> np.ndarray:
    """The pixels of photo.png, which has transparency, and of photo.npy."""
    array = np.random.default_rng(0).integers(0, 240, (4, 6, 4)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    np.save(tmp_path / "photo.npy", array[..., :3])
    return array[..., :3]


@pytest.mark.parametrize(
    "how", [("--inputs", "{}/photo.png"), ("--input", "x={}/photo.png"), ("--inputs", "{}/photo.npy")]
)
def test_an_image_becomes_an_image(
    nanproof: Command, colours: Path, photo: np.ndarray, tmp_path: Path, how: tuple[str, str]
):
    said = nanproof("run", colours, how[0], how[1].format(tmp_path), "-o", tmp_path / "made.png")
    assert said.code == 0, said.err
    assert "float32[1, 3, 4, 6]" in said.out
    with Image.open(tmp_path / "made.png") as made:
        np.testing.assert_array_equal(np.asarray(made)[..., :3], photo + 5)


def test_the_tensor_of_an_image_output(nanproof: Command, colours: Path, photo: np.ndarray, tmp_path: Path):
    assert nanproof("run", colours, "--inputs", tmp_path / "photo.npy", "-o", tmp_path / "made.npz").code == 0
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_array_equal(made["y"][0], photo[..., ::-1].transpose(2, 0, 1) + 5.0)


def test_an_image_of_the_wrong_size(nanproof: Command, colours: Path, tmp_path: Path):
    Image.new("RGB", (5, 4)).save(tmp_path / "small.png")
    said = nanproof("run", colours, "--inputs", tmp_path / "small.png")
    assert said.code == 2
    assert "has 5 x 4 pixels and 3 channels, but the program takes a BGR image of 6 x 4 (width x height)" in said.err


def test_a_png_needs_one_image(nanproof: Command, chain: Path, folder: Path, tmp_path: Path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    said = nanproof("run", chain, "--inputs", tmp_path / "a.npy", "-o", tmp_path / "made.png")
    assert said.code == 2
    assert "A .png shows one image, but the model gives c (fp32[2, 3]). Write an .npz or a .json." in said.err
    grey = saved(image_model("GRAYSCALE_FLOAT16", "GRAYSCALE_FLOAT16"), folder / "grey.mlpackage")
    np.save(tmp_path / "x.npy", np.ones((4, 6), np.float32))
    said = nanproof("run", grey, "--inputs", tmp_path / "x.npy", "-o", tmp_path / "made.png")
    assert said.code == 2
    assert "A .png has no floating-point pixels" in said.err
    assert not (tmp_path / "made.png").exists()


def test_json_in_and_out(nanproof: Command, animal: Path, tmp_path: Path):
    (tmp_path / "in.json").write_text('{"x": [[1, 2, 0.5]], "gain": [1]}')
    assert nanproof("run", animal, "--inputs", tmp_path / "in.json", "-o", tmp_path / "out.json").code == 0
    out = json.loads((tmp_path / "out.json").read_text())
    scores = np.exp([1, 2, 0.5])
    assert out["animal"] == "dog"
    assert out["animal_probs"] == pytest.approx(dict(zip(("cat", "dog", "cow"), scores / scores.sum(), strict=True)))


def test_json_has_no_number_for_infinity(nanproof: Command, chain: Path, tmp_path: Path):
    (tmp_path / "in.json").write_text("[[Infinity, -Infinity, NaN], [1, 2, 3]]")
    assert nanproof("run", chain, "--inputs", tmp_path / "in.json", "-o", tmp_path / "out.json").code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"c": [["inf", "-inf", "nan"], [6, 12, 18]]}


def test_single_inputs_and_defaults(nanproof: Command, animal: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([[1, 2, 0.5]], np.float32))
    (tmp_path / "gain.json").write_text("[1]")
    x, gain_file = tmp_path / "x.npy", tmp_path / "gain.json"
    calls = [
        (("--inputs", x), 2),  # an array without a name is for the one input that has to be given
        (("--input", f"x={x}"), 2),
        (("--input", f"x={x}", "--input", f"gain={gain_file}"), 1),
        (("--inputs", x, "--input", f"gain={gain_file}"), 1),
    ]
    for args, gain in calls:
        assert nanproof("run", animal, *args, "-o", tmp_path / "o.json").code == 0
        scores = np.exp(gain * np.array([1, 2, 0.5]))
        found = json.loads((tmp_path / "o.json").read_text())["animal_probs"]
        assert list(found.values()) == pytest.approx(list(scores / scores.sum()))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--input", "x"), "'--input x' names no file. Write --input NAME=FILE; the model takes x, gain."),
        (("--input", "x={}/x.npy", "--input", "x={}/x.npy"), "The input 'x' is given twice."),
        (("--input", "x={}/all.npz"), "holds arrays by name, and not one for 'x'. Pass it with --inputs."),
        (("--input", "y={}/x.npy"), "there is no input 'y' and the input 'x' is missing"),
        (("--input", "x={}/none.json"), "There is no file"),
        (("--input", "x={}/none.png"), "There is no file"),
        (("--input", "x={}/bad.json"), "cannot be read: Expecting value"),
        (("--input", "x={}/bad.png"), "cannot be read as an image"),
        (("--inputs", "{}/ragged.json"), "cannot be read: setting an array element with a sequence"),
        ((), "the input 'x' is missing.\n  The program takes\n    x: fp32[1, 3]\n    gain: fp32[1], 2 if left out"),
    ],
)
def test_wrong_inputs(nanproof: Command, animal: Path, tmp_path: Path, args: tuple[str, ...], message: str):
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    np.savez(tmp_path / "all.npz", x=np.ones((1, 3), np.float32))
    for name in ("bad.json", "bad.png"):
        (tmp_path / name).write_text("no such thing")
    (tmp_path / "ragged.json").write_text('{"x": [[1, 2], [3]]}')
    said = nanproof("run", animal, *(a.format(tmp_path) for a in args))
    assert said.code == 2
    assert message in said.err


def test_a_pipeline(nanproof: Command, chain: Path, tmp_path: Path):
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "in.npz", a=a)
    assert nanproof("run", chain, "--inputs", tmp_path / "in.npz", "-o", tmp_path / "out.npz").code == 0
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["c"], 6 * a)
    said = nanproof("check", chain, "--inputs", tmp_path / "in.npz")
    assert said.code == 2
    assert "This is a pipeline of 2 programs (stage_0, stage_1), and one program is needed." in said.err


def test_a_function(nanproof: Command, two: Path, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.array([1, 2, 3, 4], np.float32))
    given = ("--inputs", tmp_path / "x.npy", "-o", tmp_path / "out.json")
    assert nanproof("run", two, "--function", "triple", *given).code == 0
    assert json.loads((tmp_path / "out.json").read_text()) == {"z": [3, 6, 9, 12]}
    said = nanproof("run", two, "--function", "half", *given)
    assert said.code == 2
    assert "There is no function 'half'. The program holds double, triple." in said.err


def test_inspect_shows_images(nanproof: Command, folder: Path):
    shape = ct.Shape((1, 3, ct.RangeDim(2, 8, default=4), ct.RangeDim(3, 9, default=6)))
    path = saved(image_model("RGB", "BGR", shape=shape), folder / "any.mlpackage")
    assert "RGB image of 3..9 x 2..8 (width x height)" in nanproof("inspect", path).out
    (given,) = nanproof("inspect", path, "--json").document["interface"]["inputs"]
    assert (given["image"], given["shape"]) == ("RGB", [1, 3, "?", "?"])
    assert given["shape_ranges"] == [[1, 1], [3, 3], [2, 8], [3, 9]]
    assert given["default_shape"] == [1, 3, 4, 6]


def test_inspect_shows_a_classifier_and_its_optional_input(nanproof: Command, animal: Path):
    said = nanproof("inspect", animal)
    assert "fp32[1], 2 if left out" in said.out
    assert "3: cat, dog, cow" in said.out
    interface = nanproof("inspect", animal, "--json").document["interface"]
    assert interface["classifier"] == {
        "label": "animal",
        "probabilities": "animal_probs",
        "classes": ["cat", "dog", "cow"],
    }
    assert [(i["optional"], i["default"]) for i in interface["inputs"]] == [(False, None), (True, 2.0)]


def test_inspect_shows_functions(nanproof: Command, two: Path):
    said = nanproof("inspect", two)
    assert "double (1 op), triple (" in said.out
    assert "function double  (default)" in said.out
    assert "function triple" in said.out
    assert "seen  fp16[4]" in said.out
    document = nanproof("inspect", two, "--json").document
    assert document["default_function"] == "double"
    assert {n: [o["name"] for o in i["outputs"]] for n, i in document["interfaces"].items()} == {
        "double": ["y"],
        "triple": ["z"],
    }


def test_inspect_shows_stages(nanproof: Command, chain: Path):
    said = nanproof("inspect", chain, "--ops")
    assert said.code == 0
    assert "stages" in said.out
    assert "stage stage_1  (1 op)" in said.out
    assert said.out.count("= mul(") == 2
    document = nanproof("inspect", chain, "--json").document
    assert [(s["name"], s["program"]["ops"]) for s in document["stages"]] == [("stage_0", 1), ("stage_1", 1)]
    assert [i["name"] for i in document["interface"]["inputs"]] == ["a"]


def test_check_takes_images(nanproof: Command, colours: Path, photo: np.ndarray, tmp_path: Path):
    right = photo[..., ::-1].transpose(2, 0, 1)[np.newaxis] + 5.0
    np.savez(tmp_path / "right.npz", y=right.astype(np.float32))
    said = nanproof("check", colours, "--inputs", tmp_path / "photo.png", "--reference", tmp_path / "right.npz")
    assert said.code == 0, said.err
    np.savez(tmp_path / "wrong.npz", y=right.astype(np.float32) + 30)
    assert (
        nanproof("check", colours, "--inputs", tmp_path / "photo.png", "--reference", tmp_path / "wrong.npz").code == 1
    )
    assert "It takes\n    x: BGR image of 6 x 4 (width x height)" in nanproof("check", colours).err


def test_check_compares_the_probabilities_of_a_classifier(nanproof: Command, animal: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", x=np.array([[1, 2, 0.5]], np.float32))
    scores = np.exp(2 * np.array([[1, 2, 0.5]]))
    np.savez(tmp_path / "right.npz", animal_probs=scores / scores.sum())
    np.savez(tmp_path / "wrong.npz", animal_probs=scores[:, ::-1] / scores.sum())
    for name, code in (("right", 0), ("wrong", 1)):
        said = nanproof("check", animal, "--inputs", tmp_path / "in.npz", "--reference", tmp_path / f"{name}.npz")
        assert said.code == code, said.err
        assert "animal_probs" in said.out
    assert nanproof("check", animal, "--inputs", tmp_path / "in.npz").code == 0
