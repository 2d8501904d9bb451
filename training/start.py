"""Starting from a checkpoint: its weights, tokenizer and sizes, for the same or another task."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from seq2edge.bundle.manifest import TokenizerRecord
from seq2edge.checkpoints.generation import read_generation
from seq2edge.checkpoints.load import load_checkpoint
from seq2edge.checkpoints.tokenizer import convert_tokenizer
from seq2edge.errors import TrainingError
from seq2edge.files.storage import file_errors
from seq2edge.model.dims import Dims
from seq2edge.model.transformer import Transformer
from seq2edge.runtime.tokenizer import Tokenizer
from seq2edge.training.initialise import freeze_positions, new_model
from seq2edge.training.presets import DECODES, ENCODES
from seq2edge.training.recipe import Recipe
from seq2edge.training.train_tokenizer import TokenIds, extra_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartCheckpoint:
    """What a checkpoint says, beside its weights."""

    path: Path
    dims: Dims
    tokenizer: TokenizerRecord
    generation: Mapping[str, Any]
    ids: TokenIds
    labels: tuple[str, ...]

    def dims_for(self, recipe: Recipe, labels: tuple[str, ...]) -> Dims:
        """Its dims with the parts that the objective needs; TrainingError for missing ones."""
        objective, dims = recipe.objective, self.dims
        for needs, stack, name in (
            (objective in ENCODES, dims.encoder, "encoder"),
            (objective in DECODES, dims.decoder, "decoder"),
        ):
            if needs and stack is None:
                raise TrainingError(f"{self.path}: has no {name}, which {objective} needs")
        if dims.reads_signal:
            reads = "images" if dims.image else "speech"
            raise TrainingError(f"{self.path}: reads {reads}, training reads text")
        if objective == "classify":
            if dims.head == "classifier":
                return dataclasses.replace(dims, labels=len(labels))
            return dataclasses.replace(
                dims,
                decoder=None,
                head="classifier",
                labels=len(labels),
                classifier_activation="tanh",
                pooling="mean",
                tied=True,
                logits_bias=False,
                vocab=dims.source_vocab or dims.vocab,
                source_vocab=0,
            )
        if dims.head != "lm":
            raise TrainingError(f"{self.path}: has no language head, which {objective} needs")
        return dims


def read_start_checkpoint(recipe: Recipe, folder: Path) -> StartCheckpoint:
    """Load the checkpoint's facts and write its tokenizer into `folder`."""
    path = Path(recipe.start)
    loaded = load_checkpoint(path, default_task="embed")
    converted = convert_tokenizer(
        path,
        config=loaded.source.config,
        vocab=loaded.dims.vocab,
        source_vocab=loaded.dims.source_vocab,
        files=loaded.source.tokenizer_files,
        pieces=loaded.source.pieces,
    )
    if converted is None:
        raise TrainingError(f"{path}: has no tokenizer, training reads text")
    with file_errors(folder, TrainingError):
        for name, data in converted.files.items():
            (folder / name).write_bytes(data)
    tokenizer = Tokenizer(folder, converted.record)
    settings = read_generation(loaded.source.generation, loaded.source.config).options
    end = settings.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if end is None:
        end = tokenizer.token_id(converted.record.special.eos or "")
    forced = settings.get("forced_bos_token_id")
    return StartCheckpoint(
        path=path,
        dims=loaded.dims,
        tokenizer=converted.record,
        generation=settings,
        ids=TokenIds(
            decoder_start_id=settings.get("decoder_start_token_id", 0),
            eos_id=end,
            sentinel_ids=_sentinel_ids(recipe, tokenizer, path),
            forced_ids=(forced,) if forced is not None else (),
        ),
        labels=loaded.labels,
    )


def start_model(dims: Dims, path: Path, seed: int) -> tuple[Transformer, tuple[str, ...]]:
    """A model of `dims` with the checkpoint's weights, and the names of parts that are new.

    Raises TrainingError where a weight of the same name has another shape, other than the labels'.
    """
    loaded = load_checkpoint(path, default_task="embed")
    if loaded.dims == dims:
        model = loaded.model.requires_grad_(requires_grad=True)
        freeze_positions(model)
        return model, ()
    model = new_model(dims, seed)
    theirs, new = dict(loaded.model.named_parameters()), []
    table = "source_embedding.weight" if loaded.dims.source_vocab else "embedding.weight"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            weight = theirs.get(table if name == "embedding.weight" else name)
            if weight is None or name.startswith("classifier_out"):
                new.append(name)
            elif weight.shape != parameter.shape:
                raise TrainingError(
                    f"{path}: {name} has shape {list(weight.shape)}, "
                    f"the recipe's model has {list(parameter.shape)}"
                )
            else:
                parameter.copy_(weight)
    return model, tuple(new)


def _sentinel_ids(recipe: Recipe, tokenizer: Tokenizer, path: Path) -> tuple[int, ...]:
    ids = tuple(tokenizer.token_id(token) for token in extra_tokens(recipe.objective))
    if -1 in ids:
        raise TrainingError(f"{path}: its tokenizer has no tokens for {recipe.objective}")
    return ids
