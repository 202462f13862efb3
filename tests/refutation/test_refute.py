"""The search for a witness: what it has to find, what it must not find, and what it says if it finds nothing."""

from __future__ import annotations

import numpy as np
import pytest

from nanproof.errors import UsageError
from nanproof.interpret.execute import predict
from nanproof.interpret.proof import prove
from nanproof.program import DType
from nanproof.refutation.refute import refute
from nanproof.refutation.witness import Budget
from tests.refutation.networks import dot, half, halves, lookup, masked, number, op, program

SIGNS = np.where(np.arange(64) * 7 % 11 % 2 == 0, 1.0, -1.0)  # no simple pattern that a start would have


def search(p, assume, unit="gpu", **options):
    proof = prove(p, assume, units=(unit,))
    assert proof.verdict == "unknown"
    options.setdefault("budget", Budget(200))
    return refute(p, proof, **options)


def confirm(p, witness, box):
    """The witness lies within its box, and its unit gives what is not finite where float32 does not."""
    for name, (low, high) in box.items():
        assert ((witness.inputs[name] >= low) & (witness.inputs[name] <= high)).all()
    (here,) = predict(p, witness.inputs, numerics=witness.unit).values()
    (there,) = predict(p, {n: a.astype(np.float64) for n, a in witness.inputs.items()}).values()
    assert not np.isfinite(here).all()
    return there


def test_a_dot_product_that_overflows_for_aligned_inputs_alone():
    p, box = dot(SIGNS * 8), {"x": (-150.0, 150.0)}  # aligned: 64 * 8 * 150 = 76800
    (answer,) = search(p, box)
    assert answer.verdict == "refuted"
    assert answer.witness is not None
    assert answer.witness.start.startswith("ascent")
    assert (answer.witness.what, answer.witness.op, answer.witness.unit) == ("Inf", "y", "gpu")
    confirm(p, answer.witness, box)
    product = float(answer.witness.inputs["x"].astype(np.float64)[0] @ SIGNS * 8)
    assert abs(product) > 65504
    assert answer.witness.value == pytest.approx(abs(product), rel=1e-6)
    assert answer.margin > 1
    assert str(answer).startswith("refuted: linear 'y' makes Inf")


def test_an_exponential():
    x, y = half("x", (2, 3)), half("y", (2, 3))
    p = program([x], [op("exp", y, x=x)], y)
    (answer,) = search(p, {"x": (-2.0, 11.5)})  # e^11.09 = 65504
    assert answer.verdict == "refuted"
    assert answer.witness is not None
    assert answer.witness.inputs["x"].max() > 11.08
    confirm(p, answer.witness, {"x": (-2.0, 11.5)})


def test_an_infinity_that_no_output_shows_refutes_nothing():
    x, power, y = half("x", (4,)), half("power", (4,)), half("y", (4,))
    p = program([x], [op("exp", power, x=x), op("tanh", y, x=power)], y)
    (answer,) = search(p, {"x": (0.0, 20.0)})
    assert answer.verdict == "unknown"
    assert answer.witness is not None
    assert answer.witness.harm < 1e-2
    assert "which is no harm" in str(answer)


@pytest.mark.parametrize("dtype", [DType.INT32, DType.BOOL])
def test_a_mask_that_masks_everything(dtype):
    p = masked(dtype, 40000.0)  # each value is finite; their sum is -Inf; and a row of -Inf has no softmax
    (answer,) = search(p, {"mask": (0, 1)})
    assert (answer.op.type, answer.verdict) == ("add", "refuted")
    assert answer.witness is not None
    assert answer.witness.harm == np.inf
    assert answer.witness.inputs["mask"].dtype == dtype.numpy
    assert not answer.witness.inputs["mask"].any()
    (weights,) = predict(p, answer.witness.inputs, numerics="gpu").values()
    assert np.isnan(weights).all()


def test_one_id_of_a_thousand():
    table = np.zeros((1000, 4))
    table[777] = 30000
    box = {"ids": (0, 999)}
    answers = search(lookup(table), box, budget=Budget(120))
    (answer,) = [a for a in answers if a.op.type == "reduce_sum"]
    assert answer.verdict == "refuted"
    assert answer.witness is not None
    assert answer.witness.inputs["ids"].tolist() == [777]
    assert answer.witness.start.startswith("ascent")


def test_ids_stay_inside_what_is_assumed():
    table = np.zeros((1000, 4))
    table[777], table[300] = 30000, 20000  # row 300 would do as well
    answers = search(lookup(table), {"ids": (0, 600)}, budget=Budget(120))
    (answer,) = [a for a in answers if a.op.type == "reduce_sum"]
    assert answer.witness is not None
    assert answer.witness.inputs["ids"].tolist() == [300]


def test_an_accumulator_that_overflows_in_some_order():
    # Any two products of one sign reach 2**15; the whole sum does not.
    p = dot([200.0, 200.0, -200.0, -200.0])
    proof = prove(p, {"x": (90.0, 100.0)}, units=("ane",))
    (answer,) = refute(p, proof, budget=Budget(60))
    assert answer.limit == 32768
    assert answer.witness is not None
    assert answer.witness.what == "sum"
    x = answer.witness.inputs["x"].astype(np.float64)[0]
    assert max((x[0] + x[1]) * 200, (x[2] + x[3]) * 200) >= 32768
    assert abs((x[0] + x[1] - x[2] - x[3]) * 200) < 32768
    assert "may overflow" in str(answer)


def test_what_is_proved_is_not_searched():
    proof = prove(dot([1.0, 2.0]), {"x": (-3.0, 3.0)}, units=("gpu", "ane"))
    assert proof.verdict == "proved"
    assert refute(dot([1.0, 2.0]), proof) == ()


def test_what_cannot_overflow_stays_unknown_with_its_margin():
    p = halves()
    (answer,) = search(p, {"x": (-1000.0, 1000.0)}, budget=Budget(150))
    assert answer.op.name == "y"
    assert answer.verdict == "unknown"
    assert answer.witness is None
    assert answer.reached == 60000  # 60 |x|
    assert answer.limit == 65504
    assert answer.exhausted
    assert 150 <= answer.executions < 160
    assert "largest value reached 60,000 of 65,504 (92 %)" in str(answer)


def test_a_seed_gives_the_same_search_and_another_one_another():
    x = half("x", (1, 64))
    results = []
    for seed in (3, 3, 4):
        p = dot(SIGNS * 8)
        (answer,) = search(p, {x.name: (-150.0, 150.0)}, seed=seed)
        assert answer.witness is not None
        results.append((answer.executions, answer.witness.inputs["x"].tobytes()))
    assert results[0] == results[1] != results[2]


def test_given_inputs_are_tried_first_and_brought_within_the_assumptions():
    x, y = half("x", (2,)), half("y", (2,))
    p = program([x], [op("mul", y, x=x, y=x)], y)
    (answer,) = search(p, {"x": (-300.0, 300.0)}, batches=[{"x": np.array([1.0, 900.0])}])
    assert answer.witness is not None
    assert answer.witness.start == "given input 0"
    assert answer.witness.inputs["x"].tolist() == [1.0, 300.0]
    with pytest.raises(UsageError, match="lacks the input 'x'"):
        search(p, {"x": (-300.0, 300.0)}, batches=[{"z": np.zeros(2)}])


def test_where_float32_is_not_finite_either_nothing_is_shown():
    x, y = half("x", (2,)), half("y", (2,))
    p = program([x], [op("log", y, x=x, epsilon=number(0.0))], y)
    (answer,) = search(p, {"x": (0.0, 1.0)}, budget=Budget(60))
    assert answer.witness is None


def test_outputs_that_are_wrong_and_finite():
    x, high, y = half("x", (8,)), half("high", (8,)), half("y", (8,))
    p = program([x], [op("add", high, x=x, y=number(4096.0)), op("sub", y, x=high, y=number(4096.0))], y)
    proof = prove(p, {"x": (-1.0, 1.0)}, units=("gpu",))
    assert proof.verdict == "proved"
    assert refute(p, proof, budget=Budget(50)) == ()
    (answer,) = refute(p, proof, budget=Budget(50), accuracy=True)
    assert answer.verdict == "refuted"
    assert answer.witness is not None
    assert answer.witness.what == "error"
    assert 0.1 < answer.witness.harm < 1.5
