"""A BERT classifier that is right in PyTorch and NaN on an iPhone.

Tiny, with random weights, so nothing is downloaded. Its attention mask is the classic ``(1 - mask) * finfo.min``, and
a clip to ±3.4e38 follows. In FP16 the constant is -inf, and ``0 * -inf`` is NaN for every token, padded or not.

    nanproof convert examples/bert_classifier.py:model -o bert.mlpackage
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

LIMITS = torch.finfo(torch.float32)


class Classifier(nn.Module):
    """Two classes from token ids and a padding mask, both ``(batch, length)``."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=1000,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=2,
            attn_implementation="eager",
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits of shape ``(batch, 2)``."""
        bias = (1.0 - attention_mask[:, None, None, :].float()) * LIMITS.min
        bias = bias.clamp(LIMITS.min, LIMITS.max)
        return self.bert(input_ids=input_ids, attention_mask=bias).logits


def padded_batch() -> tuple[Tensor, Tensor]:
    """Two texts of 24 and 9 tokens, padded to one length."""
    generator = torch.Generator().manual_seed(7)
    input_ids = torch.randint(1, 1000, (2, 24), generator=generator)
    attention_mask = torch.ones(2, 24, dtype=torch.int64)
    attention_mask[1, 9:] = 0
    return input_ids * attention_mask, attention_mask


def model() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The module and its example inputs."""
    torch.manual_seed(0)
    return Classifier().eval(), padded_batch()
