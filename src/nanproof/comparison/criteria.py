"""When an output counts as the same: a metric and a tolerance for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanproof.comparison.metrics import Difference
from nanproof.errors import UsageError

__all__ = ["METRICS", "Criteria", "Criterion", "Metric", "criteria_of"]

Metric = str | Callable[[np.ndarray, np.ndarray], float]
"""The name of a metric, or a function of the output and PyTorch's that returns a distance, 0 for the same."""

_TOP = "top-"
_OTHERS = "*"


def _ratio(found: Difference) -> float:
    """The noise-to-signal ratio of amplitudes: 0.01 is 40 dB."""
    return 10 ** (-found.snr_db / 20) if math.isfinite(found.snr_db) else (0.0 if found.snr_db > 0 else math.inf)


METRICS: Mapping[str, Callable[[Difference], float]] = {
    "max": lambda found: found.error,
    "snr": _ratio,
    "cosine": lambda found: 1.0 - found.cosine,
}
"""Distances by name: the largest error relative to the range; the noise relative to the signal (0.01 is 40 dB); 1 less
the smallest cosine similarity of two rows. ``top-K`` is one more: the part of the rows whose K largest elements are not
the same ones."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """A metric, and the largest distance that counts as the same."""

    metric: Metric = "max"
    tolerance: float = 1e-2

    @property
    def name(self) -> str:
        """What the metric is called: a function by its own name."""
        return self.metric if isinstance(self.metric, str) else getattr(self.metric, "__name__", "metric")

    def distance(self, actual: np.ndarray, expected: np.ndarray, found: Difference) -> float:
        """How far an output is from PyTorch's; ``inf`` where it is not finite and should be.

        Raises:
            UsageError: The user's own metric does not return a number.
        """
        if found.nonfinite:
            return math.inf
        if not isinstance(self.metric, str):
            result: Any = self.metric(actual, expected)
            try:
                return float(result)
            except (TypeError, ValueError) as error:
                raise UsageError(f"The metric '{self.name}' returned {result!r}, and a number is needed.") from error
        if self.metric.startswith(_TOP):
            return _other_rows(actual, expected, int(self.metric.removeprefix(_TOP)))
        return METRICS[self.metric](found)

    def told(self, distance: float) -> str:
        """A distance in words."""
        if self.metric == "max":
            return f"is off by {distance:.3g} of its range"
        return f"is off by {distance:.3g} in the metric '{self.name}'"


def _other_rows(actual: np.ndarray, expected: np.ndarray, k: int) -> float:
    """The part of the rows (last axis) whose ``k`` largest elements are not the same ones; ties count as the same."""
    if actual.ndim == 0 or actual.size == 0:
        return 0.0
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (actual, expected))
    k = min(k, a.shape[-1])
    chosen = np.argsort(-a, axis=-1, kind="stable")[:, :k]
    least = -np.sort(-b, axis=-1)[:, k - 1]
    other = (np.take_along_axis(b, chosen, -1) < least[:, None]).any(-1)
    return float(other.mean())


@dataclass(frozen=True, slots=True)
class Criteria:
    """A criterion for each output: its own one, or the default."""

    default: Criterion = Criterion()
    by_output: Mapping[str, Criterion] = field(default_factory=dict[str, Criterion])

    def of(self, output: str) -> Criterion:
        """The criterion of an output."""
        return self.by_output.get(output, self.default)

    def check(self, outputs: Collection[str]) -> None:
        """Tell of outputs that there are not.

        Raises:
            UsageError: A metric or a tolerance is given for one.
        """
        unknown = [name for name in self.by_output if name not in outputs]
        if unknown:
            raise UsageError(
                f"A metric or a tolerance is given for '{unknown[0]}', which is no output. The model has "
                f"{', '.join(outputs)}."
            )


def criteria_of(
    metric: Metric | Mapping[str, Metric] = "max", tolerance: float | Mapping[str, float] = 1e-2
) -> Criteria:
    """The criteria that a user states: for all outputs, or by output name, where ``*`` stands for all others.

    >>> criteria_of("snr", {"logits": 0.1}).of("logits")
    Criterion(metric='snr', tolerance=0.1)

    Raises:
        UsageError: There is no such metric, or a tolerance is no number from 0 on.
    """
    metrics = dict(metric) if isinstance(metric, Mapping) else {_OTHERS: metric}
    tolerances = dict(tolerance) if isinstance(tolerance, Mapping) else {_OTHERS: tolerance}
    plain = Criterion()
    usual = Criterion(_checked(metrics.pop(_OTHERS, plain.metric)), _positive(tolerances.pop(_OTHERS, plain.tolerance)))
    return Criteria(
        usual,
        {
            name: Criterion(_checked(metrics.get(name, usual.metric)), _positive(tolerances.get(name, usual.tolerance)))
            for name in dict.fromkeys((*metrics, *tolerances))
        },
    )


def _checked(metric: Metric) -> Metric:
    known = callable(metric) or metric in METRICS
    top = isinstance(metric, str) and metric.startswith(_TOP) and metric.removeprefix(_TOP).isdigit()
    if not known and not (top and int(str(metric).removeprefix(_TOP)) > 0):
        raise UsageError(
            f"Unknown metric {metric!r}. Use {', '.join(METRICS)}, top-1, top-5 and so on, or a function of two arrays."
        )
    return metric


def _positive(tolerance: float) -> float:
    if not tolerance >= 0:
        raise UsageError(f"The tolerance is {tolerance!r}, and a number from 0 on is needed.")
    return tolerance
