"""Hugging Face folders: the class is that of the configuration or of the task, the weights are those of the folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers

import nanproof
from nanproof.capture.batch import call
from nanproof.capture.huggingface import check_folder, load_folder
from nanproof.capture.pretrained_inputs import example_of
from nanproof.errors import CaptureError, InputError, ModelFileError, UsageError

TEXT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=120)
IMAGE = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32)


def saved(folder: Path, model: transformers.PreTrainedModel, **options) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def bert(folder: Path) -> Path:
    torch.manual_seed(0)
    return saved(folder, transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT)))


def llama(folder: Path, **options) -> Path:
    torch.manual_seed(0)
    return saved(folder, transformers.LlamaForCausalLM(transformers.LlamaConfig(**TEXT)), **options)


def test_the_class_is_that_of_the_configuration_and_the_weights_those_of_the_folder(tmp_path):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**TEXT)).eval()
    loaded = load_folder(saved(tmp_path / "bert", model))
    assert type(loaded) is transformers.BertForSequenceClassification
    assert not loaded.training
    ids = torch.arange(1, 9)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_task_chooses_another_class(tmp_path):
    folder = bert(tmp_path / "bert")
    assert type(load_folder(folder, "feature-extraction")) is transformers.BertModel
    assert type(load_folder(folder, "BertModel")) is transformers.BertModel


def test_a_configuration_without_an_architecture_gives_the_bare_model(tmp_path):
    folder = bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))
    assert type(load_folder(folder)) is transformers.BertModel


def test_weights_in_parts(tmp_path):
    folder = llama(tmp_path / "llama", max_shard_size="20KB")
    parts = sorted(folder.glob("*.safetensors"))
    assert len(parts) > 2
    whole = load_folder(llama(tmp_path / "whole"))
    assert all(torch.equal(a, b) for a, b in zip(load_folder(folder).parameters(), whole.parameters(), strict=True))
    parts[0].unlink()
    with pytest.raises(ModelFileError) as caught:
        check_folder(folder)
    assert f"lacks 1 of the {len(parts)} parts of its weights: {parts[0].name}." in str(caught.value)


def test_pickled_weights_are_opened_only_if_trusted(tmp_path):
    folder = bert(tmp_path / "bert")
    weights = load_folder(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"weights as pytorch_model.bin alone, which were not opened"):
        load_folder(folder)
    loaded = load_folder(folder, trust=True).state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _damaged_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def _damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def _unknown_type(folder: Path) -> None:
    _configured(folder, model_type="custom", auto_map={"AutoModel": "modeling.Custom"})


def _unknown_architecture(folder: Path) -> None:
    _configured(folder, architectures=["BertForEverything"])


def _another_head(folder: Path) -> None:
    _configured(folder, architectures=["BertForQuestionAnswering"])


def _configured(folder: Path, **entries) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | entries))


REFUSED = {
    _without_config: (ModelFileError, "is a folder without config.json, so it is no Hugging Face model."),
    _damaged_config: (ModelFileError, "config.json' is no JSON: Expecting property name"),
    _listed_config: (ModelFileError, "config.json' holds no JSON object"),
    _without_weights: (ModelFileError, "has config.json and no weights: there is neither model.safetensors nor"),
    _damaged_index: (ModelFileError, "model.safetensors.index.json' is damaged: it names no weights."),
    _damaged_weights: (CaptureError, "as BertForSequenceClassification: SafetensorError: "),
    _unknown_type: (CaptureError, "of the type 'custom' that "),
    _unknown_architecture: (CaptureError, "names the architecture 'BertForEverything', and transformers "),
    _another_head: (CaptureError, "for 2 parameters of BertForQuestionAnswering: qa_outputs.bias, qa_outputs.weight."),
}


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_refusals(damage, tmp_path):
    folder = bert(tmp_path / "bert")
    damage(folder)
    error, text = REFUSED[damage]
    with pytest.raises(error) as caught:
        load_folder(folder)
    assert text in str(caught.value)


def test_code_in_a_folder_is_not_run(tmp_path):
    folder = bert(tmp_path / "bert")
    _unknown_type(folder)
    ran = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\nclass Custom: ...\n")
    with pytest.raises(CaptureError, match="It needs Python of its own \\(auto_map\\), which nanproof never runs"):
        load_folder(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("poetry", "Unknown task 'poetry'. Known: audio-classification, "),
        ("image-classification", "has no model of the type 'bert' for the task 'image-classification'.\n  Without a "),
        ("Poet", "The task 'Poet' reads as a class, and transformers "),
    ],
)
def test_wrong_tasks(task, text, tmp_path):
    with pytest.raises(UsageError) as caught:
        load_folder(bert(tmp_path / "bert"), task)
    assert text in str(caught.value)


def test_without_transformers(tmp_path, monkeypatch):
    folder = bert(tmp_path / "bert")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"package transformers, which is not installed.\n  pip install 'nanproof\["):
        check_folder(folder)


MADE = {
    "ids, mask and types": (
        lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
        {"input_ids": (1, 32), "attention_mask": (1, 32), "token_type_ids": (1, 32)},
    ),
    "no longer than its positions": (
        lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=5, bos_token_id=1, eos_token_id=1
            )
        ),
        {"input_ids": (1, 5), "attention_mask": (1, 5)},
    ),
    "two texts": (
        lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=2, d_kv=4, vocab_size=9)
        ),
        {"input_ids": (1, 32), "attention_mask": (1, 32), "decoder_input_ids": (1, 32)},
    ),
    "an image": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**IMAGE, num_channels=1, patch_size=8)),
        {"pixel_values": (1, 1, 32, 32)},
    ),
    "a text and an image": (
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(
                text_config=dict(**TEXT, bos_token_id=1, eos_token_id=2, pad_token_id=0),
                vision_config=dict(**IMAGE, patch_size=8),
            )
        ),
        {"input_ids": (1, 32), "pixel_values": (1, 3, 32, 32), "attention_mask": (1, 32)},
    ),
    "a spectrogram": (
        lambda: transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                **dict(d_model=8, encoder_layers=1, decoder_layers=1, vocab_size=9, num_mel_bins=4),
                **dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8),
                **dict(max_source_positions=6, pad_token_id=0, bos_token_id=1, eos_token_id=2),
                decoder_start_token_id=3,
            )
        ),
        {"input_features": (1, 4, 12), "decoder_input_ids": (1, 32)},
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_example_inputs_are_those_that_the_model_takes(kind):
    make, shapes = MADE[kind]
    module = make().eval()
    batch = example_of(module)
    assert {name: tuple(t.shape) for name, t in batch.kwargs.items() if isinstance(t, torch.Tensor)} == shapes
    assert all(torch.isfinite(t).all() for t in call(module, batch))
    assert all(torch.equal(a, b) for a, b in zip(batch.tensors, example_of(module).tensors, strict=True))


def test_example_inputs_that_are_not_known():
    class Unusual(torch.nn.Module):
        main_input_name, config = "observations", None

        def forward(self, observations): ...

    with pytest.raises(InputError, match="Example inputs for Unusual are unknown: its main input is 'observations'"):
        example_of(Unusual())


def test_a_folder_converts(tmp_path):
    """Ids and mask go in, logits come out under their own name, and the cache is left out."""
    folder = llama(tmp_path / "llama")
    result = nanproof.convert(folder)
    assert result.passed
    assert list(result.program.inputs) == ["input_ids", "attention_mask"]
    assert list(result.program.outputs) == ["logits"]
    ids = torch.arange(32)[None]
    given = {"input_ids": ids.int().numpy(), "attention_mask": torch.ones(1, 32, dtype=torch.int32).numpy()}
    logits = nanproof.predict(result.program, given, numerics="gpu")["logits"]
    with torch.no_grad():
        expected = load_folder(folder)(ids).logits
    assert abs(torch.from_numpy(logits).float() - expected).max() < 0.01 * (expected.max() - expected.min())


def test_convert_takes_a_task_for_a_folder_alone(tmp_path):
    result = nanproof.convert(bert(tmp_path / "bert"), task="feature-extraction", stress=False)
    assert list(result.program.outputs) == ["last_hidden_state", "pooler_output"]
    with pytest.raises(UsageError, match="task='fill-mask' is for the path of a Hugging Face folder, and this is a "):
        nanproof.convert(torch.nn.Linear(2, 2), torch.ones(1, 2), task="fill-mask")


def test_a_path_that_is_no_folder(tmp_path):
    with pytest.raises(ModelFileError, match=r"is no folder. nanproof.convert takes a module, an ExportedProgram"):
        nanproof.convert(tmp_path / "net.pt2")
