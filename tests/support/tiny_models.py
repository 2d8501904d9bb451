"""Tiny random models made with transformers: one entry per family (or variant) that we support.

Every parameter is random, biases and norms too, so that a dropped one changes the tokens.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import bergamot_folders
import onnx_ir as ir
import torch
import transformers
from command_line import call

from seq2edge.bundle import Bundle
from seq2edge.export.pipeline import ExportReport, export_checkpoint

VOCAB = 96
SEQ2SEQ_TOKENS: dict[str, Any] = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
BART_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    **SEQ2SEQ_TOKENS,
}
LLAMA_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
BERT_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "type_vocab_size": 2,
    "pad_token_id": 1,
    "num_labels": 3,
}
T5_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,  # transformers sizes the decoder's cache by the encoder's layers
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyModel:
    """How to make one checkpoint, and what the reference does with it."""

    model: str
    config: str
    settings: dict[str, Any]
    kind: str = "encoder-decoder"


def _seq2seq(name: str, **settings: Any) -> TinyModel:
    return TinyModel(
        model=f"{name}ForConditionalGeneration", config=f"{name}Config", settings=settings
    )


def _causal(name: str, **settings: Any) -> TinyModel:
    return TinyModel(
        model=f"{name}ForCausalLM", config=f"{name}Config", settings=settings, kind="decoder"
    )


def _classifier(name: str, **settings: Any) -> TinyModel:
    return TinyModel(
        model=f"{name}ForSequenceClassification",
        config=f"{name}Config",
        settings=settings,
        kind="encoder",
    )


def _encoder(name: str, **settings: Any) -> TinyModel:
    return TinyModel(
        model=f"{name}Model", config=f"{name}Config", settings=settings, kind="encoder"
    )


_GPT2: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_MARIAN = {**BART_SIZES, "decoder_start_token_id": 1, "scale_embedding": True}
_MARIAN["activation_function"] = "swish"
_WHISPER = {
    **BART_SIZES,
    "num_mel_bins": 8,
    "max_source_positions": 50,
    "max_target_positions": 64,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
_MOONSHINE: dict[str, Any] = {  # heads of 12, of which 10 values are rotated
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    **{
        f"{side}_num_{key}": value
        for side in ("encoder", "decoder")
        for key, value in (("hidden_layers", 2), ("attention_heads", 4), ("key_value_heads", 4))
    },
    "max_position_embeddings": 64,
    "pad_head_dim_to_multiple_of": 8,
    "decoder_start_token_id": 0,
    **SEQ2SEQ_TOKENS,
}
_BLENDERBOT = {
    **BART_SIZES,
    "encoder_layers": 1,
    "encoder_ffn_dim": 96,
    "decoder_start_token_id": 0,
    "encoder_no_repeat_ngram_size": 0,  # the config's class has another default
}
_OPT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 60,
    **SEQ2SEQ_TOKENS,
}
_ELECTRA = {**BERT_SIZES, "hidden_size": 64, "embedding_size": 32, "intermediate_size": 96}
_ALBERT = {**BERT_SIZES, "hidden_size": 96, "embedding_size": 32, "num_hidden_layers": 3}
_MPNET = {**BERT_SIZES, "num_attention_heads": 2, "intermediate_size": 128}
del _MPNET["type_vocab_size"]
_DEBERTA = {
    **BERT_SIZES,
    "intermediate_size": 160,
    "type_vocab_size": 0,
    "relative_attention": True,
    "position_buckets": 4,
    "max_relative_positions": 7,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
_FIRST_DEBERTA = {
    key: value
    for key, value in {**_DEBERTA, "hidden_size": 64}.items()
    if key not in ("position_buckets", "norm_rel_ebd", "share_att_key")
}
_QWEN = {**LLAMA_SIZES, "tie_word_embeddings": False}
_UNNAMED = LLAMA_SIZES.keys() - {"intermediate_size", "num_key_value_heads"}
_NEOX = {**{key: LLAMA_SIZES[key] for key in _UNNAMED}, "intermediate_size": 64}
_FALCON = {
    **{key: LLAMA_SIZES[key] for key in _UNNAMED},
    "ffn_hidden_size": 112,
    "new_decoder_architecture": True,
    "num_kv_heads": 2,
    "bias": True,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_LONGROPE = {  # transformers takes the long factors beyond 64 positions
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.1, 1.7, 2.9],
    "long_factor": [2.0, 3.0, 5.0],
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.75,
}
_T5GEMMA: dict[str, Any] = {
    **LLAMA_SIZES,
    "intermediate_size": 48,
    "head_dim": 12,
    "sliding_window": 4,
    "query_pre_attn_scalar": 9,
    "attn_logit_softcapping": 1.5,
    "final_logit_softcapping": 4.0,
}

# Three rows of five patches, and heads of 12 values.
_VIT: dict[str, Any] = {
    "model_type": "vit",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": [12, 20],
    "patch_size": 4,
}
_TROCR: dict[str, Any] = {
    "model_type": "trocr",
    "vocab_size": VOCAB,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    **SEQ2SEQ_TOKENS,
}


def _vision(encoder: dict[str, Any], decoder: dict[str, Any]) -> TinyModel:
    return TinyModel(
        model="VisionEncoderDecoderModel",
        config="VisionEncoderDecoderConfig",
        settings={"encoder": encoder, "decoder": decoder},
    )


GENERATORS: dict[str, TinyModel] = {
    "trocr": _vision(
        {**_VIT, "qkv_bias": False},
        {
            **_TROCR,
            "cross_attention_hidden_size": 48,
            "activation_function": "relu",
            "scale_embedding": True,
            "tie_word_embeddings": False,
        },
    ),
    "t5": _seq2seq("T5", **T5_SIZES),
    "t5-untied": _seq2seq(
        "T5",
        **{**T5_SIZES, "d_kv": 12},  # no multiple of 8, see pad_heads.py
        tie_word_embeddings=False,
        feed_forward_proj="gated-gelu",
    ),
    "mt5": _seq2seq("MT5", **T5_SIZES, tie_word_embeddings=False),
    "umt5": _seq2seq(
        "UMT5", **{**T5_SIZES, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 96}
    ),
    "bart": _seq2seq("Bart", **BART_SIZES),
    "mbart": _seq2seq("MBart", **BART_SIZES, scale_embedding=True),
    "marian": TinyModel(model="MarianMTModel", config="MarianConfig", settings=_MARIAN),
    "marian-split": TinyModel(
        model="MarianMTModel",
        config="MarianConfig",
        settings={
            **_MARIAN,
            "share_encoder_decoder_embeddings": False,
            "decoder_vocab_size": VOCAB - 16,
        },
    ),
    "m2m100": _seq2seq("M2M100", **BART_SIZES, scale_embedding=True),
    "blenderbot": _seq2seq("Blenderbot", **_BLENDERBOT, scale_embedding=True),
    "blenderbot-small": _seq2seq(
        "BlenderbotSmall", **{**_BLENDERBOT, "d_model": 64}, scale_embedding=True
    ),
    "pegasus": _seq2seq("Pegasus", **{**BART_SIZES, "decoder_start_token_id": 1}),
    "whisper": _seq2seq("Whisper", **_WHISPER),
    "moonshine": _seq2seq("Moonshine", **_MOONSHINE),
    "t5gemma": _seq2seq(
        "T5Gemma",
        encoder=_T5GEMMA,
        decoder={**_T5GEMMA, "num_key_value_heads": 1, "sliding_window": 6, "head_dim": 20},
        vocab_size=VOCAB,
        tie_word_embeddings=False,
        **SEQ2SEQ_TOKENS,
    ),
    "gpt2": TinyModel(model="GPT2LMHeadModel", config="GPT2Config", settings=_GPT2, kind="decoder"),
    "opt": _causal("OPT", **_OPT),
    "llama": _causal("Llama", **LLAMA_SIZES),
    "llama-biases-tied": _causal(
        "Llama", **LLAMA_SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "mistral": _causal("Mistral", **LLAMA_SIZES, sliding_window=6, head_dim=16),
    "qwen2": _causal("Qwen2", **_QWEN),
    "qwen3": _causal("Qwen3", **{**_QWEN, "tie_word_embeddings": True}, head_dim=12),
    "smollm3": _causal(
        "SmolLM3", **LLAMA_SIZES, no_rope_layers=[0, 1], rope_parameters=_LLAMA3, hidden_act="gelu"
    ),
    "phi3": _causal(
        "Phi3",
        **{**LLAMA_SIZES, "intermediate_size": 48, "max_position_embeddings": 256},
        original_max_position_embeddings=64,
        rope_parameters=_LONGROPE,
    ),
    "lfm2": _causal(
        "Lfm2",
        **{**_QWEN, "tie_word_embeddings": True, "intermediate_size": 90, "num_hidden_layers": 4},
        block_multiple_of=16,
        conv_L_cache=4,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    ),
    # Gemma's large embeddings would say the last token again where they are the LM head too.
    "gemma": _causal("Gemma", **{**_QWEN, "intermediate_size": 80}, head_dim=16),
    "gemma2": _causal(
        "Gemma2",
        **{**_QWEN, "intermediate_size": 48},
        head_dim=16,
        sliding_window=6,
        query_pre_attn_scalar=9,
        attn_logit_softcapping=1.5,
        final_logit_softcapping=4.0,
    ),
    "gemma3": TinyModel(
        model="Gemma3ForCausalLM",
        config="Gemma3TextConfig",
        settings={
            **_QWEN,
            "num_hidden_layers": 3,
            "intermediate_size": 112,
            "head_dim": 16,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 24,
        },
        kind="decoder",
    ),
    "ministral": _causal(
        "Ministral",
        **{**LLAMA_SIZES, "intermediate_size": 96},
        head_dim=8,
        sliding_window=7,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "granite": _causal(
        "Granite",
        **{**LLAMA_SIZES, "intermediate_size": 80},
        embedding_multiplier=6.0,
        attention_multiplier=0.2,
        residual_multiplier=0.4,
        logits_scaling=0.5,
    ),
    "granite-hybrid": _causal(
        "GraniteMoeHybrid",
        **{**LLAMA_SIZES, "intermediate_size": 8},
        shared_intermediate_size=48,
        num_local_experts=0,
        layer_types=["full_attention", "full_attention"],
        position_embedding_type="rope",
        mamba_n_heads=8,
        mamba_d_head=8,
        embedding_multiplier=5.0,
        attention_multiplier=0.3,
        residual_multiplier=0.5,
        logits_scaling=0.6,
    ),
    "olmo2": _causal("Olmo2", **{**LLAMA_SIZES, "intermediate_size": 48}),
    "olmo3": _causal(
        "Olmo3",
        **{**LLAMA_SIZES, "intermediate_size": 32},
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "stablelm": _causal("StableLm", **{**LLAMA_SIZES, "hidden_size": 64}, use_qkv_bias=True),
    "phi": _causal("Phi", **{**LLAMA_SIZES, "hidden_size": 64, "intermediate_size": 48}),
    "gpt-neox": _causal("GPTNeoX", **_NEOX),
    "falcon": _causal("Falcon", **_FALCON),
    "ernie4_5": _causal(
        "Ernie4_5",
        **{**_QWEN, "intermediate_size": 112},
        head_dim=16,
        use_bias=True,
    ),
    "glm": _causal("Glm", **{**LLAMA_SIZES, "intermediate_size": 32}, head_dim=16),
    "exaone4": _causal(
        "Exaone4",
        **{**LLAMA_SIZES, "intermediate_size": 80},
        sliding_window=5,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "starcoder2": _causal("Starcoder2", **{**LLAMA_SIZES, "intermediate_size": 96}),
}

_MODERNBERT: dict[str, Any] = {
    **{key: BERT_SIZES[key] for key in BERT_SIZES if key != "type_vocab_size"},
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "local_attention": 6,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}
_EUROBERT: dict[str, Any] = {
    **{key: BERT_SIZES[key] for key in BERT_SIZES if key != "type_vocab_size"},
    "num_key_value_heads": 2,
    "intermediate_size": 112,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "mask_token_id": 3,
}

ENCODERS: dict[str, TinyModel] = {
    "bert": _classifier("Bert", **BERT_SIZES),
    "roberta": _classifier("Roberta", **{**BERT_SIZES, "type_vocab_size": 1}),
    "distilbert": _classifier(
        "DistilBert",
        vocab_size=VOCAB,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        num_labels=3,
        pad_token_id=1,
    ),
    "electra": _classifier("Electra", **_ELECTRA),
    "albert-embedding": _encoder("Albert", **_ALBERT),
    "mpnet-embedding": _encoder("MPNet", **_MPNET),
    "deberta-v2": _classifier("DebertaV2", **_DEBERTA),
    "bert-embedding": _encoder("Bert", **BERT_SIZES),
    "roberta-embedding": _encoder("Roberta", **{**BERT_SIZES, "type_vocab_size": 1}),
    "distilbert-embedding": _encoder(
        "DistilBert",
        vocab_size=VOCAB,
        dim=32,
        n_layers=2,
        n_heads=4,
        hidden_dim=64,
        max_position_embeddings=64,
        pad_token_id=1,
    ),
    "modernbert": _classifier("ModernBert", **_MODERNBERT, classifier_pooling="mean"),
    "modernbert-embedding": _encoder("ModernBert", **_MODERNBERT),
    "embedding-gemma": TinyModel(
        model="Gemma3TextModel",
        config="Gemma3TextConfig",
        settings={
            **LLAMA_SIZES,
            "num_key_value_heads": 1,
            "intermediate_size": 80,
            "head_dim": 16,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "use_bidirectional_attention": True,
        },
        kind="encoder",
    ),
    "eurobert": _classifier("EuroBert", **_EUROBERT),
    "nomic-bert": _classifier("NomicBert", **{**BERT_SIZES, "intermediate_size": 48}),
    "qwen3-classifier": _classifier("Qwen3", **_QWEN, head_dim=12, num_labels=3),
}


def _head(name: str, head: str, **settings: Any) -> TinyModel:
    return TinyModel(
        model=f"{name}{head}", config=f"{name}Config", settings=settings, kind="encoder"
    )


TOKENS, SPAN, MASKED = "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"
# What answers each token; the graphs of other families differ in nothing more.
_HEAD_SIZES = {**BERT_SIZES, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 2}
HEADS: dict[str, TinyModel] = {
    "bert-tokens": _head("Bert", TOKENS, **_HEAD_SIZES),
    "bert-span": _head("Bert", SPAN, **{**_HEAD_SIZES, "num_labels": 2}),
    "bert-masked": _head("Bert", MASKED, **_HEAD_SIZES),
    "modernbert-tokens": _head(
        "ModernBert",
        TOKENS,
        **{**_MODERNBERT, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 2},
    ),
    "eurobert-masked": _head(
        "EuroBert", MASKED, **_EUROBERT, tie_word_embeddings=True, mlp_bias=True
    ),
}
_ROBERTA, _DISTILBERT = ENCODERS["roberta"].settings, ENCODERS["distilbert"].settings
_TWO = {"num_labels": 2}
_MODERN = {**_MODERNBERT, "norm_bias": True, "classifier_bias": True, "mlp_bias": True}
EAGER_HEADS: dict[str, TinyModel] = {
    "roberta-tokens": _head("Roberta", TOKENS, **_ROBERTA),
    "distilbert-tokens": _head("DistilBert", TOKENS, **_DISTILBERT),
    "electra-tokens": _head("Electra", TOKENS, **_ELECTRA),
    "albert-tokens": _head("Albert", TOKENS, **_ALBERT),
    "mpnet-tokens": _head("MPNet", TOKENS, **_MPNET),
    "deberta-tokens": _head("Deberta", TOKENS, **_FIRST_DEBERTA),
    "deberta-v2-tokens": _head("DebertaV2", TOKENS, **_DEBERTA),
    "nomic-bert-tokens": _head("NomicBert", TOKENS, **BERT_SIZES),
    "gte-tokens": _head("Gte", TOKENS, **BERT_SIZES),
    "eurobert-tokens": _head("EuroBert", TOKENS, **_EUROBERT),
    "xlm-roberta-tokens": _head("XLMRoberta", TOKENS, **_ROBERTA),
    "camembert-tokens": _head("Camembert", TOKENS, **_ROBERTA),
    "roberta-span": _head("Roberta", SPAN, **{**_ROBERTA, **_TWO}),
    "distilbert-span": _head("DistilBert", SPAN, **{**_DISTILBERT, **_TWO}),
    "electra-span": _head("Electra", SPAN, **{**_ELECTRA, **_TWO}),
    "albert-span": _head("Albert", SPAN, **{**_ALBERT, **_TWO}),
    "mpnet-span": _head("MPNet", SPAN, **{**_MPNET, **_TWO}),
    "deberta-span": _head("Deberta", SPAN, **{**_FIRST_DEBERTA, **_TWO}),
    "deberta-v2-span": _head("DebertaV2", SPAN, **{**_DEBERTA, **_TWO}),
    "modernbert-span": _head("ModernBert", SPAN, **{**_MODERN, **_TWO}),
    "xlm-roberta-span": _head("XLMRoberta", SPAN, **{**_ROBERTA, **_TWO}),
    "camembert-span": _head("Camembert", SPAN, **{**_ROBERTA, **_TWO}),
    "roberta-masked": _head("Roberta", MASKED, **_ROBERTA),
    "distilbert-masked": _head("DistilBert", MASKED, **_DISTILBERT),
    "electra-masked": _head("Electra", MASKED, **_ELECTRA),
    "albert-masked": _head("Albert", MASKED, **_ALBERT, hidden_act="gelu_new"),
    "mpnet-masked": _head("MPNet", MASKED, **_MPNET),
    "deberta-masked": _head("Deberta", MASKED, **_FIRST_DEBERTA),
    "deberta-v2-masked": _head("DebertaV2", MASKED, **_DEBERTA),
    "bert-masked-untied": _head("Bert", MASKED, **_HEAD_SIZES, tie_word_embeddings=False),
    "nomic-bert-masked": _head("NomicBert", MASKED, **BERT_SIZES),
    "gte-masked": _head("Gte", MASKED, **BERT_SIZES),
    "modernbert-masked": _head("ModernBert", MASKED, **_MODERNBERT),
    "modernbert-masked-untied": _head(
        "ModernBert", MASKED, **_MODERN, tie_word_embeddings=False, decoder_bias=False
    ),
    "eurobert-masked-untied": _head("EuroBert", MASKED, **_EUROBERT),
    "xlm-roberta-masked": _head("XLMRoberta", MASKED, **_ROBERTA),
    "camembert-masked": _head("Camembert", MASKED, **_ROBERTA),
    "distilbert-sparse": _head("DistilBert", MASKED, **_DISTILBERT),
    "bert-sparse": _head("Bert", MASKED, **_HEAD_SIZES),
    "modernbert-sparse": _head("ModernBert", MASKED, **_MODERNBERT),
    "mistral-span": _head("Mistral", SPAN, **LLAMA_SIZES, sliding_window=6),
    "qwen2-tokens": _head("Qwen2", TOKENS, **_QWEN, num_labels=3),
}

ALL: dict[str, TinyModel] = {**GENERATORS, **ENCODERS, **HEADS}
# The same graphs as a family above has: compared without an export.
ALIKE: dict[str, TinyModel] = {
    "xlm-roberta": _classifier("XLMRoberta", **{**BERT_SIZES, "type_vocab_size": 1}),
    "camembert": _encoder("Camembert", **{**BERT_SIZES, "type_vocab_size": 1}),
    "electra-embedding": _encoder("Electra", **_ELECTRA),
    "deberta": _classifier("Deberta", **_FIRST_DEBERTA),
    "deberta-v2-embedding": _encoder("DebertaV2", **_DEBERTA),
    "electra-wide": _classifier("Electra", **{**_ELECTRA, "embedding_size": 64}),
    "albert": _classifier("Albert", **_ALBERT),
    "mpnet": _classifier("MPNet", **_MPNET),
    "nomic-bert-embedding": _encoder("NomicBert", **BERT_SIZES),
    "gte": _classifier("Gte", **BERT_SIZES),
    "gte-embedding": _encoder("Gte", **{**BERT_SIZES, "type_vocab_size": 1}),
    "xlm-roberta-embedding": _encoder("XLMRoberta", **_ROBERTA),
    "camembert-classifier": _classifier("Camembert", **_ROBERTA),
    "deberta-embedding": _encoder("Deberta", **_FIRST_DEBERTA),
    "eurobert-embedding": _encoder("EuroBert", **_EUROBERT),
    "gemma3-classifier": TinyModel(
        model="Gemma3TextForSequenceClassification",
        config="Gemma3TextConfig",
        settings={**GENERATORS["gemma3"].settings, "num_labels": 3},
        kind="encoder",
    ),
    "gemma3-bidirectional-classifier": TinyModel(
        model="Gemma3TextForSequenceClassification",
        config="Gemma3TextConfig",
        settings={**ENCODERS["embedding-gemma"].settings, "num_labels": 3},
        kind="encoder",
    ),
}
# Compared without an export, too: other parts around the same graphs.
EAGER_GENERATORS: dict[str, TinyModel] = {
    "t5gemma-uneven": _seq2seq(
        "T5Gemma",
        **{**GENERATORS["t5gemma"].settings, "encoder": {**_T5GEMMA, "hidden_size": 48}},
    ),
    "trocr-deit": _vision(
        {**_VIT, "model_type": "deit", "patch_size": [4, 5], "num_channels": 1},
        {
            **_TROCR,
            "pad_token_id": 3,
            "layernorm_embedding": False,
            "use_learned_position_embeddings": False,
        },
    ),
    "vit-gpt2": _vision(
        _VIT, {**_GPT2, "model_type": "gpt2", "add_cross_attention": True, "is_decoder": True}
    ),
}
FOREIGN = ("bergamot",)  # exported too, but no models of transformers
# Those too that are not exported.
EVERY: dict[str, TinyModel] = {**ALL, **EAGER_HEADS, **ALIKE, **EAGER_GENERATORS}


def task_of(name: str) -> str | None:
    """What a checkpoint is asked to do whose class leaves a choice."""
    return "fill" if "masked" in name else "weigh" if "sparse" in name else None


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    """The random model of that name, in eval mode, sharp enough that its tokens vary.

    None of those that transformers does not have.
    """
    if name in FOREIGN:
        return None
    entry = EVERY[name]
    torch.manual_seed(seed)
    config = getattr(transformers, entry.config)(**{**entry.settings, **changes})
    model = getattr(transformers, entry.model)(config).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "position" in key and not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                scale = 0.3
                base = parameter if "norm" in key.lower() or "ln_" in key else 0.0
                parameter.copy_(base + scale * noise)
            else:
                parameter.copy_(noise * (1.6 / parameter[0].numel() ** 0.5))
        for key, buffer in model.named_buffers():
            if key.endswith("final_logits_bias"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return model


def save(name: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """Make that model, write it as a folder of its own kind, return it."""
    if name in FOREIGN:
        bergamot_folders.save(folder, **changes)
        return None
    model = make(name, seed, **changes)
    model.save_pretrained(folder)
    return model


def export(folder: Path, name: str, **changes: Any) -> tuple[Path, ExportReport]:
    """The folder with checkpoint and bundle that the command line made, and its report."""
    reports = []

    def kept(*arguments: Any, **options: Any) -> ExportReport:
        reports.append(export_checkpoint(*arguments, **options))
        return reports[-1]

    save(name, folder / "checkpoint", **changes)
    with mock.patch("seq2edge.export.pipeline.export_checkpoint", kept):
        task = ("--task", task_of(name)) if task_of(name) else ()
        result = call(
            "export", folder / "checkpoint", "-o", folder / "bundle", "--original", "no", *task
        )
    assert result.exit_code == 0, result.output
    return folder, reports[0]


def canonical_graph(bundle: Bundle, role: str) -> ir.Model:
    """A bundle's canonical graph: as traced, with transposes folded and weights named."""
    return ir.load(bundle.file(bundle.graph(role).file))
