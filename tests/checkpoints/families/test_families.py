"""Published checkpoints are understood as they are; what is not supported is refused by name."""

from __future__ import annotations

import pytest
import tiny_models
from published_configs import CONFIGS

from seq2edge.checkpoints.families import FAMILIES, find_family
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.load import _check_architecture, _relevance, load_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError

NAMES = {
    "flan-t5-base": ("lm_head.weight",),
    "mt5-small": ("lm_head.weight",),
    "bert-base-uncased": ("bert.embeddings.token_type_embeddings.weight",),
    "bert-base-NER": ("bert.embeddings.token_type_embeddings.weight",),
    "ms-marco-MiniLM-L6-v2": ("bert.embeddings.token_type_embeddings.weight",),
    "roberta-base-squad2": ("roberta.embeddings.token_type_embeddings.weight",),
    "roberta-base": ("roberta.embeddings.token_type_embeddings.weight",),
}
LAYERS_HEADS_WIDTH = {
    "t5-small": ((6, 8), (6, 8), 512),
    "flan-t5-base": ((12, 12), (12, 12), 768),
    "mt5-small": ((8, 6), (8, 6), 512),
    "bart-large-cnn": ((12, 16), (12, 16), 1024),
    "mbart-large-50-many-to-many-mmt": ((12, 16), (12, 16), 1024),
    "opus-mt-en-fr": ((6, 8), (6, 8), 512),
    "nllb-200-distilled-600M": ((12, 16), (12, 16), 1024),
    "pegasus-xsum": ((16, 16), (16, 16), 1024),
    "whisper-tiny": ((4, 6), (4, 6), 384),
    "gpt2": (None, (12, 12), 768),
    "TinyLlama-1.1B": (None, (22, 32), 2048),
    "Mistral-7B-v0.1": (None, (32, 32), 4096),
    "Qwen2.5-0.5B-Instruct": (None, (24, 14), 896),
    "Qwen3-0.6B": (None, (28, 16), 1024),
    "bert-base-uncased": ((12, 12), None, 768),
    "roberta-base": ((12, 12), None, 768),
    "distilbert-base-uncased-finetuned-sst-2-english": ((6, 12), None, 768),
    "bert-base-NER": ((12, 12), None, 768),
    "roberta-base-squad2": ((12, 12), None, 768),
    "ms-marco-MiniLM-L6-v2": ((6, 12), None, 384),
}


def read(values, names=(), task=None):
    """Dims of a config, as `load_checkpoint` reads them."""
    config = Config(values, task=task, default_task="embed")
    family = find_family(str(config.get("model_type", "")))
    _check_architecture(family, config)
    dims = family.dims(config, frozenset(names))
    _relevance(config)
    config.check_all_read()
    return dims


def published(name, **changes):
    """A published config with some settings changed."""
    return read({**CONFIGS[name], **changes}, NAMES.get(name, ()))


@pytest.mark.parametrize("name", CONFIGS)
def test_published_configs_are_read_whole(name):
    """Every setting of them is known, and the sizes are those of the model."""
    dims = published(name)
    stacks = [s and (s.layers, s.heads) for s in (dims.encoder, dims.decoder)]
    assert (*stacks, dims.width) == LAYERS_HEADS_WIDTH[name]
    assert dims.vocab == CONFIGS[name]["vocab_size"]


def test_details_that_published_models_differ_in():
    """One fact each that a wrong default would change."""
    assert published("t5-small").tied
    assert published("t5-small").logits_scale == pytest.approx(512**-0.5)
    assert not published("flan-t5-base").tied
    assert published("flan-t5-base").logits_scale == 1.0
    assert published("mt5-small").encoder.head_dim == 64
    assert published("mt5-small").encoder.gated
    assert published("opus-mt-en-fr").encoder.activation == "silu"
    assert published("opus-mt-en-fr").encoder.embedding_scale == pytest.approx(512**0.5)
    assert published("gpt2").decoder.hidden == 3072
    assert published("gpt2").decoder.activation == "gelu_tanh"
    assert published("TinyLlama-1.1B").decoder.kv_heads == 4
    assert published("Mistral-7B-v0.1").decoder.window == 4096
    assert published("Qwen2.5-0.5B-Instruct").decoder.window == 0
    assert published("Qwen2.5-0.5B-Instruct").decoder.qkv_bias
    assert published("Qwen2.5-0.5B-Instruct").decoder.rotary_theta == 1e6
    assert published("Qwen3-0.6B").decoder.head_dim == 128
    assert published("Qwen3-0.6B").decoder.qk_norm
    assert published("bert-base-uncased").head == "embedding"
    filling = read(CONFIGS["bert-base-uncased"], NAMES["bert-base-uncased"], task="fill")
    assert (filling.head, filling.tied, filling.task) == ("masked", True, "fill")
    assert (published("bert-base-NER").head, published("bert-base-NER").labels) == ("tokens", 9)
    assert published("roberta-base-squad2").head == "span"
    assert published("ms-marco-MiniLM-L6-v2").labels == 1
    assert _relevance(Config(CONFIGS["ms-marco-MiniLM-L6-v2"])) == "plain"
    assert published("roberta-base").encoder.max_positions == 512
    assert published("distilbert-base-uncased-finetuned-sst-2-english").labels == 2
    assert published("whisper-tiny").frames == 3000


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("TinyLlama-1.1B", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaling linear"),
        ("TinyLlama-1.1B", {"rope_scaling": {"rope_type": "llama3"}}, "rope scaling llama3"),
        ("TinyLlama-1.1B", {"rope_parameters": {"rope_type": "yarn"}}, "rope scaling yarn"),
        ("TinyLlama-1.1B", {"rope_parameters": {"rope_theta": 1e4, "x": 1}}, "rope settings"),
        ("TinyLlama-1.1B", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("TinyLlama-1.1B", {"sliding_window": 64}, "sliding_window 64"),
        ("TinyLlama-1.1B", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("TinyLlama-1.1B", {"hidden_act": "xielu"}, "hidden_act 'xielu' .* known: gelu"),
        ("TinyLlama-1.1B", {"num_key_value_heads": 5}, "32 heads cannot share 5"),
        (
            "Qwen2.5-0.5B-Instruct",
            {"use_sliding_window": True},
            "full_attention, sliding_attention in one model",
        ),
        ("Qwen3-0.6B", {"layer_types": ["chunked_attention"]}, "layer_types chunked_attention"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ("bart-large-cnn", {"normalize_before": True}, "normalize_before True"),
        ("bart-large-cnn", {"static_position_embeddings": True}, "static_position_embeddings"),
        ("opus-mt-en-fr", {"normalize_embedding": True}, "normalize_embedding True"),
        ("whisper-tiny", {"scale_embedding": True}, "scale_embedding True"),
        ("t5-small", {"feed_forward_proj": "gated-swish"}, "feed_forward_proj 'gated-swish'"),
        ("bert-base-uncased", {"position_embedding_type": "relative_key"}, "'relative_key'"),
        ("roberta-base-squad2", {"num_labels": 3}, "num_labels of a model that answers must be 2"),
        (
            "ms-marco-MiniLM-L6-v2",
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
            "activation_fn Tanh is not supported, known: Sigmoid, Identity",
        ),
        (
            "ms-marco-MiniLM-L6-v2",
            {"sentence_transformers": {"activation_fn": "Identity", "scale": 2}},
            "sentence_transformers has scale",
        ),
        ("bert-base-uncased", {"is_decoder": True}, "is_decoder True"),
        ("bert-base-uncased", {"pruned_heads": {"0": [1]}}, r"pruned_heads=\{'0': \[1\]\}"),
        ("roberta-base", {"pad_token_id": 0}, "pad_token_id 0 is not supported, only 1"),
        ("gpt2", {"architectures": ["GPT2ForQuestionAnswering"]}, "GPT2ForQuestionAnswering"),
        ("gpt2", {"model_type": "mamba"}, "mamba.*known: .*gpt2"),
        ("gpt2", {"model_type": ""}, "known: .*gpt2"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name, changes, message):
    """The setting and its value; never an approximation."""
    with pytest.raises(UnsupportedError, match=message):
        published(name, **changes)


@pytest.mark.parametrize("name", ["Bert", "Roberta", "DistilBert"])
def test_a_masked_language_model_asks_what_it_is_for(name):
    """It does not become an embedder in silence; a folder of sentence-transformers has said it."""
    published = "distilbert-base-uncased-finetuned-sst-2-english"
    base = {"Bert": "bert-base-uncased", "Roberta": "roberta-base"}.get(name, published)
    values = {**CONFIGS[base], "architectures": [f"{name}ForMaskedLM"]}
    family = find_family(values["model_type"])
    with pytest.raises(UnsupportedError, match=rf"{name}ForMaskedLM .*--task fill or --task embed"):
        family.dims(Config(values), frozenset())
    chosen = family.dims(Config(values, task="embed"), frozenset())
    assert (chosen.head, chosen.pooling) == ("embedding", "mean")
    said = family.dims(Config({**values, "pooling": "first"}), frozenset())
    assert (said.head, said.pooling) == ("embedding", "first")
    with pytest.raises(UnsupportedError, match=r"task 'classify': .* is made to fill"):
        family.dims(Config(values, task="classify"), frozenset())


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("gpt2", "embed", "task 'embed': a gpt2 checkpoint is made to generate"),
        ("whisper", "generate", "task 'generate': a whisper checkpoint is made to transcribe"),
        ("bert", "embed", "task 'embed': BertForSequenceClassification is made to classify"),
        ("bert-embedding", "classify", "task 'classify': BertModel is made to embed"),
    ],
)
def test_a_task_that_a_checkpoint_has_no_head_for_is_refused(tmp_path, name, task, message):
    """With what it is made for; that one may be named too."""
    tiny_models.save(name, tmp_path)
    with pytest.raises(UnsupportedError, match=message):
        load_checkpoint(tmp_path, task=task)
    made_for = message.rsplit(maxsplit=1)[-1]
    assert load_checkpoint(tmp_path, task=made_for).dims.task == made_for


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": None}, "n_embd is None, needs a positive integer"),
        ({"n_layer": 0}, "n_layer is 0, needs a positive integer"),
        ({"n_head": "12"}, "n_head is '12', needs a positive integer"),
        ({"vocab_size": True}, "vocab_size is True, needs a positive integer"),
    ],
)
def test_sizes_must_be_sizes(changes, message):
    """A config that was edited by hand."""
    with pytest.raises(CheckpointError, match=message):
        published("gpt2", **changes)


def test_every_family_has_a_published_config_here():
    """So that a new one cannot come without; nobody but training writes our own."""
    assert {values["model_type"] for values in CONFIGS.values()} == set(FAMILIES) - {"seq2edge"}
