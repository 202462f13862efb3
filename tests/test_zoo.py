"""Current Hugging Face models and small CNNs, in tiny configurations: the written FP32 program computes what PyTorch
does, and the FP16 one is finite and within tolerance."""

from __future__ import annotations

import pytest
import torch
import transformers as T
from torch import nn

import nanproof

SMALL = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=300)
DECODER = dict(SMALL, num_key_value_heads=2, use_cache=False, max_position_embeddings=64)
NO_SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
VISION = dict(SMALL, image_size=32, patch_size=8)
VISION.pop("vocab_size")

TEXT = {
    "bert": lambda: T.BertForSequenceClassification(T.BertConfig(**SMALL)),
    "bert-eager": lambda: T.BertModel(T.BertConfig(**SMALL, attn_implementation="eager")),
    "roberta": lambda: T.RobertaModel(T.RobertaConfig(**SMALL, **NO_SPECIAL)),
    "distilbert": lambda: T.DistilBertModel(
        T.DistilBertConfig(vocab_size=300, dim=64, n_layers=2, n_heads=4, hidden_dim=128)
    ),
    "electra": lambda: T.ElectraModel(T.ElectraConfig(**SMALL, embedding_size=64)),
    "albert": lambda: T.AlbertModel(T.AlbertConfig(**SMALL, embedding_size=64, **NO_SPECIAL)),
    "mpnet": lambda: T.MPNetModel(T.MPNetConfig(**SMALL, **NO_SPECIAL)),
    "modernbert": lambda: T.ModernBertModel(T.ModernBertConfig(**SMALL, **NO_SPECIAL, cls_token_id=1, sep_token_id=2)),
    "t5-encoder": lambda: T.T5EncoderModel(
        T.T5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    ),
    "clip-text": lambda: T.CLIPTextModel(T.CLIPTextConfig(**SMALL, **NO_SPECIAL)),
    "gpt2": lambda: T.GPT2LMHeadModel(
        T.GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, use_cache=False, **NO_SPECIAL)
    ),
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**DECODER, **NO_SPECIAL)),
    "qwen3": lambda: T.Qwen3ForCausalLM(T.Qwen3Config(**DECODER, head_dim=16, **NO_SPECIAL)),
    "gemma3": lambda: T.Gemma3ForCausalLM(T.Gemma3TextConfig(**DECODER, head_dim=16, **NO_SPECIAL)),
}


class First(nn.Module):
    """The first tensor of what a Hugging Face model returns."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors):
        return self.model(**dict(zip(self.names, tensors, strict=True)))[0]


def padded_ids(length=12):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(2, length, dtype=torch.int64)
    mask[1, 7:] = 0
    return torch.randint(3, 300, (2, length), generator=generator), mask


class ResNetLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.a, self.b = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(32) for _ in range(2))
        self.shortcut = nn.Conv2d(16, 32, 1, 2)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.stem(x)
        y = self.norms[1](self.b(torch.relu(self.norms[0](self.a(x)))))
        return self.head(torch.relu(y + self.shortcut(x)).mean((2, 3)))


class MobileNetLike(nn.Module):
    """Depthwise convolutions, hard-swish, squeeze and excitation."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish(),
            nn.Conv2d(16, 64, 1), nn.ReLU6(), nn.Conv2d(64, 64, 5, 2, 2, groups=64), nn.BatchNorm2d(64), nn.Hardswish(),
        )  # fmt: skip
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 1), nn.Hardsigmoid()
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, x):
        x = self.body(x)
        return self.head(x * self.excite(x))


def image():
    return (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)),)


VISUAL = {
    "vit": (lambda: First(T.ViTModel(T.ViTConfig(**VISION)), ["pixel_values"])),
    "resnet-like": ResNetLike,
    "mobilenet-like": MobileNetLike,
}


def model_and_inputs(name):
    torch.manual_seed(0)
    if name in TEXT:
        return First(TEXT[name](), ["input_ids", "attention_mask"]).eval(), padded_ids()
    return VISUAL[name]().eval(), image()


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_as_it_comes_from_hugging_face(model):
    """No wrapper, called by keyword, returning whatever it returns, its cache included."""
    torch.manual_seed(0)
    classes = {
        "bert": lambda: T.BertModel(T.BertConfig(**SMALL)),
        "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**{**DECODER, "use_cache": True}, **NO_SPECIAL)),
    }
    ids, mask = padded_ids()
    result = nanproof.convert(classes[model](), {"attention_mask": mask, "input_ids": ids})
    assert result.passed
    assert sorted(result.program.inputs) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize("name", [*TEXT, *VISUAL])
def test_saved_program_agrees_with_pytorch(name, tmp_path):
    module, inputs = model_and_inputs(name)
    fp32 = nanproof.convert(module, inputs, precision="float32", stress=False)
    saved = nanproof.load(fp32.save(tmp_path / "fp32.mlpackage"))
    assert nanproof.compare(saved, module, inputs).error < 1e-4
    half = nanproof.convert(module, inputs)
    assert half.passed, half.units
    assert {island.reason for island in half.plan.islands} <= {"author's FP32"}
    assert half.plan.fp32_ops == 0
