"""Phi-2 and GPT-NeoX (Pythia): attention and feed-forward side by side, both of the layer's input.

Sources: Li et al. 2023, Black et al. 2022, Biderman et al. 2023.
"""

from __future__ import annotations

from torch import Tensor

from seq2edge.checkpoints.families.llama import BEFORE, decoder_family
from seq2edge.model.dims import StackDims


def _by_head(stack: StackDims, qkv: Tensor) -> Tensor:
    """Query, key and value of head after head -> all queries, all keys, all values."""
    heads = qkv.reshape(stack.heads, 3, stack.head_dim, -1)
    return heads.transpose(0, 1).reshape(qkv.shape)


PHI = decoder_family(
    "phi",
    "Phi",
    part=0.5,
    biases=(True, True, True),
    activation=lambda config: config.activation("hidden_act", "gelu_new"),
    epsilon=("layer_norm_eps", 1e-5),
    norm="layer",
    norms={"attention_norm": "input_layernorm", "feedforward_norm": "input_layernorm"},
    parallel=lambda _config: True,
    final_norm="model.final_layernorm",
    head_bias=True,
    out="self_attn.dense",
    up=("mlp.fc1",),
    down="mlp.fc2",
    gated=False,
    required={"qk_layernorm": False},
)
GPT_NEOX = decoder_family(
    "gpt_neox",
    "GPTNeoX",
    keys={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    part=0.25,
    biases=(True, True, True),
    activation=lambda config: config.activation("hidden_act", "gelu"),
    epsilon=("layer_norm_eps", 1e-5),
    norm="layer",
    norms=BEFORE,
    parallel=lambda config: bool(config.get("use_parallel_residual", True)),
    embedding="gpt_neox.embed_in",
    layers="gpt_neox.layers",
    final_norm="gpt_neox.final_layer_norm",
    head="embed_out",
    qkv=("attention.query_key_value",),
    qkv_transform=_by_head,
    out="attention.dense",
    up=("mlp.dense_h_to_4h",),
    down="mlp.dense_4h_to_h",
    gated=False,
    required={"attention_bias": True},
)
