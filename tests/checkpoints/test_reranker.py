"""Language models as rerankers: the scores of their cards, from the words and prompts they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from reranking import (
    INSTRUCTION,
    PREFIX,
    SUFFIX,
    TEXTS,
    card_ids,
    card_score,
    causal_reranker,
    write_tokenizer,
)
from sentence_folders import write

from seq2edge.bundle.manifest import SpecialTokens, TokenizerRecord
from seq2edge.checkpoints.importers.sentence_transformers import read_sentence_folder
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.reranker import PROMPTS
from seq2edge.errors import CheckpointError, OptionError, UnsupportedError
from seq2edge.export import original
from seq2edge.export.eager import EagerBackend
from seq2edge.export.pipeline import record_reference
from seq2edge.runtime.tokenizer import Tokenizer

OWN = '{{ (messages | selectattr("role", "eq", "query") | first).content }} => {{ "document" }}'


def cross_encoder(folder, *, template=None, message=True, activation=None, **score):
    """Make the folder a CrossEncoder of sentence-transformers, as its release 5.4 writes them."""
    kinds = [("base.modules.transformer.Transformer", "")]
    if score:
        kinds.append(("cross_encoder.modules.logit_score.LogitScore", "1_LogitScore"))
        write(folder / "1_LogitScore" / "config.json", score)
    write(
        folder / "modules.json",
        [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in kinds],
    )
    forward = {"method": "forward", "method_output_name": "logits"}
    modes = {"text": forward, **({"message": {**forward, "format": "flat"}} if message else {})}
    write(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": modes,
            "module_output_name": "causal_logits",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
    )
    settings = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    if activation:
        settings["activation_fn"] = f"torch.nn.modules.{activation}"
    write(folder / "config_sentence_transformers.json", settings)
    if template:
        (folder / "chat_template.jinja").write_text(template)


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama-biases-tied", "gpt2", "gpt-neox"])
def test_the_logit_is_the_difference_of_both_words(tmp_path, name):
    """Of tied and of separate tables; transformers' language model is the judge."""
    sizes = {"n_positions": 512} if name == "gpt2" else {}
    model, tokenizer = causal_reranker(tmp_path, name, **sizes)
    loaded = load_checkpoint(
        tmp_path, task="rerank", words=("yes", "no"), template="qwen3-reranker"
    )
    tokens = loaded.reranker.record.tokens
    assert tokens == tuple(tokenizer.convert_tokens_to_ids(["yes", "no"]))
    assert (loaded.dims.task, loaded.dims.labels, loaded.relevance) == ("classify", 1, "sigmoid")
    ids = card_ids(tokenizer, *TEXTS[:2])
    logit = EagerBackend(loaded.model).pool(np.array([ids]), np.array([len(ids)]))[0, 0]
    score = card_score(model, ids, *tokens)
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(score, abs=1e-6)
    compared = original.compare(tmp_path, loaded.dims, record_reference(loaded), tokens)
    assert compared.equal
    other = original.compare(tmp_path, loaded.dims, record_reference(loaded), tokens[::-1])
    assert not other.equal


def test_one_word_gives_its_logit(tmp_path):
    """As bge-reranker-v2-gemma is read; a sigmoid of it would mean nothing."""
    model, tokenizer = causal_reranker(tmp_path, "gemma", head_dim=16)
    loaded = load_checkpoint(tmp_path, task="rerank")
    ids = tokenizer.encode(TEXTS[0])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    found = EagerBackend(loaded.model).pool(np.array([ids]), np.array([len(ids)]))
    assert found[0, 0] == pytest.approx(logits[tokenizer.convert_tokens_to_ids("Yes")].item())
    assert loaded.relevance == "plain"


@pytest.mark.parametrize(("false", "relevance"), [("no", "sigmoid"), (None, "plain")])
def test_a_cross_encoder_says_its_tokens_and_its_template(tmp_path, false, relevance):
    """Without an option: `LogitScore` of sentence-transformers, and its activation."""
    _, tokenizer = causal_reranker(tmp_path, "qwen2")
    yes, no = (tokenizer.convert_tokens_to_ids(word) if word else None for word in ("yes", false))
    activation = "activation.Sigmoid" if false else "linear.Identity"
    scored = {"true_token_id": yes, "false_token_id": no}
    cross_encoder(tmp_path, template=OWN, activation=activation, **scored)
    loaded = load_checkpoint(tmp_path)
    assert loaded.reranker.record.tokens == ((yes,) if no is None else (yes, no))
    assert loaded.reranker.record.generation_prompt
    assert loaded.reranker.tokenizer.files["chat_template.jinja"] == OWN.encode()
    assert (loaded.dims.labels, loaded.relevance) == (1, relevance)


def test_a_folder_s_own_template_is_taken_where_it_is_for_pairs(tmp_path):
    """One for conversations is not; what is known of its type is taken instead."""
    causal_reranker(tmp_path)
    chat = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(chat)
    loaded = load_checkpoint(tmp_path, task="rerank")
    template = loaded.reranker.tokenizer.files["chat_template.jinja"].decode()
    assert template == PROMPTS["qwen3-reranker"].template
    assert loaded.reranker.record.instruction == INSTRUCTION
    (tmp_path / "chat_template.jinja").write_text(OWN)
    own = load_checkpoint(tmp_path, task="rerank").reranker
    assert own.tokenizer.files["chat_template.jinja"].decode() == OWN
    assert own.record.instruction == ""


QWEN2 = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\n{}query: Q?\ndocument: D.\nYou are a search relevance expert "
    "who evaluates how well documents match search queries. For each query-document pair, "
    "carefully analyze the semantic relationship between them, then provide your binary relevance "
    "judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n"
)
GEMMA = (
    "<bos>A: Q?\nB: D.\nGiven a query A and a passage B, determine whether the passage contains an "
    "answer to the query by providing a prediction of either 'Yes' or 'No'."
)
PAIR = [{"role": "query", "content": "Q?"}, {"role": "document", "content": "D."}]
ASKED = [{"role": "system", "content": "Find x."}, *PAIR]


@pytest.mark.parametrize(
    ("name", "messages", "prompt"),
    [
        (
            "qwen3-reranker",
            ASKED,
            f"{PREFIX}<Instruct>: Find x.\n<Query>: Q?\n<Document>: D.{SUFFIX}",
        ),
        ("mxbai-rerank-v2", PAIR, QWEN2.format("")),
        ("mxbai-rerank-v2", ASKED, QWEN2.format("instruction: Find x.\n")),
        ("bge-reranker-v2-gemma", PAIR, GEMMA),
    ],
)
def test_known_prompts_are_those_of_the_cards(tmp_path, name, messages, prompt):
    """To the letter, the line ends at their end too."""
    write_tokenizer(tmp_path)
    (tmp_path / "asks.jinja").write_text(PROMPTS[name].template)
    special = SpecialTokens(bos="<bos>")
    record = TokenizerRecord(source="tokenizer.json", chat_template="asks.jinja", special=special)
    assert Tokenizer(tmp_path, record).render_chat(messages) == prompt


def test_what_a_language_model_cannot_rerank_with_is_refused(tmp_path):
    """Each with what is missing, and what to do."""
    causal_reranker(tmp_path / "llama", "llama")
    with pytest.raises(UnsupportedError, match=r"how a llama is asked.*--template.*qwen3-reranker"):
        load_checkpoint(tmp_path / "llama", task="rerank")
    causal_reranker(tmp_path / "qwen3")
    for words in (("yes", "yes"), ("a", "b", "c")):
        with pytest.raises(OptionError, match=r"words: .* needed is the one for yes, or two"):
            load_checkpoint(tmp_path / "qwen3", task="rerank", words=words)
    with pytest.raises(UnsupportedError, match=r"'perhaps' is \d tokens \(.*choose others"):
        load_checkpoint(tmp_path / "qwen3", task="rerank", words=("perhaps", "no"))
    with pytest.raises(OptionError, match="template: 'qwen4' is no chat template with the roles"):
        load_checkpoint(tmp_path / "qwen3", task="rerank", template="qwen4")
    with pytest.raises(OptionError, match="words, template: they go with the task rerank"):
        load_checkpoint(tmp_path / "qwen3", words=("yes", "no"))
    causal_reranker(tmp_path / "granite", "granite")
    with pytest.raises(UnsupportedError, match="no GraniteForSequenceClassification"):
        load_checkpoint(tmp_path / "granite", task="rerank", template="qwen3-reranker")
    causal_reranker(tmp_path / "phi", "phi")
    with pytest.raises(UnsupportedError, match="a bias of the vocabulary's product"):
        load_checkpoint(tmp_path / "phi", task="rerank", template="qwen3-reranker")
    (tmp_path / "qwen3" / "tokenizer.json").unlink()
    (tmp_path / "qwen3" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer, which writes a reranker's prompt"):
        load_checkpoint(tmp_path / "qwen3", task="rerank")


def test_a_classifier_needs_one_label_and_no_words(tmp_path):
    """With the task named; its pairs are read as the tokenizer joins them, or by a template."""
    causal_reranker(tmp_path, "qwen3-classifier", num_labels=3)
    with pytest.raises(UnsupportedError, match="tells 3 labels apart, a reranker gives one score"):
        load_checkpoint(tmp_path, task="rerank")
    with pytest.raises(OptionError, match=r"words: .* has a score of its own"):
        load_checkpoint(tmp_path, task="rerank", words=("yes",))
    causal_reranker(tmp_path, "qwen3-classifier", num_labels=1)
    assert load_checkpoint(tmp_path, task="rerank").reranker is None
    loaded = load_checkpoint(tmp_path, task="rerank", template="qwen3-reranker")
    assert loaded.reranker.record.tokens == ()
    assert loaded.reranker.record.instruction == INSTRUCTION
    cross_encoder(tmp_path, template=OWN)
    assert load_checkpoint(tmp_path).reranker.tokenizer.record.chat_template
    cross_encoder(tmp_path, template=OWN, message=False)
    assert load_checkpoint(tmp_path).reranker is None
    causal_reranker(tmp_path / "tagger", "qwen2-tokens")
    with pytest.raises(UnsupportedError, match="Qwen2ForTokenClassification gives no score"):
        load_checkpoint(tmp_path / "tagger", task="rerank")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_LogitScore/config.json", {"true_token_id": "yes"}, "true_token_id 'yes'"),
        ("1_LogitScore/config.json", {"true_token_id": 999}, "token 999, the vocabulary has 340"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"chat_template": {"enable_thinking": False}}},
            "processing_kwargs enable_thinking",
        ),
        (
            "config_sentence_transformers.json",
            {"activation_fn": "torch.nn.modules.activation.Tanh"},
            "activation_fn Tanh is not supported",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {}}},
            "prompts before pairs, only in a chat template",
        ),
    ],
)
def test_a_cross_encoder_s_other_settings_are_refused_by_name(tmp_path, file, values, message):
    """What changes the score and is not done here."""
    causal_reranker(tmp_path)
    cross_encoder(tmp_path, template=OWN, true_token_id=5, false_token_id=6)
    settings = tmp_path / "config_sentence_transformers.json"
    settings.write_text(json.dumps({"prompts": {"web": "Find pages."}}))
    assert load_checkpoint(tmp_path).reranker.record.tokens == (5, 6)
    write(tmp_path / file, {**json.loads((tmp_path / file).read_text()), **values})
    with pytest.raises((CheckpointError, UnsupportedError), match=message):
        load_checkpoint(tmp_path)


def test_a_default_prompt_is_the_instruction(tmp_path):
    """sentence-transformers puts it before a pair as the system's message."""
    causal_reranker(tmp_path)
    cross_encoder(tmp_path, template=OWN, true_token_id=5, false_token_id=6)
    prompts = {"prompts": {"web": "Find pages."}, "default_prompt_name": "web"}
    write(tmp_path / "config_sentence_transformers.json", prompts)
    assert load_checkpoint(tmp_path).reranker.record.instruction == "Find pages."
    assert read_sentence_folder(tmp_path).crosses
