"""GGUF files of tiny Llamas, written with ggml's own Python package."""

from __future__ import annotations

import gguf
import numpy as np
import tiny_models

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
LETTERS = sorted("0123456789abcdefghijklmnopqrstuvwxyz<>/|")
TOKENS = ["<unk>", "<s>", "</s>", *LETTERS, "Ġ", "ab", "Ġab", "Ċ"]
TOKENS += [f"<extra{i}>" for i in range(tiny_models.VOCAB - len(TOKENS))]


def stored_name(name):
    """GGUF's name of a Hugging Face tensor."""
    stem, kind = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def in_pairs(values, heads):
    """The row order of llama.cpp's converter: a head's two halves become pairs."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def settings(writer, model, **changes):
    """The metadata of a plain Llama."""
    config = model.config
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.vocab_size,
    }
    for key, value in {**found, **changes}.items():
        if value is not None:
            add(writer, f"llama.{key}", value)


def add(writer, key, value):
    """A setting of the type that the value has."""
    kinds = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
    getattr(writer, kinds.get(type(value), "add_array"))(key, value)


def tokenizer(writer, **changes):
    """A byte-level tokenizer of a few letters."""
    kinds = [3 if t.startswith("<") else 1 for t in TOKENS]
    found = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": TOKENS,
        "token_type": kinds,
        "merges": ["a b", "Ġ ab"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": 2,
    }
    for key, value in {**found, **changes}.items():
        if value is not None:
            add(writer, f"tokenizer.ggml.{key}", value)
    writer.add_string("tokenizer.chat_template", "{{ messages[0].content }}")


def write(model, file, kind=None, *, tensors=None, architecture="llama", tokens=None, **changes):
    """Write the model; matrices in the quantized type `kind`; `rope_freqs` beside it."""
    writer = gguf.GGUFWriter(file, architecture)
    factors = changes.pop("rope_freqs", None)
    settings(writer, model, **changes)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    if tokens is not None:
        tokenizer(writer, **tokens)
    heads = {
        "q_proj": model.config.num_attention_heads,
        "k_proj": model.config.num_key_value_heads,
    }
    for name, tensor in (tensors or model.state_dict()).items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        values = tensor.numpy().astype(np.float32)
        if part := heads.get(name.split(".")[-2]):
            values = in_pairs(values, part)
        if kind is not None and values.ndim > 1:
            data = gguf.quants.quantize(values, kind)
            writer.add_tensor(stored_name(name), data, raw_dtype=kind)
        else:
            writer.add_tensor(stored_name(name), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
