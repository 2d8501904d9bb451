"""ELECTRA, ALBERT and MPNet: BERT with other embeddings, shared layers, or relative biases too.

Sources: Clark et al. 2020, Lan et al. 2020, Song et al. 2020.
"""

from __future__ import annotations

import dataclasses

from seq2edge.checkpoints.families.bert import BERT_LAYOUT, Layout, bert_dims, bert_family
from seq2edge.checkpoints.families.family import Config, Names
from seq2edge.checkpoints.families.heads import Heads
from seq2edge.model.dims import Dims


def _electra_dims(layout: Layout, config: Config, names: Names) -> Dims:
    config.ignore("summary_last_dropout")
    return bert_dims(layout, config, names)


def _albert_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """One group of one layer, which serves all; keys of sizes that no model ever had."""
    for key, value in {
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "down_scale_factor": 1,
        "gap_size": 0,
        "net_structure_type": 0,
        "num_memory_blocks": 0,
    }.items():
        config.require(key, value)
    config.require("layers_to_keep", [])
    config.ignore("classifier_dropout_prob")
    return bert_dims(layout, config, names)


def _mpnet_dims(layout: Layout, config: Config, names: Names) -> Dims:
    """transformers counts positions and buckets by these two numbers whatever the config says."""
    config.require("pad_token_id", 1)
    config.require("relative_attention_num_buckets", layout.relative_buckets)
    return bert_dims(layout, config, names)


ELECTRA = bert_family(
    "electra",
    "Electra",
    dataclasses.replace(
        BERT_LAYOUT,
        prefix="electra.",
        widen="embeddings_project",
        heads=Heads(
            classifier=("classifier.dense", "classifier.out_proj"),
            classifier_activation="gelu",
            masked=(
                "generator_predictions.dense",
                "generator_predictions.LayerNorm",
                "generator_lm_head",
                "generator_lm_head",
            ),
            masked_activation="gelu",
        ),
    ),
    _electra_dims,
)
ALBERT = bert_family(
    "albert",
    "Albert",
    Layout(
        prefix="albert.",
        layer="encoder.albert_layer_groups.0.albert_layers.{}",
        qkv=("attention.query", "attention.key", "attention.value"),
        out="attention.dense",
        attention_norm="attention.LayerNorm",
        up="ffn",
        down="ffn_output",
        feedforward_norm="full_layer_layer_norm",
        widen="encoder.embedding_hidden_mapping_in",
        activation="gelu_new",
        shared_layers=True,
        heads=Heads(
            classifier=("{}pooler", "classifier"),
            classifier_activation="tanh",
            masked=(
                "predictions.dense",
                "predictions.LayerNorm",
                "predictions",
                "predictions.decoder",
            ),
        ),
    ),
    _albert_dims,
)
MPNET = bert_family(
    "mpnet",
    "MPNet",
    dataclasses.replace(
        BERT_LAYOUT,
        prefix="mpnet.",
        qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
        out="attention.attn.o",
        attention_norm="attention.LayerNorm",
        padded_positions=True,
        relative_buckets=32,
        heads=Heads(
            classifier=("classifier.dense", "classifier.out_proj"),
            classifier_activation="tanh",
            masked=("lm_head.dense", "lm_head.layer_norm", "lm_head", "lm_head.decoder"),
            masked_activation="gelu",
        ),
    ),
    _mpnet_dims,
)
