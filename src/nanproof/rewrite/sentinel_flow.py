"""Where huge constants go: a dataflow analysis of mask sentinels.

A *sentinel* is an element that stands for infinity: -3.4e38, -1e9, -65504, -inf in a mask. The analysis follows
sentinels from the constants through the program. For each value it knows the possible sentinel elements, each as a pair

    (original, unit)

where ``original`` is the number that FP32 computes and ``unit`` the number, in units of the head-room constant H,
that the same expression gives once every sentinel constant is replaced by ±H. All other elements lie in the interval
``[low, high]``; they are the same before and after the replacement. ``-inf`` is representable in FP16 and stays itself.

Sentinels that meet an op of which nothing is known make their *region* (all that is reached from the same constants)
impossible to rewrite; the reason is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from nanproof.interpret.observe import Ranges
from nanproof.ops import TABLE
from nanproof.program import DType, Op, Program, Value
from nanproof.rewrite.binary_values import binary_sign

__all__ = ["FLOOR", "HEADROOM", "Flow", "Region", "Site", "trace"]

FLOOR = 1e4
"""Smaller constants are numbers like any other. -1e4 is what cautious authors use as a mask, and it is safe."""
HEADROOM = 3e4
"""Replacement for a sentinel: twice it, and twice it with a score of ±5,000, is still an FP16 number. -65504 is not
closed under addition: -65504 + s is -inf for s <= -16 (huggingface/transformers#17306; coremltools itself uses
-3e4)."""
_MOST_LEVELS = 4
"""A tensor with more distinct huge values is no mask: it holds weights."""


@dataclass(frozen=True, slots=True)
class Flow:
    """Abstract value: sentinels as (original, unit) pairs, the interval of all other elements, and its regions.

    ``sums`` are the latest additions of the sentinel to something else on the way here.
    """

    entries: frozenset[tuple[float, float]]
    low: float
    high: float
    regions: frozenset[int]
    sums: frozenset[Op] = frozenset()

    @property
    def has_normal(self) -> bool:
        """Whether there can be elements that are no sentinels."""
        return self.low <= self.high


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A use of a constant that holds sentinels: input ``input[index]`` of ``op``."""

    op: Op
    input: str
    index: int
    constant: np.ndarray


@dataclass(slots=True)
class Region:
    """All that is reached from connected sentinel constants.

    ``sums`` are additions of a sentinel-bearing mask to a tensor without sentinels, ``last_sums`` those of them behind
    which a sink follows without another; ``levels`` the sentinel pairs that occur anywhere; ``reach`` the largest
    magnitude of the other elements that meet them.
    """

    sites: list[Site] = field(default_factory=list[Site])
    ops: list[Op] = field(default_factory=list[Op])
    sums: list[tuple[Op, Flow]] = field(default_factory=list[tuple[Op, Flow]])
    last_sums: set[Op] = field(default_factory=set[Op])
    sinks: list[Op] = field(default_factory=list[Op])
    levels: set[tuple[float, float]] = field(default_factory=set[tuple[float, float]])
    reach: float = 0.0
    assumptions: list[str] = field(default_factory=list[str])
    refusal: str = ""
    refused_at: Op | None = None

    def absorb(self, other: Region) -> None:
        """Take over all of another region."""
        self.sites += other.sites
        self.ops += [op for op in other.ops if op not in self.ops]
        self.sums += other.sums
        self.last_sums |= other.last_sums
        self.sinks += other.sinks
        self.levels |= other.levels
        self.reach = max(self.reach, other.reach)
        self.assumptions += [a for a in other.assumptions if a not in self.assumptions]
        if other.refusal and not self.refusal:
            self.refusal, self.refused_at = other.refusal, other.refused_at


class RefusedError(Exception):
    """An op does something to a sentinel that the analysis cannot follow."""


def trace(program: Program, ranges: Ranges) -> list[Region]:
    """The sentinel regions of the default function, with the observed ranges of all other values.

    Args:
        program: The float32 program.
        ranges: Ranges observed under ``reference`` numerics.
    """
    return _Tracer(program, ranges).regions()


class _Tracer:
    def __init__(self, program: Program, ranges: Ranges) -> None:
        self._program = program
        self._ranges = ranges
        self._flows: dict[Value, Flow] = {}
        self._regions: list[Region] = []
        self._parents: list[int] = []
        self._never_true: set[Value] = set()
        self._producers = {v: op for op in program.walk() for v in op.outputs}

    def regions(self) -> list[Region]:
        for op in self._program.main.block.ops:
            self._visit(op)
        for value in self._program.main.block.outputs:
            if value in self._flows:
                self._refuse(self._flows[value].regions, f"the output '{value.name}' itself holds the sentinel", None)
        merged: dict[int, Region] = {}
        for i, region in enumerate(self._regions):
            merged.setdefault(self._root(i), Region()).absorb(region)
        return list(merged.values())

    # -- regions ------------------------------------------------------------------------------------------------------

    def _root(self, region: int) -> int:
        while self._parents[region] != region:
            region = self._parents[region]
        return region

    def _region(self, flows: list[Flow]) -> Region:
        """The region of some flows, after joining all regions that they belong to."""
        roots = sorted({self._root(r) for flow in flows for r in flow.regions})
        for other in roots[1:]:
            self._parents[other] = roots[0]
            self._regions[roots[0]].absorb(self._regions[other])
            self._regions[other] = Region()
        return self._regions[roots[0]]

    def _refuse(self, regions: frozenset[int], reason: str, op: Op | None) -> None:
        for r in regions:
            region = self._regions[self._root(r)]
            if not region.refusal:
                region.refusal, region.refused_at = reason, op

    # -- flows --------------------------------------------------------------------------------------------------------

    def _visit(self, op: Op) -> None:
        operands = {
            name: [self._flow(op, name, i, value) for i, value in enumerate(values)]
            for name, values in op.inputs.items()
        }
        carrying = [f for flows in operands.values() for f in flows if f is not None and f.entries]
        if not carrying:
            return
        region = self._region(carrying)
        region.ops.append(op)
        try:
            result = self._transfer(op, operands, region)
        except RefusedError as refusal:
            self._refuse(frozenset(r for f in carrying for r in f.regions), str(refusal), op)
            return
        if result is not None and result.entries:
            region.levels |= result.entries
            self._flows.update(dict.fromkeys(op.outputs, result))

    def _flow(self, op: Op, name: str, index: int, value: Value) -> Flow | None:
        """The flow of an operand; ``None`` for what carries no float data."""
        if value in self._flows:
            return self._flows[value]
        if not value.type.dtype.is_float:
            return None
        if value.const is None or isinstance(value.const, str):
            seen = self._ranges[value.name]
            return Flow(frozenset(), seen.low, seen.high, frozenset())
        return self._constant_flow(op, name, index, value.const)

    def _constant_flow(self, op: Op, name: str, index: int, constant: np.ndarray) -> Flow:
        huge = np.abs(constant) >= FLOOR
        normal = constant[~huge & ~np.isnan(constant)]
        low, high = (float(normal.min()), float(normal.max())) if normal.size else (math.inf, -math.inf)
        if not huge.any():
            return Flow(frozenset(), low, high, frozenset())
        values = np.unique(constant[huge].astype(np.float32))
        number = len(self._regions)
        self._parents.append(number)
        region = Region(sites=[Site(op, name, index, constant)])
        self._regions.append(region)
        if len(values) > _MOST_LEVELS:
            region.refusal, region.refused_at = (
                f"'{op.name}' has a constant with {len(values)} different huge values",
                op,
            )
        entries = frozenset((float(v), float(np.sign(v)) if np.isfinite(v) else float(v)) for v in values)
        region.levels |= entries
        return Flow(entries, low, high, frozenset({number}))

    # -- transfer functions -------------------------------------------------------------------------------------------

    def _transfer(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow | None:
        record = TABLE.get(op.type)
        flows = [f for fs in operands.values() for f in fs if f is not None]
        for flow in flows:
            region.reach = max(region.reach, *(abs(b) for b in (flow.low, flow.high) if flow.has_normal), 0.0)
        if op.type in _TRANSFERS:
            return _TRANSFERS[op.type](self, op, operands, region)
        if record is not None and (record.family == "structural" or op.type in _MOVES):
            return _union([f for f in flows if f.entries or f.has_normal])
        if record is not None and record.family == "comparison":
            if _never(op, *(operands[n][0] for n in ("x", "y"))):
                self._never_true.add(op.outputs[0])
                region.assumptions.append(
                    f"'{op.inputs['x'][0].name}' held no Inf beyond its masks on the given inputs"
                )
            return None
        raise RefusedError(f"'{op.name}' ({op.type}) computes with the sentinel")

    def add(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow:
        """``x + y``, or ``x - y`` for ``sub``: sentinels absorb, or add up."""
        x, y = _pair(operands)
        if op.type == "sub":
            y = replace(y, entries=frozenset((-o, -u) for o, u in y.entries), low=-y.high, high=-y.low)
        entries = {(_f32(a + b), u + v) for (a, u), (b, v) in product(x.entries, y.entries)}
        entries |= x.entries if y.has_normal else frozenset()
        entries |= y.entries if x.has_normal else frozenset()
        for _, unit in entries:
            if not unit or math.isnan(unit):
                raise RefusedError(f"'{op.name}' ({op.type}) cancels one sentinel against another")
        both = x.has_normal and y.has_normal
        low, high = (x.low + y.low, x.high + y.high) if both else (math.inf, -math.inf)
        other, name = (y, "y") if x.entries else (x, "x")
        constant = op.inputs[name][0].const is not None and other.low == other.high
        if both and not other.entries and not constant:
            flow = Flow(frozenset(entries), low, high, x.regions | y.regions, frozenset({op}))
            region.sums.append((op, flow))
            return flow
        return Flow(frozenset(entries), low, high, x.regions | y.regions, x.sums | y.sums)

    def mul(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow:
        """``x * y``, where one factor is a positive constant or takes only the values 0 and 1, or 0 and -1."""
        x, y = _pair(operands)
        if x.entries and y.entries:
            raise RefusedError(f"'{op.name}' multiplies two sentinels")
        mask, factor, name = (x, y, "y") if x.entries else (y, x, "x")
        value = op.inputs[name][0]
        # Only a constant of the program counts: a value that was the same on all inputs need not be so on the next.
        if value.const is not None and factor.low == factor.high and factor.low >= 0:
            c = factor.low
            if c == 0:  # 0 * inf is NaN in FP32 as well: then the flow has nothing to say about those elements
                return Flow(frozenset(), 0.0, 0.0, mask.regions)
            entries = frozenset((_f32(o * c), u * c) for o, u in mask.entries)
            return replace(mask, entries=entries, low=mask.low * c, high=mask.high * c)
        sign, evidence = binary_sign(value, self._producers, self._ranges)
        if not sign:
            raise RefusedError(
                f"'{op.name}' scales the sentinel by '{value.name}', which takes other values than 0 and ±1"
            )
        if any(math.isinf(o) for o, _ in mask.entries):
            raise RefusedError(f"'{op.name}' makes 0 * inf, which is NaN in FP32 as well")
        region.assumptions.append(evidence)
        ends = (0.0, sign * mask.low, sign * mask.high) if mask.has_normal else (0.0,)
        entries = frozenset((sign * o, sign * u) for o, u in mask.entries)
        return replace(mask, entries=entries, low=min(ends), high=max(ends))

    def bound(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow:
        """``maximum``, ``minimum``, ``clip``: bounds may be sentinels themselves."""
        if op.type != "clip":
            x, y = _pair(operands)
            return _extremum(op, x, y, max if op.type == "maximum" else min)
        (x,), (alpha,), (beta,) = operands["x"], operands.get("alpha", [None]), operands.get("beta", [None])
        if x is None:
            raise RefusedError(f"'{op.name}' clips no float")
        lower = x if alpha is None else _extremum(op, x, alpha, max)
        return lower if beta is None else _extremum(op, lower, beta, min)

    def select(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow:
        """``select(cond, a, b)``: the elements of both branches, of ``b`` alone if ``cond`` is known to be false."""
        branches = ("b",) if op.inputs["cond"][0] in self._never_true else ("a", "b")
        return _union([f for n in branches for f in operands[n] if f is not None])

    def cast(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> Flow | None:
        """To a float: unchanged. To ``bool``: true before and after. To an integer: unknown."""
        flow = operands["x"][0]
        dtype = op.outputs[0].type.dtype
        if dtype.is_float:
            return flow
        if dtype is not DType.BOOL:
            raise RefusedError(f"'{op.name}' casts the sentinel to {dtype.value}")
        return None

    def sink(self, op: Op, operands: dict[str, list[Flow | None]], region: Region) -> None:
        """Ops that map every masked element to the same limit, however large the sentinel is."""
        flow = operands["x"][0]
        positive = flow is not None and any(u > 0 for _, u in flow.entries)
        if positive and op.type not in _TWO_SIDED_SINKS:
            raise RefusedError(f"'{op.name}' ({op.type}) reads a positive sentinel")
        region.sinks.append(op)
        region.last_sums |= flow.sums if flow is not None else frozenset()


_TWO_SIDED_SINKS = ("sigmoid", "tanh", "erf")
_MOVES = frozenset({"gather", "gather_along_axis", "gather_nd", "slice_by_index", "slice_by_size", "identity"})
_Transfer = Callable[[_Tracer, Op, dict[str, list[Flow | None]], Region], Flow | None]
_TRANSFERS: dict[str, _Transfer] = {
    "add": _Tracer.add,
    "sub": _Tracer.add,
    "mul": _Tracer.mul,
    "maximum": _Tracer.bound,
    "minimum": _Tracer.bound,
    "clip": _Tracer.bound,
    "select": _Tracer.select,
    "cast": _Tracer.cast,
    **dict.fromkeys(("softmax", "exp", "exp2", "relu", *_TWO_SIDED_SINKS), _Tracer.sink),
}


def _pair(operands: dict[str, list[Flow | None]]) -> tuple[Flow, Flow]:
    x, y = operands["x"][0], operands["y"][0]
    if x is None or y is None:
        raise RefusedError("a sentinel meets an operand that is no float")
    return x, y


def _union(flows: list[Flow]) -> Flow:
    return Flow(
        frozenset().union(*(f.entries for f in flows)),
        min(f.low for f in flows),
        max(f.high for f in flows),
        frozenset().union(*(f.regions for f in flows)),
        frozenset().union(*(f.sums for f in flows)),
    )


def _extremum(op: Op, x: Flow, bound: Flow, choose: Callable[[float, float], float]) -> Flow:
    """Elementwise ``max`` or ``min``. A sentinel keeps its rank against every number that is none."""
    entries = {(choose(a, b), choose(u, v)) for (a, u), (b, v) in product(x.entries, bound.entries)}
    for one, other in ((x, bound), (bound, x)):
        if other.has_normal:
            entries |= {(o, u) for o, u in one.entries if choose(u, 0.0) == u}
    xs = (x.low, x.high) if x.has_normal else None
    bs = (bound.low, bound.high) if bound.has_normal else None
    normals = [(choose(xs[0], bs[0]), choose(xs[1], bs[1]))] if xs and bs else []
    for normal, other in ((xs, bound), (bs, x)):
        # A normal element wins against a sentinel of the other sign.
        if normal and any(choose(u, 0.0) != u for _, u in other.entries):
            normals.append(normal)
    low, high = min((n[0] for n in normals), default=math.inf), max((n[1] for n in normals), default=-math.inf)
    return Flow(frozenset(entries), low, high, x.regions | bound.regions, x.sums | bound.sums)


def _never(op: Op, x: Flow | None, y: Flow | None) -> bool:
    """Whether an ``equal`` can never hold, so that ``nan_to_num`` of what has no +inf leaves its sentinel unused.

    Any relation has to hold between the replacements exactly where it holds between the originals. Against a number
    that is no sentinel it does, since sentinels keep their sign and stay beyond all of them.
    """
    if x is None or y is None:
        raise RefusedError(f"'{op.name}' compares the sentinel with something that is no float")
    if len(set(op.operands)) == 1:
        return False  # x compared with itself: NaN is not equal to NaN
    pairs = list(product(x.entries, y.entries))
    for (a, u), (b, v) in pairs:
        if (a < b, a == b) != (u < v, u == v):
            raise RefusedError(f"'{op.name}' ({op.type}) would tell {a:g} and {b:g} apart differently")
    normals_meet = x.has_normal and y.has_normal
    return op.type == "equal" and not normals_meet and all(a != b for (a, _), (b, _) in pairs)


def _f32(x: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(x))
