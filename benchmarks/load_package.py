"""How long `nanproof.load` takes for a package of BERT-base's size, beside coremltools' own reader.

    python benchmarks/load_package.py [folder]

110 million random parameters in FP16: 220 MB of weights, which are mapped and not read. The first time is that of a
fresh process, imports not included. The peer is coremltools' `milproto.load`, which copies the weights. A folder keeps
the package, so that it is made once.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see nanproof.cli

import numpy as np

from nanproof.mil.coreml import ct, mb, quiet, types
from nanproof.mil.read import load_program

with quiet():
    from coremltools.converters.mil.frontend.milproto import load as milproto

VOCABULARY, POSITIONS, WIDTH, INNER, LAYERS, HEADS, LENGTH = 30522, 512, 768, 3072, 12, 12, 128


def package(path: Path) -> Path:
    """An encoder with BERT-base's shapes and random weights."""
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape, np.float32) * 0.02).astype(np.float16)

    def linear(x, out: int, width: int):
        return mb.linear(x=x, weight=weight(out, width), bias=weight(out))

    def norm(x):
        return mb.layer_norm(x=x, axes=[-1], gamma=weight(WIDTH), beta=weight(WIDTH), epsilon=np.float16(1e-5))

    def heads(x):
        return mb.transpose(x=mb.reshape(x=x, shape=[1, LENGTH, HEADS, WIDTH // HEADS]), perm=[0, 2, 1, 3])

    def layer(x):
        q, k, v = (heads(linear(x, WIDTH, WIDTH)) for _ in range(3))
        scores = mb.mul(x=mb.matmul(x=q, y=k, transpose_y=True), y=np.float16(0.125))
        mixed = mb.transpose(x=mb.matmul(x=mb.softmax(x=scores, axis=-1), y=v), perm=[0, 2, 1, 3])
        x = norm(mb.add(x=x, y=linear(mb.reshape(x=mixed, shape=[1, LENGTH, WIDTH]), WIDTH, WIDTH)))
        return norm(mb.add(x=x, y=linear(mb.gelu(x=linear(x, INNER, WIDTH)), WIDTH, INNER)))

    @mb.program(input_specs=[mb.TensorSpec((1, LENGTH), dtype=types.int32)], opset_version=ct.target.iOS17)
    def bert(ids):
        x = mb.gather(x=weight(VOCABULARY, WIDTH), indices=ids, axis=0)
        x = norm(mb.add(x=x, y=weight(POSITIONS, WIDTH)[:LENGTH]))
        for _ in range(LAYERS):
            x = layer(x)
        return linear(x, WIDTH, WIDTH)

    with quiet():
        model = ct.convert(
            bert,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        model.save(str(path))
    return path


def seconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def resident() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: Path) -> None:
    """Print the times."""
    path = folder / "bert_base.mlpackage"
    if not path.exists():
        package(path)
        print(f"made {path}; run again for the figures of a fresh process")
        return
    before = resident()
    first = seconds(lambda: load_program(path))
    grown = resident() - before
    again = min(seconds(lambda: load_program(path)) for _ in range(3))
    program = load_program(path)
    weights = {id(v): v.const for op in program.walk() for v in op.operands if isinstance(v.const, np.ndarray)}
    size, count = sum(w.nbytes for w in weights.values()) / 1e6, sum(w.size for w in weights.values()) / 1e6
    print(f"{count:.0f} million constants, {size:.0f} MB, {sum(1 for _ in program.walk())} ops")
    print(f"nanproof.load       {first:.3f} s, again {again:.3f} s; memory grew by {grown:.0f} MB")
    with quiet():
        model = ct.models.MLModel(str(path), skip_model_load=True)
        spec, weights_dir = model.get_spec(), model.weights_dir
        theirs = seconds(lambda: milproto.load(spec, spec.specificationVersion, weights_dir))
    print(f"coremltools milproto {theirs:.3f} s: {theirs / again:.0f} times as long")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            package(Path(scratch) / "bert_base.mlpackage")
            main(Path(scratch))
