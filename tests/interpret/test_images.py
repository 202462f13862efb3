"""Images into and out of a program, against the arithmetic of the model written in NumPy on Pillow's own pixels."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from PIL import Image

import nanproof
from nanproof.errors import InputError, UsageError
from nanproof.interpret.images import pixels
from nanproof.mil.coreml import ct
from nanproof.mil.read import load
from nanproof.program import Color
from tests.mil.packages import image_model, pipeline, saved

HEIGHT, WIDTH = 4, 6


def picture(channels, low=0, high=256, seed=0):
    shape = (HEIGHT, WIDTH, 3) if channels == 3 else (HEIGHT, WIDTH)
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Loaded models by their layouts, made once."""
    folder, made = tmp_path_factory.mktemp("images"), {}

    def get(given, out):
        if (given, out) not in made:
            made[given, out] = load(saved(image_model(given, out), folder / f"{given}-{out}.mlpackage"))
        return made[given, out]

    return get


@pytest.mark.parametrize(("given", "out"), [("RGB", "RGB"), ("BGR", "BGR"), ("RGB", "BGR"), ("BGR", "RGB")])
def test_colour_images(packages, given, out):
    """A program that adds 5 to each channel; where the layouts differ, it exchanges red and blue for the caller."""
    image = picture(3, high=240)
    made = nanproof.predict(packages(given, out), {"x": Image.fromarray(image)})["y"]
    assert (made.mode, made.size) == ("RGBA", (WIDTH, HEIGHT))
    red, green, blue, alpha = (np.asarray(c).astype(int) for c in made.split())
    expected = image.astype(int) + 5
    first, last = (red, blue) if given == out else (blue, red)
    np.testing.assert_array_equal(first, expected[..., 0])
    np.testing.assert_array_equal(green, expected[..., 1])
    np.testing.assert_array_equal(last, expected[..., 2])
    assert (alpha == 255).all()


def test_the_tensor_of_a_bgr_image_has_blue_first(packages):
    image = picture(3)
    tensor = nanproof.predict(packages("BGR", "RGB"), {"x": Image.fromarray(image)}, images=False)["y"]
    assert tensor.shape == (1, 3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(tensor[0, 0], image[..., 2] + 5.0)
    np.testing.assert_array_equal(tensor[0, 2], image[..., 0] + 5.0)


def test_grey_images(packages):
    image = picture(1, high=240)
    made = nanproof.predict(packages("GRAYSCALE", "GRAYSCALE"), {"x": Image.fromarray(image)})["y"]
    assert (made.mode, made.size) == ("L", (WIDTH, HEIGHT))
    np.testing.assert_array_equal(np.asarray(made), image + 5)


def test_half_precision_images(packages):
    """Pixels are rounded to binary16 on the way in and on the way out: 0.1 is no binary16 number, 70000 is infinity."""
    image = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    image[0, 0] = 70000
    program = packages("GRAYSCALE_FLOAT16", "GRAYSCALE_FLOAT16")
    made = nanproof.predict(program, {"x": Image.fromarray(image)}, numerics="gpu")["y"]
    assert (made.mode, made.size) == ("F", (WIDTH, HEIGHT))
    with np.errstate(over="ignore"):
        half = image.astype(np.float16)
    np.testing.assert_array_equal(np.asarray(made), (half + np.float16(5)).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("given", ["RGB", "BGR", "GRAYSCALE"])
def test_arrays_of_pixels_are_images(packages, given, dtype):
    image = picture(3 if given != "GRAYSCALE" else 1)
    program = packages(given, given)
    from_image = nanproof.predict(program, {"x": Image.fromarray(image)}, images=False)["y"]
    np.testing.assert_array_equal(nanproof.predict(program, {"x": image.astype(dtype)}, images=False)["y"], from_image)


def test_a_tensor_is_taken_as_it_is(packages):
    tensor = np.linspace(-1, 1, 3 * HEIGHT * WIDTH, dtype=np.float32).reshape(1, 3, HEIGHT, WIDTH)
    made = nanproof.predict(packages("BGR", "BGR"), {"x": tensor}, images=False)["y"]
    np.testing.assert_array_equal(made, tensor + np.float32(5))


def test_scale_and_bias_are_ops_of_the_program(tmp_path):
    model = image_model("BGR", "BGR", scale=2.0, bias=[1.0, 2.0, 3.0], add=0.0)
    image = picture(3, high=100)
    made = nanproof.predict(load(saved(model, tmp_path / "m.mlpackage")), {"x": image}, images=False)["y"]
    # The bias is in the order of the layout's channels: 1 belongs to blue.
    for channel, (bias, plane) in enumerate(((1, 2), (2, 1), (3, 0))):
        np.testing.assert_array_equal(made[0, channel], 2.0 * image[..., plane] + bias)


def test_pixels_are_rounded_and_held_in_their_range():
    values = np.array([-3.0, -0.4, 0.6, 1.5, 2.5, 254.6, 300.0, np.inf, -np.inf, np.nan]).reshape(1, 1, 2, 5)
    assert pixels(values, Color.GRAYSCALE).reshape(-1).tolist() == [0, 0, 1, 2, 2, 255, 255, 255, 0, 0]


def test_any_size_in_the_range(tmp_path):
    shape = ct.Shape((1, 3, ct.RangeDim(2, 8, default=4), ct.RangeDim(3, 9, default=6)))
    program = load(saved(image_model("RGB", "RGB", shape=shape), tmp_path / "m.mlpackage"))
    for size in ((3, 2), (9, 8)):
        assert nanproof.predict(program, {"x": Image.new("RGB", size)})["y"].size == size
    for size in ((2, 2), (9, 9)):
        with pytest.raises(InputError) as caught:
            nanproof.predict(program, {"x": Image.new("RGB", size)})
        assert str(caught.value) == (
            f"The image for input 'x' has {size[0]} x {size[1]} pixels and 3 channels, but the program takes an RGB "
            "image of 3..9 x 2..8 (width x height)."
        )


@pytest.mark.parametrize(
    ("layout", "given", "message"),
    [
        (
            "RGB",
            Image.new("RGBA", (WIDTH, HEIGHT)),
            "The image for input 'x' has mode 'RGBA' and 6 x 4 pixels, but the program takes an RGB image of 6 x 4 "
            "(width x height), which is mode 'RGB'.\n  Convert it: image.convert('RGB').",
        ),
        ("BGR", Image.new("L", (WIDTH, HEIGHT)), "takes a BGR image of 6 x 4 (width x height), which is mode 'RGB'."),
        ("GRAYSCALE", Image.new("RGB", (WIDTH, HEIGHT)), "Convert it: image.convert('L')."),
        ("GRAYSCALE_FLOAT16", Image.new("L", (WIDTH, HEIGHT)), "Convert it: image.convert('F')."),
        (
            "GRAYSCALE",
            Image.new("L", (HEIGHT, WIDTH)),
            "The image for input 'x' has 4 x 6 pixels and 1 channel, but the program takes a GRAYSCALE image of 6 x 4 "
            "(width x height).",
        ),
        (
            "RGB",
            picture(1),
            "Input 'x' has shape (4, 6), but the program takes an RGB image of 6 x 4 (width x height).\n"
            "  Pass a Pillow image of mode 'RGB', its pixels as an array [height, width, 3], or the tensor "
            "[1, 3, height, width].",
        ),
        ("GRAYSCALE", picture(3), "its pixels as an array [height, width], or the tensor [1, 1, height, width]."),
        ("RGB", np.zeros((1, 1, HEIGHT, WIDTH)), "has 6 x 4 pixels and 1 channel, but the program takes an RGB image"),
        (
            "RGB",
            picture(3) / 255,
            "but the pixels of an RGB image of 6 x 4 (width x height) are whole numbers from 0 to 255.\n  Scale and "
            "round them, or pass a tensor [1, 3, height, width], whose values are taken as they are.",
        ),
        ("GRAYSCALE", picture(1).astype(int) + 100, "are whole numbers from 0 to 255"),
        ("GRAYSCALE", np.full((HEIGHT, WIDTH), np.nan), "holds values from nan to nan, but the pixels of"),
        (
            "GRAYSCALE",
            np.full((HEIGHT, WIDTH), "a"),
            "Input 'x' has dtype <U1, but the program takes a GRAYSCALE image",
        ),
    ],
)
def test_what_is_no_such_image(packages, layout, given, message):
    with pytest.raises(InputError) as caught:
        nanproof.predict(packages(layout, layout), {"x": given})
    assert message in str(caught.value)


def test_between_the_stages_of_a_pipeline_pixels_have_eight_bits(tmp_path):
    """x + 5.4 is rounded to x + 5 before 3.3 is added, and the sum is rounded once more: x + 8, and not x + 9."""
    first, second = image_model("RGB", "BGR", add=5.4), image_model("BGR", "RGB", add=3.3)
    spec = first.get_spec()
    ct.utils.rename_feature(spec, "y", "between")
    other = second.get_spec()
    ct.utils.rename_feature(other, "x", "between")
    models = [
        ct.models.MLModel(s, weights_dir=m.weights_dir, skip_model_load=True)
        for s, m in ((spec, first), (other, second))
    ]
    program = load(pipeline(*models, path=tmp_path / "p.mlpackage"))
    image = picture(3, high=200)
    made = nanproof.predict(program, {"x": Image.fromarray(image)})["y"]
    np.testing.assert_array_equal(np.asarray(made)[..., :3], image + 8)
    tensor = nanproof.predict(program, {"x": Image.fromarray(image)}, images=False)["y"]
    np.testing.assert_allclose(tensor[0], image.transpose(2, 0, 1) + 8.3, rtol=1e-6)


def test_without_pillow(packages, monkeypatch):
    program, real = packages("RGB", "RGB"), builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UsageError, match="Pillow is not installed: pip install pillow"):
        nanproof.predict(program, {"x": picture(3)})
    assert nanproof.predict(program, {"x": picture(3)}, images=False)["y"].shape == (1, 3, HEIGHT, WIDTH)
