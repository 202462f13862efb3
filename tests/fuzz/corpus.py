"""Small packages of every kind that mutations start from: weights in a file, control flow, states, images, labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanproof.mil.coreml import ct, mb, quiet
from tests.laws.programs import CASES, Case, data, spec, stateful


def _network() -> Any:
    """A convolution, a linear layer and ops that make tensors of computed sizes."""

    @mb.program(input_specs=[spec(1, 3, 8, 8)], opset_version=ct.target.iOS16)
    def program(x):
        x = mb.conv(x=x, weight=data(4, 3, 3, 3), bias=data(4, seed=1), pad_type="same", strides=[2, 2])
        x = mb.batch_norm(x=mb.relu(x=x), mean=data(4), variance=np.abs(data(4)) + 1)
        x = mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid")
        rows = mb.reshape(x=x, shape=[1, 16])
        rows = mb.linear(x=rows, weight=data(6, 16, seed=2), bias=data(6, seed=3))
        wide = mb.tile(x=rows, reps=[3, 1])
        wide = mb.pad(x=wide, pad=[1, 1, 0, 2], mode="constant", constant_val=0.5)
        wide = mb.add(x=wide, y=mb.fill(shape=[5, 8], value=2.0))
        places = mb.range_1d(end=5, start=0, step=1)
        hot = mb.one_hot(indices=places, one_hot_vector_size=5, on_value=1.0, off_value=0.0)
        return mb.softmax(x=mb.matmul(x=hot, y=wide), axis=-1)

    return program


def _shapes() -> Any:
    """Movement of data by constants: slices, gathers, splits, windows, images."""

    @mb.program(input_specs=[spec(2, 4, 6)], opset_version=ct.target.iOS17)
    def program(x):
        y = mb.transpose(x=x, perm=[1, 0, 2])
        parts = mb.split(x=y, num_splits=2, axis=0)
        y = mb.concat(values=list(parts), axis=-1)
        y = mb.slice_by_index(x=y, begin=[0, 0, 1], end=[2, 2, 9], stride=[1, 1, 2])
        y = mb.gather(x=y, indices=[1, 0, 1], axis=2)
        z = mb.upsample_bilinear(x=mb.expand_dims(x=x, axes=[0]), scale_factor_height=2.0, scale_factor_width=1.5)
        z = mb.reduce_mean(x=mb.sliding_windows(x=z, axis=2, size=3), axes=[1, 4])
        return mb.cumsum(x=y, axis=1), mb.topk(x=z, k=2, axis=-1)[0], mb.shape(x=y)

    return program


def _flexible(path: Path) -> None:
    """An image and a tensor of flexible shape, from fp16 weights."""

    @mb.program(input_specs=[spec(1, 3, 8, 8), spec(2, 5)], opset_version=ct.target.iOS17)
    def program(image, x):
        y = mb.conv(x=image, weight=data(2, 3, 3, 3), pad_type="valid")
        return mb.sigmoid(x=y), mb.linear(x=x, weight=data(7, 5, seed=1))

    _convert(
        program,
        path,
        minimum_deployment_target=ct.target.iOS17,
        inputs=[
            ct.ImageType("image", shape=(1, 3, 8, 8), color_layout=ct.colorlayout.RGB, scale=1 / 255),
            ct.TensorType("x", shape=(ct.RangeDim(1, 4, default=2), 5)),
        ],
    )


def _convert(program: Any, path: Path, **settings: Any) -> None:
    with quiet():
        model = ct.convert(program, source="milinternal", convert_to="mlprogram", skip_model_load=True, **settings)
        model.save(str(path))


def build(folder: Path) -> list[Path]:
    """Write all packages of the corpus into a folder."""
    extra = [
        Case("network", _network, [], list),
        Case("shapes", _shapes, [], list, opset="iOS17"),
        Case("stateful", stateful, [], list, opset="iOS18"),
    ]
    makers: dict[str, Callable[[Path], Any]] = {case.name: case.convert for case in (*extra, *CASES)}
    makers["flexible"] = _flexible
    paths = []
    for name, make in makers.items():
        path = folder / f"{name.replace(', ', '_')}.mlpackage"
        make(path)
        paths.append(path)
    return paths
