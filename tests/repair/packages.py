"""Packages as people have them: made by plain coremltools, FP16 by default. Needs coremltools 7 to 9, and no more.

As a script it writes them all: `python packages.py FOLDER`. What the installed coremltools cannot make is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder
from coremltools.converters.mil.mil import types

mb: Any = Builder
FLOAT32_MIN = float(np.finfo(np.float32).min)


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def convert(program: Any, target: Any = ct.target.iOS16, **keywords: Any) -> Any:
    return ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=target, skip_model_load=True, **keywords
    )


def attention(target: Any = ct.target.iOS16, lowest: float = FLOAT32_MIN) -> Any:
    """Attention with a padding mask, as BERT has it: every row is NaN in FP16, since 0 * -inf is."""
    width = 16

    @mb.program(
        input_specs=[mb.TensorSpec((2, 8), dtype=types.int32), mb.TensorSpec((2, 8), dtype=types.fp32)],
        opset_version=target,
    )
    def program(ids, attention_mask):
        x = mb.gather(x=numbers(50, width), indices=ids, axis=0, name="embedding")
        q = mb.linear(x=x, weight=numbers(width, width, scale=0.2, seed=1), name="query")
        k = mb.linear(x=x, weight=numbers(width, width, scale=0.2, seed=2), name="key")
        v = mb.linear(x=x, weight=numbers(width, width, scale=0.2, seed=3), name="value")
        scores = mb.matmul(x=q, y=k, transpose_y=True, name="scores")
        hidden = mb.sub(x=np.float32(1), y=mb.expand_dims(x=attention_mask, axes=[1]), name="hidden")
        bias = mb.mul(x=hidden, y=np.float32(lowest), name="bias")
        p = mb.softmax(x=mb.add(x=scores, y=bias, name="masked"), axis=-1, name="probabilities")
        return mb.linear(x=mb.matmul(x=p, y=v), weight=numbers(4, width, scale=0.3, seed=4), name="logits")

    return convert(program, target)


def rms_norm(target: Any = ct.target.iOS16) -> Any:
    """An RMS norm of activations in the hundreds: their squares overflow, and whole rows become zero."""

    @mb.program(input_specs=[mb.TensorSpec((2, 8, 32), dtype=types.fp32)], opset_version=target)
    def program(x):
        up = mb.linear(x=x, weight=numbers(32, 32, scale=60.0), name="up")
        mean = mb.reduce_mean(x=mb.mul(x=up, y=up), axes=[-1], keep_dims=True)
        inverse = mb.rsqrt(x=mb.add(x=mean, y=np.float32(1e-6)), epsilon=np.float32(1e-12))
        normal = mb.mul(x=mb.mul(x=up, y=inverse), y=numbers(32, seed=1), name="norm")
        return mb.linear(x=normal, weight=numbers(4, 32, scale=0.2, seed=2), name="out")

    return convert(program, target)


def softplus(target: Any = ct.target.iOS16) -> Any:
    """A softplus that is written out: exp overflows from 11.1 on."""

    @mb.program(input_specs=[mb.TensorSpec((4, 16), dtype=types.fp32)], opset_version=target)
    def program(x):
        wide = mb.linear(x=x, weight=numbers(16, 16, scale=3.0), name="wide")
        grown = mb.add(x=mb.exp(x=wide), y=np.float32(1), name="grown")
        return mb.log(x=grown, epsilon=np.float32(1e-20), name="soft")

    return convert(program, target)


def healthy(target: Any = ct.target.iOS16) -> Any:
    """A small network that FP16 does not harm."""

    @mb.program(input_specs=[mb.TensorSpec((2, 16), dtype=types.fp32)], opset_version=target)
    def program(x):
        h = mb.relu(x=mb.linear(x=x, weight=numbers(32, 16, scale=0.3), bias=numbers(32, seed=1), name="first"))
        h = mb.layer_norm(x=h, axes=[-1], gamma=np.ones(32, np.float32), beta=np.zeros(32, np.float32), epsilon=1e-5)
        return mb.softmax(x=mb.linear(x=h, weight=numbers(5, 32, scale=0.3, seed=2), name="second"), axis=-1, name="p")

    return convert(program, target)


def lost(target: Any = ct.target.iOS16) -> Any:
    """A weight beyond all FP16 numbers."""

    @mb.program(input_specs=[mb.TensorSpec((2, 16), dtype=types.fp32)], opset_version=target)
    def program(x):
        weight = numbers(4, 16)
        weight[0, 0] = 3e38
        return mb.linear(x=x, weight=weight, name="out")

    return convert(program, target)


def classifier(target: Any = ct.target.iOS16) -> Any:
    """An image classifier whose energy, a sum of squares over the map, overflows."""

    @mb.program(input_specs=[mb.TensorSpec((1, 3, 16, 16), dtype=types.fp32)], opset_version=target)
    def program(image):
        h = mb.conv(x=image, weight=numbers(8, 3, 3, 3, scale=0.4), pad_type="same", name="conv")
        energy = mb.reduce_sum(x=mb.mul(x=h, y=h), axes=[2, 3], keep_dims=False, name="energy")
        level = mb.log(x=mb.add(x=energy, y=np.float32(1)), epsilon=np.float32(1e-20), name="level")
        return mb.softmax(x=mb.linear(x=level, weight=numbers(3, 8, scale=0.5, seed=1)), axis=-1, name="scores")

    return convert(
        program,
        target,
        inputs=[ct.ImageType("image", shape=(1, 3, 16, 16), scale=1 / 16, bias=[-4.0, -4.0, -4.0])],
        classifier_config=ct.ClassifierConfig(["ant", "bee", "cat"]),
    )


def flexible(target: Any = ct.target.iOS16) -> Any:
    """Any number of rows, from 1 to 12."""

    @mb.program(input_specs=[mb.TensorSpec((ct_symbol(), 16), dtype=types.fp32)], opset_version=target)
    def program(x):
        grown = mb.mul(x=mb.linear(x=x, weight=numbers(16, 16, scale=80.0)), y=np.float32(1), name="grown")
        squares = mb.reduce_sum(x=mb.mul(x=grown, y=grown), axes=[-1], keep_dims=True, name="squares")
        return mb.mul(x=grown, y=mb.rsqrt(x=squares, epsilon=np.float32(1e-3)), name="unit")

    return convert(program, target, inputs=[ct.TensorType("x", shape=ct.Shape((ct.RangeDim(1, 12, default=3), 16)))])


def ct_symbol() -> Any:
    from coremltools.converters.mil.mil import get_new_symbol

    return get_new_symbol()


def half_inputs(target: Any = ct.target.iOS16) -> Any:
    """Inputs and outputs in FP16, as iOS16 allows them."""

    @mb.program(input_specs=[mb.TensorSpec((2, 32), dtype=types.fp16)], opset_version=target)
    def program(x):
        wide = mb.mul(x=mb.cast(x=x, dtype="fp32"), y=np.float32(400), name="wide")
        mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[-1], keep_dims=True, name="mean")
        return mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=np.float32(1e-12)), name="unit")

    program.functions["main"].output_types = [ct.TensorType(dtype=np.float16)]
    return convert(program, target)


def branches(target: Any = ct.target.iOS16) -> Any:
    """A condition with a branch that overflows."""

    @mb.program(input_specs=[mb.TensorSpec((4, 16), dtype=types.fp32)], opset_version=target)
    def program(x):
        large = mb.greater(x=mb.reduce_max(x=x, axes=[0, 1], keep_dims=False), y=np.float32(0), name="large")

        def normed():
            wide = mb.mul(x=x, y=np.float32(300), name="wide")
            mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[-1], keep_dims=True)
            return mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=np.float32(1e-12)))

        def plain():
            return mb.mul(x=x, y=np.float32(2))

        return mb.cond(pred=large, _true_fn=normed, _false_fn=plain, name="chosen")

    return convert(program, target)


def compressed(target: Any = ct.target.iOS16) -> Any:
    """The attention, with palettized weights."""
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(global_config=cto.OpPalettizerConfig(mode="uniform", nbits=4, weight_threshold=64))
    return cto.palettize_weights(attention(target), config)


def quantized(target: Any = ct.target.iOS16) -> Any:
    """The RMS norm, with weights of eight bits."""
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(
        global_config=cto.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=64)
    )
    return cto.linear_quantize_weights(rms_norm(target), config)


def sparse(target: Any = ct.target.iOS16) -> Any:
    """The softplus, with half of its weights left out."""
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(global_config=cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=64))
    return cto.prune_weights(softplus(target), config)


def blockwise(target: Any = None) -> Any:
    """The RMS norm for iOS18, with weights of four bits in blocks."""
    cto = ct.optimize.coreml
    config = cto.OptimizationConfig(
        global_config=cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=16, weight_threshold=64
        )
    )
    return cto.linear_quantize_weights(rms_norm(target or ct.target.iOS18), config)


def state(target: Any = None) -> Any:
    """A running sum of squares in a state, which overflows in between."""
    target = target or ct.target.iOS18

    @mb.program(
        input_specs=[mb.TensorSpec((2, 16), dtype=types.fp32), mb.StateTensorSpec((2, 16), dtype=types.fp16)],
        opset_version=target,
    )
    def program(x, memory):
        kept = mb.cast(x=mb.read_state(input=memory), dtype="fp32")
        fresh = mb.add(x=mb.mul(x=kept, y=np.float32(0.5)), y=x, name="fresh")
        mb.coreml_update_state(state=memory, value=mb.cast(x=fresh, dtype="fp16"))
        wide = mb.mul(x=fresh, y=np.float32(400), name="wide")
        mean = mb.reduce_mean(x=mb.mul(x=wide, y=wide), axes=[-1], keep_dims=True, name="mean")
        return mb.mul(x=wide, y=mb.rsqrt(x=mean, epsilon=np.float32(1e-12)), name="unit")

    return convert(program, target)


def multifunction(folder: Path) -> Path:
    """Two functions that share their weights, of which one is broken: `normed` and, as the default one, `plain`."""
    target = ct.target.iOS18

    def make(wide: float) -> Any:
        @mb.program(input_specs=[mb.TensorSpec((2, 64), dtype=types.fp32)], opset_version=target)
        def program(x):
            h = mb.linear(x=x, weight=numbers(64, 64, scale=0.5), name="shared")
            h = mb.mul(x=h, y=np.float32(wide), name="wide")
            mean = mb.reduce_mean(x=mb.mul(x=h, y=h), axes=[-1], keep_dims=True, name="mean")
            return mb.mul(x=h, y=mb.rsqrt(x=mean, epsilon=np.float32(1e-4)), name="unit")

        return convert(program, target)

    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, wide in (("plain", 1.0), ("normed", 300.0)):
        model = make(wide)
        model._mil_program = None
        model.save(str(folder / f"{name}.mlpackage"))
        descriptor.add_function(str(folder / f"{name}.mlpackage"), "main", name)
    descriptor.default_function_name = "plain"
    ct.utils.save_multifunction(descriptor, str(folder / "several.mlpackage"))
    return folder / "several.mlpackage"


PROGRAMS: dict[str, Callable[[], Any]] = {
    "attention": attention,
    "attention_17": lambda: attention(ct.target.iOS17),
    "attention_1e9": lambda: attention(lowest=-1e9),
    "rms_norm": rms_norm,
    "softplus": softplus,
    "softplus_15": lambda: softplus(ct.target.iOS15),
    "healthy": healthy,
    "classifier": classifier,
    "flexible": flexible,
    "half_inputs": half_inputs,
    "branches": branches,
    "compressed": compressed,
    "quantized": quantized,
    "sparse": sparse,
    "blockwise": blockwise,
    "palette_18": lambda: compressed(ct.target.iOS18),
    "state": state,
}


def write_all(folder: Path) -> None:
    for name, make in PROGRAMS.items():
        try:
            model = make()
        except (AttributeError, TypeError) as error:  # states and blocks came with 8.0
            sys.stdout.write(f"{name}: not with coremltools {ct.__version__}: {error}\n")
            continue
        model._mil_program = None
        model.short_description = f"{name}, broken"
        model.save(str(folder / f"{name}.mlpackage"))
        sys.stdout.write(f"{name}: written by coremltools {ct.__version__}\n")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    write_all(Path(sys.argv[1]))
