"""pytest plugin that lets coremltools' own tests judge nanproof's predictions.

On any system but macOS those tests convert their models and compare nothing. This plugin makes them believe that they
are on a Mac, answers their predictions by nanproof, and tells apart, for each case, whether it judged anything. Nothing
of the tests themselves is changed: the expected values and tolerances are theirs.

Loaded by :mod:`nanproof.testing.conformance`, in each of its workers.
"""

from __future__ import annotations

import functools
import json
import random
import re
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanproof.mil.coreml import ct, quiet
from nanproof.mil.predict import enable_predict
from nanproof.testing.cases import Case, Outcome, Sample, read_cases

__all__ = ["Bridge"]

_MACOS = (26, 0)
_LONGEST_CASE = 120
"""Seconds after which a case is given up; the longest of those that end takes a fraction of it."""
_CONVERTER = "_converters_entry.py"
"""The file of coremltools through which every conversion goes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options that the conformance run passes on."""
    group = parser.getgroup("conformance")
    group.addoption("--record", type=Path, required=True, help="JSON lines of cases; those already there are not run")
    group.addoption("--numerics", default="gpu")
    group.addoption("--fraction", type=float, default=1.0)
    group.addoption("--per-function", type=int, default=None)
    group.addoption("--seed", type=int, default=0)
    group.addoption("--spoil", action="store_true", help="add 1 to every prediction, to see whether the tests notice")


def pytest_configure(config: pytest.Config) -> None:
    """Begin before any test module is imported, since they look at the system while they are."""
    config.pluginmanager.register(Bridge(config), "nanproof-bridge")


class Bridge:
    """What one pytest process knows while it runs coremltools' tests."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._asked = self._made = 0
        self._scratch = tempfile.mkdtemp(prefix="nanproof-conformance-")
        tempfile.tempdir = self._scratch  # where coremltools puts each model it converts
        _pose_as_macos()
        enable_predict(config.option.numerics)
        self._count_predictions()

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _count_predictions(self) -> None:
        mlmodel: Any = ct.models.MLModel
        predict, make_state = mlmodel.predict, mlmodel.make_state

        @functools.wraps(predict)
        def counted(model: Any, *args: Any, **keywords: Any) -> Any:
            self._asked += 1
            results = predict(model, *args, **keywords)
            self._made += 1
            return _spoiled(results) if self._config.option.spoil else results

        @functools.wraps(make_state)
        def asked(model: Any) -> Any:
            self._asked += 1
            return make_state(model)

        mlmodel.predict, mlmodel.make_state = counted, asked

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the neural networks, what is not in the sample, and what is recorded already.

        Left out as well are cases of precision ``fp32`` whose values are float16: they hold these to the tolerance of
        float32. They are no part of coremltools' default run, and each has a twin of precision ``fp16``.
        """
        option = config.option
        programs = [item for item in items if _backend(item)[0] != "neuralnetwork"]
        fair = [item for item in programs if _backend(item)[1] != "fp32" or not _HALF.search(item.nodeid)]
        chosen = Sample(option.fraction, option.per_function, option.seed).choose([item.nodeid for item in fair])
        counts = (len(items), len(items) - len(programs), len(programs) - len(fair), len(chosen))
        collected = dict(zip(("collected", "neural network", "float16 as float32", "chosen"), counts, strict=True))
        option.record.with_suffix(".collected.json").write_text(json.dumps(collected), encoding="utf-8")
        done = {case.id for case in read_cases(option.record)}
        items[:] = [item for item in fair if item.nodeid in chosen - done]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> Generator[None, object, object]:
        """Count for each case by itself, and remove the models that it made."""
        self._asked = self._made = 0
        try:
            return (yield)
        finally:
            for path in Path(self._scratch).iterdir():
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True) if path.is_file() else None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Run the case, but not for ever, and hold coremltools' hints back.

        Random numbers depend on the case alone, and not on those that ran before it.
        """
        seed = zlib.crc32(item.nodeid.encode())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        signal.signal(signal.SIGALRM, _give_up)
        signal.alarm(_LONGEST_CASE)
        try:
            with quiet():
                return (yield)
        finally:
            signal.alarm(0)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put what became of the case into its report, which xdist carries to the process that records it."""
        report = yield
        if report.when == "call" or (report.when == "setup" and not report.passed):
            outcome, reason = self._judge(report, call)
            case = Case(item.nodeid, outcome, reason, self._made, round(call.duration, 3))
            report.user_properties.append(("case", case.to_json()))
        return report

    def _judge(self, report: pytest.TestReport, call: pytest.CallInfo[None]) -> tuple[Outcome, str]:
        if report.passed:
            # A case may be content because a prediction that it asked for was refused.
            return (Outcome.PASSED, "") if self._asked else (Outcome.NOT_JUDGED, "no prediction was asked for")
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "")
            return Outcome.SKIPPED, _line(str(reason))
        if call.excinfo is None:
            return Outcome.FAILED, "no exception, but a failure"
        error, reason = call.excinfo.value, _line(f"{call.excinfo.typename}: {call.excinfo.value}")
        if any(Path(entry.path).name == _CONVERTER for entry in call.excinfo.traceback):
            return Outcome.NOT_CONVERTED, reason
        if "this is a model of an older type" in str(error):
            return Outcome.NEURAL_NETWORK, reason
        if isinstance(error, ImportError) or (isinstance(error, NameError) and error.name in _PACKAGES):
            return Outcome.NOT_RUNNABLE, reason
        return (Outcome.FAILED if self._asked else Outcome.NOT_PREDICTED), reason

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record the case, in the one process that has no controller above it."""
        if hasattr(self._config, "workerinput"):
            return
        lines = [str(value) for name, value in report.user_properties if name == "case"]
        if report.when not in ("setup", "call", "teardown"):  # xdist's own word for a worker that died
            lines = [Case(report.nodeid, Outcome.FAILED, "the process died").to_json()]
        with self._config.option.record.open("a", encoding="utf-8") as record:
            record.writelines(f"{line}\n" for line in lines)


_HALF = re.compile("float16|fp16")
_PACKAGES = ("torchvision", "torchaudio")


def _pose_as_macos() -> None:
    """Let every part of coremltools that is imported from now on, or was before, take this system for macOS."""
    with quiet():
        import_module("coremltools.models.utils")
    deps, utils = sys.modules["coremltools._deps"], sys.modules["coremltools.models.utils"]
    answers = {"_is_macos": lambda: True, "_macos_version": lambda: _MACOS}
    originals = {name: getattr(utils, name) for name in answers}
    vars(deps)["_IS_MACOS"] = True
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "coremltools":
            for asked, answer in answers.items():
                if getattr(module, asked, None) is originals[asked]:
                    setattr(module, asked, answer)


def _backend(item: pytest.Item) -> tuple[str, str]:
    """Model type and precision of a case, as far as its parameters name them."""
    given: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    for value in given.values():
        pair = value if isinstance(value, tuple) else (getattr(value, "backend", ""), getattr(value, "precision", ""))
        if len(pair) > 1 and pair[0] in ("neuralnetwork", "mlprogram"):
            return str(pair[0]), str(pair[1])
    return "", ""


def _spoiled(results: Any) -> Any:
    if isinstance(results, list):
        return [_spoiled(each) for each in results]
    return {name: _off_by_one(value) for name, value in results.items()}


def _off_by_one(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value + np.ones((), value.dtype)
    return {key: each + 1 for key, each in value.items()} if isinstance(value, dict) else value


def _give_up(signal: int, frame: object) -> None:
    raise TimeoutError(f"the case took longer than {_LONGEST_CASE} s")


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
