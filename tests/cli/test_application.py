"""The command line as a whole: help, versions, exit codes, `ops`, `explain` and `doctor`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nanproof.cli.application import app
from nanproof.cli.doctor import REQUIREMENTS, diagnose
from nanproof.findings import KINDS
from nanproof.ops import TABLE
from tests.cli.conftest import Command

VERBS = [command.callback.__name__ for command in app.registered_commands]
ROOT = Path(__file__).resolve().parents[2]


def in_a_process_of_its_own(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_help_loads_nothing_heavy():
    done = in_a_process_of_its_own(
        "import sys\nfrom nanproof.cli.application import execute\n"
        f"codes = [execute([*verb, '--help']) for verb in [[], *([v] for v in {VERBS!r})]]\n"
        "heavy = [n for n in ('torch', 'coremltools', 'numpy', 'transformers') if n in sys.modules]\n"
        "print('codes', codes, 'heavy', heavy)\n"
    )
    assert done.stdout.splitlines()[-1] == f"codes {[0] * (len(VERBS) + 1)} heavy []", done.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(nanproof: Command, verb: str):
    said = nanproof(verb, "--help")
    assert said.code == 0
    assert f"Example:\n nanproof {verb}" in re.sub(r" +\n", "\n", said.out)
    for option in ("--json", "--quiet", "--debug"):
        assert option in said.out


def test_bare_command_shows_help(nanproof: Command):
    said = nanproof()
    assert said.code == 0
    assert all(verb in said.out for verb in VERBS)
    assert "Exit codes: 0 proved or tested, 1 failed, 2 wrong use, 3 could not be checked." in said.out


def test_version(nanproof: Command):
    said = nanproof("--version")
    assert (said.code, said.out) == (0, "nanproof 0.1.0\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("convret",), "No such command 'convret'"),
        (("convert",), "Missing "),
        (("ops", "--jsn"), "No such option: --jsn"),
        (("explain", "NP999"), "There is no finding 'NP999'. The codes are\n    NP101  mask-sentinel"),
    ],
)
def test_wrong_use(nanproof: Command, args: tuple[str, ...], message: str):
    said = nanproof(*args)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")
    assert message in said.err
    document = nanproof(*args, "--json").document
    assert (document["kind"], document["exit_code"]) == ("error", 2)
    assert message in document["error"]["message"]


def test_usage_errors_say_where_to_look(nanproof: Command):
    said = nanproof("explain")
    assert "Usage: nanproof explain" in said.err
    assert "`nanproof explain --help` says more." in said.err


def test_ops(nanproof: Command):
    said = nanproof("ops")
    assert said.code == 0
    assert said.out.splitlines()[-1] == f"{len(TABLE)} of 168 op types of MIL"
    document = nanproof("ops", "--json").document
    assert (document["kind"], document["known"], document["of"]) == ("ops", len(TABLE), 168)
    assert {"name", "family", "since", "revisions", "readings"} == set(document["ops"][0])


@pytest.mark.parametrize("code", KINDS)
def test_explain(nanproof: Command, code: str):
    kind = KINDS[code]
    said = nanproof("explain", code.lower())
    assert said.code == 0
    assert said.out.startswith(f"{code} {kind.name}\n")
    assert " ".join(kind.fix.split()) in " ".join(said.out.split())
    assert nanproof("explain", kind.name, "--json").document["why"] == kind.why


def test_quiet(nanproof: Command):
    said = nanproof("explain", "NP101", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_doctor(nanproof: Command):
    document = nanproof("doctor", "--json").document
    assert document["kind"] == "doctor"
    assert {row["package"] for row in document["packages"]} == {"python", *(r.package for r in REQUIREMENTS)}
    assert nanproof("doctor").code == document["exit_code"]


GOOD = {"nanproof": "0.1.0", "torch": "2.13.0+cpu", "coremltools": "9.0", "numpy": "2.3.5", "transformers": None}


def test_diagnosis():
    assert diagnose(GOOD, "3.11.7") == {**diagnose(GOOD, "3.12.0"), "packages": diagnose(GOOD, "3.11.7")["packages"]}
    assert diagnose(GOOD, "3.11.7")["exit_code"] == 0
    numpy = diagnose({**GOOD, "numpy": "2.4.6"}, "3.11.7")
    assert numpy["exit_code"] == 1
    (problem,) = numpy["problems"]
    assert "only 0-dimensional arrays can be converted to Python scalars" in problem["what"]
    assert problem["mend"] == "pip install 'numpy<2.4'"
    torch = diagnose({**GOOD, "torch": "2.5.1"}, "3.11.7")
    assert (torch["exit_code"], torch["problems"][0]["mend"]) == (1, "pip install 'torch>=2.7'")
    missing = diagnose({**GOOD, "coremltools": None}, "3.11.7")
    assert (missing["exit_code"], missing["problems"][0]["what"]) == (3, "it is not installed")
    assert diagnose(GOOD, "3.10.2")["exit_code"] == 1
    assert diagnose(GOOD, "3.11.7", lacks_writer=True)["exit_code"] == 1


@pytest.mark.parametrize(
    ("torch", "torchvision"),
    [("2.13.0+cpu", "0.28.0+cpu"), ("2.13.0", "0.28.1+cpu"), ("2.7.1", "0.22.1"), ("2.7.1", None)],
)
def test_torchvision_of_the_same_release(torch: str, torchvision: str | None):
    assert diagnose({**GOOD, "torch": torch, "torchvision": torchvision}, "3.11.7")["problems"] == []


@pytest.mark.parametrize(("torch", "torchvision"), [("2.13.0+cpu", "0.27.0+cpu"), ("2.13.0+cpu", "0.28.0+cu130")])
def test_torchvision_of_another_release(torch: str, torchvision: str):
    data = diagnose({**GOOD, "torch": torch, "torchvision": torchvision}, "3.11.7")
    (problem,) = data["problems"]
    assert (data["exit_code"], problem["package"]) == (1, "torchvision")
    assert f"version {torchvision} is not the one for PyTorch {torch}" in problem["what"]
    assert problem["mend"].startswith("pip install 'torchvision==0.28.*'")


def test_doctor_knows_the_ranges_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["transformers"]]
    names = {re.split(r"[<>=]", line)[0]: line for line in declared}
    for requirement in REQUIREMENTS:
        assert names[requirement.package] == f"{requirement.package}{requirement.range}"


def test_a_reader_that_leaves_early():
    code = "import sys\nfrom nanproof.cli import main\nsys.argv = ['nanproof', 'explain', 'NP101']\nmain()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141
