"""The kind of an input, guessed as its author means it; and what the user says counts more."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from nanproof.errors import UsageError
from nanproof.stress.kinds import input_kinds
from tests.stress.lowered import lowered

MIN = torch.finfo(torch.float32).min


class Text(nn.Module):
    """An encoder's first ops, with everything that is an integer in one."""

    def __init__(self):
        super().__init__()
        self.words, self.position_table, self.types = nn.Embedding(50, 8), nn.Embedding(20, 8), nn.Embedding(2, 8)

    def forward(self, tokens, attends, places, segments):
        hidden = self.words(tokens) + self.position_table(places + 2) + self.types(segments)
        scores = hidden @ hidden.transpose(1, 2) + (1.0 - attends[:, None, :].float()) * MIN
        return torch.softmax(scores, -1) @ hidden


def text_example():
    ids = torch.arange(6).reshape(1, 6)
    return ids, torch.ones(1, 6, dtype=torch.int64), ids.clone(), torch.zeros(1, 6, dtype=torch.int64)


def summary(kind):
    return kind.name, kind.low, kind.high, kind.integral


def test_text():
    program, example = lowered(Text(), text_example())
    kinds = input_kinds(program)
    assert list(kinds) == ["tokens", "attends", "places", "segments"]
    assert summary(kinds["tokens"]) == ("ids", 0, 49, True)
    assert "gathers rows of the table 'p_module_words_weight' (50 rows)" in kinds["tokens"].reason
    assert summary(kinds["attends"]) == ("mask", 0, 1, True)
    assert "is taken from 1, which is multiplied by -3.403e+38" in kinds["attends"].reason
    assert summary(kinds["places"]) == ("positions", 0, 17, True)  # 20 rows, 2 of them before position 0
    assert summary(kinds["segments"]) == ("ids", 0, 1, True)
    assert {name: summary(kind) for name, kind in input_kinds(program, [example]).items()} == {
        name: summary(kind) for name, kind in kinds.items()
    }


class Applied(nn.Module):
    """One operation on inputs that are named as the keys of its example."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.conv, self.row = nn.Conv2d(3, 4, 3), nn.Conv1d(1, 4, 9, stride=4)


class OnX(Applied):
    def forward(self, x):
        return self.run(self, x)


class OnMask(Applied):
    def forward(self, mask):
        return self.run(self, mask)


class OnPositions(Applied):
    def forward(self, position_ids):
        return self.run(self, position_ids)


def kind_of(module, example, *, seen=True):
    program, arrays = lowered(module, (example,))
    return next(iter(input_kinds(program, [arrays] if seen else []).values()))


def conv(m, x):
    return m.conv((x - 0.5) / 0.25)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, (0, 1)),
        (-1.0, 1.0, (-1, 1)),
        (-2.1, 2.6, (-2.7, 2.7)),
        (0.0, 250.0, (0, 255)),
        (-5.0, 7.0, (-5, 7)),
    ],
)
def test_an_image_is_assumed_in_the_usual_range_that_holds_it(low, high, expected):
    image = torch.linspace(low, high, 3 * 12 * 12).reshape(1, 3, 12, 12)
    kind = kind_of(OnX(conv), image)
    assert kind.name == "image"
    assert (kind.low, kind.high) == expected


def test_an_image_without_data():
    image = torch.zeros(1, 3, 12, 12)
    assert summary(kind_of(OnX(conv), image, seen=False)) == ("image", -2.7, 2.7, False)
    assert summary(kind_of(OnX(lambda m, x: m.conv(x / 255)), image, seen=False)) == ("image", 0, 255, False)


def test_latents_are_no_image():
    module = OnX(lambda m, x: m.conv(x[:, :3]))
    latent = torch.linspace(-3, 3, 4 * 36).reshape(1, 4, 6, 6)
    assert summary(kind_of(module, latent)) == ("real", -3, 3, False)


def test_waveforms():
    module = OnX(lambda m, x: m.row(x[:, None]))
    quiet = torch.linspace(-0.5, 0.5, 4000)[None]
    assert summary(kind_of(module, quiet)) == ("audio", -1, 1, False)
    assert summary(kind_of(module, quiet * 8)) == ("real", -4, 4, False)
    features = OnX(lambda m, x: x @ torch.ones(4000, 2))  # a row of features is no waveform
    assert kind_of(features, quiet).name == "real"


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: torch.where(x > 0.5, 0.0, -1e9),
        lambda m, x: torch.zeros(2, 4).masked_fill(x == 0, MIN),
        lambda m, x: (1 - x) * -1e4,
        lambda m, x: torch.softmax((x - 1) * 1e9, -1),
    ],
    ids=["above a half", "equal to 0", "1 - x", "x - 1"],
)
def test_masks_by_what_is_done_with_them(run):
    mask = torch.ones(2, 4)
    assert summary(kind_of(OnX(run), mask)) == ("mask", 0, 1, True)
    assert summary(kind_of(OnX(run), mask, seen=False)) == ("mask", 0, 1, True)
    assert kind_of(OnX(run), mask / 4).name == "real", "no mask holds 0.25"


def test_masks_by_their_name():
    ones = torch.ones(2, 4)
    assert summary(kind_of(OnMask(lambda m, x: ones * 3 * x), ones, seen=False)) == ("mask", 0, 1, True)
    assert kind_of(OnX(lambda m, x: ones * 3 * x), ones, seen=False).name == "real"


def test_an_additive_mask_is_real():
    scores = torch.linspace(0, 1, 8).reshape(2, 4)
    additive = OnMask(lambda m, x: torch.softmax(scores + x, -1))
    kind = kind_of(additive, torch.zeros(2, 4), seen=False)
    assert summary(kind) == ("real", -math.inf, math.inf, False)
    assert "added as it is" in kind.reason
    assert summary(kind_of(additive, torch.full((2, 4), -1e4))) == ("real", -1e4, -1e4, False)


def test_positions_of_which_the_sine_is_taken():
    turn = OnPositions(lambda m, x: torch.sin(x[..., None].float() * torch.tensor([1.0, 0.1])))
    kind = kind_of(turn, torch.arange(5)[None])
    assert summary(kind) == ("positions", 0, math.inf, True)


def test_indices_into_something_computed():
    module = OnX(lambda m, x: (torch.linspace(0, 1, 7)[None] * x.float().mean()).flatten()[x])
    assert summary(kind_of(module, torch.tensor([1, 6, 0]))) == ("index", 0, 6, True)


def test_a_real_input_lies_where_it_was_seen():
    module = OnX(lambda m, x: x * 2)
    assert summary(kind_of(module, torch.tensor([1.0, -3.0, math.inf]))) == ("real", -3, 1, False)
    assert summary(kind_of(module, torch.tensor([1.0]), seen=False)) == ("real", -math.inf, math.inf, False)


def test_the_user_knows_better():
    program, example = lowered(Text(), text_example())
    stated = {"attends": (0, 3), "segments": "mask", "tokens": (0, 9)}
    kinds = input_kinds(program, [example], stated)
    assert summary(kinds["attends"]) == ("real", 0, 3, True)
    assert summary(kinds["segments"]) == ("mask", 0, 1, True)
    assert summary(kinds["tokens"]) == ("ids", 0, 9, True)
    assert kinds["tokens"].reason == "is stated"
    assert kinds["places"].reason != "is stated"


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"y": "mask"}, "There is no input 'y' to state the kind of: the program takes x."),
        ({"x": "photo"}, "'photo' is no kind of input, as stated for 'x': choose mask, ids, positions, image, audio, "),
        ({"x": (2, 1)}, "(2, 1) is no range for the input 'x': write (low, high), the smaller number first."),
        ({"x": (1,)}, "(1,) is no range for the input 'x'"),
        ({"x": (0, math.nan)}, "is no range for the input 'x'"),
    ],
)
def test_what_cannot_be_stated(stated, message):
    program, _ = lowered(OnX(lambda m, x: x * 2), (torch.ones(2),))
    with pytest.raises(UsageError) as caught:
        input_kinds(program, stated=stated)
    assert message in str(caught.value)


def test_stated_kinds_of_an_input_of_which_nothing_is_known():
    program, _ = lowered(OnX(lambda m, x: x * 2), (torch.ones(1, 3, 4, 4),))
    seen = {"x": np.array([0.25, 8.0])}
    assert summary(input_kinds(program, stated={"x": "image"})["x"]) == ("image", -2.7, 2.7, False)
    assert summary(input_kinds(program, [seen], {"x": "image"})["x"]) == ("image", 0, 255, False)
    assert summary(input_kinds(program, stated={"x": "audio"})["x"]) == ("audio", -1, 1, False)
    assert summary(input_kinds(program, [seen], {"x": "audio"})["x"]) == ("audio", -1, 8, False)
    assert summary(input_kinds(program, stated={"x": "ids"})["x"]) == ("ids", 0, math.inf, True)
