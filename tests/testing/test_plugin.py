"""Assertions for users' tests, the pytest plugin, and snapshots that only a person loosens."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import nanproof
from nanproof.errors import UsageError
from nanproof.testing import assert_converts
from nanproof.testing.snapshots import Snapshots


class Loud(nn.Module):
    """Overflows FP16, and then asks for an accuracy that no FP16 has."""

    def forward(self, x):
        return (x * 1000.0).square().mean(-1)


@pytest.fixture(scope="module")
def conversion():
    torch.manual_seed(0)
    return assert_converts(nn.Linear(4, 2).eval(), (torch.randn(3, 4),), verdict="proved", fp32_ops=0)


def test_a_conversion_is_returned(conversion):
    assert (conversion.passed, conversion.plan.fp32_ops) == (True, 0)


def test_a_failure_tells_reasons_and_lines():
    with pytest.raises(AssertionError, match=r"The conversion is failed, and not tested\.\n  gpu: output") as caught:
        assert_converts(Loud(), (torch.full((2, 4), 2.0),), precision="float16")
    assert "test_plugin.py" in str(caught.value), "the line of the module"
    with pytest.raises(AssertionError, match=r"is tested, and not proved\.\n  gpu is not proved: "):
        assert_converts(nn.Linear(4, 2), (torch.randn(3, 4),), verdict="proved", assume={"input": (-6e4, 6e4)})
    with pytest.raises(AssertionError, match=r"ops? compute in FP32, and -1 may\."):
        assert_converts(nn.Linear(4, 2), (torch.randn(3, 4),), fp32_ops=-1)
    with pytest.raises(UsageError, match="what can be asked for is 'tested' or 'proved'"):
        assert_converts(nn.Linear(4, 2), (torch.randn(3, 4),), verdict="failed")  # type: ignore[arg-type]


def test_a_snapshot_is_written_once_and_only_tightened(conversion, tmp_path):
    home = Snapshots(tmp_path / "__nanproof__" / "test_net.json")
    with pytest.raises(AssertionError, match=r"There is no snapshot of 'test_a'.*\n.*--nanproof-update"):
        home.check("test_a", conversion, update=False)
    assert not home.path.exists()
    home.check("test_a", conversion, update=True)
    assert home.known() == {"test_a": {"verdicts": {"gpu": "proved"}, "fp32_ops": 0}}
    home.check("test_a", conversion, update=False)

    worse = replace(conversion, units={"gpu": replace(conversion.units["gpu"], verdict="tested")})
    for update in (False, True):
        with pytest.raises(AssertionError, match=r"'gpu' was proved and is tested\.\n  If this is meant, a person"):
            home.check("test_a", worse, update=update)
    assert home.known()["test_a"]["verdicts"] == {"gpu": "proved"}, "what is worse is never written"

    home.path.write_text(json.dumps({"test_a": {"verdicts": {"gpu": "tested"}, "fp32_ops": 3}}))
    home.check("test_a", conversion, update=False)
    assert home.known()["test_a"]["fp32_ops"] == 3, "without the option nothing is written"
    home.check("test_a", conversion, update=True)
    assert home.known()["test_a"] == {"verdicts": {"gpu": "proved"}, "fp32_ops": 0}

    home.path.write_text("[1]")
    with pytest.raises(UsageError, match="holds no snapshots"):
        home.check("test_a", conversion, update=True)


def test_the_fixture_in_a_test_of_a_user(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        test_net="""
        import torch
        from torch import nn

        def test_it_converts(nanproof):
            torch.manual_seed(0)
            conversion = nanproof.assert_converts(nn.Linear(4, 2), (torch.randn(3, 4),), fp32_ops=0)
            nanproof.assert_no_worse(conversion, "linear")
        """
    )
    plugin = ("-p", "nanproof.testing.plugin")
    first = pytester.runpytest_inprocess(*plugin)
    first.assert_outcomes(failed=1)
    first.stdout.fnmatch_lines(["*There is no snapshot of 'test_it_converts[[]linear[]]'*"])
    pytester.runpytest_inprocess(*plugin, "--nanproof-update").assert_outcomes(passed=1)
    assert json.loads((pytester.path / "__nanproof__" / "test_net.json").read_text()) == {
        "test_it_converts[linear]": {"verdicts": {"gpu": "proved"}, "fp32_ops": 0}
    }
    pytester.runpytest_inprocess(*plugin).assert_outcomes(passed=1)


def test_the_plugin_is_light():
    code = "import nanproof.testing.plugin, sys; print(sorted({'torch', 'coremltools', 'rich'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_notebook_shows_the_report(conversion):
    shown = conversion._repr_html_()
    assert shown.startswith("<iframe sandbox title=")
    assert "Proved" in shown
    assert shown.count("<") == 2, "the page itself is escaped"
    assert nanproof.__version__ in shown
