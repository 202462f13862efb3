"""A Hugging Face folder (``config.json`` and ``*.safetensors``) → a module, without a network and without pickle."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nanproof.errors import CaptureError, ModelFileError, UsageError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TASKS", "check_folder", "load_folder"]

TASKS: Mapping[str, tuple[str, ...]] = {
    "audio-classification": ("AutoModelForAudioClassification",),
    "automatic-speech-recognition": ("AutoModelForCTC", "AutoModelForSpeechSeq2Seq"),
    "depth-estimation": ("AutoModelForDepthEstimation",),
    "feature-extraction": ("AutoModel",),
    "fill-mask": ("AutoModelForMaskedLM",),
    "image-classification": ("AutoModelForImageClassification",),
    "image-segmentation": ("AutoModelForSemanticSegmentation", "AutoModelForImageSegmentation"),
    "multiple-choice": ("AutoModelForMultipleChoice",),
    "object-detection": ("AutoModelForObjectDetection",),
    "question-answering": ("AutoModelForQuestionAnswering",),
    "text-classification": ("AutoModelForSequenceClassification",),
    "text-generation": ("AutoModelForCausalLM",),
    "text2text-generation": ("AutoModelForSeq2SeqLM",),
    "token-classification": ("AutoModelForTokenClassification",),
    "zero-shot-image-classification": ("AutoModelForZeroShotImageClassification",),
}
"""Tasks by their name on the Hugging Face Hub, with the classes of transformers that may have the model for it."""

_PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
_INDEX = "model.safetensors.index.json"
_MOST_LISTED = 3


def check_folder(folder: Path, *, trust: bool = False) -> None:
    """Tell by its files alone that a folder cannot be converted, before anything heavy is loaded.

    Args:
        folder: The folder.
        trust: Whether weights that are pickled will do.

    Raises:
        ModelFileError: ``config.json`` or weights are missing or damaged.
        UsageError: There are weights, but only pickled ones, or transformers is not installed.
    """
    _config(folder)
    _require_weights(folder, trust=trust)
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"'{folder}' is a Hugging Face folder, and its Python is in the package transformers, which is not "
            "installed.\n  pip install 'nanproof[transformers]'"
        )


def load_folder(folder: Path, task: str | None = None, *, trust: bool = False) -> nn.Module:
    """The module of a Hugging Face folder with its weights, in evaluation mode.

    Nothing is fetched, no code of the folder is run, and all weights are those of the folder.

    Args:
        folder: The folder that ``save_pretrained`` or a download made.
        task: A key of :data:`TASKS`, or the name of a class of transformers; without it the class that the
            configuration names.
        trust: Whether weights that are pickled will do. transformers unpickles tensors alone.

    Raises:
        ModelFileError: ``config.json`` or weights are missing or damaged.
        UsageError: The task is unknown or not one of this model, or transformers is not installed.
        CaptureError: transformers does not know or cannot load the model.
    """
    check_folder(folder, trust=trust)
    import transformers

    maker = _class(transformers, folder, task)
    try:
        with _no_progress_bars(transformers):
            module, told = maker.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=None if trust else True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises whatever its configurations, readers and models raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise CaptureError(
            f"transformers {transformers.__version__} cannot load '{folder}' as {maker.__name__}: "
            f"{type(error).__name__}: {first}"
        ) from error
    _require_complete(folder, module, told)
    return module.eval()


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFileError(
            f"'{folder}' is a folder without config.json, so it is no Hugging Face model.\n"
            "  Pass the folder that save_pretrained made, or the snapshot folder of a download."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"'{path}' is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"'{path}' holds no JSON object, and so no configuration of a model.")
    return config


def _require_weights(folder: Path, *, trust: bool) -> None:
    """Weights are there, all parts of them, in a format that runs no code.

    Raises:
        ModelFileError: They are not there, or a part is missing.
        UsageError: They are pickled.
    """
    index = folder / _INDEX
    if index.is_file():
        try:
            parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFileError(f"'{index}' is damaged: it names no weights.") from error
        missing = [part for part in parts if not (folder / part).is_file()]
        if missing:
            raise ModelFileError(
                f"'{folder}' lacks {len(missing)} of the {len(parts)} parts of its weights: {_some(missing)}.\n"
                "  Fetch the folder again."
            )
        return
    if (folder / "model.safetensors").is_file():
        return
    pickles = sorted(p.name for pattern in _PICKLES for p in folder.glob(pattern))
    if pickles and trust:
        return
    if pickles:
        raise UsageError(
            f"'{folder}' has its weights as {_some(pickles)} alone, which were not opened: they are pickled, and "
            "unpickling\n  can run code. Save them as safetensors: "
            "AutoModel.from_pretrained(folder).save_pretrained(folder); or, on the\n"
            "  command line, say with --trust that you know where they come from."
        )
    raise ModelFileError(
        f"'{folder}' has config.json and no weights: there is neither model.safetensors nor {_INDEX}.\n"
        "  Fetch the folder again, with its *.safetensors files."
    )


def _class(transformers: ModuleType, folder: Path, task: str | None) -> Any:
    """The class of transformers that makes the model.

    Raises:
        UsageError: There is no such task, or this model is not made for it.
        CaptureError: transformers lacks the model.
    """
    config = _config(folder)
    kind = str(config.get("model_type") or "")
    own = [name for name in config.get("architectures") or () if isinstance(name, str)]
    if kind not in transformers.CONFIG_MAPPING:
        code = " It needs Python of its own (auto_map), which nanproof never runs." if config.get("auto_map") else ""
        raise CaptureError(
            f"transformers {transformers.__version__} has no model of the type '{kind}' that '{folder}' names.{code}\n"
            "  Install a transformers that knows it; or build the module yourself and pass it: file.py:name."
        )
    if task is None and own:
        return _named(transformers, own[0], f"'{folder}' names the architecture '{own[0]}'")
    if task is None:
        return transformers.AutoModel
    if task in TASKS:
        known = type(transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True))
        for candidate in (getattr(transformers, name, None) for name in TASKS[task]):
            if candidate is not None and known in candidate._model_mapping:
                return candidate
        raise UsageError(f"transformers has no model of the type '{kind}' for the task '{task}'.{_architecture(own)}")
    if task[:1].isupper():
        return _named(transformers, task, f"The task '{task}' reads as a class")
    raise UsageError(
        f"Unknown task '{task}'. Known: {', '.join(TASKS)}; or the name of a class of transformers.{_architecture(own)}"
    )


def _named(transformers: ModuleType, name: str, what: str) -> Any:
    made = getattr(transformers, name, None)
    if not (isinstance(made, type) and hasattr(made, "from_pretrained")):
        raise CaptureError(
            f"{what}, and transformers {transformers.__version__} has no such model.\n"
            f"  Choose one with --task: {', '.join(TASKS)}; or the name of a class of transformers."
        )
    return made


def _architecture(own: Sequence[str]) -> str:
    return f"\n  Without a task it is {own[0]}, as its configuration says." if own else ""


def _require_complete(folder: Path, module: nn.Module, told: Mapping[str, Iterable[Any]]) -> None:
    """transformers fills what the folder has no weights for with random numbers, and says so in a log.

    Raises:
        CaptureError: It has.
    """
    missing = sorted(str(name) for name in told.get("missing_keys", ()))
    if missing:
        raise CaptureError(
            f"'{folder}' has no weights for {len(missing)} parameters of {type(module).__name__}: {_some(missing)}. "
            "They would be random.\n  Choose a task whose weights it has (--task, or task=), or finish its training."
        )


@contextlib.contextmanager
def _no_progress_bars(transformers: ModuleType) -> Generator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
