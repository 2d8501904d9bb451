"""What stands behind an encoder's layers: what a config says of it, and where its tensors are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from seq2edge.checkpoints.families.family import (
    Config,
    Names,
    WeightMapping,
    count_labels,
    embedding_head,
    linear,
    norm,
)
from seq2edge.errors import UnsupportedError
from seq2edge.model.dims import Dims


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads:
    """Where a family keeps its heads, and which functions stand in them; `{}` is its prefix.

    `classifier` are a classifier's two products, or its only one, and `classifier_norm` what
    follows the first; with `token_dense` both stand before the classes of each token too. `tokens`
    and `span` are the last product of the heads that answer each token. `masked` are the product,
    the norm, whose the bias is, and the product with the vocabulary of a head that fills words; the
    last two alone where nothing stands before. `masked_activation` is empty where it is the
    layers' own.
    """

    classifier: tuple[str, ...]
    classifier_activation: str = ""
    classifier_norm: str = ""
    token_dense: bool = False
    tokens: str = "classifier"
    span: str = "qa_outputs"
    masked: tuple[str, ...] = ()
    masked_activation: str = ""


def head_dims(
    heads: Heads,
    config: Config,
    task: str,
    *,
    activation: str = "",
    classifier_pooling: str = "first",
    pooling: str = "mean",
) -> dict[str, Any]:
    """The fields of `Dims` about the head that does a task.

    `activation` is the layers' own. `pooling` is of embeddings, where no folder says another.
    """
    if task == "embed":
        return embedding_head(config, pooling)
    if task in ("fill", "weigh"):
        return {
            "head": "masked" if task == "fill" else "sparse",
            "tied": bool(config.get("tie_word_embeddings", True)),
            "logits_bias": True,
            "classifier_dense": len(heads.masked) > 2,
            "classifier_activation": heads.masked_activation or activation,
        }
    fields: dict[str, Any] = {"labels": count_labels(config)}
    if task == "classify":
        fields |= {"head": "classifier", "pooling": classifier_pooling}
    elif task == "tag":
        fields["head"] = "tokens"
    elif fields["labels"] == 2:
        fields["head"] = "span"
    else:
        raise UnsupportedError("config.json: num_labels of a model that answers must be 2")
    if task == "classify" or heads.token_dense:
        fields |= {
            "classifier_dense": len(heads.classifier) > 1,
            "classifier_activation": heads.classifier_activation,
            "classifier_norm": bool(heads.classifier_norm),
        }
    return {**fields, "token_dense": heads.token_dense and task != "classify"}


def head_weights(
    heads: Heads, dims: Dims, names: Names, prefix: str = ""
) -> Iterator[WeightMapping]:
    """The parameters of the head that these dims have, and the tensors they are made of."""
    if dims.head in ("masked", "sparse"):
        yield from _masked_weights(heads, dims, names)
    if dims.token_dense or (dims.head == "classifier" and dims.classifier_dense):
        dense = heads.classifier[0].format(prefix)
        yield from linear("classifier_dense", dense, bias=dims.classifier_bias)
        if dims.classifier_norm:
            assert dims.encoder is not None
            yield from norm("classifier_norm", heads.classifier_norm, bias=dims.encoder.norm_bias)
    if dims.head == "classifier":
        out = heads.classifier[-1].format(prefix)
        yield from linear("classifier_out", out, bias=dims.classifier_dense)
    elif dims.head in ("tokens", "span"):
        yield from linear("token_out", heads.tokens if dims.head == "tokens" else heads.span)


def _masked_weights(heads: Heads, dims: Dims, names: Names) -> Iterator[WeightMapping]:
    *before, owner, out = heads.masked
    if dims.classifier_dense:
        assert dims.encoder is not None
        yield from linear("masked_dense", before[0], bias=dims.classifier_bias)
        yield from norm("masked_norm", before[1], names, bias=dims.encoder.norm_bias)
    if dims.logits_bias:
        biases = (f"{owner}.bias", f"{out}.bias")  # one, but where nothing is tied
        order = biases if dims.tied else biases[::-1]
        bias = next((name for name in order if name in names), biases[0])
        yield WeightMapping(target="logits_bias", sources=(bias,))
    if not dims.tied:
        yield WeightMapping(target="lm_head.weight", sources=(f"{out}.weight",))
