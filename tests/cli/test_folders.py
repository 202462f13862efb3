"""`nanproof convert FOLDER`: a Hugging Face folder on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.cli.conftest import Command

SMALL = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, vocab_size=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).save_pretrained(path)
    return path


def test_a_folder_is_a_model(nanproof: Command, folder: Path, tmp_path: Path):
    said = nanproof("convert", folder, "-o", tmp_path / "a.mlpackage", "--json", "--no-stress")
    assert said.code == 0, said.err
    assert said.document["verdict"] == "proved"
    assert said.err == "", "neither progress bars nor loading reports of transformers"
    interface = nanproof("inspect", tmp_path / "a.mlpackage", "--json").document["interface"]
    assert [one["name"] for one in interface["inputs"]] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [one["name"] for one in interface["outputs"]] == ["logits"]


def test_a_task_and_inputs_of_ones_own(nanproof: Command, folder: Path, tmp_path: Path):
    ids = np.arange(1, 13).reshape(1, 12)
    np.savez(tmp_path / "in.npz", attention_mask=np.ones_like(ids), input_ids=ids)
    out = tmp_path / "a.mlpackage"
    said = nanproof(
        *("convert", folder, "-o", out, "--task", "BertModel", "--inputs", tmp_path / "in.npz", "--no-stress")
    )
    # The pooler is not among the weights of a masked language model.
    assert said.code == 2
    assert "has no weights for 2 parameters of BertModel: pooler.dense.bias, pooler.dense.weight." in said.err
    said = nanproof("convert", folder, "-o", out, "--task", "fill-mask", "--inputs", tmp_path / "in.npz", "--no-stress")
    assert said.code == 0, said.err
    inputs = nanproof("inspect", out, "--json").document["interface"]["inputs"]
    assert [(one["name"], one["shape"]) for one in inputs] == [("input_ids", [1, 12]), ("attention_mask", [1, 12])]


def test_a_task_for_another_model(nanproof: Command, nets: Path, tmp_path: Path):
    said = nanproof("convert", f"{nets}:mlp", "-o", tmp_path / "a.mlpackage", "--task", "fill-mask")
    assert said.code == 2
    assert "--task is for a Hugging Face folder, and " in said.err


def test_pickled_weights_need_trust(nanproof: Command, folder: Path, tmp_path: Path):
    model = transformers.BertForMaskedLM.from_pretrained(folder)
    model.config.save_pretrained(tmp_path / "old")
    torch.save(model.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    out = tmp_path / "a.mlpackage"
    said = nanproof("convert", tmp_path / "old", "-o", out)
    assert said.code == 2
    assert "which were not opened: they are pickled" in said.err
    assert nanproof("convert", tmp_path / "old", "-o", out, "--trust", "--no-stress").code == 0
