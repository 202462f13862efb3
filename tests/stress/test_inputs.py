"""Stress inputs stay within their kind, differ from what was given, and reach what test data leaves out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.stress.inputs import stress_inputs
from nanproof.stress.kinds import InputKind


def variants(name, array, low, high, integral=False):
    kinds = {"x": InputKind(name, low, high, integral, "is stated")}
    found = stress_inputs(kinds, {"x": array, "y": array})
    for one in found:
        given, other = one.inputs["x"], one.inputs["y"]
        assert other is array, "one input at a time"
        assert (given.shape, given.dtype) == (array.shape, array.dtype)
        assert low <= given.min() <= given.max() <= high
        assert not np.array_equal(given, array)
    return {one.what.removeprefix("x: "): one.inputs["x"] for one in found}


def test_masks():
    found = variants("mask", np.array([[1, 1, 0], [1, 0, 0]], np.int32), 0, 1, True)
    assert found["nothing masked"].all()
    assert not found["first row masked everywhere"][0].any()
    assert found["left half masked"].tolist() == [[0, 1, 1], [0, 1, 1]]
    assert found["one left"].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert set(variants("mask", np.ones(3, np.float32), 0, 1)) == {"everything masked"}


def test_ids():
    found = variants("ids", np.array([[3, 1, 2]], np.int32), 0, 29, True)
    assert [a.tolist() for a in found.values()] == [[[0, 0, 0]], [[29, 29, 29]], [[3, 3, 3]]]
    assert set(variants("ids", np.array([3, 1]), 0, math.inf, True)) == {
        "the first (0) everywhere",
        "one repeated everywhere",
    }


@pytest.mark.parametrize(("high", "starts"), [(math.inf, [2049]), (5000, [2049, 4998]), (100, [98]), (1, [])])
def test_positions(high, starts):
    found = variants("positions", np.arange(3)[None] if high > 2 else np.zeros((1, 1), int), 0, high, True)
    if high == 1:
        assert [a.tolist() for a in found.values()] == [[[1]]]
    else:
        assert [a.tolist() for a in found.values()] == [[[s, s + 1, s + 2]] for s in starts]


def test_images():
    found = variants("image", np.full((1, 3, 2, 4), 0.25, np.float32), 0, 1)
    assert not found["black"].any()
    assert (found["white"] == 1).all()
    assert (found["one grey"] == 0.5).all()
    assert found["black and white stripes"][0, 0].tolist() == [[0, 1, 0, 1]] * 2


def test_waveforms():
    found = variants("audio", np.full((1, 640), 0.1, np.float32), -1, 1)
    assert not found["silence"].any()
    assert set(np.unique(found["full scale"])) == {-1, 1}
    assert abs(found["full scale"].mean()) < 1e-6


def test_reals_stay_in_the_range_that_was_seen():
    x = np.array([[1.0, -2.0, 0.5]], np.float32)
    found = variants("real", x, -2, 3)
    assert found["signs flipped"].tolist() == [[-1, 2, -0.5]]
    assert found["one dominates each row"].tolist() == [[3, 0, 0]]
    length = np.linalg.norm(x)
    ties = [v for what, v in found.items() if what.startswith("all ")]
    assert [np.unique(tie).size for tie in ties] == [1, 1, 1]
    assert [np.linalg.norm(tie) for tie in ties] == pytest.approx([0, length, length])
    assert [float(tie.flat[0]) for tie in ties] == pytest.approx([0, length / 3**0.5, -length / 3**0.5])
    above = variants("real", x + 9, 7, 10)
    assert "all zero" not in above
    assert above["one dominates each row"].tolist() == [[10, 7, 7]]
    assert variants("real", x, -math.inf, math.inf) == {}, "nothing is known that could be driven to a limit"


class Gallery(nn.Module):
    """Energy of an image, which FP16 holds for a dark one (about 250) and not for a white one (76800)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.conv.weight)

    def forward(self, image):
        return (20 * self.conv(image)).square().sum((1, 2, 3)).sqrt()


DARK = torch.linspace(0, 0.1, 192).reshape(1, 3, 8, 8)


def test_a_white_image_shows_what_the_example_hides():
    hidden = nanproof.convert(Gallery(), (DARK,), stress=False)
    assert not hidden.findings
    shown = nanproof.convert(Gallery(), (DARK,))
    assert shown.kinds["image"].name == "image"
    assert "image: white" in [s.what for s in shown.stress]
    assert shown.findings, "the sum of squares leaves FP16"
    assert shown.passed


def test_what_the_user_states_is_stressed():
    result = nanproof.convert(Gallery(), (DARK,), kinds={"image": (0, 0.25)})
    assert not result.findings, "a white image is 0.25 there"
    (stated,) = result.to_dict()["inputs"]
    assert (stated["name"], stated["kind"], stated["low"], stated["reason"]) == ("image", "image", 0, "is stated")
    white = next(s for s in result.stress if s.what == "image: white")
    assert (white.inputs["image"] == 0.25).all()
