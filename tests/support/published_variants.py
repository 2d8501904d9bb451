"""Other well-known checkpoints of the families that are supported: their config.json, by hand.

Each is a file of `published_configs.py` with what is its own, as it was published; `FACTS` says
what must be read of it.
"""

from __future__ import annotations

from typing import Any

from published_configs import CONFIGS


def _labels(*names: str) -> dict[str, Any]:
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _bert(
    architecture: str, layers: int, width: int, heads: int, vocab: int, **own: Any
) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads}
    known = {"architectures": [architecture], "num_hidden_layers": layers, "vocab_size": vocab}
    return {**CONFIGS["bert-base-uncased"], **sizes, **known, **own}


def _like(name: str, **own: Any) -> dict[str, Any]:
    return {**CONFIGS[name], **own}


def _bart(name: str, layers: tuple[int, int], heads: int, width: int, **own: Any) -> dict[str, Any]:
    sides = {
        f"{side}_{key}": value
        for side, count in zip(("encoder", "decoder"), layers, strict=True)
        for key, value in (
            ("layers", count),
            ("attention_heads", heads),
            ("ffn_dim", 4 * width),
        )
    }
    return _like(name, d_model=width, num_hidden_layers=layers[0], **sides, **own)


# What the first BERT's conversion left.
_POOLER = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
_WHISPER = {
    "_name_or_path": "openai/whisper-large-v3",
    "apply_spec_augment": False,
    "classifier_proj_size": 256,
    "forced_decoder_ids": None,
    "mask_feature_length": 10,
    "mask_feature_min_masks": 0,
    "mask_feature_prob": 0.0,
    "mask_time_length": 10,
    "mask_time_min_masks": 2,
    "mask_time_prob": 0.05,
    "median_filter_width": 7,
    "use_weighted_layer_sum": False,
    "torch_dtype": "float16",
    "num_mel_bins": 128,
    "vocab_size": 51866,
}
_GPT2 = {"n_special": 0, "predict_special_tokens": True}
_T5 = {"dense_act_fn": "gelu_new", "is_gated_act": True, "classifier_dropout": 0.0}
_DISTILBART = {
    "add_final_layer_norm": False,
    "eos_token_ids": [2],
    "extra_pos_embeddings": 2,
    "normalize_embedding": True,
    "replacing_rate": 0,
    "save_step": 58,
    "static_position_embeddings": False,
    "student_decoder_layers": None,
    "student_encoder_layers": None,
    **_labels("LABEL_0", "LABEL_1", "LABEL_2"),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "all-MiniLM-L6-v2": _bert(
        "BertModel", 6, 384, 12, 30522, _name_or_path="nreimers/MiniLM-L6-H384-uncased"
    ),
    "all-MiniLM-L12-v2": _bert("BertModel", 12, 384, 12, 30522),
    "paraphrase-multilingual-MiniLM-L12-v2": _bert("BertModel", 12, 384, 12, 250037),
    "bge-small-en-v1.5": _bert(
        "BertModel", 12, 384, 12, 30522, classifier_dropout=None, **_labels("LABEL_0")
    ),
    "bge-base-en-v1.5": _bert(
        "BertModel", 12, 768, 12, 30522, torch_dtype="float32", **_labels("LABEL_0")
    ),
    "bge-large-en-v1.5": _bert("BertModel", 24, 1024, 16, 30522, **_labels("LABEL_0")),
    "bge-small-zh-v1.5": _bert("BertModel", 4, 512, 8, 21128, **_POOLER, **_labels("LABEL_0")),
    "e5-small-v2": _bert("BertModel", 12, 384, 12, 30522, torch_dtype="float32"),
    "gte-large": _bert("BertModel", 24, 1024, 16, 30522, torch_dtype="float16"),
    "snowflake-arctic-embed-xs": _bert("BertModel", 6, 384, 12, 30522),
    "snowflake-arctic-embed-m": _bert("BertModel", 12, 768, 12, 30522),
    "LaBSE": _bert("BertModel", 12, 768, 12, 501153, **_POOLER),
    "bert-base-multilingual-cased": _bert("BertForMaskedLM", 12, 768, 12, 119547, **_POOLER),
    "bert-base-multilingual-uncased-sentiment": _bert(
        "BertForSequenceClassification",
        *(12, 768, 12, 105879),
        _num_labels=5,
        finetuning_task="sentiment-analysis",
        output_past=True,
        **_POOLER,
        **_labels("1 star", "2 stars", "3 stars", "4 stars", "5 stars"),
    ),
    "distilroberta-base": _like("roberta-base", num_hidden_layers=6),
    "twitter-roberta-base-sentiment-latest": _like(
        "roberta-base",
        architectures=["RobertaForSequenceClassification"],
        gradient_checkpointing=False,
        **_labels("negative", "neutral", "positive"),
    ),
    "distilbert-base-multilingual-cased": _like(
        "distilbert-base-uncased-finetuned-sst-2-english",
        architectures=["DistilBertForMaskedLM"],
        id2label=None,
        label2id=None,
        finetuning_task=None,
        vocab_size=119547,
    ),
    "t5-base": _like("t5-small", d_ff=3072, d_model=768, num_heads=12, num_layers=12),
    "flan-t5-small": _like(
        "flan-t5-base", d_ff=1024, d_model=512, num_heads=6, num_layers=8, num_decoder_layers=8
    ),
    "flan-t5-xl": _like(
        "flan-t5-base", d_ff=5120, d_model=2048, num_heads=32, num_layers=24, num_decoder_layers=24
    ),
    "byt5-small": _like(
        "flan-t5-base",
        d_ff=3584,
        d_model=1472,
        num_heads=6,
        num_layers=12,
        num_decoder_layers=4,
        gradient_checkpointing=False,
        tokenizer_class="ByT5Tokenizer",
        vocab_size=384,
    ),
    "madlad400-3b-mt": _like(
        "flan-t5-base",
        d_ff=8192,
        d_kv=128,
        d_model=1024,
        num_heads=16,
        num_layers=32,
        num_decoder_layers=32,
        pad_token_id=1,
        eos_token_id=2,
        vocab_size=256000,
        **_T5,
    ),
    "distilbart-cnn-12-6": _bart("bart-large-cnn", (12, 6), 16, 1024, **_DISTILBART),
    "bart-base": _bart(
        *("bart-large-cnn", (6, 6), 12, 768), vocab_size=50265, normalize_embedding=True
    ),
    "mbart-large-cc25": _bart(
        *("mbart-large-50-many-to-many-mmt", (12, 12), 16, 1024),
        vocab_size=250027,
        task_specific_params={"translation_en_to_ro": {"decoder_start_token_id": 250020}},
    ),
    "opus-mt-en-de": _like(
        "opus-mt-en-fr",
        decoder_start_token_id=58100,
        pad_token_id=58100,
        bad_words_ids=[[58100]],
        decoder_vocab_size=None,
        share_encoder_decoder_embeddings=None,
        vocab_size=58101,
    ),
    "opus-mt-en-ROMANCE": _like(
        "opus-mt-en-fr",
        decoder_start_token_id=65000,
        pad_token_id=65000,
        bad_words_ids=[[65000]],
        decoder_vocab_size=65001,
        vocab_size=65001,
    ),
    "nllb-200-1.3B": {
        **_bart("nllb-200-distilled-600M", (24, 24), 16, 1024),
        "encoder_ffn_dim": 8192,
        "decoder_ffn_dim": 8192,
    },
    "m2m100_418M": _bart(
        *("nllb-200-distilled-600M", (12, 12), 16, 1024),
        encoder_layerdrop=0.05,
        decoder_layerdrop=0.05,
        early_stopping=True,
        num_beams=5,
        gradient_checkpointing=False,
        tokenizer_class=None,
        vocab_size=128112,
    ),
    "whisper-small": _bart("whisper-tiny", (12, 12), 12, 768),
    "whisper-large-v3": _bart("whisper-tiny", (32, 32), 20, 1280, **_WHISPER),
    "whisper-large-v3-turbo": _bart("whisper-tiny", (32, 4), 20, 1280, **_WHISPER),
    "distil-large-v3": _bart("whisper-tiny", (32, 2), 20, 1280, **_WHISPER),
    "moonshine-base": _like(
        "moonshine-tiny",
        hidden_size=416,
        intermediate_size=1664,
        **{f"{side}_num_hidden_layers": 8 for side in ("encoder", "decoder")},
        partial_rotary_factor=0.62,
    ),
    "distilgpt2": _like("gpt2", n_layer=6, _num_labels=1, **_labels("LABEL_0")),
    "gpt2-medium": _like("gpt2", n_layer=24, n_embd=1024, n_head=16, **_GPT2),
    "gpt2-xl": _like("gpt2", n_layer=48, n_embd=1600, n_head=25, output_past=True),
    "SmolLM2-135M-Instruct": _like(
        "TinyLlama-1.1B",
        hidden_size=576,
        intermediate_size=1536,
        is_llama_config=True,
        max_position_embeddings=8192,
        mlp_bias=False,
        num_attention_heads=9,
        num_hidden_layers=30,
        num_key_value_heads=3,
        pad_token_id=2,
        rope_interleaved=False,
        rope_theta=100000,
        tie_word_embeddings=True,
        vocab_size=49152,
        **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}},
    ),
    "SmolLM2-360M-Instruct-unsloth": _like(
        "TinyLlama-1.1B",
        hidden_size=960,
        intermediate_size=2560,
        num_attention_heads=15,
        num_hidden_layers=32,
        num_key_value_heads=5,
        tie_word_embeddings=True,
        vocab_size=49152,
        unsloth_fixed=True,
        unsloth_version="2025.1.5",
        _attn_implementation_autoset=True,
    ),
    "Mistral-7B-Instruct-v0.3": _like(
        "Mistral-7B-v0.1", sliding_window=None, rope_theta=1000000.0, vocab_size=32768
    ),
    "Qwen2.5-1.5B-Instruct": _like(
        "Qwen2.5-0.5B-Instruct",
        hidden_size=1536,
        intermediate_size=8960,
        max_window_layers=21,
        num_attention_heads=12,
        num_hidden_layers=28,
    ),
    "DeepSeek-R1-Distill-Qwen-1.5B": _like(
        "Qwen2.5-0.5B-Instruct",
        hidden_size=1536,
        intermediate_size=8960,
        max_position_embeddings=131072,
        num_attention_heads=12,
        num_hidden_layers=28,
        rope_theta=10000,
        sliding_window=4096,
        tie_word_embeddings=False,
        use_mrope=False,
    ),
    "Qwen3-1.7B": _like("Qwen3-0.6B", hidden_size=2048, intermediate_size=6144),
}

# Layers and heads of the encoder and of the decoder, the width, facts of the dims by their path.
FACTS: dict[str, tuple[Any, Any, int, dict[str, Any]]] = {
    "all-MiniLM-L6-v2": ((6, 12), None, 384, {"encoder.head_dim": 32, "task": "embed"}),
    "all-MiniLM-L12-v2": ((12, 12), None, 384, {"encoder.hidden": 1536}),
    "paraphrase-multilingual-MiniLM-L12-v2": ((12, 12), None, 384, {"vocab": 250037}),
    "bge-small-en-v1.5": ((12, 12), None, 384, {"head": "embedding"}),
    "bge-base-en-v1.5": ((12, 12), None, 768, {"token_types": 2}),
    "bge-large-en-v1.5": ((24, 16), None, 1024, {"encoder.hidden": 4096}),
    "bge-small-zh-v1.5": ((4, 8), None, 512, {"encoder.head_dim": 64}),
    "e5-small-v2": ((12, 12), None, 384, {"encoder.max_positions": 512}),
    "gte-large": ((24, 16), None, 1024, {"encoder.pre_norm": False}),
    "snowflake-arctic-embed-xs": ((6, 12), None, 384, {"encoder.activation": "gelu"}),
    "snowflake-arctic-embed-m": ((12, 12), None, 768, {"encoder.norm_epsilon": 1e-12}),
    "LaBSE": ((12, 12), None, 768, {"vocab": 501153}),
    "bert-base-multilingual-cased": ((12, 12), None, 768, {"vocab": 119547}),
    "bert-base-multilingual-uncased-sentiment": ((12, 12), None, 768, {"labels": 5}),
    "distilroberta-base": ((6, 12), None, 768, {"encoder.max_positions": 512}),
    "twitter-roberta-base-sentiment-latest": (
        *((12, 12), None, 768),
        {"labels": 3, "task": "classify"},
    ),
    "distilbert-base-multilingual-cased": ((6, 12), None, 768, {"task": "embed"}),
    "t5-base": ((12, 12), (12, 12), 768, {"encoder.gated": False, "tied": True}),
    "flan-t5-small": ((8, 6), (8, 6), 512, {"encoder.head_dim": 64, "encoder.gated": True}),
    "flan-t5-xl": ((24, 32), (24, 32), 2048, {"logits_scale": 1.0, "tied": False}),
    "byt5-small": ((12, 6), (4, 6), 1472, {"vocab": 384}),
    "madlad400-3b-mt": ((32, 16), (32, 16), 1024, {"encoder.head_dim": 128}),
    "distilbart-cnn-12-6": ((12, 16), (6, 16), 1024, {"decoder.max_positions": 1024}),
    "bart-base": ((6, 12), (6, 12), 768, {"encoder.embedding_norm": True}),
    "mbart-large-cc25": ((12, 16), (12, 16), 1024, {"encoder.pre_norm": True, "vocab": 250027}),
    "opus-mt-en-de": ((6, 8), (6, 8), 512, {"vocab": 58101, "source_vocab": 0}),
    "opus-mt-en-ROMANCE": ((6, 8), (6, 8), 512, {"vocab": 65001, "encoder.activation": "silu"}),
    "nllb-200-1.3B": ((24, 16), (24, 16), 1024, {"encoder.hidden": 8192}),
    "m2m100_418M": ((12, 16), (12, 16), 1024, {"vocab": 128112, "encoder.positions": "sinusoidal"}),
    "whisper-small": ((12, 12), (12, 12), 768, {"mels": 80}),
    "whisper-large-v3": ((32, 20), (32, 20), 1280, {"mels": 128, "vocab": 51866}),
    "whisper-large-v3-turbo": ((32, 20), (4, 20), 1280, {"mels": 128}),
    "distil-large-v3": ((32, 20), (2, 20), 1280, {"task": "transcribe"}),
    "moonshine-base": ((8, 8), (8, 8), 416, {"encoder.rotary_dim": 32, "longest_clip": 1024254}),
    "distilgpt2": (None, (6, 12), 768, {"decoder.hidden": 3072}),
    "gpt2-medium": (None, (24, 16), 1024, {"decoder.hidden": 4096}),
    "gpt2-xl": (None, (48, 25), 1600, {"decoder.head_dim": 64}),
    "SmolLM2-135M-Instruct": (None, (30, 9), 576, {"decoder.kv_heads": 3, "tied": True}),
    "SmolLM2-360M-Instruct-unsloth": (None, (32, 15), 960, {"decoder.kv_heads": 5}),
    "Mistral-7B-Instruct-v0.3": (None, (32, 32), 4096, {"decoder.window": 0, "vocab": 32768}),
    "Qwen2.5-1.5B-Instruct": (None, (28, 12), 1536, {"decoder.qkv_bias": True}),
    "DeepSeek-R1-Distill-Qwen-1.5B": (None, (28, 12), 1536, {"decoder.window": 0, "tied": False}),
    "Qwen3-1.7B": (None, (28, 16), 2048, {"decoder.head_dim": 128, "decoder.qk_norm": True}),
}
