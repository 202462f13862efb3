"""A reduced program as a short PyTorch script that shows the fault wherever PyTorch runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import final

import numpy as np

from nanproof.program import DType, Op, Program, Value

__all__ = ["Script", "script_of"]

_Write = Callable[[dict[str, str]], str]
_UNARY = {
    "abs": "abs",
    "ceil": "ceil",
    "cos": "cos",
    "erf": "erf",
    "exp": "exp",
    "exp2": "exp2",
    "floor": "floor",
    "logical_not": "logical_not",
    "relu": "relu",
    "round": "round",
    "sigmoid": "sigmoid",
    "sign": "sign",
    "sin": "sin",
    "sinh": "sinh",
    "cosh": "cosh",
    "sqrt": "sqrt",
    "square": "square",
    "tanh": "tanh",
    "atan": "atan",
}
_BINARY = {
    "add": "{x} + {y}",
    "sub": "{x} - {y}",
    "mul": "{x} * {y}",
    "real_div": "{x} / {y}",
    "floor_div": "torch.floor({x} / {y})",
    "mod": "torch.remainder({x}, {y})",
    "pow": "torch.pow({x}, {y})",
    "maximum": "torch.maximum({x}, {y})",
    "minimum": "torch.minimum({x}, {y})",
    "equal": "{x} == {y}",
    "not_equal": "{x} != {y}",
    "less": "{x} < {y}",
    "less_equal": "{x} <= {y}",
    "greater": "{x} > {y}",
    "greater_equal": "{x} >= {y}",
    "logical_and": "{x} & {y}",
    "logical_or": "{x} | {y}",
}
_WITH_EPSILON = {
    "log": "torch.log({x} + {epsilon})",
    "rsqrt": "torch.rsqrt({x} + {epsilon})",
    "inverse": "1 / ({x} + {epsilon})",
}
_REDUCED = {
    "reduce_sum": "{x}.sum({axes}, keepdim={keep_dims})",
    "reduce_mean": "{x}.mean({axes}, keepdim={keep_dims})",
    "reduce_max": "{x}.amax({axes}, keepdim={keep_dims})",
    "reduce_min": "{x}.amin({axes}, keepdim={keep_dims})",
    "reduce_l2_norm": "{x}.square().sum({axes}, keepdim={keep_dims}).sqrt()",
    "reduce_sum_square": "{x}.square().sum({axes}, keepdim={keep_dims})",
    "reduce_log_sum_exp": "{x}.logsumexp({axes}, keepdim={keep_dims})",
}
_OTHERS = {
    "softmax": "torch.softmax({x}, {axis})",
    "silu": "torch.nn.functional.silu({x})",
    "softplus": "torch.nn.functional.softplus({x})",
    "clip": "{x}.clamp({alpha}, {beta})",
    "linear": "torch.nn.functional.linear({x}, {weight}, {bias})",
    "reshape": "{x}.reshape({shape})",
    "transpose": "{x}.permute({perm})",
    "expand_dims": "{x}[{axes}]",
    "select": "torch.where({cond}, {a}, {b})",
    "reduce_argmax": "{x}.argmax({axis}, keepdim={keep_dims})",
    "reduce_argmin": "{x}.argmin({axis}, keepdim={keep_dims})",
}
_DEFAULTS = {"epsilon": "0.0", "keep_dims": "False", "axis": "-1", "bias": "None", "axes": "None"}
_SETTINGS = frozenset(
    {"axes", "axis", "keep_dims", "shape", "perm", "transpose_x", "transpose_y", "exclusive", "reverse"}
)


@final
class Script:
    """The text of a script, and the arrays that it reads beside the inputs.

    Attributes:
        text: Python, for ``reproduce.py`` in a folder with ``inputs.npz``.
        constants: Arrays of that file, by name.
    """

    def __init__(self, text: str, constants: Mapping[str, np.ndarray]) -> None:
        self.text = text
        self.constants = dict(constants)


def script_of(
    program: Program, constants: Mapping[Value, np.ndarray], headline: str, tolerance: float
) -> Script | None:
    """The script; ``None`` if the program holds an op that has no plain spelling in PyTorch.

    Args:
        program: A program with one output.
        constants: What constants were before they were rounded to FP16: the script computes with these.
        headline: What it shows, in a line.
        tolerance: Largest error, relative to the range, of a number that counts as right.
    """
    writer = _Writer(constants)
    names = {value: writer.name(value) for value in program.main.inputs.values()}
    lines: list[str] = []
    for op in program.main.block.ops:
        line = writer.line(op)
        if line is None:
            return None
        lines.append(line)
    (output,) = program.main.block.outputs
    given = ", ".join(names.values())
    loads = [f'    {name} = torch.from_numpy(data["{value.name}"]).clone()' for value, name in names.items()]
    loads = [f"{line}.float()" if v.type.dtype.is_float else line for line, v in zip(loads, names, strict=True)]
    body = "\n".join(f"    {line}" for line in lines)
    text = _TEXT.format(
        headline=headline.replace("\\", "/").replace('"""', "'''"),
        given=given,
        body=body,
        output=writer.name(output),
        loads="\n".join(loads),
        tolerance=tolerance,
    )
    return Script(text, writer.arrays)


_TEXT = '''"""{headline}

Every result is rounded to FP16, as an ML Program does that was converted with compute_precision=FLOAT16.
The right answer is that of the same lines in float32.
"""

from pathlib import Path

import numpy as np
import torch

data = np.load(Path(__file__).parent / "inputs.npz")


def half(x):
    return x.half().float() if x.is_floating_point() else x


def constant(name):
    return torch.from_numpy(data[name])


def forward({given}, store=lambda x: x):
{body}
    return {output}


if __name__ == "__main__":
{loads}
    right, wrong = forward({given}), forward({given}, store=half)
    print("float32:", right.flatten()[:8])
    print("float16:", wrong.flatten()[:8])
    right, wrong = right.double(), wrong.double()
    there = right[right.isfinite()]
    span = float(there.max() - there.min()) or float(there.abs().max()) or 1.0
    off = ~((wrong - right).abs() <= {tolerance:g} * span) & right.isfinite()
    print(f"{{int(off.sum())}} of {{off.numel()}} numbers are wrong")
'''


@final
class _Writer:
    def __init__(self, constants: Mapping[Value, np.ndarray]) -> None:
        self._constants = constants
        self._names: dict[Value, str] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def name(self, value: Value) -> str:
        """A variable for a value."""
        if value not in self._names:
            name = re.sub(r"\W", "_", value.name.removesuffix("_cast_fp16"))
            name = f"v_{name}" if not name[:1].isalpha() else name
            taken = set(self._names.values()) | {"data", "half", "store", "constant", "forward", "torch", "np"}
            self._names[value] = name if name not in taken else f"{name}_{len(self._names)}"
        return self._names[value]

    def line(self, op: Op) -> str | None:
        """An op as an assignment."""
        if op.blocks or len(op.outputs) != 1:
            return None
        expression = self._expression(op)
        if expression is None:
            return None
        stores = op.outputs[0].type.dtype is DType.FP16
        return f"{self.name(op.outputs[0])} = {f'store({expression})' if stores else expression}"

    def _expression(self, op: Op) -> str | None:
        given = dict(_DEFAULTS)
        for name, values in op.inputs.items():
            if len(values) == 1:
                given[name] = self._argument(name, values[0])
        if op.type in _UNARY:
            return f"torch.{_UNARY[op.type]}({given['x']})"
        if op.type == "cast":
            return self._cast(op, given["x"])
        if op.type == "matmul":
            x, y = (f"{given[n]}.mT" if given.get(f"transpose_{n}") == "True" else given[n] for n in ("x", "y"))
            return f"{x} @ {y}"
        if op.type == "cumsum" and {given.get("exclusive"), given.get("reverse")} <= {"False", None}:
            return f"torch.cumsum({given['x']}, {given['axis']})"
        if op.type == "expand_dims":
            return self._expanded(op, given)
        for spelled in (_BINARY, _WITH_EPSILON, _REDUCED, _OTHERS):
            if op.type in spelled:
                try:
                    return spelled[op.type].format(**given)
                except KeyError:
                    return None
        return None

    def _expanded(self, op: Op, given: Mapping[str, str]) -> str | None:
        axes = op.input("axes")
        if axes is None or axes.const is None:
            return None
        text = given["x"]
        rank = len(op.outputs[0].type.shape)
        for axis in sorted(int(a) % rank for a in np.asarray(axes.const).reshape(-1)):
            text += f".unsqueeze({axis})"
        return text

    def _cast(self, op: Op, x: str) -> str:
        dtype = op.outputs[0].type.dtype
        return f"{x}.bool()" if dtype is DType.BOOL else f"{x}.float()" if dtype.is_float else f"{x}.int()"

    def _argument(self, name: str, value: Value) -> str:
        if value.const is None:
            return self.name(value)
        const = self._constants.get(value, value.const)
        if isinstance(const, str):
            return repr(const)
        if name in _SETTINGS:
            return repr(const.tolist())
        if const.size == 1 and const.shape == () and name in ("alpha", "beta", "epsilon"):
            return repr(float(const)) if np.isfinite(const) else f'float("{float(const)}")'
        stores = value.type.dtype is DType.FP16
        if const.shape == ():
            text = f"torch.tensor({_literal(const)})"
        else:
            known = self.name(value)
            self.arrays[known] = np.asarray(const, np.float32) if const.dtype.kind == "f" else np.asarray(const)
            text = f'constant("{known}")'
        return f"store({text})" if stores else text


def _literal(const: np.ndarray) -> str:
    if const.dtype.kind != "f":
        return repr(const.item())
    return repr(float(const)) if np.isfinite(const) else f'float("{float(const)}")'
