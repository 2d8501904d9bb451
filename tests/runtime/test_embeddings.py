"""Embedding texts as the checkpoint's folder says: prompts, the longest text, fewer dimensions."""

from __future__ import annotations

import json
from unittest import mock

import numpy as np
import pytest
import tiny_models
import torch
from command_line import call
from eager_models import eager_model
from sentence_folders import by_hand, sentence_folder, write
from speaking import write_tokenizer

import seq2edge
from seq2edge.bundle.manifest import EmbeddingRecord
from seq2edge.errors import BundleError, InputError, OptionError
from seq2edge.export.pipeline import export_checkpoint
from seq2edge.runtime.embeddings import with_prompt

SIZES = {"hidden_size": 24, "num_attention_heads": 3}
SETTINGS = {"prompts": {"query": "w7 w8 ", "passage": ""}, "similarity_fn_name": "cosine"}
DENSE = [(24, 10, "Tanh", True)]


def make(folder, mode):
    """A folder with a tokenizer and everything beside the model, exported: its products."""
    checkpoint = folder / "checkpoint"
    tiny_models.save("bert-embedding", checkpoint, **SIZES)
    write_tokenizer(checkpoint)
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    pooling = {"pooling_mode": mode}
    sentence_folder(checkpoint, *kinds, pooling=pooling, settings=SETTINGS, dense=DENSE)
    write(checkpoint / "sentence_bert_config.json", {"max_seq_length": 6})
    export_checkpoint(checkpoint, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module", params=["lasttoken", "max"])
def made(request, made_once):
    """The way of pooling, the bundle's folder, and what transformers embeds a text's words to."""
    bundle = made_once(make, request.param)
    model = tiny_models.make("bert-embedding", **SIZES)
    torch.manual_seed(4)
    layers = [(torch.nn.Linear(24, 10), "Tanh")]

    def wanted(texts):
        rows = [[int(word[1:]) for word in text.split()] + [2] for text in texts]
        ids = torch.tensor([row + [1] * (9 - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return by_hand(model, ids, lengths, request.param, layers, normalize=True).numpy()

    return bundle, wanted


def test_texts_are_embedded_as_the_folder_says(made):
    """With products, of unit length, in a batch and behind a prompt."""
    bundle, wanted = made
    model = seq2edge.load(bundle, device="cpu")
    texts = ["w9 w10 w11", "  w20 w21\n"]
    np.testing.assert_allclose(model.embed(texts), wanted(texts), atol=2e-5)
    asked = [f"w7 w8 {text}" for text in texts]
    np.testing.assert_allclose(model.embed(texts, prompt="query"), wanted(asked), atol=2e-5)
    np.testing.assert_array_equal(model.embed(texts, prompt="passage"), model.embed(texts))
    assert model.embed([]).shape == (0, 10)
    with pytest.raises(InputError, match="'web' is unknown, this model has: query, passage"):
        model.embed(texts, prompt="web")


def test_prompts_stand_before_texts_without_space_around():
    """The default where nobody asks, none for an empty name."""
    record = EmbeddingRecord(prompts={"query": " q: "}, default_prompt="query")
    assert with_prompt([" a b\n", "c"], record, None) == ["q:  a b", "q: c"]
    assert with_prompt([" a b\n"], record, "") == ["a b"]
    assert with_prompt([(" a ", " b ")], record, None) == [("q:  a", "b")]
    with pytest.raises(BundleError, match="default_prompt: 'web' is none of the prompts"):
        EmbeddingRecord(default_prompt="web")


def test_long_texts_are_cut_with_a_warning(made):
    """The prompt and the special tokens count; what fits gives no warning."""
    bundle, wanted = made
    model = seq2edge.load(bundle, device="cpu")
    with pytest.warns(UserWarning, match="cut texts to 6 tokens"):
        found = model.embed(["w9 w10 w11 w12 w13 w14 w15"])
    np.testing.assert_allclose(found, wanted(["w9 w10 w11 w12 w13"]), atol=2e-5)
    model.embed(["w9 w10 w11 w12 w13"])
    with pytest.warns(UserWarning, match="cut texts to 6 tokens"):
        model.embed(["w9 w10 w11 w12 w13"], prompt="query")
    assert model.tokenizer.shortened == 2


def test_pairs_are_embedded_as_one_text_with_types(tmp_path):
    """As the tokenizer joins them, in any batch; on the command line with a tab between."""
    reference, tokenizer, model = eager_model(tmp_path, "bert-embedding", "bert")
    pairs = [("hello world", "le petit café"), ("quick", "the brown fox hello")]
    wanted = []
    for pair in pairs:
        inputs = tokenizer(*pair, return_tensors="pt")
        assert inputs["token_type_ids"].any()
        with torch.no_grad():
            wanted.append(reference(**inputs).last_hidden_state[0].mean(0).numpy())
    np.testing.assert_allclose(model.embed(pairs), wanted, atol=2e-5)
    mixed = model.embed([pairs[0], "hello world"])
    np.testing.assert_allclose(mixed[0], wanted[0], atol=2e-5)
    with mock.patch("seq2edge.runtime.model.load", return_value=model):
        result = call("embed", "bundle", "--pairs", "\t".join(pairs[1]))
        lost = call("embed", "bundle", "--pairs", "hello")
    np.testing.assert_allclose(json.loads(result.stdout)["embedding"], wanted[1], atol=2e-5)
    assert "'hello': 0 tabs, a pair has one between its texts" in lost.stderr


def test_a_sparse_encoder_gives_tokens_and_weights(tmp_path):
    """The largest first, those alone that are not 0; its bundle proven, its command prints them."""
    reference, tokenizer, model = eager_model(tmp_path, "bert-sparse", "bert")
    text = "hello world le petit"
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        weights = torch.log1p(torch.relu(reference(**inputs).logits[0])).amax(dim=0)
    weights = weights[: len(tokenizer)]  # the model has more rows
    (found,) = model.weigh([text])
    assert len(found) == int((weights > 0).sum()) < len(weights)
    assert list(found.values()) == pytest.approx(sorted(weights[weights > 0].tolist())[::-1])
    best = tokenizer.convert_ids_to_tokens(int(weights.argmax()))
    assert next(iter(found)) == best
    assert model.weigh([text, "hello"], top=3)[0] == pytest.approx(dict([*found.items()][:3]))
    assert model.weigh([]) == []
    with pytest.raises(InputError, match="made to weigh, it cannot embed"):
        model.embed([text])
    with pytest.raises(OptionError, match="top: 0, needs 1 or more"):
        model.weigh([text], top=0)
    with mock.patch("seq2edge.runtime.model.load", return_value=model):
        result = call("embed", "bundle", text, "--dimensions", 2)
    assert list(json.loads(result.stdout)["weights"]) == list(found)[:2]
    exported = export_checkpoint(tmp_path / "checkpoint", tmp_path / "exported", task="weigh")
    assert exported.bundle.manifest.original.parity is not None
    opened = seq2edge.load(tmp_path / "exported", device="cpu")
    assert opened.weigh([text])[0] == pytest.approx(found, abs=1e-5)


def test_fewer_dimensions_have_unit_length_again(made):
    """The first values, as models that were trained for it allow."""
    bundle, wanted = made
    model = seq2edge.load(bundle, device="cpu")
    texts = ["w9 w10 w11"]
    first = wanted(texts)[:, :4]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    np.testing.assert_allclose(model.embed(texts, dimensions=4), first, atol=2e-5)
    with pytest.raises(InputError, match="dimensions: 11, the model's embeddings have 10"):
        model.embed(texts, dimensions=11)


def test_the_command_line_embeds_and_tells(made):
    """Prompts and dimensions by option; how many were cut, once."""
    bundle, wanted = made
    text = "w9 w10 w11 w12 w13 w14"
    result = call("embed", bundle, text, "--prompt", "query", "--dimensions", "10")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    np.testing.assert_allclose(values["embedding"], wanted(["w7 w8 w9 w10 w11"])[0], atol=2e-5)
    assert "cut: 1 texts" in result.stderr
    told = call("inspect", bundle).stdout
    assert 'prompt      query: "w7 w8 "' in told
    assert "texts       cut to 6 tokens" in told
    assert "similarity  cosine" in told
