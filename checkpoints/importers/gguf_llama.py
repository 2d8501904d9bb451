"""A GGUF file of a Llama, read as the Hugging Face folder it was converted from.

The converter of llama.cpp renames tensors and reorders the rows of the query and key projections
of every head, from halves to pairs; here the order is turned back. Quantized tensors are
dequantized to float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2edge.checkpoints.importers.gguf_file import GgufFile, StoredTensor, read_gguf
from seq2edge.checkpoints.importers.gguf_tokenizer import tokenizer_files
from seq2edge.checkpoints.importers.huggingface import Source
from seq2edge.errors import CheckpointError, UnsupportedError

ARCHITECTURE = "llama"
FACTORS = "rope_freqs.weight"  # what Llama 3's rotary frequencies are divided by, one by one
WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Settings of the architecture that are read below; any other must hold one of `NEUTRAL`.
READ = frozenset(
    """
    block_count context_length embedding_length feed_forward_length attention.head_count
    attention.head_count_kv attention.key_length attention.value_length
    attention.layer_norm_rms_epsilon rope.freq_base rope.dimension_count vocab_size
    """.split()
)
NEUTRAL = {"expert_count": (0,), "expert_used_count": (0,), "rope.scaling.type": ("none",)}
END_IDS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def open_llama(path: Path) -> Source:
    """Open the file. Raises CheckpointError or UnsupportedError naming setting or tensor."""
    stored = read_gguf(path)
    architecture = stored.settings.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise UnsupportedError(
            f"{path}: architecture {architecture!r} is not supported in GGUF files"
        )
    settings = _Settings(stored.settings, path)
    tensors = {_hugging_face_name(name, path): name for name in stored.tensors if name != FACTORS}
    config = _config(settings, stored, tensors, path)
    ids = {
        f"{ours}_token_id": stored.settings.get(f"tokenizer.ggml.{theirs}_token_id")
        for ours, theirs in END_IDS.items()
    }
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    return Source(
        path=path,
        source_format="gguf",
        config=config,
        generation={name: value for name, value in ids.items() if value is not None},
        names=frozenset(tensors),
        read=lambda name: _read(stored.tensors[tensors[name]], heads.get(name.split(".")[-2], 0)),
        tokenizer_files=tokenizer_files(stored.settings, path),
    )


class _Settings:
    """The architecture's settings; those which nobody knows are refused by name."""

    def __init__(self, settings: Mapping[str, Any], path: Path) -> None:
        prefix = f"{ARCHITECTURE}."
        self._values = {k[len(prefix) :]: v for k, v in settings.items() if k.startswith(prefix)}
        self.path = path
        for name, value in self._values.items():
            if name not in READ and value not in NEUTRAL.get(name, ()):
                raise UnsupportedError(f"{path}: {prefix}{name} = {value!r:.80} is not supported")

    def size(self, name: str, default: int | None = None) -> int:
        """A positive integer that must be there unless a default is given."""
        value = self._values.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(
                f"{self.path}: {ARCHITECTURE}.{name} is {value!r:.80}, needs a positive integer"
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number."""
        value = self._values.get(name, default)
        if not isinstance(value, (int, float)) or not value > 0:
            raise CheckpointError(f"{self.path}: {ARCHITECTURE}.{name} is {value!r:.80}")
        return float(value)


def _hugging_face_name(name: str, path: Path) -> str:
    if name in WHOLE:
        return WHOLE[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in IN_LAYER:
        raise UnsupportedError(f"{path}: tensor {name} is not one that a plain Llama has")
    return f"model.layers.{match[1]}.{IN_LAYER[match[2]]}.{match[3]}"


def _config(
    settings: _Settings, stored: GgufFile, tensors: Mapping[str, str], path: Path
) -> dict[str, Any]:
    """What Hugging Face's config.json would say."""
    width, heads = settings.size("embedding_length"), settings.size("attention.head_count")
    head_dim = settings.size("attention.key_length", width // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if settings.size(name, head_dim) != head_dim:
            raise UnsupportedError(
                f"{path}: {ARCHITECTURE}.{name} {settings.size(name)} differs from the heads' "
                f"{head_dim}, which is not supported"
            )
    table = stored.tensors.get("token_embd.weight")
    if table is None:
        raise CheckpointError(f"{path}: tensor token_embd.weight is missing")
    factors = stored.tensors.get(FACTORS)
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": width,
        "num_hidden_layers": settings.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": settings.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": settings.size("feed_forward_length"),
        "max_position_embeddings": settings.size("context_length"),
        "rms_norm_eps": settings.number("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": settings.number("rope.freq_base", 10000.0),
        "rope_scaling": None if factors is None else _scaling(factors),
        "vocab_size": settings.size("vocab_size", table.shape[0]),
        "hidden_act": "silu",
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in tensors,
        "mlp_bias": "model.layers.0.mlp.up_proj.bias" in tensors,
        "tie_word_embeddings": "lm_head.weight" not in tensors,
    }


def _scaling(factors: StoredTensor) -> dict[str, Any]:
    """Divisors for texts of every length: LongRoPE is the scaling that lists them."""
    listed = factors.to_float32().astype(float).tolist()
    return {"rope_type": "longrope", "short_factor": listed, "attention_factor": 1.0}


def _read(tensor: StoredTensor, heads: int) -> Tensor:
    """The values; `heads` is not 0 where the rows of every head are in pairs."""
    values = torch.from_numpy(tensor.to_float32().copy())
    rows = values.shape[0]
    if not heads or rows % (2 * heads):
        return values
    pairs = values.view(heads, rows // heads // 2, 2, -1)  # (heads, head_dim / 2, 2, width)
    return pairs.transpose(1, 2).reshape(values.shape)
