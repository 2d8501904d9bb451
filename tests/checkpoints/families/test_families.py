"""Published checkpoints are understood as they are; what is not supported is refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models
import transformers
from published_configs import CONFIGS

from seq2edge.checkpoints.families import FAMILIES, find_family
from seq2edge.checkpoints.families.family import Config
from seq2edge.checkpoints.load import _check_architecture, _relevance, load_checkpoint
from seq2edge.errors import CheckpointError, UnsupportedError

NAMES = {
    "flan-t5-base": ("lm_head.weight",),
    "mt5-small": ("lm_head.weight",),
    "umt5-small": ("lm_head.weight",),
    "bert-base-uncased": ("bert.embeddings.token_type_embeddings.weight",),
    "bert-base-NER": ("bert.embeddings.token_type_embeddings.weight",),
    "ms-marco-MiniLM-L6-v2": ("bert.embeddings.token_type_embeddings.weight",),
    "roberta-base-squad2": ("roberta.embeddings.token_type_embeddings.weight",),
    "roberta-base": ("roberta.embeddings.token_type_embeddings.weight",),
    "xlm-roberta-base": ("roberta.embeddings.token_type_embeddings.weight",),
    "camembert-base": ("roberta.embeddings.token_type_embeddings.weight",),
    "electra-small-discriminator": (
        "electra.embeddings.token_type_embeddings.weight",
        "electra.embeddings_project.weight",
    ),
    "albert-base-v2": (
        "albert.embeddings.token_type_embeddings.weight",
        "albert.encoder.embedding_hidden_mapping_in.weight",
    ),
}
LAYERS_HEADS_WIDTH = {
    "firefox-en-pt": ((6, 8), (2, 8), 256),
    "LFM2-1.2B": (None, (16, 32), 2048),
    "t5-small": ((6, 8), (6, 8), 512),
    "flan-t5-base": ((12, 12), (12, 12), 768),
    "mt5-small": ((8, 6), (8, 6), 512),
    "umt5-small": ((8, 6), (8, 6), 512),
    "bart-large-cnn": ((12, 16), (12, 16), 1024),
    "mbart-large-50-many-to-many-mmt": ((12, 16), (12, 16), 1024),
    "opus-mt-en-fr": ((6, 8), (6, 8), 512),
    "nllb-200-distilled-600M": ((12, 16), (12, 16), 1024),
    "pegasus-xsum": ((16, 16), (16, 16), 1024),
    "blenderbot-400M-distill": ((2, 32), (12, 32), 1280),
    "blenderbot_small-90M": ((8, 16), (8, 16), 512),
    "whisper-tiny": ((4, 6), (4, 6), 384),
    "moonshine-tiny": ((6, 8), (6, 8), 288),
    "t5gemma-2b-2b-prefixlm-it": ((26, 8), (26, 8), 2304),
    "gpt2": (None, (12, 12), 768),
    "opt-125m": (None, (12, 12), 768),
    "TinyLlama-1.1B": (None, (22, 32), 2048),
    "Mistral-7B-v0.1": (None, (32, 32), 4096),
    "Qwen2.5-0.5B-Instruct": (None, (24, 14), 896),
    "Qwen3-0.6B": (None, (28, 16), 1024),
    "Llama-3.2-1B-Instruct": (None, (16, 32), 2048),
    "SmolLM3-3B": (None, (36, 16), 2048),
    "Phi-3-mini-4k-instruct": (None, (32, 32), 3072),
    "Phi-4-mini-instruct": (None, (32, 24), 3072),
    "gemma-2b": (None, (18, 8), 2048),
    "gemma-2-2b-it": (None, (26, 8), 2304),
    "embeddinggemma-300m": ((24, 3), None, 768),
    "gemma-3-1b-it": (None, (26, 4), 1152),
    "Ministral-8B-Instruct-2410": (None, (36, 32), 4096),
    "granite-3.1-2b-instruct": (None, (40, 32), 2048),
    "OLMo-2-0425-1B": (None, (16, 16), 2048),
    "Olmo-3-7B-Instruct": (None, (32, 32), 4096),
    "stablelm-2-1_6b": (None, (24, 32), 2048),
    "starcoder2-3b": (None, (30, 24), 3072),
    "phi-2": (None, (32, 32), 2560),
    "pythia-160m": (None, (12, 12), 768),
    "falcon-7b": (None, (32, 71), 4544),
    "ERNIE-4.5-0.3B-PT": (None, (18, 16), 1024),
    "glm-edge-1.5b-chat": (None, (28, 16), 2048),
    "EXAONE-4.0-1.2B": (None, (30, 32), 2048),
    "ModernBERT-base": ((22, 12), None, 768),
    "EuroBERT-210m": ((12, 12), None, 768),
    "nomic-embed-text-v1.5": ((12, 12), None, 768),
    "gte-multilingual-base": ((12, 12), None, 768),
    "granite-4.0-350m": (None, (28, 16), 1024),
    "bert-base-uncased": ((12, 12), None, 768),
    "roberta-base": ((12, 12), None, 768),
    "xlm-roberta-base": ((12, 12), None, 768),
    "camembert-base": ((12, 12), None, 768),
    "electra-small-discriminator": ((12, 4), None, 256),
    "albert-base-v2": ((12, 12), None, 768),
    "all-mpnet-base-v2": ((12, 12), None, 768),
    "deberta-large-mnli": ((24, 16), None, 1024),
    "deberta-v3-base": ((12, 12), None, 768),
    "nli-deberta-v3-base": ((12, 12), None, 768),
    "distilbert-base-uncased-finetuned-sst-2-english": ((6, 12), None, 768),
    "bert-base-NER": ((12, 12), None, 768),
    "roberta-base-squad2": ((12, 12), None, 768),
    "ms-marco-MiniLM-L6-v2": ((6, 12), None, 384),
    "trocr-small-printed": ((12, 6), (6, 8), 256),
    "trocr-base-printed": ((12, 12), (12, 16), 1024),
    "vit-gpt2-image-captioning": ((12, 12), (12, 12), 768),
}


class EveryName(frozenset):
    """The names of a checkpoint that has every tensor, with or without types of tokens."""

    types = True

    def __contains__(self, name):
        return self.types or "token_type" not in name


def read(values, names=(), task=None):
    """Dims of a config, as `load_checkpoint` reads them."""
    config = Config(values, task=task, default_task="embed")
    family = find_family(str(config.get("model_type", "")))
    _check_architecture(family, config)
    dims = family.dims(config, names if isinstance(names, frozenset) else frozenset(names))
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
    assert dims.vocab == {**CONFIGS[name].get("decoder", {}), **CONFIGS[name]}["vocab_size"]


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
    assert published("umt5-small").encoder.relative_layers
    assert not published("umt5-small").tied
    assert published("umt5-small").logits_scale == 1.0
    assert published("blenderbot-400M-distill").decoder.max_positions == 128
    assert published("blenderbot_small-90M").decoder.norm_before_positions
    assert not published("blenderbot_small-90M").encoder.norm_before_positions
    assert published("opt-125m").decoder.activation == "relu"
    assert published("opt-125m").decoder.final_norm
    assert not published("opt-125m", do_layer_norm_before=False).decoder.final_norm
    assert published("gpt2").decoder.hidden == 3072
    assert published("gpt2").decoder.activation == "gelu_tanh"
    assert published("TinyLlama-1.1B").decoder.kv_heads == 4
    assert published("Mistral-7B-v0.1").decoder.window == 4096
    assert published("Qwen2.5-0.5B-Instruct").decoder.window == 0
    assert published("Qwen2.5-0.5B-Instruct").decoder.qkv_bias
    assert published("Qwen2.5-0.5B-Instruct").decoder.rotary_theta == 1e6
    assert published("Qwen3-0.6B").decoder.head_dim == 128
    assert published("Qwen3-0.6B").decoder.qk_norm
    assert published("Llama-3.2-1B-Instruct").decoder.rotary_divisors[0] == 1.0
    assert published("Llama-3.2-1B-Instruct").decoder.rotary_divisors[-1] == 32.0
    assert published("SmolLM3-3B").decoder.unrotated_layers == (3, 7, 11, 15, 19, 23, 27, 31, 35)
    assert published("Phi-3-mini-4k-instruct").decoder.window == 2047
    assert published("Phi-4-mini-instruct").decoder.window == 0, "beyond the longest text"
    assert published("Phi-4-mini-instruct").decoder.rotary_dim == 96
    assert published("Phi-4-mini-instruct").decoder.max_positions == 4096, "of the short factors"
    unsaid = published("Phi-4-mini-instruct", original_max_position_embeddings=None)
    assert unsaid.decoder.max_positions == 4096, "as the class has it"
    assert published("Phi-4-mini-instruct").decoder.rotary_magnitude == pytest.approx(
        1.190238, abs=1e-6
    )


def test_details_that_published_encoders_differ_in():
    """One fact each that a wrong default would change."""
    assert published("bert-base-uncased").head == "embedding"
    filling = read(CONFIGS["bert-base-uncased"], NAMES["bert-base-uncased"], task="fill")
    assert (filling.head, filling.tied, filling.task) == ("masked", True, "fill")
    assert (published("bert-base-NER").head, published("bert-base-NER").labels) == ("tokens", 9)
    assert published("roberta-base-squad2").head == "span"
    assert published("ms-marco-MiniLM-L6-v2").labels == 1
    assert _relevance(Config(CONFIGS["ms-marco-MiniLM-L6-v2"])) == "plain"
    assert published("roberta-base").encoder.max_positions == 512
    assert published("roberta-base", pad_token_id=0).encoder.max_positions == 513
    assert published("nllb-200-distilled-600M", pad_token_id=7).decoder.position_offset == 8
    assert published("xlm-roberta-base").encoder.max_positions == 512
    assert published("electra-small-discriminator").table_width == 128
    assert published("albert-base-v2").table_width == 128
    assert published("albert-base-v2").encoder.shared_layers
    assert published("all-mpnet-base-v2").encoder.relative_buckets == 32
    assert published("all-mpnet-base-v2").encoder.max_positions == 512
    assert published("deberta-large-mnli").encoder.relative_span == 512
    assert published("deberta-large-mnli").encoder.relative_distance == 0
    assert published("deberta-v3-base").encoder.relative_span == 256
    assert published("deberta-v3-base").encoder.relative_distance == 512
    assert published("deberta-v3-base").encoder.max_positions == 0
    assert published("nli-deberta-v3-base").classifier_activation == "gelu"
    assert published("nli-deberta-v3-base").labels == 3
    assert published("distilbert-base-uncased-finetuned-sst-2-english").labels == 2
    assert published("whisper-tiny").frames == 3000


def with_part(name, side, **changes):
    """A published config of two parts with some settings of one changed."""
    return published(name, **{side: {**CONFIGS[name][side], **changes}})


def test_details_of_models_that_read_images():
    """One fact each that a wrong default would change."""
    small, base = published("trocr-small-printed"), published("trocr-base-printed")
    caption = published("vit-gpt2-image-captioning")
    assert (small.task, small.source_shape) == ("read", (3, 384, 384))
    assert (small.image.tokens, small.source_positions) == (2, 24 * 24 + 2)
    assert (base.image.tokens, base.source_positions) == (1, 24 * 24 + 1)
    assert (small.encoder_width, base.encoder_width, caption.encoder_width) == (384, 768, 0)
    assert not small.encoder_product, "its attention reads the encoder's width"
    assert with_part(
        "trocr-small-printed", "decoder", cross_attention_hidden_size=None
    ).encoder_product
    assert (small.encoder.qkv_bias, base.encoder.qkv_bias) == (True, False)
    assert (small.encoder.norm_epsilon, small.decoder.norm_epsilon) == (1e-12, 1e-5)
    assert (small.decoder.positions, base.decoder.positions) == ("learned", "sinusoidal")
    assert (small.decoder.position_offset, base.decoder.position_offset) == (0, 2)
    assert (small.decoder.embedding_norm, base.decoder.embedding_norm) == (True, False)
    assert small.decoder.embedding_scale == 16.0
    assert (small.tied, caption.tied) == (False, True)
    assert (small.decoder.pre_norm, caption.decoder.pre_norm) == (False, True)
    assert caption.decoder.activation == "gelu_tanh"
    wide = with_part("trocr-base-printed", "encoder", image_size=[64, 512], patch_size=[16, 32])
    assert (wide.source_shape, wide.source_positions) == ((3, 64, 512), 4 * 16 + 1)


@pytest.mark.parametrize(
    ("name", "side", "changes", "message"),
    [
        (
            "trocr-small-printed",
            "encoder",
            {"model_type": "donut-swin"},
            "it needs shifted windows",
        ),
        ("trocr-small-printed", "encoder", {"model_type": "beit"}, "'beit' .*; known: vit, deit"),
        ("trocr-small-printed", "decoder", {"model_type": "bert"}, "'bert' .*; known: trocr, gpt2"),
        ("trocr-small-printed", "decoder", {"x": 1}, r"config\.json: decoder: settings .*: x=1"),
        ("trocr-small-printed", "encoder", {"x": 1}, r"config\.json: encoder: settings .*: x=1"),
        ("trocr-small-printed", "encoder", {"patch_size": 400}, "384 x 384 pixels hold no patch"),
        ("trocr-base-printed", "decoder", {"pad_token_id": 2}, "start_token_id 2 is the decoder's"),
        (
            "vit-gpt2-image-captioning",
            "decoder",
            {"add_cross_attention": False},
            "add_cross_attention is not true, it reads no image",
        ),
    ],
)
def test_parts_that_are_not_supported_are_refused_by_name(name, side, changes, message):
    """With the part whose setting it is."""
    with pytest.raises(UnsupportedError, match=message):
        with_part(name, side, **changes)


@pytest.mark.parametrize(
    ("side", "changes", "message"),
    [
        ("encoder", {"image_size": [384]}, r"encoder: image_size is \[384\], needs a positive"),
        ("encoder", {"image_size": 0}, "encoder: image_size is 0"),
        ("encoder", {"hidden_size": None}, "encoder: hidden_size is None, needs a positive"),
        ("decoder", {"cross_attention_hidden_size": 385}, "is 385, the encoder is 384 wide"),
    ],
)
def test_sizes_of_parts_must_be_sizes(side, changes, message):
    """A config that was edited by hand."""
    with pytest.raises(CheckpointError, match=message):
        with_part("trocr-small-printed", side, **changes)


def test_a_part_must_be_there():
    """A model of two parts has a config of each."""
    with pytest.raises(CheckpointError, match="decoder is 5, needs settings"):
        published("trocr-small-printed", decoder=5)


def test_details_of_rotary_encoders():
    """One fact each that a wrong default would change."""
    modern = published("ModernBERT-base")
    assert modern.encoder.layer_windows == (*[0, 65, 65] * 7, 0), "64 tokens on either side"
    assert (modern.encoder.rotary_theta, modern.encoder.window_theta) == (160000, 10000)
    assert (modern.encoder.first_norm, modern.encoder.norm_bias) == (False, False)
    assert (modern.head, modern.pooling) == ("embedding", "mean")
    classes = {"architectures": ["ModernBertForSequenceClassification"], "num_labels": 3}
    classifier = published("ModernBERT-base", **classes)
    assert (classifier.classifier_norm, classifier.classifier_bias) == (True, False)
    assert (classifier.labels, classifier.pooling) == (3, "mean")
    classes["architectures"] = ["EuroBertForSequenceClassification"]
    assert published("EuroBERT-210m", **classes).late_pooling
    assert published("EuroBERT-210m", **classes, clf_pooling="bos").pooling == "first"
    assert published("EuroBERT-210m").encoder.rotary_theta == 250000
    assert published("nomic-embed-text-v1.5").encoder.rotary_theta == 1000
    assert not published("nomic-embed-text-v1.5").encoder.qkv_bias
    assert published("gte-multilingual-base").encoder.qkv_bias


def test_details_of_the_relatives_of_llama():
    """One fact each that a wrong default would change."""
    assert published("gemma-2b").decoder.activation == "gelu_tanh", "though it says gelu"
    assert published("gemma-2b").decoder.embedding_scale == pytest.approx(2048**0.5)
    embedding = published("embeddinggemma-300m")
    assert embedding.encoder.layer_windows == (257, 257, 257, 257, 257, 0) * 4
    assert (embedding.head, embedding.encoder.embedding_scale) == ("embedding", 768**0.5)
    gemma = published("gemma-3-1b-it").decoder
    assert gemma.layer_windows == (*[512, 512, 512, 512, 512, 0] * 4, 512, 512)
    assert (gemma.rotary_theta, gemma.window_theta) == (1e6, 1e4)
    assert (gemma.pre_norm, gemma.output_norm, gemma.qk_norm) == (True, True, True)
    assert gemma.attention_scale == 1 / 16
    assert published("Ministral-8B-Instruct-2410").decoder.window == 32768
    granite = published("granite-3.1-2b-instruct")
    assert (granite.logits_scale, granite.decoder.embedding_scale) == (0.125, 12.0)
    assert (granite.decoder.residual_scale, granite.decoder.attention_scale) == (0.22, 1 / 64)
    olmo = published("OLMo-2-0425-1B").decoder
    assert (olmo.pre_norm, olmo.output_norm, olmo.qk_norm_whole) == (False, True, True)
    later = published("Olmo-3-7B-Instruct").decoder
    assert later.layer_windows == (4096, 4096, 4096, 0) * 8
    assert later.rotary_divisors, "YaRN where everything is seen"
    assert later.window_theta == 500000, "and nothing of it elsewhere"
    stablelm = published("stablelm-2-1_6b").decoder
    assert (stablelm.rotary_dim, stablelm.norm) == (16, "layer")
    assert (stablelm.qkv_bias, stablelm.attention_bias) == (True, False)
    assert not published("starcoder2-3b").decoder.gated
    assert published("starcoder2-3b").decoder.feedforward_bias
    phi = published("phi-2")
    assert (phi.decoder.parallel, phi.decoder.rotary_dim, phi.logits_bias) == (True, 32, True)
    assert published("pythia-160m").decoder.parallel
    assert published("pythia-160m").decoder.rotary_dim == 16
    assert not published("pythia-160m", use_parallel_residual=False).decoder.parallel
    falcon = published("falcon-7b").decoder
    assert (falcon.kv_heads, falcon.hidden, falcon.parallel) == (1, 4 * 4544, True)
    assert published("falcon-7b", multi_query=False).decoder.kv_heads == 71
    larger = {"new_decoder_architecture": True, "num_attention_heads": 128, "hidden_size": 8192}
    assert published("falcon-7b", **larger, num_kv_heads=8).decoder.kv_heads == 8
    assert published("ERNIE-4.5-0.3B-PT").decoder.head_dim == 128
    assert published("glm-edge-1.5b-chat").decoder.rotary_dim == 0
    assert published("glm-edge-1.5b-chat", partial_rotary_factor=None).decoder.rotary_dim == 64
    exaone = published("EXAONE-4.0-1.2B").decoder
    assert (exaone.layer_windows, exaone.unrotated_layers) == ((0,) * 30, ())
    larger = {"sliding_window": 4096, "sliding_window_pattern": "LLLG"}
    exaone = published("EXAONE-4.0-1.2B", **larger).decoder
    assert exaone.layer_windows == (*[4096, 4096, 4096, 0] * 7, 4096, 4096)
    assert exaone.unrotated_layers == (3, 7, 11, 15, 19, 23, 27)
    mixed = published("Qwen2.5-0.5B-Instruct", use_sliding_window=True, sliding_window=4096)
    assert mixed.decoder.layer_windows == (*[0] * 21, 4096, 4096, 4096)


def test_details_of_gemma_2_and_what_was_made_of_it():
    """Bounded scores, and windows on one side or both."""
    capped = published("gemma-2-2b-it")
    assert (capped.decoder.attention_cap, capped.logits_cap) == (50, 30)
    assert capped.decoder.layer_windows == (4096, 0) * 13
    missing = read({k: v for k, v in CONFIGS["gemma-2-2b-it"].items() if "softcap" not in k})
    assert (missing.decoder.attention_cap, missing.logits_cap) == (50, 30), "where none is said"
    uncapped = published("gemma-2-2b-it", attn_logit_softcapping=None)
    assert (uncapped.decoder.attention_cap, uncapped.logits_cap) == (0, 30), "null is said"
    both = published("t5gemma-2b-2b-prefixlm-it")
    wider = with_part("t5gemma-2b-2b-prefixlm-it", "encoder", hidden_size=3584)  # of the 9B-2B
    assert (both.encoder_width, wider.encoder_width, wider.width) == (0, 3584, 2304)
    assert (both.encoder.attention_cap, both.decoder.attention_cap, both.logits_cap) == (50, 50, 30)
    assert both.encoder.layer_windows == (4097, 0) * 13, "4096 tokens on either side"
    assert both.decoder.layer_windows == (4096, 0) * 13
    assert (both.source_vocab, both.tied) == (256000, True), "a table a side"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("TinyLlama-1.1B", {"rope_scaling": {"type": "mrope"}}, "scaling mrope .* known: default"),
        ("TinyLlama-1.1B", {"rope_scaling": {"type": "dynamic", "alpha": 1e3}}, "'alpha': 1000.0"),
        ("TinyLlama-1.1B", {"rope_parameters": {"rope_theta": 1e4, "x": 1}}, "rope settings"),
        ("phi-2", {"partial_rotary_factor": 0.37}, "29 is not an even part of heads of 80"),
        ("TinyLlama-1.1B", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not"),
        ("t5-small", {"relative_attention_max_distance": 16}, "32 buckets need more than 16"),
        ("TinyLlama-1.1B", {"sliding_window": 64}, "sliding_window 64"),
        ("TinyLlama-1.1B", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("TinyLlama-1.1B", {"hidden_act": "xielu"}, "hidden_act 'xielu' .* known: gelu"),
        ("TinyLlama-1.1B", {"num_key_value_heads": 5}, "32 heads cannot share 5"),
        ("gemma-3-1b-it", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0 .* null"),
        ("gemma-2-2b-it", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "gemma-3-1b-it",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope settings .* of layers with a window",
        ),
        (
            "gemma-3-1b-it",
            {"rope_parameters": {"chunked_attention": {"rope_type": "default"}}},
            "rope settings of chunked_attention",
        ),
        (
            "t5gemma-2b-2b-prefixlm-it",
            {"decoder": {**CONFIGS["t5gemma-2b-2b-prefixlm-it"]["decoder"], "sinks": 2}},
            r"config.json: decoder: settings that are not supported: sinks=2",
        ),
        ("gpt2", {"model_type": "t5gemma2"}, "it needs one attention to source and target"),
        ("ModernBERT-base", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        (
            "EuroBERT-210m",
            {"architectures": ["EuroBertForSequenceClassification"], "clf_pooling": "max"},
            "classifier_pooling 'max' is not supported, known: cls, bos, mean",
        ),
        ("falcon-7b", {"alibi": True}, "alibi True is not supported, only False"),
        ("pythia-160m", {"attention_bias": False}, "attention_bias False"),
        ("stablelm-2-1_6b", {"use_parallel_residual": True}, "use_parallel_residual True"),
        ("stablelm-2-1_6b", {"qk_layernorm": True}, "qk_layernorm True"),
        ("Qwen3-0.6B", {"layer_types": ["chunked_attention"]}, "layer_types chunked_attention"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ("opt-125m", {"word_embed_proj_dim": 512}, "word_embed_proj_dim 512 .* only 768"),
        ("opt-125m", {"enable_bias": False}, "enable_bias False"),
        ("opt-125m", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("blenderbot-400M-distill", {"extra_layer_norm": True}, "extra_layer_norm True"),
        ("blenderbot-400M-distill", {"layernorm_variant": "xlm"}, "layernorm_variant 'xlm'"),
        ("bart-large-cnn", {"normalize_before": True}, "normalize_before True"),
        ("bart-large-cnn", {"static_position_embeddings": True}, "static_position_embeddings"),
        ("opus-mt-en-fr", {"normalize_embedding": True}, "normalize_embedding True"),
        ("whisper-tiny", {"scale_embedding": True}, "scale_embedding True"),
        ("t5-small", {"feed_forward_proj": "gated-swish"}, "feed_forward_proj 'gated-swish'"),
        ("albert-base-v2", {"num_hidden_groups": 2}, "num_hidden_groups 2 is not supported"),
        ("albert-base-v2", {"inner_group_num": 2}, "inner_group_num 2 is not supported"),
        ("all-mpnet-base-v2", {"pad_token_id": 0}, "pad_token_id 0 is not supported, only 1"),
        ("all-mpnet-base-v2", {"relative_attention_num_buckets": 64}, "num_buckets 64 is not"),
        ("deberta-v3-base", {"conv_kernel_size": 3}, "conv_kernel_size 3 is not supported"),
        ("deberta-v3-base", {"pos_att_type": "c2p"}, "pos_att_type 'c2p' is not supported"),
        ("deberta-large-mnli", {"talking_head": True}, "talking_head True is not supported"),
        ("deberta-large-mnli", {"position_buckets": 256}, "position_buckets 256 is not supported"),
        ("deberta-v3-base", {"relative_attention": False}, "relative_attention False is not"),
        ("deberta-v3-base", {"embedding_size": 128}, "embedding_size 128 .* only 768"),
        ("deberta-v3-base", {"norm_rel_ebd": "scale"}, "norm_rel_ebd 'scale' is not supported"),
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
        ("nllb-200-distilled-600M", {"pad_token_id": 2}, "start_token_id 2 is the pad_token_id"),
        ("gpt2", {"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel"),
        ("gpt2", {"model_type": "mamba"}, r"needs layers with a running state.*; known: .*gpt2"),
        ("gpt2", {"model_type": "mixtral"}, "'mixtral' .*: it needs a mixture of experts; known"),
        ("gpt2", {"model_type": "canary"}, "'canary' .*: it needs a FastConformer encoder; known"),
        ("gpt2", {"model_type": "gpt3"}, "'gpt3' is not supported; known: .*gpt2"),
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
    with pytest.raises(
        UnsupportedError, match=rf"{name}ForMaskedLM .*--task fill or --task embed, or --task weigh"
    ):
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
        ("opt", "embed", "task 'embed': a opt checkpoint is made to generate"),
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
        ({"model_type": "t5gemma", "architectures": None}, "encoder is None, needs settings"),
        ({**CONFIGS["roberta-base"], "pad_token_id": -1}, "pad_token_id is -1, positions count"),
    ],
)
def test_sizes_must_be_sizes(changes, message):
    """A config that was edited by hand."""
    with pytest.raises(CheckpointError, match=message):
        published("gpt2", **changes)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Qwen3-0.6B", {"layer_types": ["full_attention"]}, "1 layer_types for 28 layers"),
        ("SmolLM3-3B", {"no_rope_layers": [1, 0]}, "no_rope_layers .* is no list of 36 layers"),
        ("TinyLlama-1.1B", {"rope_scaling": {"type": "linear"}}, "rope factor is None"),
        ("TinyLlama-1.1B", {"rope_scaling": {"type": "yarn", "factor": 0}}, "rope factor is 0"),
        ("Phi-3-mini-4k-instruct", {"rope_scaling": {"type": "su"}}, "short_factor None"),
    ],
)
def test_positions_must_be_whole(name, changes, message):
    """Every number that their kind needs."""
    with pytest.raises(CheckpointError, match=message):
        published(name, **changes)


@pytest.mark.parametrize("name", tiny_models.EVERY)
def test_what_a_config_leaves_out_is_what_transformers_takes(name):
    """Its class's own value, or the key is missed by name; never another family's."""
    entry = tiny_models.EVERY[name]
    kind = getattr(transformers, entry.config)
    whole = {**kind(**entry.settings).to_dict(), "architectures": [entry.model]}
    plain = kind().to_dict()
    short = {key: value for key, value in whole.items() if plain.get(key) != value}
    short["model_type"] = whole["model_type"]
    task, names = "fill" if "masked" in name else None, EveryName()
    names.types = bool(whole.get("type_vocab_size"))
    try:
        dims = read(short, names, task)
    except (CheckpointError, UnsupportedError):
        return
    wanted = read(whole, names, task)
    for side in ("encoder", "decoder"):
        stack, other = getattr(dims, side), getattr(wanted, side)
        if stack is not None:  # tensors have shapes, which are compared where they are read
            assert dataclasses.replace(stack, kv_heads=other.kv_heads) == other
    assert (dims.logits_scale, dims.logits_cap) == (wanted.logits_scale, wanted.logits_cap)


def test_every_class_of_a_family_is_one_of_transformers():
    """None is promised that there is nothing to compare with, but for names of old files."""
    classes = {
        name
        for model_type in set(FAMILIES) - {"seq2edge"}
        for name in find_family(model_type).architectures
        if not name.endswith("ForPreTraining")
    }
    assert {name for name in classes if not hasattr(transformers, name)} <= {"T5WithLMHeadModel"}


def test_every_family_has_a_published_config_here():
    """So that a new one cannot come without; nobody but training writes our own."""
    assert {values["model_type"] for values in CONFIGS.values()} == set(FAMILIES) - {"seq2edge"}
