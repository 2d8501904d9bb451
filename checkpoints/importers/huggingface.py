"""Reading a Hugging Face folder: config, safetensors (sharded or not), generation config."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seq2edge.errors import CheckpointError, UnsupportedError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
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


def open_folder(path: Path) -> Source:
    """A Hugging Face folder. Raises CheckpointError for anything missing, broken or pickled."""
    config = read_json(path / "config.json")
    where = _tensor_files(path)
    generation = path / "generation_config.json"
    return Source(
        path=path,
        source_format="huggingface",
        config={**config, **_pooling(path)},
        generation=read_json(generation) if generation.is_file() else None,
        names=frozenset(where),
        read=lambda name: _read_tensor(where[name], name),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, a checkpoint needs it") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds {type(values).__name__}, needs a JSON object")
    return values


def _tensor_files(path: Path) -> dict[str, Path]:
    """The file of every tensor."""
    if (path / INDEX).is_file():
        return _sharded(path)
    if (path / SINGLE).is_file():
        return dict.fromkeys(_names(path / SINGLE), path / SINGLE)
    for pattern in PICKLES:
        for pickle in sorted(path.glob(pattern)):
            raise CheckpointError(
                f"{pickle}: pickled weights can run code and are not read; convert them once where "
                'you trust them: python -c "from transformers import AutoModel as M; '
                f"M.from_pretrained('{path}', weights_only=True).save_pretrained('NEW')\" "
                "(with the model class of config.json's architectures in place of AutoModel)"
            )
    raise CheckpointError(f"{path}: no {SINGLE} and no {INDEX}")


def _sharded(path: Path) -> dict[str, Path]:
    """The file of every tensor, as an index file says."""
    table = read_json(path / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{path / INDEX}: no weight_map")
    shards: dict[str, frozenset[str]] = {}
    for name, file in table.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file:
            raise CheckpointError(
                f"{path / INDEX}: shard {file!r} of {name} is not a safetensors file name"
            )
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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return frozenset(tensors.keys())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file: {error}") from error


def _read_tensor(file: Path, name: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        tensor: Tensor = tensors.get_tensor(name)
    if not tensor.dtype.is_floating_point:
        raise UnsupportedError(
            f"{file}: tensor {name} is {tensor.dtype}; quantized checkpoints are not supported"
        )
    return tensor.to(torch.float32)


def _pooling(path: Path) -> dict[str, Any]:
    """Pooling and normalization of a sentence-transformers folder, as config settings."""
    if not (path / "modules.json").is_file():
        return {}
    try:
        modules = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        kinds = {str(m["type"]).rsplit(".", 1)[-1]: str(m["path"]) for m in modules}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / 'modules.json'}: cannot be read: {error}") from error
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise UnsupportedError(f"{path / 'modules.json'}: modules {', '.join(sorted(unknown))}")
    settings: dict[str, Any] = {"normalize": "Normalize" in kinds}
    if "Pooling" in kinds:
        settings["pooling"] = _pooling_mode(path / kinds["Pooling"] / "config.json")
    return settings


def _pooling_mode(file: Path) -> str:
    settings = read_json(file)
    modes = {key for key, value in settings.items() if key.startswith("pooling_mode_") and value}
    named = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
    if len(modes) != 1 or not modes <= set(named):
        raise UnsupportedError(f"{file}: pooling {', '.join(sorted(modes)) or 'none'}")
    return named[modes.pop()]
