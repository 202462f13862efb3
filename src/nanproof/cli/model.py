"""MODEL on the command line: ``file.py:name``, a ``.pt2``, a ``.pt`` of TorchScript, or a Hugging Face folder."""

from __future__ import annotations

import inspect
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanproof.capture.huggingface import check_folder, load_folder
from nanproof.cli.arrays import SINGLE, read_arrays
from nanproof.cli.pyfile import PyFile, PyName, called, is_spec
from nanproof.errors import InputError, ModelFileError, UsageError

__all__ = ["Model", "check_model", "load_batch", "load_model", "load_options"]

_MISSING = object()
_CHECKPOINTS = frozenset({".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".pkl"})
_SCRIPTS = frozenset({".pt", ".pth", ".ts"})
_OWN_OPTIONS = frozenset(
    {
        "model",
        "example_inputs",
        "precision",
        "units",
        "calibration",
        "tolerance",
        "stress",
        "kinds",
        "keep_fp32",
        "keep_fp16",
        "progress",
        "package_dir",
    }
)
_PACKAGES = frozenset({".mlpackage", ".mlmodel", ".mlmodelc"})


@dataclass(frozen=True, slots=True)
class Model:
    """A model with the inputs on which it is captured."""

    module: Any
    example_inputs: Any


def check_model(spec: str, *, trust: bool, task: str | None = None) -> None:
    """Tell by its name alone that MODEL cannot be converted, before anything heavy is loaded.

    Args:
        spec: MODEL.
        trust: Whether the user trusts a file that PyTorch opens with pickle.
        task: What a model in a Hugging Face folder shall do.

    Raises:
        ModelFileError: There is no such file, or it is no PyTorch model; the message says what to do.
        UsageError: It is not trusted, or a task is given and MODEL is no folder.
    """
    if task is not None and (is_spec(spec) or not Path(spec).is_dir()):
        raise UsageError(f"--task is for a Hugging Face folder, and '{spec}' is none.")
    if is_spec(spec):
        return
    path = Path(spec)
    how = (
        "MODEL is file.py:name (a module, or a function that returns one), a .pt2 of torch.export.save, a .pt of "
        "torch.jit.save, or a Hugging Face folder."
    )
    if path.suffix == ".py":
        names = PyFile.at(path).candidates()
        raise ModelFileError(f"Which name of '{path}' is the model? Write {path}:NAME.{_listed(names)}")
    if not path.exists():
        raise ModelFileError(f"There is no file '{path}'. {how}")
    if path.is_dir() and path.suffix not in _PACKAGES:
        check_folder(path, trust=trust)
    else:
        _check_file(path, how, trust=trust)


def _check_file(path: Path, how: str, *, trust: bool) -> None:
    if path.suffix in _PACKAGES:
        raise ModelFileError(
            f"'{path}' is a Core ML model already, and convert starts from PyTorch.\n"
            f"  `nanproof check {path} --inputs in.npz` checks it, `nanproof run` executes it, "
            "`nanproof inspect` shows it."
        )
    if _is_torchscript(path):
        if not trust:
            raise UsageError(
                f"'{path}' was not opened: TorchScript is a program, which PyTorch runs with all that its operators "
                "can do,\n  to files too. If you know where it comes from, say so with --trust."
            )
        return
    if path.suffix in _CHECKPOINTS:
        raise ModelFileError(
            f"'{path}' is a checkpoint: it holds weights, not the Python that computes with them, and opening it could "
            "run code in it, so it was not opened.\n"
            "  Write a function that builds the module and loads the weights, and name it: file.py:name, with\n"
            "    def model():\n"
            "        net = Net()\n"
            f"        net.load_state_dict(torch.load('{path.name}', weights_only=True))\n"
            "        return net, (example_input,)"
        )
    if path.suffix == ".onnx":
        raise ModelFileError(f"'{path}' is an ONNX model, and nanproof converts PyTorch models. {how}")
    if path.suffix != ".pt2":
        raise ModelFileError(f"'{path}' is no model that nanproof can read. {how}")
    if not trust:
        raise UsageError(
            f"'{path}' was not opened: torch.export.load uses pickle, so that the file can run code of its own.\n"
            "  If you know where it comes from, say so with --trust; else name the module itself: file.py:name."
        )


def load_model(spec: str, inputs: str | None, *, task: str | None = None, trust: bool = False) -> Model:
    """Load MODEL and its example inputs.

    Args:
        spec: MODEL.
        inputs: Where the example inputs are, if not with the model: an ``.npz`` or ``file.py:name``.
        task: What a model in a Hugging Face folder shall do.
        trust: Whether weights in such a folder may be pickled.

    Raises:
        UsageError: The file, the name, the kind of the object or the example inputs are wrong.
    """
    if not is_spec(spec) and Path(spec).is_dir():
        module = load_folder(Path(spec), task, trust=trust)
        return Model(module, load_batch(inputs, module) if inputs else None)
    if not is_spec(spec) and _is_torchscript(Path(spec)):
        module = _scripted(Path(spec))
        if not inputs:
            raise InputError(
                f"The example inputs of '{spec}' are missing: TorchScript keeps none. Pass --inputs FILE.npz or "
                "--inputs file.py:name."
            )
        return Model(module, load_batch(inputs, module))
    if not is_spec(spec):
        module = _exported(Path(spec))
        return Model(module, load_batch(inputs, module) if inputs else None)
    name = PyName.parse(spec)
    module, example = _split(name, called(name))
    if inputs:
        return Model(module, load_batch(inputs, module))
    if example is _MISSING and "example_inputs" in vars(name.module):
        example = called(PyName(name.file, "example_inputs"))
    if example is _MISSING:
        raise InputError(
            f"The example inputs of '{spec}' are missing: with them the model is captured and judged.\n"
            f"  Define `example_inputs` in {name.file.path.name} (a value or a function), or let {name.name} return\n"
            "  (module, example_inputs), or pass --inputs FILE.npz or --inputs file.py:name."
        )
    return Model(module, example)


def load_batch(where: str, module: Any) -> Any:
    """One call's arguments: from ``file.py:name`` as they are, from an ``.npz`` by the names of forward's parameters.

    Raises:
        InputError: The file or name is wrong, or forward takes no such parameter.
    """
    if is_spec(where):
        return called(PyName.parse(where))
    import torch

    arrays = read_arrays(Path(where))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if SINGLE in tensors:
        return (tensors[SINGLE],)
    positional = [f"arr_{i}" for i in range(len(tensors))]
    if set(tensors) == set(positional):
        return tuple(tensors[p] for p in positional)
    return _in_order(where, tensors, module)


def _in_order(where: str, tensors: dict[str, Any], module: Any) -> dict[str, Any]:
    """The tensors in the order of forward's parameters, which is the order of the converted program's inputs."""
    import torch

    from nanproof.capture.batch import script_parameters

    if isinstance(module, torch.jit.ScriptModule):
        parameters, open_ended = script_parameters(module), False
    else:
        runnable = module.forward if hasattr(module, "forward") else module.module().forward
        signature = inspect.signature(runnable).parameters
        open_ended = any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in signature.values())
        parameters = list(signature)
    unknown = [name for name in tensors if name not in parameters]
    if unknown and not open_ended:
        takes = ", ".join(parameters)
        raise InputError(
            f"'{where}' holds {', '.join(map(repr, unknown))}, but the model's forward takes {takes}.\n"
            "  Name the arrays as forward names its parameters."
        )
    known = {name: tensors[name] for name in parameters if name in tensors}
    return known | {name: tensors[name] for name in unknown}


def _split(name: PyName, value: Any) -> tuple[Any, Any]:
    """The module and, if they come with it, its example inputs."""
    from torch import nn
    from torch.export import ExportedProgram

    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], (nn.Module, ExportedProgram)):
        return value[0], value[1]
    if isinstance(value, nn.Module):
        return value, _MISSING
    if isinstance(value, ExportedProgram):
        return value, None
    raise UsageError(
        f"'{name}' gives {_kind(value)}, and not a torch.nn.Module.\n"
        "  The name must be bound to a module, or to a function without arguments that returns a module or\n"
        f"  (module, example_inputs).{_listed(name.file.candidates(), but=name.name)}"
    )


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _exported(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"'{path}' is damaged or was not written by torch.export.save: it is no archive.")
    import torch

    try:
        return torch.export.load(path)
    except Exception as error:  # torch raises whatever its parsers and its archive reader raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelFileError(
            f"torch.export.load cannot read '{path}': {type(error).__name__}: {first}\n"
            f"  A .pt2 is bound to the version of PyTorch that wrote it; this is {torch.__version__}. Export it again."
        ) from error


def _is_torchscript(path: Path) -> bool:
    """Whether a file is what ``torch.jit.save`` writes: an archive with code in it. Nothing of it is executed."""
    if path.suffix not in _SCRIPTS or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _scripted(path: Path) -> Any:
    import torch

    try:
        with warnings.catch_warnings():  # that TorchScript is deprecated, on which the owner of a file cannot act
            warnings.simplefilter("ignore", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu")
    except Exception as error:  # torch raises whatever its reader and its compiler raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelFileError(f"torch.jit.load cannot read '{path}': {type(error).__name__}: {first}") from error


def load_options(where: str | None) -> dict[str, Any]:
    """Further keyword arguments of ``nanproof.convert``: the dict that ``file.py:name`` is bound to, or returns.

    Raises:
        UsageError: It is no such dict.
    """
    if where is None:
        return {}
    if not is_spec(where):
        raise UsageError(f"--options is file.py:name, and not '{where}'.")
    given = called(PyName.parse(where))
    if not isinstance(given, dict):
        raise UsageError(
            f"'{where}' gives {_kind(given)}, and not a dict of keyword arguments of nanproof.convert, such as\n"
            "  {'inputs': [coremltools.ImageType(shape=(1, 3, 224, 224), scale=1 / 255)]}."
        )
    from nanproof.conductor import convert
    from nanproof.request import CoremltoolsOptions

    known = {*inspect.signature(convert).parameters, *CoremltoolsOptions.__annotations__} - {"options"}
    unknown = [name for name in given if name not in known or name in _OWN_OPTIONS]
    if unknown:
        raise UsageError(
            f"'{where}' holds {', '.join(map(repr, unknown))}, which nanproof.convert does not take, or for which the "
            "command has an option of its own."
        )
    return dict(given)


def _listed(names: list[str], but: str = "") -> str:
    others = [n for n in names if n != but]
    return f"\n  It defines {', '.join(others)}." if others else ""
