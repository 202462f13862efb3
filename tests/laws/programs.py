"""Programs of several ops, for what a sample cannot hold: blocks, lists, states, labels. Built by coremltools."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanproof.mil.coreml import ct, mb, quiet, types

INT = types.int32


@dataclass(frozen=True, eq=False)
class Case:
    """A program, and for some inputs the outputs that it must have, in order."""

    name: str
    build: Callable[[], Any]
    inputs: Sequence[Mapping[str, Any]]
    expected: Callable[..., Sequence[Any]]
    opset: str = "iOS16"
    labels: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return self.name

    def convert(self, path: Path) -> Path:
        """The program as an ``.mlpackage``."""
        target = getattr(ct.target, self.opset)
        labelled = {"classifier_config": ct.ClassifierConfig(list(self.labels))} if self.labels else {}
        with quiet():
            model = ct.convert(
                self.build(),
                source="milinternal",
                convert_to="mlprogram",
                minimum_deployment_target=target,
                compute_precision=ct.precision.FLOAT32,
                skip_model_load=True,
                **labelled,
            )
            model.save(str(path))
        return path


def spec(*shape: int, dtype: Any = types.fp32) -> Any:
    return mb.TensorSpec(shape=shape, dtype=dtype)


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def number(n: int) -> np.ndarray:
    return np.array([n], np.int32)


# ---------------------------------------------------------------------------------------------------------------------
# Control flow


def _cond() -> Any:
    """One branch computes with values from around it, the other returns one of them; and one in another."""

    @mb.program(input_specs=[spec(2, 3), spec(2, 3)], opset_version=ct.target.iOS16)
    def program(x, y):
        total = mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False)
        z = mb.exp(x=y)

        def deeper():
            return mb.cond(
                pred=mb.greater(x=total, y=10.0), _true_fn=lambda: mb.mul(x=x, y=z), _false_fn=lambda: mb.add(x=x, y=z)
            )

        inner = mb.cond(pred=mb.greater(x=total, y=0.0), _true_fn=deeper, _false_fn=lambda: z)
        return mb.sub(x=inner, y=y)

    return program


def _cond_expected(x: np.ndarray, y: np.ndarray) -> Sequence[Any]:
    z, total = np.exp(y), x.sum()
    return [(x * z if total > 10 else x + z if total > 0 else z) - y]


def _loops() -> Any:
    """For i < n: for j < i: a = a * w + i; the loops read w, the input and each other's counters."""

    @mb.program(input_specs=[spec(3), spec(1, dtype=INT)], opset_version=ct.target.iOS16)
    def program(x, n):
        limit = mb.squeeze(x=n)
        w = mb.tanh(x=x)

        def body(i, a):
            def inner(j, b):
                grown = mb.add(x=mb.mul(x=b, y=w), y=mb.cast(x=i, dtype="fp32"))
                return mb.add(x=j, y=1), grown

            _, a = mb.while_loop(_cond=lambda j, b: mb.less(x=j, y=i), _body=inner, loop_vars=(0, a))
            return mb.add(x=i, y=1), mb.add(x=a, y=x)

        _, a = mb.while_loop(_cond=lambda i, a: mb.less(x=i, y=limit), _body=body, loop_vars=(0, x))
        return mb.mul(x=a, y=w)

    return program


def _loops_expected(x: np.ndarray, n: np.ndarray) -> Sequence[Any]:
    a, w = x.astype(np.float64), np.tanh(x.astype(np.float64))
    for i in range(int(n[0])):
        for _ in range(i):
            a = a * w + i
        a = a + x
    return [a * w]


# ---------------------------------------------------------------------------------------------------------------------
# Lists


def _lists() -> Any:
    """A running product of rows, written one by one; then some are gathered, replaced and read."""

    @mb.program(input_specs=[spec(4, 3)], opset_version=ct.target.iOS16)
    def program(x):
        ls = mb.make_list(init_length=2, dynamic_length=True, elem_shape=(3,), dtype="fp32")

        def body(i, ls, row):
            row = mb.mul(x=row, y=mb.squeeze(x=mb.gather(x=x, indices=mb.expand_dims(x=i, axes=[0]), axis=0), axes=[0]))
            return mb.add(x=i, y=1), mb.list_write(ls=ls, index=i, value=row), row

        start = mb.fill(shape=[3], value=1.0)
        _, ls, _ = mb.while_loop(_cond=lambda i, ls, row: mb.less(x=i, y=4), _body=body, loop_vars=(0, ls, start))
        gathered = mb.list_gather(ls=ls, indices=[3, 0])
        ls = mb.list_scatter(ls=ls, indices=[1, 5], value=gathered)
        every = mb.list_gather(ls=ls, indices=[0, 1, 2, 3, 4, 5])
        return every, mb.add(x=mb.list_read(ls=ls, index=1), y=1.0), mb.add(x=mb.list_length(ls=ls), y=0)

    return program


def _lists_expected(x: np.ndarray) -> Sequence[Any]:
    rows = np.cumprod(x.astype(np.float64), 0)
    # Element 4 was never written and element 5 lies beyond what was: the list has grown, and holds zeros between.
    return [np.stack([rows[0], rows[3], rows[2], rows[3], np.zeros(3), rows[0]]), rows[3] + 1, np.int32(6)]


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent layers, against PyTorch's modules


@cache
def _module(kind: str) -> torch.nn.Module:
    torch.manual_seed(4)
    return getattr(torch.nn, kind)(4, 5, bidirectional=kind == "LSTM").double()


def _weights(kind: str, order: Sequence[int], suffix: str = "") -> dict[str, np.ndarray]:
    """A PyTorch module's parameters with its gates in MIL's order."""
    parameters = {name: p.detach().numpy().astype(np.float32) for name, p in _module(kind).named_parameters()}
    gates = {n: np.split(p, len(order)) for n, p in parameters.items()}
    return {
        n: np.concatenate([gates[f"{n}_l0{suffix}"][k] for k in order])
        for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }


def _recurrent() -> Any:
    ahead, back = (_weights("LSTM", (0, 1, 3, 2), suffix) for suffix in ("", "_reverse"))
    gru, rnn = _weights("GRU", (0, 2, 1)), _weights("RNN", (0,))

    @mb.program(input_specs=[spec(6, 2, 4), spec(2, 10), spec(2, 10)], opset_version=ct.target.iOS18)
    def program(x, h, c):
        y, hn, cn = mb.lstm(
            x=x,
            initial_h=h,
            initial_c=c,
            weight_ih=ahead["weight_ih"],
            weight_hh=ahead["weight_hh"],
            bias=ahead["bias_ih"] + ahead["bias_hh"],
            weight_ih_back=back["weight_ih"],
            weight_hh_back=back["weight_hh"],
            bias_back=back["bias_ih"] + back["bias_hh"],
            direction="bidirectional",
            output_sequence=True,
        )
        half = mb.slice_by_index(x=h, begin=[0, 0], end=[2, 5])
        g, _ = mb.gru(
            x=x,
            initial_h=half,
            weight_ih=gru["weight_ih"],
            weight_hh=gru["weight_hh"],
            bias=gru["bias_hh"],
            input_bias=gru["bias_ih"],
            reset_after=True,
            output_sequence=True,
        )
        r, _ = mb.rnn(
            x=x,
            initial_h=half,
            weight_ih=rnn["weight_ih"],
            weight_hh=rnn["weight_hh"],
            bias=rnn["bias_ih"] + rnn["bias_hh"],
            output_sequence=True,
        )
        return y, hn, cn, g, r

    return program


def _recurrent_expected(x: np.ndarray, h: np.ndarray, c: np.ndarray) -> Sequence[Any]:
    wide = [torch.from_numpy(a).double() for a in (x, h, c)]
    ways = [w.unflatten(1, (2, 5)).movedim(1, 0).contiguous() for w in wide[1:]]
    with torch.no_grad():
        y, (hn, cn) = _module("LSTM")(wide[0], tuple(ways))
        g, r = (_module(kind)(wide[0], ways[0][:1].contiguous())[0] for kind in ("GRU", "RNN"))
    return [t.numpy() for t in (y, hn.movedim(0, 1).flatten(1), cn.movedim(0, 1).flatten(1), g, r)]


# ---------------------------------------------------------------------------------------------------------------------
# Compressed weights

MASK = np.random.default_rng(5).integers(0, 2, (6, 8)).astype(np.uint8)
KEPT = int(MASK.sum())
LEVELS = np.arange(48).reshape(6, 8) % 16


def _packed(name: str, array: np.ndarray) -> np.ndarray:
    return array.astype(types.type_mapping.nptype_from_builtin(types.string_to_builtin(name)))


def _compressed_16() -> Any:
    """Up to iOS17 all parameters of a constexpr op are attributes in the file, and bits are packed by the writer."""

    @mb.program(input_specs=[spec(6, 8)], opset_version=ct.target.iOS16)
    def program(x):
        affine = mb.constexpr_affine_dequantize(
            quantized_data=LEVELS.astype(np.int8), zero_point=np.int8(3), scale=np.float32(0.5), axis=0
        )
        shape = np.array([6, 8], np.uint32)
        bits = np.packbits(MASK.reshape(-1), bitorder="little")
        sparse = mb.constexpr_sparse_to_dense(nonzero_data=data(KEPT), mask=bits, shape=shape)
        nibbles = (LEVELS.reshape(-1, 2) * [1, 16]).sum(1).astype(np.uint8)
        table = mb.constexpr_lut_to_dense(indices=nibbles, lut=data(16, seed=1), shape=shape)
        return mb.add(x=x, y=affine), mb.mul(x=x, y=sparse), mb.sub(x=x, y=table)

    return program


def _sparse(values: np.ndarray) -> np.ndarray:
    dense = np.zeros((6, 8))
    dense[MASK != 0] = values
    return dense


def _compressed_16_expected(x: np.ndarray) -> Sequence[Any]:
    return [x + (LEVELS - 3) * 0.5, x * _sparse(data(KEPT)), x - data(16, seed=1)[LEVELS]]


def _compressed_18() -> Any:
    """Every type of less than a byte, in the weight file and (if short) in the program; ops that feed each other."""

    @mb.program(input_specs=[spec(6, 8)], opset_version=ct.target.iOS18)
    def program(x):
        mask = _packed("uint1", MASK)
        signed = mb.constexpr_blockwise_shift_scale(
            data=_packed("int4", LEVELS - 8), scale=data(2, 4), offset=_packed("int4", np.arange(8).reshape(2, 4) - 4)
        )
        mask2, values = mb.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask,
            nonzero_data=_packed("uint4", np.arange(KEPT) % 16),
            scale=data(1, 8, seed=1),
            offset=_packed("uint4", np.arange(8).reshape(1, 8)),
        )
        scaled = mb.constexpr_sparse_to_dense(nonzero_data=values, mask=mask2)
        results = [mb.add(x=x, y=signed), mb.add(x=x, y=scaled)]
        for width in (1, 2, 3, 4, 6):
            lut = data(1, 1, 2**width, 1, seed=width)
            dense = mb.constexpr_lut_to_dense(indices=_packed(f"uint{width}", LEVELS % 2**width), lut=lut)
            mask3, found = mb.constexpr_lut_to_sparse(
                indices_mask=mask, indices_nonzero_data=_packed(f"uint{width}", np.arange(KEPT) % 2**width), lut=lut
            )
            sparse = mb.constexpr_sparse_to_dense(nonzero_data=found, mask=mask3)
            results += [mb.mul(x=x, y=dense), mb.mul(x=x, y=sparse)]
        return tuple(results)

    return program


def _compressed_18_expected(x: np.ndarray) -> Sequence[Any]:
    def blocks(a: np.ndarray) -> np.ndarray:
        return a.repeat(3, 0).repeat(2, 1)

    signed = (LEVELS - 8 - blocks(np.arange(8).reshape(2, 4) - 4)) * blocks(data(2, 4))
    places = np.argwhere(MASK)[:, 1]
    scaled = _sparse((np.arange(KEPT) % 16 - places) * data(1, 8, seed=1)[0, places])
    results = [x + signed, x + scaled]
    for width in (1, 2, 3, 4, 6):
        lut = data(1, 1, 2**width, 1, seed=width).reshape(-1)
        results += [x * lut[LEVELS % 2**width], x * _sparse(lut[np.arange(KEPT) % 2**width])]
    return results


def _scores() -> Any:
    @mb.program(input_specs=[spec(1, 3)], opset_version=ct.target.iOS16)
    def program(x):
        return mb.softmax(x=x, axis=-1)

    return program


def _classified(labels: Sequence[Any]) -> Callable[..., Sequence[Any]]:
    def expected(x: np.ndarray) -> Sequence[Any]:
        p = np.exp(x[0].astype(np.float64)) / np.exp(x[0].astype(np.float64)).sum()
        return [labels[int(p.argmax())], dict(zip(labels, p.tolist(), strict=True))]

    return expected


X = {"x": data(6, 8, seed=9)}
CASES: tuple[Case, ...] = (
    Case("cond", _cond, [{"x": data(2, 3) + s, "y": data(2, 3, seed=1)} for s in (-1, 1, 4)], _cond_expected),
    Case("loops", _loops, [{"x": data(3), "n": number(n)} for n in (0, 1, 5)], _loops_expected),
    Case("lists", _lists, [{"x": data(4, 3)}], _lists_expected),
    Case(
        "recurrent",
        _recurrent,
        [{"x": data(6, 2, 4), "h": data(2, 10, seed=1), "c": data(2, 10, seed=2)}],
        _recurrent_expected,
        opset="iOS18",
    ),
    Case("compressed, iOS16", _compressed_16, [X], _compressed_16_expected),
    Case("compressed, iOS18", _compressed_18, [X], _compressed_18_expected, opset="iOS18"),
    Case("labels", _scores, [{"x": data(1, 3, seed=s)} for s in (0, 3)], _classified("abc"), labels=tuple("abc")),
    Case("numbers", _scores, [{"x": data(1, 3)}], _classified((7, 5, 9)), labels=(7, 5, 9)),
)


def stateful() -> Any:
    """``x`` is added to a running sum that is halved each time; a second state counts. iOS18 keeps states in fp16."""

    @mb.program(
        input_specs=[
            spec(4, dtype=types.fp16),
            mb.StateTensorSpec((4,), dtype=types.fp16),
            mb.StateTensorSpec((1,), types.fp16),
        ],
        opset_version=ct.target.iOS18,
    )
    def program(x, total, count):
        before = mb.read_state(input=total)
        after = mb.coreml_update_state(state=total, value=mb.add(x=mb.mul(x=before, y=np.float16(0.5)), y=x))
        mb.coreml_update_state(state=count, value=mb.add(x=mb.read_state(input=count), y=np.float16(1)))
        return mb.mul(x=after, y=np.float16(2)), mb.add(x=before, y=np.float16(0))

    return program
