"""Example calls of Hugging Face models: what their tokenizers and processors would give, drawn at random."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nanproof.capture.batch import Batch
from nanproof.errors import InputError

__all__ = ["example_of", "is_pretrained"]

_TOKENS = 32
"""Length of a text: short enough to be quick, long enough for masks and windows to matter."""
_SAMPLES = 16_000
"""Length of a sound: one second at the rate that most models of speech take."""


def is_pretrained(module: Any) -> bool:
    """Whether a module is one of transformers, so that :func:`example_of` can be asked."""
    return isinstance(module, nn.Module) and hasattr(module, "main_input_name") and hasattr(module, "config")


def example_of(module: nn.Module) -> Batch:
    """One call with a batch of one: ids with their mask (and token types), an image, or a sound; and no cache.

    Ids are drawn from the vocabulary and pixels and samples from the standard normal distribution, the same each time.

    Raises:
        InputError: The model takes something else.
    """
    generator = torch.Generator().manual_seed(0)
    taken = inspect.signature(module.forward).parameters
    given: dict[str, Any] = dict(_inputs(module, set(taken), generator))
    if not given:
        raise InputError(
            f"Example inputs for {type(module).__name__} are unknown: its main input is "
            f"'{getattr(module, 'main_input_name', '')}'.\n  Pass what its processor gives as example_inputs (on the "
            "command line --inputs FILE.npz or file.py:name)."
        )
    ordered = {name: given[name] for name in taken if name in given}
    # A cache is no tensor, and what a model returns for the next step nobody could pass to the converted one.
    return Batch((), ordered | ({"use_cache": False} if "use_cache" in taken else {}))


def _inputs(module: Any, taken: set[str], generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    config = module.config
    main = module.main_input_name
    if main == "input_ids":
        yield from _text(config, taken, generator)
    if "pixel_values" in taken:
        yield "pixel_values", torch.randn(1, *_image(config), generator=generator)
    if main == "input_values":
        yield "input_values", torch.randn(1, _SAMPLES, generator=generator)
    if main == "input_features":
        bins, frames = _of(config, "num_mel_bins", 80), 2 * _of(config, "max_source_positions", 1500)
        yield "input_features", torch.randn(1, bins, frames, generator=generator)
    if "decoder_input_ids" in taken and getattr(config, "is_encoder_decoder", False):
        yield "decoder_input_ids", _ids(config, generator)


def _text(config: Any, taken: set[str], generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    ids = _ids(config, generator)
    yield "input_ids", ids
    if "attention_mask" in taken:
        yield "attention_mask", torch.ones_like(ids)
    if "token_type_ids" in taken and _of(config, "type_vocab_size", 0) > 1:
        yield "token_type_ids", torch.zeros_like(ids)


def _ids(config: Any, generator: torch.Generator) -> Tensor:
    length = min(_TOKENS, _of(config, "max_position_embeddings", _TOKENS))
    ids = torch.randint(0, _of(config, "vocab_size", 2), (1, length), generator=generator)
    ids[ids == getattr(config, "pad_token_id", None)] = 1  # a text does not consist of padding
    return ids


def _image(config: Any) -> tuple[int, int, int]:
    size = _of(config, "image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return _of(config, "num_channels", 3), height, width


def _of(config: Any, name: str, otherwise: Any) -> Any:
    """A number of a configuration, or of the first of its parts (``text_config``, ``vision_config``) that has it."""
    parts = [config, *(getattr(config, part, None) for part in ("text_config", "vision_config", "encoder"))]
    return next((v for part in parts if (v := getattr(part, name, None)) is not None), otherwise)
