"""Reading a Hugging Face folder: config, safetensors (sharded or not), generation config."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2edge.bundle.lexicon import Lexicon
from seq2edge.checkpoints.importers.json_file import LARGEST, read_json
from seq2edge.checkpoints.importers.sentence_transformers import (
    SentenceFolder,
    read_sentence_folder,
)
from seq2edge.errors import CheckpointError, UnsupportedError, foreign_errors
from seq2edge.files.storage import read_regular, require_regular

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_SUFFIXES = (".json", ".txt", ".model", ".spm", ".jinja")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint before anything is mapped: names of tensors and a way to read each."""

    path: Path
    source_format: str
    config: dict[str, Any]
    generation: dict[str, Any] | None
    names: frozenset[str]
    read: Callable[[str], Tensor]
    tokenizer_files: dict[str, bytes] | None = None  # None: they are in the folder itself
    sentence: SentenceFolder | None = None  # what sentence-transformers says beside the model
    pieces: dict[str, Path] | None = None  # SentencePiece models that are no tokenizer's files
    lexicon: Lexicon | None = None  # which tokens an answer to a source may have


def open_folder(path: Path) -> Source:
    """A Hugging Face folder. Raises CheckpointError for anything missing, broken or pickled."""
    sentence = read_sentence_folder(path)
    model = path / sentence.transformer if sentence else path
    config = read_json(model / "config.json")
    if sentence and sentence.crosses:
        if sentence.activation:
            config |= {"sentence_transformers": {"activation_fn": sentence.activation}}
    elif sentence:
        config |= {"pooling": sentence.pooling, "normalize": sentence.normalize}
    where = {name: (file, name) for name, file in _tensor_files(model).items()}
    for dense in sentence.dense if sentence else ():
        own = _tensor_files(path / dense.folder)
        where |= {f"{dense.folder}.{name}": (file, name) for name, file in own.items()}
    generation = model / "generation_config.json"
    return Source(
        path=path,
        source_format="huggingface",
        config=config,
        generation=read_json(generation) if os.path.lexists(generation) else None,
        names=frozenset(where),
        read=lambda name: _read_tensor(*where[name]),
        tokenizer_files=None if model == path else _small_files(model),
        sentence=sentence,
    )


def _small_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder that may be a tokenizer's."""
    files = (file for file in folder.iterdir() if file.suffix in TOKENIZER_SUFFIXES)
    return {
        file.name: read_regular(file, LARGEST, CheckpointError)
        for file in files
        if file.name != "config.json" and file.is_file()
    }


def _tensor_files(path: Path) -> dict[str, Path]:
    """The file of every tensor."""
    if (path / INDEX).is_file():
        return _sharded(path)
    if (path / SINGLE).is_file():
        return dict.fromkeys(_names(path / SINGLE), path / SINGLE)
    for pattern in PICKLES:
        for pickle in sorted(path.glob(pattern)):
            raise CheckpointError(
                f"{pickle}: pickled weights can run code and are not read; convert them once: "
                f"seq2edge convert-weights FOLDER -o NEW"
            )
    raise CheckpointError(f"{path}: no {SINGLE} and no {INDEX}")


def shard_names(path: Path) -> list[str]:
    """The files that the index of a folder names."""
    return sorted(set(_weight_map(path).values()))


def _weight_map(path: Path) -> dict[str, str]:
    """Every tensor's file, which lies beside the index."""
    table = read_json(path / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path / INDEX}: no weight_map")
    for name, file in table.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file:
            raise CheckpointError(
                f"{path / INDEX}: shard {file!r} of {name} is not a safetensors file name"
            )
    return table


def _sharded(path: Path) -> dict[str, Path]:
    """The file of every tensor, as an index file says."""
    table = _weight_map(path)
    shards: dict[str, frozenset[str]] = {}
    for name, file in table.items():
        if file not in shards:
            shards[file] = _names(path / file)
        if name not in shards[file]:
            raise CheckpointError(f"{path / file}: tensor {name} of the index is not there")
    inside = {name for names in shards.values() for name in names}
    if inside - set(table):
        extra = ", ".join(sorted(inside - set(table))[:5])
        raise CheckpointError(f"{path / INDEX}: tensors in the shards but not in it: {extra}")
    return {name: path / file for name, file in table.items()}


def _names(file: Path) -> frozenset[str]:
    from safetensors import safe_open

    with foreign_errors(CheckpointError, f"{file}: not a whole safetensors file"):
        require_regular(file, CheckpointError)
        with safe_open(file, "pt") as tensors:
            return frozenset(tensors.keys())


def _read_tensor(file: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with foreign_errors(CheckpointError, f"{file}: tensor {name} cannot be read"):  # noqa: SIM117
        with safe_open(file, "pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
    if not tensor.dtype.is_floating_point:
        raise UnsupportedError(
            f"{file}: tensor {name} is {tensor.dtype}; quantized checkpoints are not supported"
        )
    return tensor.to(torch.float32)
