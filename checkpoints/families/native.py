"""Models trained here: the config holds our dims, tensors bear our parameters' names."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from seq2edge.checkpoints.families.family import Config, Family, Names, WeightMapping
from seq2edge.errors import CheckpointError, Seq2EdgeError
from seq2edge.model.dims import Dims
from seq2edge.model.transformer import Transformer


def _dims(config: Config, names: Names) -> Dims:
    del names
    config.ignore(
        "tokenizer", "seq2edge_version"
    )  # the first is read by `checkpoints/tokenizer.py`
    try:
        return Dims.from_dict(config.get("dims", {}))
    except (TypeError, ValueError, AttributeError, Seq2EdgeError) as error:
        raise CheckpointError(f"config.json: dims: {error}") from error


def _weights(dims: Dims, names: Names) -> Iterator[WeightMapping]:
    del names
    with torch.device("meta"):
        parameters = dict(Transformer(dims).named_parameters())
    for name in parameters:
        yield WeightMapping(target=name, sources=(name,))


NATIVE = Family(name="seq2edge", architectures=("Transformer",), dims=_dims, weights=_weights)
