"""Folders of sentence-transformers: what stands beside the model, and the same embeddings."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from safetensors.torch import save_file
from sentence_folders import by_hand, sentence_folder, write

from seq2edge.checkpoints.importers.sentence_transformers import read_sentence_folder
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError
from seq2edge.export.eager import EagerBackend

IDS = torch.tensor([[5, 8, 13, 21, 34], [55, 7, 9, 1, 1], [40, 41, 1, 1, 1]])
LENGTHS = torch.tensor([5, 3, 2])


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        ("mean", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}),
        ("cls", {"pooling_mode_cls_token": True, "include_prompt": True}),
        ("max", {"pooling_mode_max_tokens": True}),
        ("lasttoken", {"pooling_mode_lasttoken": True, "word_embedding_dimension": 32}),
        ("mean", {"pooling_mode": "mean", "embedding_dimension": 32}),
        ("cls", {"pooling_mode": ["cls"]}),
        ("lasttoken", {"pooling_mode": "lasttoken", "include_prompt": False}),
    ],
)
@pytest.mark.parametrize(
    ("dense", "normalize"),
    [([], False), ([(32, 12, "Tanh", True)], True), ([(32, 48, "Identity", False)], False)],
)
def test_embeddings_are_those_of_the_modules(tmp_path, mode, pooling, dense, normalize):
    """Every way of pooling, products with and without bias, unit length or not."""
    model = tiny_models.save("bert-embedding", tmp_path)
    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
    layers = sentence_folder(tmp_path, *kinds, pooling=pooling, dense=dense)
    loaded = load_checkpoint(tmp_path)
    found = EagerBackend(loaded.model).pool(IDS.numpy(), LENGTHS.numpy())
    wanted = by_hand(model, IDS, LENGTHS, mode, layers, normalize=normalize)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)
    assert loaded.dims.embedding_width == wanted.shape[1]


@pytest.mark.parametrize("first", ["Transformer", "MLMTransformer"])
def test_a_sparse_encoder_weighs_the_vocabulary(tmp_path, first):
    """SPLADE's: log(1 + relu) of the masked-language model's logits, the largest of each token."""
    model = tiny_models.save("bert-masked", tmp_path)
    sentence_folder(tmp_path, first, "SpladePooling", settings={"max_active_dims": 7})
    write(tmp_path / "1_SpladePooling" / "config.json", {"pooling_strategy": "max"})
    loaded = load_checkpoint(tmp_path)
    assert (loaded.dims.task, loaded.source.sentence.dimensions) == ("weigh", 7)
    found = EagerBackend(loaded.model).pool(IDS.numpy(), LENGTHS.numpy())
    mask = (torch.arange(IDS.shape[1]) < LENGTHS[:, None]).long()
    with torch.no_grad():
        logits = model(input_ids=IDS, attention_mask=mask).logits
    wanted = (torch.log1p(torch.relu(logits)) * mask[:, :, None]).amax(dim=1)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)
    for key, value in (("pooling_strategy", "sum"), ("activation_function", "log1p_relu")):
        write(tmp_path / "1_SpladePooling" / "config.json", {key: value})
        with pytest.raises(UnsupportedError, match=f"{key} '{value}' is not supported, only"):
            load_checkpoint(tmp_path)


def test_several_products_follow_each_other(tmp_path):
    """As in EmbeddingGemma; all tensors are read, none is left."""
    model = tiny_models.save("distilbert-embedding", tmp_path)
    kinds = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")
    dense = [(32, 64, "Identity", False), (64, 8, "Identity", False)]
    layers = sentence_folder(tmp_path, *kinds, dense=dense)
    found = EagerBackend(load_checkpoint(tmp_path).model).pool(IDS.numpy(), LENGTHS.numpy())
    wanted = by_hand(model, IDS, LENGTHS, "mean", layers, normalize=True)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)


def test_the_class_of_the_model_does_not_matter(tmp_path):
    """A masked-language model in such a folder is an embedder; its head is not used."""
    config = transformers.BertConfig(**tiny_models.BERT_SIZES)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    sentence_folder(tmp_path)
    loaded = load_checkpoint(tmp_path)
    assert loaded.dims.task == "embed"
    assert all(name.startswith("cls.") for name in loaded.unused_tensors)


def test_an_old_folder_keeps_its_model_in_a_folder(tmp_path):
    """`0_Transformer`, with the tokenizer's files."""
    model = tiny_models.save("bert-embedding", tmp_path / "0_Transformer")
    sentence_folder(tmp_path)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write(tmp_path / "modules.json", modules)
    write(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"max_seq_length": 40})
    (tmp_path / "0_Transformer" / "vocab.txt").write_text("[PAD]\n")
    loaded = load_checkpoint(tmp_path)
    found = EagerBackend(loaded.model).pool(IDS.numpy(), LENGTHS.numpy())
    wanted = by_hand(model, IDS, LENGTHS, "mean", [], normalize=False)
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-6)
    assert loaded.source.sentence.longest == 40
    assert loaded.source.tokenizer_files["vocab.txt"] == b"[PAD]\n"
    assert loaded.source.path == tmp_path


def test_what_the_folder_says_of_texts(tmp_path):
    """Prompts, the default one, the longest text, the comparison, the kept dimensions."""
    assert read_sentence_folder(tmp_path) is None
    settings = {
        "__version__": {"sentence_transformers": "5.1.0"},
        "prompts": {"query": "query: ", "document": ""},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
        "truncate_dim": 16,
    }
    sentence_folder(tmp_path, settings=settings)
    write(tmp_path / "sentence_xlm-roberta_config.json", {"max_seq_length": 128})
    folder = read_sentence_folder(tmp_path)
    assert dict(folder.prompts) == settings["prompts"]
    assert (folder.default_prompt, folder.similarity) == ("query", "dot")
    assert (folder.longest, folder.dimensions) == (128, 16)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": 1}, "weightedmean_tokens"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling cls_token, mean_tokens",
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pooling max, mean"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 32}, "pooling none"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": False},
            "include_prompt false",
        ),
        ("2_Dense/config.json", {"out_features": 8, "activation_function": "x.Mish"}, "Mish"),
        (
            "2_Dense/config.json",
            {"out_features": 8, "module_input_name": "token_embeddings"},
            "module_input_name 'token_embeddings'",
        ),
        ("config_sentence_transformers.json", {"similarity_fn_name": "x"}, "_fn_name 'x'"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, file, values, message):
    """Never an approximation."""
    kinds = ("Transformer", "Pooling", "Dense")
    prompts = {"prompts": {"query": "q: "}}
    sentence_folder(tmp_path, *kinds, dense=[(32, 8, "Tanh", True)], settings=prompts)
    write(tmp_path / file, values)
    with pytest.raises(UnsupportedError, match=message):
        read_sentence_folder(tmp_path)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("StaticEmbedding",), "modules StaticEmbedding"),
        (("Transformer", "Normalize"), "Transformer, Normalize in this order"),
        (("Transformer", "Pooling", "Normalize", "Dense"), "Normalize"),
    ],
)
def test_other_modules_are_refused_by_name(tmp_path, kinds, message):
    """And known ones in another order."""
    sentence_folder(tmp_path, *kinds)
    with pytest.raises(UnsupportedError, match=message):
        read_sentence_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("modules.json", {"a": 1}, r"modules\.json: cannot be read"),
        ("modules.json", [], "lists no modules"),
        ("modules.json", [{"type": "Transformer", "path": "../x"}], "leaves the folder"),
        ("modules.json", [{"type": "Transformer", "path": "/x"}], "leaves the folder"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length is 0"),
        ("config_sentence_transformers.json", {"prompts": ["q"]}, "are no texts by name"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "none of its prompts"),
        ("2_Dense/config.json", {}, "out_features is missing"),
    ],
)
def test_damaged_files_are_named(tmp_path, file, values, message):
    """Before anything is loaded."""
    kinds = ("Transformer", "Pooling", "Dense")
    sentence_folder(tmp_path, *kinds, dense=[(32, 8, "Tanh", True)])
    write(tmp_path / file, values)
    with pytest.raises(CheckpointError, match=message):
        read_sentence_folder(tmp_path)


def test_products_that_do_not_fit_are_refused(tmp_path):
    """Missing, of another size, or pickled."""
    tiny_models.save("bert-embedding", tmp_path)
    sentence_folder(tmp_path, "Transformer", "Pooling", "Dense", dense=[(24, 8, "Tanh", True)])
    with pytest.raises(CheckpointError, match=r"2_Dense\.linear\.weight has shape \[8, 24\]"):
        load_checkpoint(tmp_path)
    weights = tmp_path / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.ones(8, 32)}, weights)
    with pytest.raises(CheckpointError, match=r"2_Dense\.linear\.bias is missing"):
        load_checkpoint(tmp_path)
    shutil.move(weights, tmp_path / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"2_Dense.*pytorch_model\.bin: pickled weights"):
        load_checkpoint(tmp_path)


def test_a_decoder_embeds_where_its_folder_says_so(tmp_path):
    """Whatever the class of its config; families that cannot are refused, no generator is made."""
    tiny_models.save("qwen3", tmp_path / "qwen3")
    sentence_folder(tmp_path / "qwen3", pooling={"pooling_mode_lasttoken": True})
    dims = load_checkpoint(tmp_path / "qwen3").dims
    assert (dims.task, dims.pooling, dims.encoder.causal) == ("embed", "last", True)
    tiny_models.save("opt", tmp_path / "opt")
    sentence_folder(tmp_path / "opt", pooling={"pooling_mode_lasttoken": True})
    with pytest.raises(UnsupportedError, match="embeddings of a model made to generate"):
        load_checkpoint(tmp_path / "opt")
