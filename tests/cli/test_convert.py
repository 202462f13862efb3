"""`nanproof convert`: what it says, what it writes, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.conftest import Command


def contents(package: Path) -> dict[str, bytes]:
    return {str(p.relative_to(package)): p.read_bytes() for p in sorted(package.rglob("*")) if p.is_file()}


def test_the_answer_names_everything(nanproof: Command, nets: Path, tmp_path: Path):
    out, report = tmp_path / "a.mlpackage", tmp_path / "a.html"
    said = nanproof("convert", f"{nets}:attention", "-o", out, "--unit", "gpu", "--unit", "strict", "--report", report)
    assert said.code == 0
    assert said.err == ""
    assert out.is_dir()
    assert "<h2" in report.read_text()
    for part in (
        "NP101 mask-sentinel",
        "nets.py:11",
        "bias = (1.0 - mask[:, None, :].float()) * torch.finfo(torch.float32).min",
        "-3.4e+38 → -60000",
        "compute in FP16",
        "from PyTorch, relative to the range of the output",
        "and tested on 1 given input and 9 stress inputs (numerics: gpu and strict; tolerance 0.01)",
        str(out),
        f"report: {report}",
    ):
        assert part in said.out
    assert [line.split()[0] for line in said.out.splitlines() if line[0] != " "] == [
        *("found", "changed", "FP32", "error", "stress", "proof", "proved", "file")
    ]
    assert len(said.out.splitlines()) < 25


def test_json(nanproof: Command, nets: Path, tmp_path: Path):
    out = tmp_path / "a.mlpackage"
    said = nanproof("convert", f"{nets}:talkative", "-o", out, "--json", "--no-stress")
    assert said.code == 0
    assert "hello from the model" in said.err, "what the model prints must not spoil the document"
    document = said.document
    assert document["kind"] == "conversion"
    assert document["verdict"] == "proved"
    assert document["file"] == str(out)
    assert document["rests_on"]["statement"] == (
        "proved finite for all inputs that are assumed, and tested on 1 given input"
    )


def test_a_failed_conversion_is_not_written(nanproof: Command, nets: Path, tmp_path: Path):
    out = tmp_path / "loud.mlpackage"
    said = nanproof("convert", f"{nets}:loud", "-o", out, "--precision", "float16")
    assert said.code == 1
    assert not out.exists()
    assert f"{out} was not written, since the conversion failed." in said.out
    assert "--keep-failed writes it nevertheless" in said.out
    assert "Inf or NaN where PyTorch has none" in said.out
    kept = nanproof("convert", f"{nets}:loud", "-o", out, "--precision", "float16", "--keep-failed", "--json")
    assert kept.code == 1
    assert out.is_dir()
    assert kept.document["units"]["gpu"]["outputs"][0]["error"] == "inf"


def test_islands_are_named(nanproof: Command, nets: Path, tmp_path: Path):
    said = nanproof("convert", f"{nets}:loud", "-o", tmp_path / "loud.mlpackage")
    assert said.code == 0
    assert "NP110 activation-overflow" in said.out
    assert "compute in FP32" in said.out


def test_pt2_carries_its_inputs(nanproof: Command, tmp_path: Path):
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(4, 2), (torch.randn(3, 4),), strict=False), path)
    said = nanproof("convert", path, "--trust", "-o", tmp_path / "net.mlpackage", "--json")
    assert (said.code, said.document["verdict"]) == (0, "proved")


def test_a_pt2_is_not_opened_unless_trusted(nanproof: Command, tmp_path: Path):
    """PyTorch unpickles what is in the archive: a file of somebody else's could run anything."""
    path = tmp_path / "net.pt2"
    ran = tmp_path / "it-ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"weights": Payload()}, path)
    said = nanproof("convert", path, "-o", tmp_path / "net.mlpackage")
    assert said.code == 2
    assert "was not opened: torch.export.load uses pickle" in said.err
    assert not ran.exists()


class Halving(torch.nn.Module):
    def forward(self, x):
        return torch.relu(x) / 2


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which people have files of still
        torch.jit.trace(Halving(), torch.randn(3, 4)).save(str(path))
    return path


def test_torchscript(nanproof: Command, script: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), np.float32))
    out = tmp_path / "net.mlpackage"
    said = nanproof("convert", script, "--trust", "-o", out, "--inputs", tmp_path / "in.npz", "--json")
    assert (said.code, said.document["verdict"]) == (0, "proved")
    assert out.is_dir()


def test_torchscript_refused(nanproof: Command, script: Path, tmp_path: Path):
    """It is a program: its operators can write files. What PyTorch cannot read at all is said so."""
    out = ("-o", tmp_path / "net.mlpackage")
    assert "was not opened: TorchScript is a program" in nanproof("convert", script, *out).err
    said = nanproof("convert", script, "--trust", *out)
    assert (said.code, "TorchScript keeps none. Pass --inputs FILE.npz" in said.err) == (2, True)
    np.savez(tmp_path / "in.npz", y=np.ones((3, 4), np.float32))
    said = nanproof("convert", script, "--trust", *out, "--inputs", tmp_path / "in.npz")
    assert "holds 'y', but the model's forward takes x." in said.err
    damaged = tmp_path / "damaged.pt"
    with zipfile.ZipFile(damaged, "w") as archive:
        archive.writestr("net/code/__torch__.py", "nothing")
    said = nanproof("convert", damaged, "--trust", *out, "--inputs", tmp_path / "in.npz")
    assert (said.code, f"torch.jit.load cannot read '{damaged}'" in said.err) == (2, True)
    assert not (tmp_path / "net.mlpackage").exists()


OPTIONS = """
import coremltools, torch
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2), torch.nn.Softmax(-1))
example_inputs = torch.rand(1, 3, 2, 2)
def photos():
    return {
        "inputs": [coremltools.ImageType(name="photo", shape=(1, 3, 2, 2), scale=1 / 255)],
        "classifier_config": coremltools.ClassifierConfig(["cat", "dog"]),
    }
wrong, own, text = {"shape": (1,)}, {"precision": "auto"}, "inputs"
"""


def test_options_of_coremltools(nanproof: Command, tmp_path: Path):
    path, out = tmp_path / "photo.py", tmp_path / "photo.mlpackage"
    path.write_text(OPTIONS)
    said = nanproof("convert", f"{path}:net", "-o", out, "--options", f"{path}:photos", "--json")
    assert (said.code, said.document["verdict"]) == (0, "proved")
    shown = nanproof("inspect", out).out
    assert "RGB image of 2 x 2" in shown
    for name, message in {
        "wrong": "holds 'shape', which nanproof.convert does not take",
        "own": "holds 'precision', which nanproof.convert does not take, or for which the command has an option",
        "text": "gives a str, and not a dict of keyword arguments of nanproof.convert",
    }.items():
        said = nanproof("convert", f"{path}:net", "-o", out, "--options", f"{path}:{name}")
        assert (said.code, message in said.err) == (2, True)
    assert "--options is file.py:name" in nanproof("convert", f"{path}:net", "-o", out, "--options", "photos").err


def test_a_damaged_pt2(nanproof: Command, folder: Path, tmp_path: Path):
    said = nanproof("convert", folder / "a.pt2", "--trust", "-o", tmp_path / "net.mlpackage")
    assert said.code == 2
    assert "is damaged or was not written by torch.export.save" in said.err


def test_inputs_from_files(nanproof: Command, nets: Path, batch: Path, tmp_path: Path):
    out = tmp_path / "a.mlpackage"
    calibrated = ("--inputs", batch, "--calibration", batch, "--json")
    said = nanproof("convert", f"{nets}:attention", "-o", out, *calibrated)
    assert said.document["rests_on"]["given_inputs"] == 2
    assert nanproof("convert", f"{nets}:bare", "-o", out, "--inputs", f"{nets}:batch", "--json").code == 0


def test_example_inputs_beside_the_model(nanproof: Command, tmp_path: Path):
    path = tmp_path / "beside.py"
    path.write_text("import torch\nnet = torch.nn.Linear(2, 2)\ndef example_inputs():\n    return torch.ones(1, 2)\n")
    assert nanproof("convert", f"{path}:net", "-o", tmp_path / "b.mlpackage", "--json").code == 0


WRONG = {
    "no file": ("nowhere.py:net", "There is no file 'nowhere.py'."),
    "no pt2": ("nowhere.pt2", "There is no file 'nowhere.pt2'. MODEL is file.py:name"),
    "no such name": ("{nets}:nett", "has no name 'nett'. It defines Attention, Loud, mlp, attention, loud, bare,"),
    "no name given": ("{nets}", "Which name of '{nets}' is the model? Write {nets}:NAME."),
    "not a module": ("{nets}:constant", "'{nets}:constant' gives an int, and not a torch.nn.Module."),
    "returns no module": ("{nets}:nothing", "gives a dict, and not a torch.nn.Module."),
    "needs arguments": ("{nets}:sized", "The function 'sized' of '{nets}' needs arguments (width)."),
    "fails": (
        "{nets}:broken",
        "The function 'broken' of '{nets}' fails: RuntimeError: the weights are gone\n  at {nets}:",
    ),
    "no inputs": ("{nets}:bare", "The example inputs of '{nets}:bare' are missing"),
    "text": ("{folder}/a.txt", "is no model that nanproof can read. MODEL is file.py:name"),
    "onnx": ("{folder}/a.onnx", "is an ONNX model, and nanproof converts PyTorch models."),
    "checkpoint": ("{folder}/a.pth", "is a checkpoint: it holds weights, not the Python"),
    "untrusted pt2": ("{folder}/a.pt2", "was not opened: torch.export.load uses pickle"),
    "package": ("{folder}/a.mlpackage", "is a Core ML model already, and convert starts from PyTorch."),
    "folder": ("{folder}", "is a folder without config.json, so it is no Hugging Face model."),
    "syntax": ("{folder}/bad.py:net", "fails when it is imported: SyntaxError:"),
    "exits": ("{folder}/script.py:net", "it ends the interpreter. Put what is to run as a script under"),
    "import fails": (
        "{folder}/lost.py:net",
        "No module named 'lost_and_never_found'\n  at {folder}/lost.py:1: import lost",
    ),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    for name in ("a.txt", "a.onnx", "a.pth", "a.pt2"):
        (folder / name).write_bytes(b"this is no model")
    (folder / "a.mlpackage").mkdir()
    (folder / "bad.py").write_text("net = (")
    (folder / "script.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "lost.py").write_text("import lost_and_never_found\n")
    return folder


@pytest.mark.parametrize("case", WRONG)
def test_wrong_models(nanproof: Command, nets: Path, folder: Path, tmp_path: Path, case: str):
    spec, message = (text.format(nets=nets, folder=folder) for text in WRONG[case])
    said = nanproof("convert", spec, "-o", tmp_path / "out.mlpackage")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert message in said.err
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "out.mlmodel"), "The output 'out.mlmodel' must end in .mlpackage."),
        (("-o", "no/where/out.mlpackage"), "The folder 'no/where' for the output does not exist."),
        (("-o", "out.mlpackage", "--report", "r.pdf"), "The output 'r.pdf' must end in .html."),
        (("-o", "out.mlpackage", "--unit", "tpu"), "Unknown numerics 'tpu'. Available: reference, "),
        (("-o", "out.mlpackage", "--target", "iOS3"), "Unknown deployment target 'iOS3'."),
        (("-o", "out.mlpackage", "--precision", "float8"), "Unknown precision 'float8'."),
        (("-o", "out.mlpackage", "--inputs", "in.npz"), "There is no file 'in.npz'."),
        (("-o", "out.mlpackage", "--tolerance", "much"), "Invalid value for '--tolerance'"),
        ((), "Missing option "),
    ],
)
def test_wrong_options(nanproof: Command, nets: Path, options: tuple[str, ...], message: str):
    said = nanproof("convert", f"{nets}:mlp", *options)
    assert said.code == 2
    assert message in said.err


def test_names_in_the_file_must_be_those_of_forward(nanproof: Command, nets: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", ids=np.ones((2, 5)))
    said = nanproof("convert", f"{nets}:attention", "-o", tmp_path / "o.mlpackage", "--inputs", tmp_path / "in.npz")
    assert said.code == 2
    assert "holds 'ids', but the model's forward takes x, mask." in said.err


def test_a_pickle_is_not_opened(nanproof: Command, nets: Path, tmp_path: Path):
    np.savez(tmp_path / "in.npz", x=np.array([{"a": 1}], dtype=object))
    said = nanproof("convert", f"{nets}:mlp", "-o", tmp_path / "o.mlpackage", "--inputs", tmp_path / "in.npz")
    assert said.code == 2
    assert "it holds Python objects, and unpickling could run code" in said.err


def test_interrupting_leaves_the_output_as_it_was(nanproof: Command, nets: Path, attention: Path):
    before = contents(attention)
    said = nanproof("convert", f"{nets}:interrupted", "-o", attention)
    assert (said.code, said.out) == (130, "")
    assert said.err.splitlines() == ["error: Interrupted. No output was left half-written."]
    assert contents(attention) == before
    assert nanproof("convert", f"{nets}:interrupted", "-o", attention, "--json").document["exit_code"] == 130


def test_ctrl_c_in_a_terminal(tmp_path: Path):
    model = tmp_path / "slow.py"
    # A shell that runs the tests in the background makes its children ignore the signal: as in a terminal, then.
    model.write_text(
        "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def net():\n    os.kill(os.getpid(), signal.SIGINT)\n    return None\n"
    )
    command = [sys.executable, "-m", "nanproof", "convert", f"{model}:net", "-o", str(tmp_path / "o.mlpackage")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})
    assert done.returncode == 130
    assert done.stderr.splitlines() == ["error: Interrupted. No output was left half-written."]
    assert not (tmp_path / "o.mlpackage").exists()


def test_the_unexpected(nanproof: Command, nets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("nanproof.conductor.convert", explode)
    call = ("convert", f"{nets}:mlp", "-o", tmp_path / "o.mlpackage")
    said = nanproof(*call)
    assert said.code == 3
    assert "Something unexpected happened, so nothing was checked: ZeroDivisionError: by accident" in said.err
    assert "please report it" in said.err
    assert "Traceback" not in said.err
    assert "Traceback" in nanproof(*call, "--debug").err
    assert nanproof(*call, "--json").document["error"]["type"] == "ZeroDivisionError"
