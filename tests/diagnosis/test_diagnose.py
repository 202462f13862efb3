"""Diagnosis: the finding names the op and the line that did it, whatever became of it on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nanproof
from nanproof.diagnosing import plain
from nanproof.diagnosis.examine import examine
from nanproof.diagnosis.trace import Trace
from nanproof.errors import CouldNotCheckError, InputError, NumericsError, UsageError
from nanproof.interpret.sweep import Sweep
from nanproof.program import Block, DType, Function, Op, Program, Type, Value
from tests.diagnosis.hazards import BENIGN, CASES, FILE, Killed, Nested


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """Every case with its diagnosis."""
    diagnose = nanproof.diagnose
    return {str(case): diagnose(case.module(), case.inputs, tolerance=case.tolerance) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_first_finding_names_the_op_and_the_line(case: Any, found: dict[str, Any]) -> None:
    diagnosis = found[str(case)]
    assert diagnosis.verdict == "failed"
    first = diagnosis.culprits[0]
    assert (first.finding.code, first.finding.op_type) == (case.code, case.op_type)
    assert first.finding.source is not None
    assert (Path(first.finding.source.file).name, first.finding.source.line) == (FILE.name, case.line)
    assert first.share > 0.5
    assert first.units == ("gpu",)


def test_a_diagnosis_is_cheap(found: dict[str, Any]) -> None:
    """At most four executions; of a program of a few ops a little more, since thirty evaluations are always allowed."""
    assert 3 <= found["NP141"].executions <= 4
    assert all(d.executions < 7 for d in found.values())


@pytest.mark.parametrize(("module", "inputs"), BENIGN)
def test_an_inf_that_comes_to_the_right_limit_is_no_finding(module: type[nn.Module], inputs: Any) -> None:
    diagnosis = nanproof.diagnose(module(), inputs)
    assert (diagnosis.verdict, diagnosis.culprits) == ("tested", ())
    assert diagnosis.harmless


def test_a_killed_infinity_is_told_with_the_values(found: dict[str, Any]) -> None:
    first = found["NP115"].culprits[0]
    assert first.finding.detail == "exp(12) is 1.628e+05 in float32 and Inf in FP16"
    assert any(text.startswith("Inf becomes 0 in real_div (line ") for text in first.effects)
    assert first.effects[-1].endswith("is off by 1 of its range")
    assert (first.sample.actual, first.sample.operands) == (np.inf, (("x", 12.0),))
    assert first.sample.exact == pytest.approx(np.exp(12), rel=1e-5)


def test_the_trial_tells_what_is_left_with_the_ops_in_fp32(found: dict[str, Any]) -> None:
    first = found["NP111"].culprits[0]
    assert first.cures is True
    assert first.removes > 0.95
    assert "pow_1" in first.island


def test_the_module_path_is_named(found: dict[str, Any]) -> None:
    assert found["NP111"].culprits[0].finding.source.module == "norm"


def test_each_unit_and_each_input_is_looked_at() -> None:
    calls = [(torch.full((4,), 1.0),), (torch.full((4,), 12.0),)]
    diagnosis = nanproof.diagnose(Killed(), calls, numerics=("gpu", "strict"))
    (culprit,) = [c for c in diagnosis.culprits if c.finding.code == "NP115"]
    assert (culprit.units, culprit.batch, diagnosis.batches) == (("gpu", "strict"), 1, 2)
    assert {d.batch for d in diagnosis.damaged} == {1}


def test_a_package_is_diagnosed_as_it_is(tmp_path: Path) -> None:
    made = plain(Nested(), (torch.ones(2, 8),))
    path = made.folder.path / "model.mlpackage"
    inputs = {name: np.ones(type.shape, np.float32) for name, type in made.program.inputs.items()}
    diagnosis = nanproof.diagnose(path, inputs)
    assert diagnosis.culprits[0].finding.code == "NP111"
    assert diagnosis.culprits[0].finding.source.module == "norm"
    again = nanproof.diagnose(nanproof.load(path), [inputs, inputs])
    assert (again.batches, again.culprits[0].finding.op) == (2, diagnosis.culprits[0].finding.op)


def test_what_is_wrong_in_float32_already_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here PyTorch is made to answer something else than it was captured with."""
    module = Killed()
    before = module.forward
    made = plain(module, (torch.ones(4),))
    assert made.fidelity.within(1e-3)
    from nanproof.capture import conversation

    monkeypatch.setattr(
        conversation.Reference,
        "__call__",
        lambda self, batch, *, goes_on=False: [before(*batch.args, **batch.kwargs) * 2],
    )
    diagnosis = nanproof.diagnose(module, (torch.ones(4),))
    assert diagnosis.verdict == "failed"
    assert diagnosis.culprits[0].finding.code == "NP201"


def half(name: str, *shape: int) -> Value:
    return Value(name, Type(DType.FP16, shape))


def loop_program() -> Program:
    """Ten turns of ``a = a * a`` from 3 on: the fourth overflows. Then ``1 / (1 + a)``, which kills the Inf."""
    start, a, n = half("start", 2), half("a", 2), Value("n", Type(DType.INT32))
    more, squared, turn = Value("more", Type(DType.BOOL)), half("squared", 2), Value("turn", Type(DType.INT32))
    one, five = (Value("k", Type(DType.INT32), np.array(k, np.int32)) for k in (1, 5))
    condition = Block((a, n), (Op("less", "more", {"x": (n,), "y": (five,)}, (more,)),), (more,))
    ops = (
        Op("mul", "squared", {"x": (a,), "y": (a,)}, (squared,)),
        Op("add", "turn", {"x": (n,), "y": (one,)}, (turn,)),
    )
    body = Block((a, n), ops, (squared, turn))
    end, count = half("end", 2), Value("count", Type(DType.INT32))
    zero = Value("zero", Type(DType.INT32), np.array(0, np.int32))
    loop = Op("while_loop", "loop", {"loop_vars": (start, zero)}, (end, count), (condition, body))
    unit = Value("unit", Type(DType.FP16), np.array(1, np.float16))
    log, result = half("log", 2), half("result", 2)
    tail = (
        Op("log", "log", {"x": (end,), "epsilon": (Value("e", Type(DType.FP32), np.array(0, np.float32)),)}, (log,)),
        Op("real_div", "result", {"x": (unit,), "y": (log,)}, (result,)),
    )
    return Program({"main": Function("main", {"start": start}, Block((), (loop, *tail), (result,)))})


def test_inside_of_a_loop_the_turn_is_found() -> None:
    diagnosis = examine(loop_program(), [{"start": [3.0, 1.25]}], ["gpu"])
    first = diagnosis.culprits[0]
    assert (first.finding.code, first.finding.op, first.sample.operands[0][1]) == ("NP111", "squared", 6560.0)
    assert "Inf becomes 0 in real_div" in first.effects[0]


def test_what_is_forgotten_is_said_to_be_unexplained() -> None:
    trace = Trace(most_bytes=8)
    Sweep(loop_program(), "gpu")({"start": [3.0, 1.25]}, trace)
    assert trace.forgotten > 5
    assert trace.kept == 1


def test_errors_say_what_to_do() -> None:
    with pytest.raises(UsageError, match="neither a program"):
        nanproof.diagnose(3, [1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="takes start: pass inputs"):
        nanproof.diagnose(loop_program())
    with pytest.raises(InputError, match="There are no inputs"):
        nanproof.diagnose(loop_program(), [])
    with pytest.raises(NumericsError, match="Unknown numerics"):
        nanproof.diagnose(loop_program(), {"start": [1, 1]}, numerics="tpu")
    with pytest.raises(UsageError, match="No numerics were given"):
        nanproof.diagnose(loop_program(), {"start": [1, 1]}, numerics=())
    x = Value("x", Type(DType.FP16, (1,)))
    label = Value("label", Type(DType.STRING), "cat")
    with pytest.raises(CouldNotCheckError, match="no output that is a tensor"):
        nanproof.diagnose(Program({"main": Function("main", {"x": x}, Block((), (), (label,)))}), {"x": [1.0]})
