"""Sizes that come from the numbers in a model, and not from its tensors, are checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanproof.errors import InputError
from nanproof.interpret.state import State
from nanproof.numerics.arithmetic import SingleInside
from nanproof.ops import TABLE, TensorList
from nanproof.program import DType, Kind, Type
from nanproof.values import memory
from nanproof.values.memory import affordable, memory_of_this_machine

SINGLE = SingleInside()
MANY = torch.tensor(2**31 - 1)
IMAGE = torch.zeros(1, 1, 2, 2)


def run(name: str, **inputs: Any) -> Callable[[], Any]:
    return lambda: TABLE[name].run(SINGLE, **inputs)


CALLS: dict[str, Callable[[], Any]] = {
    "fill": run("fill", shape=torch.tensor([2**20, 2**20])),
    "range_1d": run("range_1d", end=MANY, start=torch.tensor(-(2**31)), step=torch.tensor(1)),
    "pad": run("pad", x=torch.zeros(2, 2), pad=torch.tensor([0, 0, 2**30, 2**30])),
    "pad, replicate": run("pad", x=torch.zeros(2, 2), pad=torch.tensor([2**30, 2**30]), mode="replicate"),
    "tile": run("tile", x=torch.zeros(2, 2), reps=torch.tensor([2**20, 2**20])),
    "one_hot": run("one_hot", indices=torch.zeros(9, dtype=torch.int32), one_hot_vector_size=MANY),
    "space_to_batch": run(
        "space_to_batch", x=IMAGE, block_shape=torch.tensor([2, 2]), paddings=torch.tensor([[0, 2**30], [0, 2**30]])
    ),
    "random_normal": run("random_normal", shape=torch.tensor([2**20, 2**20])),
    "random_uniform": run("random_uniform", shape=torch.tensor([2**20, 2**20])),
    "random_bernoulli": run("random_bernoulli", shape=torch.tensor([2**20, 2**20])),
    "random_categorical": run("random_categorical", x=torch.zeros(4), size=MANY),
    "conv": run(
        "conv", x=IMAGE, weight=torch.zeros(1, 1, 1, 1), pad_type="custom", pad=torch.tensor([0, 2**30, 0, 2**30])
    ),
    "max_pool": run(
        "max_pool",
        x=IMAGE,
        kernel_sizes=torch.tensor([1, 1]),
        pad_type="custom",
        pad=torch.tensor([0, 2**30, 0, 2**30]),
    ),
    "resize_bilinear": run("resize_bilinear", x=IMAGE, target_size_height=MANY, target_size_width=MANY),
    "resize_bilinear, exact ratio": run(
        "resize_bilinear",
        x=IMAGE,
        target_size_height=torch.tensor(2**20),
        target_size_width=torch.tensor(2**20),
        sampling_mode="UNALIGN_CORNERS",
    ),
    "resize_nearest_neighbor": run("resize_nearest_neighbor", x=IMAGE, target_size_height=MANY, target_size_width=MANY),
    "upsample_nearest_neighbor": run("upsample_nearest_neighbor", x=IMAGE, scale_factor_height=torch.tensor(2**29)),
    "affine": run(
        "affine",
        x=IMAGE,
        transform_matrix=torch.zeros(1, 6),
        output_height=MANY,
        output_width=MANY,
        sampling_mode="bilinear",
        padding_mode="constant",
        padding_value=torch.tensor(0.0),
        coordinates_mode="normalized_minus_one_to_one",
        align_corners=torch.tensor(True),
    ),
    "crop_resize": run(
        "crop_resize", x=IMAGE, boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]), target_height=MANY, target_width=MANY
    ),
    "non_maximum_suppression": run(
        "non_maximum_suppression",
        boxes=torch.ones(1, 4, 3),
        scores=torch.ones(1, 1, 3),
        iou_threshold=torch.tensor(0.5),
        max_boxes=MANY,
    ),
    "make_list": run("make_list", elem_shape=(), init_length=MANY),
    "list_write": run("list_write", ls=TensorList((), None, True), index=MANY, value=torch.zeros(())),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_could_not_fit_into_memory_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of_this_machine", lambda: 2**30)
    with pytest.raises(MemoryError, match=r"a tensor of shape .* would take [\d,]+ GiB, and this machine has 1 GiB"):
        CALLS[name]()


def test_a_state_that_could_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_of_this_machine", lambda: 2**30)
    with pytest.raises(InputError, match=r"The state 'cache' is state<fp16\[.*would take 4,096 GiB"):
        State({"cache": Type(DType.FP16, (2**20, 2**20), Kind.STATE)})


def test_the_memory_of_a_container_is_what_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER", limit)
    whole = memory_of_this_machine.__wrapped__()
    assert whole > 2**28
    limit.write_text("max\n")
    assert memory_of_this_machine.__wrapped__() == whole
    limit.write_text("1048576\n")
    assert memory_of_this_machine.__wrapped__() == 2**20


def test_sizes_that_fit_are_passed_on() -> None:
    assert affordable((2, 3)) == [2, 3]
    assert affordable([]) == []
    assert affordable([0, 2**62]) == [0, 2**62]
    assert affordable([-1, 2**62]) == [-1, 2**62]  # PyTorch says what is wrong with it
