"""Dot products measured on Macs: 1x1 convolutions through Core ML, on an M4 and an M6 with macOS 27.

Source: 751K/Apple-Neural-Engine-Microarchitecture-Study-M6, commit 60d79c2b, notes/numerics.md and report tables 8-1 to
8-3. The literal rows below are a sample; with the shared test material, all its rows are replayed.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.numerics.running import pointwise

INF = math.inf

# (group, x, w, bias, on the Neural Engine, with CPU_ONLY)
PUBLISHED = [
    ("8-1 limit", [32752.0], [1.0], 0.0, 32752.0, 32752.0),
    ("8-1 limit", [32768.0], [1.0], 0.0, INF, 32768.0),
    ("8-1 limit", [-65504.0], [1.0], 0.0, -INF, -65504.0),
    ("8-1 limit", [2048.0], [16.0], 0.0, INF, 32768.0),
    ("8-1 limit", [127.9375], [256.0], 0.0, 32752.0, 32752.0),
    ("8-1 sum", [16384.0, 16376.0], [1.0, 1.0], 0.0, 32768.0, 32768.0),
    ("8-1 sum", [16384.0, 16384.0], [1.0, 1.0], 0.0, INF, 32768.0),
    ("8-1 sticky", [16384.0, 16384.0, -16384.0, -16384.0, 1.0], [1.0] * 5, 0.0, INF, 1.0),
    ("8-2 rounding", [-2048.0, -1.0], [1.0, 1.0], 0.0, -2050.0, -2048.0),
    ("8-2 rounding", [1.0, 2.0**-11, 2.0**-13], [1.0] * 3, 0.0, 1.0009765625, 1.0),
    ("8-2 rounding", [1.0, 2.0**-11, -(2.0**-13)], [1.0] * 3, 0.0, 1.0, 1.0),
    ("8-2 width", [1024.0, 0.25, -1024.0], [1.0] * 3, 0.0, 0.25, 0.0),
    ("8-2 width", [16384.0, 2.0**-16, -16384.0], [1.0] * 3, 0.0, 2.0**-16, 0.0),
    ("8-2 alignment", [2.0**-17], [1.0], 0.0, 2.0**-16, 2.0**-17),
    ("8-2 alignment", [1.5 * 2.0**-18], [1.0], 0.0, 0.0, 1.5 * 2.0**-18),
    ("8-2 alignment", [2.0**-5], [2.0**-12], 0.0, 0.0, 2.0**-17),
    ("8-2 alignment", [2.0**-4], [2.0**-12], 0.0, 2.0**-16, 2.0**-16),
    ("8-2 alignment", [4.76837158203125e-07], [16.0], 0.0, 2.0**-16, 2.0**-17),
    ("8-3 bias", [0.0], [1.0], 2.0**-20, 0.0, 2.0**-20),
    ("8-3 bias", [0.0], [1.0], 2.0**-17, 2.0**-16, 2.0**-17),
    ("special", [INF], [2.0**-4], 0.0, 4096.0, INF),
    ("special", [INF], [2.0**-12], 0.0, 16.0, INF),
]


def bits(numbers: list[float]) -> list[int]:
    return np.array(numbers, np.float16).view(np.uint16).tolist()


@pytest.mark.parametrize(("group", "x", "w", "bias", "engine", "cpu"), PUBLISHED)
def test_published_rows(group, x, w, bias, engine, cpu):
    assert pointwise(bits(x), bits(w), bias, "ane") == engine
    assert pointwise(bits(x), bits(w), bias, "cpu") == cpu


def test_a_nan_is_a_number_to_the_multiplier():
    """0x7FFF is 131008 and 0xFE00 is -1.5 * 2**16. 0x7C01 was measured as 0x7E01: quieted before the device."""
    for pattern, weight, measured in (
        (0x7FFF, 2.0**-4, 8188.0),
        (0xFE00, 2.0**-12, -24.0),
        (0x7C01, 2.0**-12, 24.015625),
        (0x7C01, 2.0**-4, 6148.0),
    ):
        assert pointwise([pattern], bits([weight]), 0.0, "ane") == measured


def test_all_measured_rows(shared):
    """No row differs, those with a signalling NaN included."""
    rows = json.loads((shared / "facts" / "measured_mac.json").read_text())["rows"]
    wrong = []
    for row in rows:
        for unit, measured in (("ane", row["ane"]), ("cpu", row["cpu_only"])):
            if measured is None:
                continue
            ours = pointwise(row["x_bits"], row["w_bits"], row["bias"], unit)
            if ours != float(measured):
                wrong.append((row["group"], row["x_bits"], row["w_bits"], unit, ours, measured))
    assert len(rows) >= 89
    assert not wrong
